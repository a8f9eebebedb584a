// The number of references to each host cluster, as three bitmaps: bit k of a count is in bitmap k. An ordinary image needs
// the first one only, and stretches of one count take no memory (sparse-bitmap.ts). A count of 7 or more is in LargeCounts.

import { PAGE_BITS, SparseBitmap } from '../../../bytes/sparse-bitmap.ts';
import { LargeCounts } from './large-counts.ts';

const PLANES = 3;
/** This value in the bitmaps means that LargeCounts has the count. */
const LARGE = 2 ** PLANES - 1;

export class CountedReferences {
  /** clusters of the file, for the directories of the bitmaps */
  private readonly expected: number;
  /** bit 0 of each count, and the bits above it once a count has them */
  private readonly ones: SparseBitmap;
  private readonly planes: SparseBitmap[];
  private readonly large = new LargeCounts();

  constructor(expected = 0) {
    this.expected = expected;
    this.ones = new SparseBitmap(expected);
    this.planes = [this.ones];
  }

  get(cluster: number): number {
    const { planes } = this;
    let count = this.ones.has(cluster) ? 1 : 0;
    for (let plane = 1; plane < planes.length; plane++) if (planes[plane]!.has(cluster)) count += 2 ** plane;
    return count === LARGE ? this.large.get(cluster) : count;
  }

  /** Whether all of the clusters have this count. */
  areAll(first: number, clusters: number, count: number): boolean {
    return this.uniformCount(first, clusters) === count;
  }

  /** Fills `target` with the counts of `clusters` clusters. */
  load(first: number, clusters: number, target: Float64Array): void {
    const uniform = this.uniformCount(first, clusters);
    if (uniform >= 0) target.fill(uniform, 0, clusters);
    else for (let i = 0; i < clusters; i++) target[i] = this.get(first + i);
  }

  /** Runs [start, end) of clusters, ascending, outside of which no cluster has a reference. */
  *ranges(): Generator<{ start: number; end: number }> {
    let page = this.nextPage(0);
    while (page < Number.POSITIVE_INFINITY) {
      const start = page;
      let end = page;
      while (page === end) {
        end++;
        page = this.nextPage(end);
      }
      yield { start: start * PAGE_BITS, end: end * PAGE_BITS };
    }
  }

  /** End of the clusters with references between `start` and `end`; `start` if no cluster there has any. */
  usedEnd(start: number, end: number): number {
    let usedEnd = start;
    for (const plane of this.planes) usedEnd = plane.endOfLast(usedEnd, end);
    return usedEnd;
  }

  add(cluster: number, times = 1): void {
    if (times === 1 && this.planes.length === 1 && this.ones.add(cluster)) return;
    this.set(cluster, this.get(cluster) + times);
  }

  /** Adds `times` to the counts of `clusters` clusters. */
  addRun(first: number, clusters: number, times: number): void {
    if (times === 1 && this.planes.length === 1 && !this.ones.hasAny(first, clusters)) {
      this.ones.addRun(first, clusters);
      return;
    }
    const end = first + clusters;
    for (let start = first; start < end; ) {
      const partEnd = Math.min(end, (Math.floor(start / PAGE_BITS) + 1) * PAGE_BITS);
      const count = this.uniformCount(start, partEnd - start) + times;
      if (count >= times && count < LARGE) this.setPlanes(start, partEnd - start, count);
      else for (let cluster = start; cluster < partEnd; cluster++) this.add(cluster, times);
      start = partEnd;
    }
  }

  set(cluster: number, count: number): void {
    const isLarge = count >= LARGE;
    this.setPlanes(cluster, 1, isLarge ? LARGE : count);
    // what a cluster with a small count has there is never looked at
    if (isLarge) this.large.set(cluster, count);
  }

  private setPlanes(first: number, clusters: number, count: number): void {
    const { planes } = this;
    while (count >= 2 ** planes.length) planes.push(new SparseBitmap(this.expected));
    for (let plane = 0; plane < planes.length; plane++) {
      if (((count >>> plane) & 1) !== 0) planes[plane]!.addRun(first, clusters);
      else planes[plane]!.removeRun(first, clusters);
    }
  }

  /** The count that all of the clusters have; -1 if they differ, or may differ. */
  private uniformCount(first: number, clusters: number): number {
    let count = 0;
    for (let plane = 0; plane < this.planes.length; plane++) {
      const bitmap = this.planes[plane]!;
      if (bitmap.has(first)) {
        if (!bitmap.hasAll(first, clusters)) return -1;
        count += 2 ** plane;
      } else if (bitmap.hasAny(first, clusters)) return -1;
    }
    return count === LARGE ? -1 : count;
  }

  private nextPage(page: number): number {
    let next = Number.POSITIVE_INFINITY;
    for (const plane of this.planes) next = Math.min(next, plane.nextPage(page));
    return next;
  }
}
