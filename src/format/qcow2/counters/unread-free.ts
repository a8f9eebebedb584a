// Free clusters that nobody has looked up yet. An open knows how many there are in each stretch of the file, and only a write that
// needs one reads the counters of a stretch, so that neither the time nor the memory of an open grows with them.
//
// Invariant: in a stretch that is not read, a counted cluster below the end of the file is free if and only if its counter is 0.
// So a stretch is read before a counter in it falls to 0, because that cluster is not free before it is punched (R5).
// Used under the metadata lock.

import { type HostCluster, hostCluster } from '../../../bytes/offsets.ts';
import { type FreeClusters, MAX_TRACKED_CLUSTERS } from '../../mapped/free-clusters.ts';
import type { Geometry } from '../geometry.ts';
import type { Qcow2Numbers } from '../state.ts';
import type { Refcounts } from './refcount.ts';

/** Clusters of a stretch: their counters are read in well below a millisecond. */
export const STRETCH_CLUSTERS = 16384;

/** Int32: all clusters that are not read, then those of each stretch. */
const TOTAL = 0;
const FIRST = 1;

/** @param counts of free clusters in stretches of a file of `clusters` clusters */
export function createUnreadFreeState(
  clusters: number,
  counts: Iterable<readonly [stretch: number, count: number]>,
): SharedArrayBuffer {
  const state = new SharedArrayBuffer((FIRST + stretchesOf(clusters)) * 4);
  const words = new Int32Array(state);
  for (const [stretch, count] of counts) {
    words[FIRST + stretch] = words[FIRST + stretch]! + count;
    words[TOTAL] = words[TOTAL]! + count;
  }
  return state;
}

/** Stretches of a file of so many clusters, as far as clusters are used again. */
export function stretchesOf(clusters: number): number {
  return Math.ceil(Math.min(clusters, MAX_TRACKED_CLUSTERS) / STRETCH_CLUSTERS);
}

/** Adds to the counts of stretches the clusters of a run. */
export function countInStretches(counts: Map<number, number>, start: number, count: number): void {
  const end = Math.min(start + count, MAX_TRACKED_CLUSTERS);
  for (let at = start; at < end; ) {
    const stretch = Math.floor(at / STRETCH_CLUSTERS);
    const next = Math.min(end, (stretch + 1) * STRETCH_CLUSTERS);
    counts.set(stretch, (counts.get(stretch) ?? 0) + next - at);
    at = next;
  }
}

export interface UnreadFreeParts {
  readonly geometry: Geometry;
  readonly refcounts: Refcounts;
  readonly free: FreeClusters;
  readonly numbers: Pick<Qcow2Numbers, 'fileEnd'>;
}

export class UnreadFree {
  private readonly words: Int32Array;
  private readonly parts: UnreadFreeParts;

  constructor(state: SharedArrayBuffer, parts: UnreadFreeParts) {
    this.words = new Int32Array(state);
    this.parts = parts;
  }

  get count(): number {
    return this.words[TOTAL]!;
  }

  /** Reads the stretches of clusters [first, first + count). */
  read(first: HostCluster, count: number): void {
    if (this.count === 0) return;
    const end = Math.min(stretchesOf(first + count), this.words.length - FIRST);
    for (let stretch = Math.floor(first / STRETCH_CLUSTERS); stretch < end; stretch++) this.readStretch(stretch);
  }

  /** Reads the first stretch that has any. @returns whether there was one */
  readNext(): boolean {
    if (this.count === 0) return false;
    const stretch = this.words.findIndex((count, word) => word >= FIRST && count > 0) - FIRST;
    this.readStretch(stretch);
    return true;
  }

  /** Adds what is not read to the counts of stretches. */
  addTo(counts: Map<number, number>): void {
    if (this.count === 0) return;
    for (let word = FIRST; word < this.words.length; word++) {
      const count = this.words[word]!;
      if (count > 0) counts.set(word - FIRST, (counts.get(word - FIRST) ?? 0) + count);
    }
  }

  private readStretch(stretch: number): void {
    const { free, geometry, numbers, refcounts } = this.parts;
    const expected = this.words[FIRST + stretch]!;
    if (expected === 0) return;
    const first = stretch * STRETCH_CLUSTERS;
    const end = Math.min(first + STRETCH_CLUSTERS, geometry.clusterOf(numbers.fileEnd));
    refcounts.forEachFreeRun(hostCluster(first), hostCluster(end), (start, count) => free.markFree(start, count));
    this.words[FIRST + stretch] = 0;
    this.words[TOTAL] = this.words[TOTAL]! - expected;
  }
}
