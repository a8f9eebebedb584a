// How many operations of the host file fall into one hold of the metadata lock: what every other request waits for.

import { Mutex } from '../../src/concurrency/mutex.ts';
import { METADATA_LOCK } from '../../src/format/mapped/mapped-state.ts';
import type { HostFile } from '../../src/host/host-file.ts';
import { FaultyHostFile, type HostOperation } from './wrapping-files.ts';

export interface LockHolds {
  /** to be opened instead */
  readonly file: HostFile;
  /** most operations that one hold had, since the last reset */
  readonly longest: number;
  /** all operations since the last reset */
  readonly operations: number;
  /** how many of those under the lock were fdatasync */
  readonly syncs: number;
  reset(): void;
}

/** Threads are objects over the same lock here, so whichever holds it, holds it. */
export function watchLockHolds(inner: HostFile): LockHolds {
  const counts = { longest: 0, operations: 0, syncs: 0 };
  const held = holdsOf();
  let hold = -1;
  let inHold = 0;
  const file = new FaultyHostFile(inner, (operation: HostOperation) => {
    counts.operations++;
    const now = held.current();
    if (now === null) return null;
    if (now !== hold) inHold = 0;
    hold = now;
    inHold++;
    if (operation === 'sync') counts.syncs++;
    counts.longest = Math.max(counts.longest, inHold);
    return null;
  });
  return {
    file,
    get longest() {
      return counts.longest;
    },
    get operations() {
      return counts.operations;
    },
    get syncs() {
      return counts.syncs;
    },
    reset: () => Object.assign(counts, { longest: 0, operations: 0, syncs: 0 }),
  };
}

let watched: { current(): number | null } | null = null;

/** Watches every metadata lock of this process from now on. */
function holdsOf(): { current(): number | null } {
  if (watched !== null) return watched;
  let number = 0;
  let current: number | null = null;
  const { lock, unlock } = Mutex.prototype;
  const isMetadata = (mutex: Mutex): boolean => (mutex as unknown as { index: number }).index === METADATA_LOCK;
  Mutex.prototype.lock = function (this: Mutex): void {
    lock.call(this);
    if (isMetadata(this)) current = ++number;
  };
  Mutex.prototype.unlock = function (this: Mutex): void {
    if (isMetadata(this)) current = null;
    unlock.call(this);
  };
  watched = { current: () => current };
  return watched;
}
