// Writing the links of a flush in pieces, so that other requests get the metadata lock in between: thousands of links can wait,
// each is a host write, and a reader of a cluster that is cached needs the lock for a microsecond.

import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';

/** Links written in one hold of the metadata lock. */
export const LINKS_PER_HOLD = 256;

/**
 * Links the first `count` waiting entries. What is added meanwhile comes after those; what a discard drops stays in its place
 * and links nothing. Data and tables of all of them are durable already, so any part of them may be linked when a crash comes (R6).
 * @param link writes the links of the first so many entries and removes these, under the lock
 */
export function linkInPieces(lock: Mutex, count: number, link: (count: number) => void): void {
  for (let left = count; left > 0; ) {
    const piece = Math.min(left, LINKS_PER_HOLD);
    lock.run(() => link(piece));
    left -= piece;
    if (left === 0) return;
    failpoint('link-pause');
    lock.giveWay();
  }
}
