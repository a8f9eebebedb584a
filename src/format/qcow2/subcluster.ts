// Extended L2 entries: the status of the 32 subclusters of a cluster as two 32-bit words, and pure functions on them.
// Invariant: no subcluster has both bits; every word that leaves this file is an unsigned 32-bit number.
//
//   second half of an extended L2 entry, big-endian u64:
//     bits  0..31  allocated: bit x says that subcluster x has data at the cluster's host offset
//     bits 32..63  zero: bit 32 + x says that subcluster x reads as zeros
//   neither bit: the subcluster is unallocated, the backing file shows through. Compressed clusters do not use the bitmap.

import { assert, type ErrorContext, ImgfuseError } from '../../errors/index.ts';

export const SUBCLUSTERS_PER_CLUSTER = 32;

const ALL = 0xffffffff;

/** Both words of a bitmap; `allocated` is the low word of the u64, `zero` the high one. */
export interface SubclusterBitmap {
  readonly allocated: number;
  readonly zero: number;
}

export type SubclusterStatus = 'data' | 'zero' | 'unallocated';

/** `count` subclusters from index `first` on that have one status. */
export interface SubclusterRun {
  readonly first: number;
  readonly count: number;
  readonly status: SubclusterStatus;
}

export const UNALLOCATED_BITMAP: SubclusterBitmap = { allocated: 0, zero: 0 };
export const ZERO_BITMAP: SubclusterBitmap = { allocated: 0, zero: ALL };
export const DATA_BITMAP: SubclusterBitmap = { allocated: ALL, zero: 0 };

/** A word with the bits [first, first + count) set; 0 <= first, first + count <= 32. */
export function subclusterMask(first: number, count: number): number {
  assertRange(first, count);
  if (count === 0) return 0;
  return ((ALL >>> (SUBCLUSTERS_PER_CLUSTER - count)) << first) >>> 0;
}

export function subclusterStatus({ allocated, zero }: SubclusterBitmap, index: number): SubclusterStatus {
  if (((allocated >>> index) & 1) !== 0) return 'data';
  return ((zero >>> index) & 1) !== 0 ? 'zero' : 'unallocated';
}

/** How many subclusters from `index` on have the status of the one at `index`: 1 to 32 - index. */
export function subclusterRunLength({ allocated, zero }: SubclusterBitmap, index: number): number {
  assertRange(index, 1);
  // bits in which a subcluster differs from the one at `index`, with that one moved to bit 0
  const sameAllocated = ((allocated >>> index) & 1) !== 0 ? ~allocated : allocated;
  const sameZero = ((zero >>> index) & 1) !== 0 ? ~zero : zero;
  const different = (sameAllocated | sameZero) >>> index;
  if (different === 0) return SUBCLUSTERS_PER_CLUSTER - index;
  return countTrailingZeros(different);
}

/** The runs of [first, first + count) in order; neighbours differ in status. */
export function subclusterRuns(bitmap: SubclusterBitmap, first: number, count: number): SubclusterRun[] {
  assertRange(first, count);
  const runs: SubclusterRun[] = [];
  for (let index = first; index < first + count; ) {
    const length = Math.min(subclusterRunLength(bitmap, index), first + count - index);
    runs.push({ first: index, count: length, status: subclusterStatus(bitmap, index) });
    index += length;
  }
  return runs;
}

/** The bitmap with [first, first + count) of one status and all others as they were. */
export function withSubclusters(
  bitmap: SubclusterBitmap,
  first: number,
  count: number,
  status: SubclusterStatus,
): SubclusterBitmap {
  const mask = subclusterMask(first, count);
  return {
    allocated: (status === 'data' ? bitmap.allocated | mask : bitmap.allocated & ~mask) >>> 0,
    zero: (status === 'zero' ? bitmap.zero | mask : bitmap.zero & ~mask) >>> 0,
  };
}

/** The subclusters that the bytes [start, start + length) of a cluster touch, even in part; `length` > 0. */
export function subclustersTouched(
  start: number,
  length: number,
  clusterSize: number,
): { first: number; count: number } {
  assert(start >= 0 && length > 0 && start + length <= clusterSize, `bytes ${start} + ${length} of a cluster`);
  const bytes = clusterSize / SUBCLUSTERS_PER_CLUSTER;
  const first = Math.floor(start / bytes);
  return { first, count: Math.floor((start + length - 1) / bytes) + 1 - first };
}

/**
 * What is wrong with the bitmap of a standard (not compressed) cluster, or null.
 * @param hasHostOffset the first half of the entry has a host offset (with an external data file: or its COPIED flag)
 */
export function subclusterFault({ allocated, zero }: SubclusterBitmap, hasHostOffset: boolean): string | null {
  const both = (allocated & zero) >>> 0;
  if (both !== 0) {
    return `subcluster ${countTrailingZeros(both)} is marked both allocated and zero`;
  }
  if (!hasHostOffset && allocated !== 0) {
    return `subcluster ${countTrailingZeros(allocated)} is marked allocated, but the cluster has no host offset`;
  }
  return null;
}

/** Throws corrupt when `subclusterFault` finds something. */
export function checkSubclusters(bitmap: SubclusterBitmap, hasHostOffset: boolean, context: ErrorContext = {}): void {
  const fault = subclusterFault(bitmap, hasHostOffset);
  if (fault === null) return;
  const where = context.path === undefined ? '' : `${context.path}: `;
  const at = context.offset === undefined ? 'an L2 entry' : `the L2 entry at offset ${context.offset}`;
  throw new ImgfuseError('corrupt', `${where}${at} is damaged: ${fault}; run imgfuse check`, context);
}

function countTrailingZeros(word: number): number {
  return 31 - Math.clz32(word & -word);
}

function assertRange(first: number, count: number): void {
  assert(
    first >= 0 && count >= 0 && first + count <= SUBCLUSTERS_PER_CLUSTER,
    `subclusters ${first} to ${first + count} of a cluster`,
  );
}
