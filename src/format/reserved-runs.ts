// Reads and writes of the guest, run by run. A run is mapped and its clusters are reserved in one hold of the metadata lock
// (R3) and mapped again after a wait (R2); its bytes move without the lock (R1). What is done with a run is the format's.

import type { Mutex } from '../concurrency/mutex.ts';
import { EXCLUSIVE, type Reservations, SHARED } from '../concurrency/reservations.ts';
import type { GuestAccess } from './guest-access.ts';
import type { RunMapper } from './run-mapper.ts';

/** `offset` is the first byte of the run on the disk. */
export interface ReservedRunsParts<Run> {
  readonly readOnly: boolean;
  readonly access: GuestAccess;
  readonly clusterSize: number;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: RunMapper<Run>;
  /** a write of the whole run changes nothing but its bytes in their place, so others may read and write beside it */
  readonly mayShare: (run: Run, offset: number) => boolean;
  /** without the lock */
  readonly readRun: (run: Run, target: Uint8Array, targetOffset: number, offset: number) => void;
  /** the lock is held, and may be released. @returns bytes written, perhaps only the first of the run */
  readonly writeRun: (run: Run, source: Uint8Array, sourceOffset: number, offset: number) => number;
}

export class ReservedRuns<Run extends { readonly length: number }> {
  private readonly parts: ReservedRunsParts<Run>;

  constructor(parts: ReservedRunsParts<Run>) {
    this.parts = parts;
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: number): void {
    const { access, clusterSize, lock, readOnly, reservations } = this.parts;
    lock.lock();
    try {
      access.assertInside(offset, length);
      // a read-only image has no writers, so nothing to wait for
      if (!readOnly) reservations.acquireBytes(offset, length, clusterSize, SHARED);
      this.readLocked(target, targetOffset, length, offset);
    } finally {
      if (!readOnly) reservations.release();
      lock.unlock();
    }
  }

  /** For a request that holds its reservation, and not the lock. */
  readReserved(target: Uint8Array, targetOffset: number, length: number, offset: number): void {
    this.parts.lock.run(() => this.readLocked(target, targetOffset, length, offset));
  }

  /** The lock is held, is released while data moves, and is held again on return, also when it throws. */
  private readLocked(target: Uint8Array, targetOffset: number, length: number, offset: number): void {
    const { lock, mapper } = this.parts;
    try {
      for (let done = 0; done < length; ) {
        const run = mapper.map(offset + done, length - done);
        const part = run.length;
        lock.unlock();
        this.parts.readRun(run, target, targetOffset + done, offset + done);
        lock.lock();
        done += part;
      }
    } finally {
      if (!lock.held) lock.lock();
    }
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: number): void {
    for (let done = 0; done < length; ) {
      done += this.writeFirst(source, sourceOffset + done, length - done, offset + done);
    }
  }

  /** Writes the first run of one status. @returns bytes written */
  private writeFirst(source: Uint8Array, sourceOffset: number, length: number, offset: number): number {
    const { lock, reservations } = this.parts;
    lock.lock();
    try {
      const run = this.reserveFirst(offset, length);
      return run === null ? 0 : this.parts.writeRun(run, source, sourceOffset, offset);
    } finally {
      if (!lock.held) lock.lock();
      reservations.release();
      lock.unlock();
    }
  }

  /**
   * Maps the range and reserves its first run: shared where that is enough, else exclusively. After a wait what was
   * mapped is void (R2), so it is mapped again with the reservation kept: giving it up and asking again would let two waiters
   * wait for each other for ever. @returns null when a shared reservation turns out not to be enough; the caller tries again
   */
  private reserveFirst(offset: number, length: number): Run | null {
    const { access, clusterSize, mapper, reservations } = this.parts;
    access.assertInside(offset, length);
    const run = mapper.map(offset, length);
    const mode = this.parts.mayShare(run, offset) ? SHARED : EXCLUSIVE;
    const part = run.length;
    if (reservations.acquireBytes(offset, part, clusterSize, mode)) return run;
    access.assertInside(offset, length);
    const again = mapper.map(offset, part);
    return mode === EXCLUSIVE || this.parts.mayShare(again, offset) ? again : null;
  }
}
