// A range that shall read as zeros, cut at cluster borders: whole clusters can lose their data, parts of clusters are
// zeroed where they are. The last cluster of a disk counts as whole when the range reaches the disk's end. Whole clusters
// lose their data slice by slice of their table, so that nobody waits long for the lock or for clusters.

import { after, type GuestCluster, type GuestOffset, guestCluster, roundDown, roundUp } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';

export interface ZeroRangeActions {
  /** zeros [start, end) inside clusters that stay */
  readonly part: (start: GuestOffset, end: number) => void;
  /** guest clusters [first, first + count), or fewer from the first on. @returns clusters done */
  readonly clusters: (first: GuestCluster, count: number) => number;
}

export function zeroRange(
  offset: GuestOffset,
  length: number,
  clusterSize: number,
  diskEnd: number,
  act: ZeroRangeActions,
): void {
  const end = after(offset, length);
  const wholeEnd = end === diskEnd ? roundUp(end, clusterSize) : roundDown(end, clusterSize);
  const wholeStart = roundUp(offset, clusterSize);
  if (wholeStart >= wholeEnd) {
    act.part(offset, end);
    return;
  }
  act.part(offset, wholeStart);
  const last = wholeEnd / clusterSize;
  for (let cluster = guestCluster(wholeStart / clusterSize); cluster < last; ) {
    cluster = after(cluster, act.clusters(cluster, last - cluster));
  }
  act.part(wholeEnd, end);
}

export interface SliceParts {
  /** clusters from this one on that one store can change; the lock is held */
  readonly linker: { span(first: GuestCluster): number };
  readonly lock: Mutex;
  readonly reservations: Reservations;
}

/**
 * Runs `action` with the first of `count` clusters, as far as their entries lie in one slice, reserved exclusively and the lock held.
 * @returns clusters done
 */
export function changeFirstSlice(
  { linker, lock, reservations }: SliceParts,
  first: GuestCluster,
  count: number,
  action: (count: number) => void,
): number {
  const part = lock.run(() => Math.min(count, linker.span(first)));
  reservations.exclusively(first, first + part, () => action(part));
  lock.giveWay();
  return part;
}

/** The same for all clusters [first, end), one slice after the other. */
export function changeEachSlice(
  parts: SliceParts,
  first: GuestCluster,
  end: number,
  action: (first: GuestCluster, count: number) => void,
): void {
  for (let cluster = first; cluster < end; ) {
    const start = cluster;
    cluster = after(
      start,
      changeFirstSlice(parts, start, end - start, (count) => action(start, count)),
    );
  }
}
