// Reference counts of host clusters: a table of blocks, each one cluster of counters of 1 to 64 bits. Counters narrower
// than a byte fill it from its low bits up; wider ones are big-endian. Used under the metadata lock.

import { combine } from '../../../bytes/endian.ts';
import { after, type HostCluster, type HostOffset, hex, hostCluster, hostOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import { NOT_PENDING, type PendingLinks } from '../../mapped/pending-links.ts';
import type { Geometry } from '../geometry.ts';
import type { HeaderBits } from '../header-bits.ts';
import type { OverlapCheck } from '../overlap.ts';
import type { Qcow2Numbers } from '../state.ts';
import { entryAt, offsetOf, type Tables } from '../table.ts';

/** Nothing counts these clusters yet. 0 is the header, so it is no place for a block. */
export const NO_BLOCK = hostOffset(0);

export interface RefcountsParts {
  readonly geometry: Geometry;
  readonly tables: Tables;
  readonly numbers: Pick<Qcow2Numbers, 'refcountTableEntries' | 'refcountTableOffset'>;
  /** blocks in use that the table does not show yet */
  readonly newBlocks: PendingLinks<number>;
  readonly headerBits: HeaderBits;
  readonly overlap: OverlapCheck;
}

export class Refcounts {
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly numbers: RefcountsParts['numbers'];
  private readonly newBlocks: PendingLinks<number>;
  private readonly headerBits: HeaderBits;
  private readonly overlap: OverlapCheck;

  constructor({ geometry, tables, newBlocks, numbers, headerBits, overlap }: RefcountsParts) {
    this.newBlocks = newBlocks;
    this.headerBits = headerBits;
    this.overlap = overlap;
    this.geometry = geometry;
    this.tables = tables;
    this.numbers = numbers;
  }

  /** The block that counts `cluster`, or NO_BLOCK. */
  blockOf(cluster: HostCluster): HostOffset {
    const index = Math.floor(cluster / this.geometry.refcountsPerBlock);
    const unshown = this.newBlocks.find(index);
    if (unshown !== NOT_PENDING) return unshown;
    if (index >= this.numbers.refcountTableEntries) return NO_BLOCK;
    const table = this.numbers.refcountTableOffset;
    const { high, low } = this.tables.load(table, index);
    const block = offsetOf(high, low);
    if (block % this.geometry.clusterSize === 0) return block;
    throw this.headerBits.damaged(
      `refcount table entry ${index} is ${this.tables.describe(table, index)}, ` +
        'which is no cluster; run imgfuse check',
      entryAt(table, index),
    );
  }

  get(cluster: HostCluster): number {
    const block = this.blockOf(cluster);
    return block === NO_BLOCK ? 0 : this.read(block, cluster % this.geometry.refcountsPerBlock);
  }

  /** Visits the runs of clusters from `start` to `end` whose counter is 0; a cluster without a block is not counted. */
  forEachFreeRun(start: HostCluster, end: HostCluster, visit: (start: HostCluster, count: number) => void): void {
    const { refcountsPerBlock } = this.geometry;
    let free = 0;
    const runEnds = (at: number): void => {
      if (free > 0) visit(hostCluster(at - free), free);
      free = 0;
    };
    for (let cluster = start as number; cluster < end; ) {
      const blockEnd = Math.min(end, (Math.floor(cluster / refcountsPerBlock) + 1) * refcountsPerBlock);
      const block = this.blockOf(hostCluster(cluster));
      if (block === NO_BLOCK) runEnds(cluster);
      for (; cluster < blockEnd; cluster++) {
        if (block === NO_BLOCK) continue;
        if (this.read(block, cluster % refcountsPerBlock) === 0) free++;
        else runEnds(cluster);
      }
    }
    runEnds(end);
  }

  /** Sets the counters of clusters [start, start + count), which have their blocks. */
  setRun(start: HostCluster, count: number, value: number): void {
    this.headerBits.beforeCounters();
    for (let done = 0; done < count; ) {
      const cluster = after(start, done);
      const block = this.blockOf(cluster);
      if (block === NO_BLOCK) {
        const at = this.geometry.startOf(cluster);
        throw this.headerBits.damaged(
          `nothing counts the cluster at ${hex(at)}, which is in use; run imgfuse check`,
          at,
        );
      }
      this.overlap.assertTable(block, 'refcount block');
      const index = cluster % this.geometry.refcountsPerBlock;
      const part = Math.min(count - done, this.countersInSlice(block, index));
      this.writeInSlice(block, index, part, () => value);
      done += part;
    }
  }

  /**
   * One less for the first of `count` clusters from `start` on, as many as one store of counters takes, so that a long run
   * can be lowered piece by piece. @returns their new counts
   */
  decrement(start: HostCluster, count: number): number[] {
    const block = this.blockOf(start);
    const index = start % this.geometry.refcountsPerBlock;
    const fits = block === NO_BLOCK ? 0 : Math.min(count, this.countersInSlice(block, index));
    const lowered: number[] = [];
    while (lowered.length < fits) {
      const old = this.read(block, index + lowered.length);
      // the next piece finds it
      if (old === 0) break;
      lowered.push(old - 1);
    }
    if (lowered.length === 0) {
      const at = this.geometry.startOf(start);
      throw this.headerBits.damaged(
        `the cluster at ${hex(at)} is freed once more than it was used; run imgfuse check`,
        at,
      );
    }
    this.headerBits.beforeCounters();
    this.overlap.assertTable(block, 'refcount block');
    this.writeInSlice(block, index, lowered.length, (i) => lowered[i]!);
    return lowered;
  }

  /** The counter at `index` of a block. */
  read(block: HostOffset, index: number): number {
    const { refcountBits } = this.geometry;
    failpoint('refcount-load');
    const at = this.tables.slices.load(byteOf(block, index, refcountBits));
    return readCounter(this.tables.slices.bytes, at, index, refcountBits);
  }

  /** Counters of a block from `index` on up to the end of their slice. */
  private countersInSlice(block: HostOffset, index: number): number {
    const { refcountBits, refcountsPerBlock } = this.geometry;
    const room = this.tables.slices.bytesInSlice(byteOf(block, index, refcountBits));
    const perByte = Math.max(1, 8 / refcountBits);
    const fits = refcountBits >= 8 ? (room * 8) / refcountBits : room * perByte - (index % perByte);
    return Math.min(fits, refcountsPerBlock - index);
  }

  /** Writes counters of one slice at once. */
  private writeInSlice(block: HostOffset, index: number, count: number, counterOf: (i: number) => number): void {
    const { refcountBits } = this.geometry;
    const firstByte = Math.floor((index * refcountBits) / 8);
    const endByte = Math.ceil(((index + count) * refcountBits) / 8);
    const at = this.tables.slices.load(after(block, firstByte));
    const bytes = this.tables.slices.bytes.slice(at, at + endByte - firstByte);
    for (let i = 0; i < count; i++) {
      const offset = Math.floor(((index + i) * refcountBits) / 8) - firstByte;
      writeCounter(bytes, offset, index + i, refcountBits, counterOf(i));
    }
    this.tables.storeBytes('refcount-update', after(block, firstByte), bytes);
  }
}

/** Where the first byte of counter `index` of a block lies. */
function byteOf(block: HostOffset, index: number, bits: number): HostOffset {
  return after(block, Math.floor((index * bits) / 8));
}

/** @param at of the counter's first byte @param index in its block, for counters narrower than a byte */
export function readCounter(bytes: Uint8Array, at: number, index: number, bits: number): number {
  if (bits < 8) return (bytes[at]! >> ((index * bits) % 8)) & (2 ** bits - 1);
  let value = 0;
  if (bits === 64) {
    const high = ((bytes[at]! << 24) | (bytes[at + 1]! << 16) | (bytes[at + 2]! << 8) | bytes[at + 3]!) >>> 0;
    const low = ((bytes[at + 4]! << 24) | (bytes[at + 5]! << 16) | (bytes[at + 6]! << 8) | bytes[at + 7]!) >>> 0;
    const count = combine(high, low);
    return Number.isNaN(count) ? Number.MAX_SAFE_INTEGER : count;
  }
  for (let i = 0; i < bits / 8; i++) value = value * 256 + bytes[at + i]!;
  return value;
}

/** Fills `target` with `count` counters of a block, from counter `first` on. */
export function decodeCounters(
  block: Uint8Array,
  first: number,
  count: number,
  bits: number,
  target: Float64Array,
): void {
  if (bits === 16) {
    // what qemu-img makes
    for (let i = 0, at = first * 2; i < count; i++, at += 2) target[i] = (block[at]! << 8) | block[at + 1]!;
  } else if (bits === 1) {
    for (let i = 0, bit = first; i < count; i++, bit++) target[i] = (block[bit >>> 3]! >>> (bit & 7)) & 1;
  } else {
    for (let i = 0; i < count; i++) {
      const index = first + i;
      target[i] = readCounter(block, Math.floor((index * bits) / 8), index, bits);
    }
  }
}

export function writeCounter(bytes: Uint8Array, at: number, index: number, bits: number, value: number): void {
  if (bits < 8) {
    const shift = (index * bits) % 8;
    bytes[at] = (bytes[at]! & ~((2 ** bits - 1) << shift)) | (value << shift);
    return;
  }
  let rest = value;
  for (let i = bits / 8 - 1; i >= 0; i--) {
    bytes[at + i] = rest % 256;
    rest = Math.floor(rest / 256);
  }
}
