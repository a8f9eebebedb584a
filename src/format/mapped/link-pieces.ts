// Writing the links of a flush in pieces, so that other requests get the metadata lock in between: thousands of links can wait,
// and a reader of a cluster that is cached needs the lock for a microsecond. Data and tables of all of them are durable already,
// so any part of them may be linked when a crash comes (R6). What is added meanwhile comes after them and waits for the next
// batch; what a discard drops links nothing.

import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { NOT_PENDING, type PendingLink, type PendingLinks } from './pending-links.ts';

/** Links written in one hold of the metadata lock, if they share host writes. */
export const LINKS_PER_HOLD = 64;
/** Host writes in one hold: 5 to 10 us each, and a few times that while the code is cold. A reader waits for the hold. */
export const WRITES_PER_HOLD = 8;

/**
 * Links the first `count` waiting entries in the order in which they came.
 * @param link writes the links of the first so many entries and removes these, under the lock
 */
export function linkInPieces(lock: Mutex, count: number, link: (count: number) => void): void {
  for (let left = count; left > 0; ) {
    const piece = Math.min(left, WRITES_PER_HOLD);
    lock.run(() => link(piece));
    left -= piece;
    if (left > 0) letOthersIn(lock);
  }
}

/** What one host write can link: clusters whose entries lie in one slice of a table, in their order. */
export interface SliceLinks<Index extends number> {
  /** Clusters from this one on whose entries share its slice. */
  span(guestCluster: Index): number;
  /** Writes their entries, under the lock. */
  linkSlice(links: readonly PendingLink<Index>[], count: number): void;
}

/**
 * Links the first `count` waiting entries in the order of their clusters: clusters that came apart share slices of tables, and
 * a slice is written once. The sorting is done without the lock.
 */
export function linkInOrder<Index extends number>(
  lock: Mutex,
  pending: PendingLinks<Index>,
  count: number,
  slices: SliceLinks<Index>,
): void {
  const clusters = lock.run(() => pending.indicesOfFirst(count)).sort();
  for (let done = 0; done < clusters.length; ) {
    if (done > 0) letOthersIn(lock);
    done += lock.run(() => linkPiece(pending, clusters.subarray(done, done + LINKS_PER_HOLD), count, slices));
  }
  lock.run(() => pending.removeFirst(count));
}

/** @returns how many of `clusters` are done */
function linkPiece<Index extends number>(
  pending: PendingLinks<Index>,
  clusters: Float64Array,
  count: number,
  slices: SliceLinks<Index>,
): number {
  let i = 0;
  for (let writes = 0; i < clusters.length && writes < WRITES_PER_HOLD; writes++) {
    const end = clusters[i]! + slices.span(clusters[i] as Index);
    const links: PendingLink<Index>[] = [];
    for (; i < clusters.length && clusters[i]! < end; i++) {
      const guestCluster = clusters[i] as Index;
      if (guestCluster === links.at(-1)?.guestCluster) continue;
      const hostOffset = pending.find(guestCluster, count);
      if (hostOffset === NOT_PENDING) continue;
      links.push({ guestCluster, hostOffset, allocated: pending.allocated, zero: pending.zero });
    }
    if (links.length > 0) slices.linkSlice(links, count);
  }
  return i;
}

function letOthersIn(lock: Mutex): void {
  failpoint('link-pause');
  lock.giveWay();
}
