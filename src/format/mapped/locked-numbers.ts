// The numbers that all threads of an open image share, behind its metadata lock. The state.ts of each format gives them their
// names and types; nobody else knows their places.

import type { Mutex } from '../../concurrency/mutex.ts';
import { assert } from '../../errors/index.ts';

export interface LockedNumbersParts {
  readonly numbers: SharedArrayBuffer;
  /** the metadata lock, as this thread's object */
  readonly lock: Mutex;
  /** nothing changes them once the image is open */
  readonly readOnly: boolean;
}

export class LockedNumbers {
  private readonly values: Float64Array;
  private readonly lock: Mutex;
  private readonly readOnly: boolean;

  constructor({ numbers, lock, readOnly }: LockedNumbersParts) {
    this.values = new Float64Array(numbers);
    this.lock = lock;
    this.readOnly = readOnly;
  }

  get(index: number): number {
    assert(this.lock.held, 'a shared number is read under the metadata lock');
    return this.values[index]!;
  }

  /** All of them, for a look at several. */
  underLock(): { readonly [index: number]: number } {
    assert(this.lock.held, 'shared numbers are read under the metadata lock');
    return this.values;
  }

  set(index: number, value: number): void {
    assert(this.lock.held, 'a shared number is changed under the metadata lock');
    assert(!this.readOnly, 'the shared numbers of a read-only image do not change');
    this.values[index] = value;
  }

  add(index: number, change: number): void {
    this.set(index, this.get(index) + change);
  }

  /**
   * For a caller without the lock: the number before or after a change that is being made. It is one aligned 64-bit word, so it
   * is never torn. Whoever holds the lock is not waited for: every request asks for the size of the disk first.
   */
  getOutsideLock(index: number): number {
    return this.values[index]!;
  }
}
