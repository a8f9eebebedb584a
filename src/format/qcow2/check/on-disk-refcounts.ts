// The counters of an image that may be damaged, for reading only. The refcount walk adds the blocks that can be used, and then
// scan() reads each of them once: it notes which counters are 1, which is all that COPIED flags are compared with, and which
// blocks are uniform, so that most blocks need no second look. A block in a hole of the file is never read.

import { withRoom } from '../../../bytes/number-index.ts';
import { hostOffset } from '../../../bytes/offsets.ts';
import { PAGE_BITS, SparseBitmap } from '../../../bytes/sparse-bitmap.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import { ReadAhead } from '../../../host/read-ahead.ts';
import { decodeCounters, readCounter, writeCounter } from '../counters/refcount.ts';
import type { Geometry } from '../geometry.ts';
import type { Holes } from './table-holes.ts';

/** Of blocks that are kept, and of the pages of `singles`. A hostile file can be nothing but blocks. */
const MEMORY_BYTES = 16 * 1024 * 1024;
const SINGLES_BYTES = 4 * MEMORY_BYTES;
/** Counters that are decoded at a time. */
export const COUNTERS_PER_STEP = PAGE_BITS;

/** What scan() has seen of a block. */
const UNSEEN = 0;
/** all of its counters are 0 */
const ZEROS = 1;
/** all of its counters are 1 */
const ONES = 2;
const MIXED = 3;

export class OnDiskRefcounts {
  private readonly file: HostFile;
  private readonly geometry: Geometry;
  private readonly holes: Holes;
  /** by index; 0: there is none */
  private offsets = new Float64Array(0);
  private kinds = new Uint8Array(0);
  private ascending: Float64Array | null = null;
  /** clusters whose counter is 1; null: not known, get() tells */
  private singles: SparseBitmap | null = null;
  private readonly loaded = new Map<number, Uint8Array>();
  private lastIndex = -1;
  private lastBlock: Uint8Array | undefined;
  /** the block that was looked at last in a pass over all of them */
  private readonly passed: Uint8Array;
  private passedIndex = -1;

  constructor(file: HostFile, geometry: Geometry, holes: Holes) {
    this.file = file;
    this.geometry = geometry;
    this.holes = holes;
    this.passed = new Uint8Array(geometry.clusterSize);
  }

  /** Adds the block of refcount table entry `index`, which is at host offset `offset`. */
  add(index: number, offset: number): void {
    while (index >= this.offsets.length) this.offsets = withRoom(this.offsets, index);
    this.offsets[index] = offset;
    this.ascending = null;
  }

  /** Drops all blocks and uses these. */
  replace(blocks: readonly (readonly [index: number, offset: number])[]): void {
    this.offsets.fill(0);
    this.ascending = null;
    for (const [index, offset] of blocks) this.add(index, offset);
    this.forget();
  }

  /** Host offset of a block in use. */
  offsetOf(index: number): number {
    return this.offsets[index]!;
  }

  /** Indices of the blocks in use, ascending. */
  indices(): Float64Array {
    this.ascending ??= indicesOf(this.offsets);
    return this.ascending;
  }

  has(cluster: number): boolean {
    return this.hasBlock(Math.floor(cluster / this.geometry.refcountsPerBlock));
  }

  /** The counter of a cluster; 0 if it has no block. */
  get(cluster: number): number {
    const { refcountBits, refcountsPerBlock } = this.geometry;
    const index = Math.floor(cluster / refcountsPerBlock);
    if (index !== this.lastIndex) {
      this.lastBlock = this.keptBlock(index);
      this.lastIndex = index;
    }
    if (this.lastBlock === undefined) return 0;
    const inBlock = cluster - index * refcountsPerBlock;
    return readCounter(this.lastBlock, Math.floor((inBlock * refcountBits) / 8), inBlock, refcountBits);
  }

