// The counters of an image that may be damaged, for reading only. The refcount walk adds the blocks that can be used. Whole
// blocks are cached, because a check looks at all of their counters. A block in a hole of the file is never read.

import { hostOffset } from '../../../bytes/offsets.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import type { Geometry } from '../geometry.ts';
import { readCounter } from '../refcount.ts';
import type { Holes } from './table-holes.ts';

const MEMORY_BYTES = 16 * 1024 * 1024;

export class OnDiskRefcounts {
  private readonly file: HostFile;
  private readonly geometry: Geometry;
  private readonly holes: Holes;
  private readonly offsets = new Map<number, number>();
  private readonly loaded = new Map<number, Uint8Array>();
  private lastIndex = -1;
  private lastBlock: Uint8Array | undefined;
  private zeros: Uint8Array | undefined;

  constructor(file: HostFile, geometry: Geometry, holes: Holes) {
    this.file = file;
    this.geometry = geometry;
    this.holes = holes;
  }

  /** Adds the block of refcount table entry `index`, which is at host offset `offset`. */
  add(index: number, offset: number): void {
    this.offsets.set(index, offset);
  }

  /** Drops all blocks and uses these. */
  replace(blocks: readonly (readonly [index: number, offset: number])[]): void {
    this.offsets.clear();
    for (const [index, offset] of blocks) this.offsets.set(index, offset);
    this.forget();
  }

  /** Host offset of a block in use. */
  offsetOf(index: number): number {
    return this.offsets.get(index)!;
  }

  /** Indices of the blocks in use, ascending. */
  indices(): Float64Array {
    return Float64Array.from(this.offsets.keys()).sort();
  }

  has(cluster: number): boolean {
    return this.offsets.has(Math.floor(cluster / this.geometry.refcountsPerBlock));
  }

  /** The counter of a cluster; 0 if it has no block. */
  get(cluster: number): number {
    const { refcountBits, refcountsPerBlock } = this.geometry;
    const index = Math.floor(cluster / refcountsPerBlock);
    if (index !== this.lastIndex) {
      this.lastBlock = this.block(index);
      this.lastIndex = index;
    }
    if (this.lastBlock === undefined) return 0;
    const inBlock = cluster - index * refcountsPerBlock;
    const bit = inBlock * refcountBits;
    // 1-bit counters are by far the most numerous in a file of a given size
    if (refcountBits === 1) return (this.lastBlock[bit >>> 3]! >>> (bit & 7)) & 1;
    return readCounter(this.lastBlock, bit >>> 3, inBlock, refcountBits);
  }

  /** End of the clusters that block `index` counts as used; the block's first cluster if all of its counters are 0. */
  usedEnd(index: number): number {
    const { clusterSize, refcountBits, refcountsPerBlock } = this.geometry;
    const first = index * refcountsPerBlock;
    const block = this.block(index);
    this.zeros ??= new Uint8Array(clusterSize);
    if (block === undefined || Buffer.compare(block, this.zeros) === 0) return first;
    let last = clusterSize - 1;
    while (block[last] === 0) last--;
    return first + Math.floor((last * 8 + 7) / refcountBits) + 1;
  }

  /** Visits the runs of clusters below `end` whose counter is 0, ascending. Clusters without a block are not visited. */
  forEachFreeRun(end: number, visit: (start: number, count: number) => void): void {
    const { refcountsPerBlock } = this.geometry;
    /** the first cluster of the run, or -1, and the end of the last block */
    let free = -1;
    let seen = 0;
    const runEnds = (at: number): void => {
      if (free >= 0) visit(free, at - free);
      free = -1;
    };
    for (const index of this.indices()) {
      const first = index * refcountsPerBlock;
      if (first >= end) break;
      if (first !== seen) runEnds(seen);
      seen = Math.min(first + refcountsPerBlock, end);
      const usedEnd = Math.min(this.usedEnd(index), seen);
      for (let cluster = first; cluster < usedEnd; cluster++) {
        if (this.get(cluster) !== 0) runEnds(cluster);
        else if (free < 0) free = cluster;
      }
      if (usedEnd < seen && free < 0) free = usedEnd;
    }
    runEnds(seen);
  }

  /** Drops the cached blocks. Call it after the file was written. */
  forget(): void {
    this.loaded.clear();
    this.holes.forget();
    this.lastIndex = -1;
  }

  /** `undefined` if no block covers the index, or if the block is a hole (all counters are 0). */
  private block(index: number): Uint8Array | undefined {
    const offset = this.offsets.get(index);
    if (offset === undefined) return undefined;
    const known = this.loaded.get(index);
    if (known !== undefined) return known;
    const { clusterSize } = this.geometry;
    if (this.holes.isHole(offset, clusterSize)) return undefined;
    if ((this.loaded.size + 1) * clusterSize > MEMORY_BYTES) this.loaded.clear();
    const block = new Uint8Array(clusterSize);
    readPadded(this.file, block, 0, clusterSize, hostOffset(offset));
    this.loaded.set(index, block);
    return block;
  }
}
