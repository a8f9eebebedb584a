// A host that has no space left, or lets the file grow no further, while clusters of the image itself can be used again: they
// are reclaimed, and what needed them is tried once more, in smaller pieces if need be. R5 stands: a cluster is used again
// only after the flushes that make its removal, and its hole, durable.

import type { Mutex } from '../../../concurrency/mutex.ts';
import { isHostFull } from '../../../errors/index.ts';

export interface FullHostParts {
  readonly lock: Mutex;
  readonly flush: {
    /** flushes until every freed cluster can be used again; without the metadata lock */
    runUntilSettled(): void;
  };
  /** freed clusters that need a flush first, and clusters that can be used now; the lock is held */
  readonly reusable: () => { readonly waiting: number; readonly free: number };
}

/**
 * Runs `attempt`, which allocates at most so many clusters and undoes everything when it throws. The lock is held, is held again
 * on return, and is released while clusters are reclaimed; whatever `attempt` looks up it looks up each time (R2), for guest
 * clusters that this thread has reserved exclusively (R3). @throws what the last attempt threw
 */
export function reclaimingWhenFull<T>(parts: FullHostParts, clusters: number, attempt: (most: number) => T): T {
  let most = clusters;
  for (let isFirst = true; ; isFirst = false) {
    // asked before: what the attempt gives back is no reason to try again
    const { free, waiting } = parts.reusable();
    try {
      return attempt(most);
    } catch (error) {
      const canSplit = most > 1 && (free > 0 || !isFirst);
      if (!isHostFull(error) || !(canSplit || (isFirst && waiting > 0))) throw error;
    }
    // all of them at once need not fit: a new table wants clusters, too
    if (!isFirst || waiting === 0) most = Math.floor(most / 2);
    parts.lock.unlock();
    try {
      parts.flush.runUntilSettled();
    } finally {
      parts.lock.lock();
    }
  }
}