  /** Reads all blocks once, in order. @param clusters of the file: counters beyond it are not looked at */
  scan(clusters: number): void {
    const { holes } = this;
    const { clusterSize, refcountBits, refcountsPerBlock } = this.geometry;
    const zeros = new Uint8Array(clusterSize);
    const ones = new Uint8Array(clusterSize);
    fillWithOnes(ones, refcountBits);
    const counters = new Float64Array(COUNTERS_PER_STEP);
    this.kinds = new Uint8Array(this.offsets.length);
    this.singles = new SparseBitmap(clusters);
    const indices = this.indices();
    const ahead = new ReadAhead(this.file, clusterSize, indices.length, (place) => this.offsets[indices[place]!]!);
    for (const [place, index] of indices.entries()) {
      const first = index * refcountsPerBlock;
      const count = Math.min(refcountsPerBlock, clusters - first);
      if (count <= 0) break;
      this.kinds[index] = ZEROS;
      if (holes.isHole(this.offsets[index]!, clusterSize)) continue;
      this.passedIndex = -1;
      ahead.read(this.passed, clusterSize, place);
      this.passedIndex = index;
      if (Buffer.compare(this.passed, zeros) === 0) continue;
      this.kinds[index] = Buffer.compare(this.passed, ones) === 0 ? ONES : MIXED;
      if (this.kinds[index] === ONES) this.singles?.addRun(first, count);
      else this.addSingles(this.passed, first, count, counters);
    }
  }

  /** Whether all of the clusters have the counter 1, or none of them, as `single` says. */
  areSingle(first: number, count: number, single: boolean): boolean {
    if (this.singles !== null) return single ? this.singles.hasAll(first, count) : !this.singles.hasAny(first, count);
    for (let cluster = first; cluster < first + count; cluster++)
      if ((this.get(cluster) === 1) !== single) return false;
    return true;
  }

  /** Whether the counter of the cluster is 1. */
  isSingle(cluster: number): boolean {
    return this.singles === null ? this.get(cluster) === 1 : this.singles.has(cluster);
  }

  /** Whether all counters of a block are known to be 1. */
  isOnes(index: number): boolean {
    return this.kinds[index] === ONES;
  }

  /** Fills `target` with counters of one block, which a pass over all of them has reached. */
  load(first: number, count: number, target: Float64Array): void {
    const { refcountBits, refcountsPerBlock } = this.geometry;
    const index = Math.floor(first / refcountsPerBlock);
    const kind = this.kinds[index] ?? UNSEEN;
    const block = kind === ZEROS || kind === ONES ? undefined : this.passBlock(index);
    if (block === undefined) target.fill(kind === ONES ? 1 : 0, 0, count);
    else decodeCounters(block, first - index * refcountsPerBlock, count, refcountBits, target);
  }

  /** End of the clusters below `limit` that block `index` counts as used; its first cluster if it counts none. */
  usedEnd(index: number, limit: number): number {
    const { clusterSize, refcountBits, refcountsPerBlock } = this.geometry;
    const first = index * refcountsPerBlock;
    const end = Math.max(first, Math.min(limit, first + refcountsPerBlock));
    const kind = this.kinds[index] ?? UNSEEN;
    if (kind === ONES || end === first) return end;
    const block = kind === ZEROS ? undefined : this.passBlock(index);
    if (block === undefined) return first;
    let last = Math.min(clusterSize, Math.ceil(((end - first) * refcountBits) / 8)) - 1;
    while (last >= 0 && block[last] === 0) last--;
    let cluster = Math.min(end, first + Math.floor((last * 8 + 7) / refcountBits) + 1) - 1;
    const counterAt = (inBlock: number): number =>
      readCounter(block, Math.floor((inBlock * refcountBits) / 8), inBlock, refcountBits);
    while (cluster >= first && counterAt(cluster - first) === 0) cluster--;
    return cluster + 1;
  }

  /** Visits the runs of clusters below `end` whose counter is 0, ascending. Clusters without a block are not visited. */
  forEachFreeRun(end: number, visit: (start: number, count: number) => void): void {
    const { refcountsPerBlock } = this.geometry;
    const counters = new Float64Array(COUNTERS_PER_STEP);
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
      const usedEnd = this.usedEnd(index, seen);
      if (this.isOnes(index)) runEnds(first);
      else {
        for (let start = first; start < usedEnd; start += COUNTERS_PER_STEP) {
          const count = Math.min(COUNTERS_PER_STEP, usedEnd - start);
          this.load(start, count, counters);
          for (let i = 0; i < count; i++) {
            if (counters[i] !== 0) runEnds(start + i);
            else if (free < 0) free = start + i;
          }
        }
      }
      if (usedEnd < seen && free < 0) free = usedEnd;
    }
    runEnds(seen);
  }

  /** Drops what was read. Call it after the file was written. */
  forget(): void {
    this.loaded.clear();
    this.holes.forget();
    this.lastIndex = -1;
    this.passedIndex = -1;
    this.singles = null;
    this.kinds.fill(UNSEEN);
  }

  /** Notes the counters of a block that are 1, unless they are so mixed up that they would take too much memory. */
  private addSingles(block: Uint8Array, first: number, count: number, counters: Float64Array): void {
    const { refcountBits } = this.geometry;
    for (let start = 0; start < count && this.singles !== null; start += counters.length) {
      const part = Math.min(counters.length, count - start);
      decodeCounters(block, start, part, refcountBits, counters);
      for (let i = 0; i < part; i++) {
        const from = i;
        while (i < part && counters[i] === 1) i++;
        if (i === from + 1) this.singles.add(first + start + from);
        else if (i > from) this.singles.addRun(first + start + from, i - from);
      }
      if (this.singles.rowBytes > SINGLES_BYTES) this.singles = null;
    }
  }

  private hasBlock(index: number): boolean {
    return index < this.offsets.length && this.offsets[index] !== 0;
  }

  /** For single looks in any order. `undefined` if no block covers the index, or if all counters are 0. */
  private keptBlock(index: number): Uint8Array | undefined {
    const known = this.loaded.get(index);
    if (known !== undefined || !this.isToRead(index)) return known;
    const { clusterSize } = this.geometry;
    if ((this.loaded.size + 1) * clusterSize > MEMORY_BYTES) this.loaded.clear();
    const block = new Uint8Array(clusterSize);
    readPadded(this.file, block, 0, clusterSize, hostOffset(this.offsets[index]!));
    this.loaded.set(index, block);
    return block;
  }

  /** For a pass over all blocks: the next call overwrites the bytes. `undefined` as with keptBlock(). */
  private passBlock(index: number): Uint8Array | undefined {
    if (index === this.passedIndex) return this.passed;
    if (!this.isToRead(index)) return undefined;
    this.passedIndex = -1;
    readPadded(this.file, this.passed, 0, this.passed.length, hostOffset(this.offsets[index]!));
    this.passedIndex = index;
    return this.passed;
  }

  private isToRead(index: number): boolean {
    if (!this.hasBlock(index) || this.kinds[index] === ZEROS) return false;
    const isSeen = this.kinds[index] === ONES || this.kinds[index] === MIXED;
    return isSeen || !this.holes.isHole(this.offsets[index]!, this.geometry.clusterSize);
  }
}

function indicesOf(offsets: Float64Array): Float64Array {
  let count = 0;
  for (const offset of offsets) if (offset !== 0) count++;
  const indices = new Float64Array(count);
  let place = 0;
  for (let index = 0; index < offsets.length; index++) if (offsets[index] !== 0) indices[place++] = index;
  return indices;
}

function fillWithOnes(block: Uint8Array, bits: number): void {
  const unit = new Uint8Array(Math.max(1, bits / 8));
  for (let index = 0; index * bits < unit.length * 8; index++)
    writeCounter(unit, Math.floor((index * bits) / 8), index, bits, 1);
  for (let at = 0; at < block.length; at += unit.length) block.set(unit, at);
}
