// Reads and writes of the guest. A run is mapped and its clusters are reserved in one hold of the metadata lock (R3) and
// mapped again after a wait (R2); its bytes move without the lock (R1). What is done with a run is the format's: its
// RunReader and RunWriter.

import { after, type GuestOffset } from '../../../bytes/offsets.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import { EXCLUSIVE, type Reservations, SHARED } from '../../../concurrency/reservations.ts';
import type { GuestAccess } from '../../guest-access.ts';
import type { AnyRun, RunMapper } from './run-mapper.ts';
import type { RangeReader } from './run-reader.ts';

/** `offset` is the first byte of the run on the disk. */
export interface RunWriter<Run> {
  /** A write of the whole run changes nothing but its bytes in their place, so others may read and write beside it. */
  isInPlace(run: Run, offset: GuestOffset): boolean;
  /** Writes a reserved run. The lock is held, and may be released. @returns bytes written, perhaps only the first of the run */
  writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: GuestOffset): number;
  /** Makes the data of a reserved run zeros in its place; the lock is held, and is released for it. @returns whether it did */
  punchRun(run: Run): boolean;
}

export interface ReservedRunsParts<Run extends AnyRun> {
  readonly readOnly: boolean;
  readonly access: GuestAccess;
  readonly clusterSize: number;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: RunMapper<Run>;
  readonly ranges: RangeReader<Run>;
  readonly writer: Pick<RunWriter<Run>, 'isInPlace' | 'writeRun'>;
}

export class ReservedRuns<Run extends AnyRun> {
  private readonly parts: ReservedRunsParts<Run>;

  constructor(parts: ReservedRunsParts<Run>) {
    this.parts = parts;
  }

  /** Reads with the clusters of the range reserved, shared. */
  readReserving(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    const { access, clusterSize, lock, ranges, readOnly, reservations } = this.parts;
    lock.lock();
    try {
      access.assertInside(offset, length);
      // a read-only image has no writers, so nothing to wait for
      if (!readOnly) reservations.acquireBytes(offset, length, clusterSize, SHARED);
      ranges.readReleasing(target, targetOffset, length, offset);
    } finally {
      if (!readOnly) reservations.release();
      if (lock.held) lock.unlock();
    }
  }

  /** Writes run by run, with the clusters of each reserved. */
  writeReserving(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    for (let done = 0; done < length; ) {
      done += this.writeFirst(source, sourceOffset + done, length - done, after(offset, done));
    }
  }

  /** Writes the first run of one status. @returns bytes written */
  private writeFirst(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): number {
    const { lock, reservations, writer } = this.parts;
    lock.lock();
    try {
      const run = this.reserveFirst(offset, length);
      return run === null ? 0 : writer.writeRun(run, source, sourceOffset, offset);
    } finally {
      reservations.release();
      if (lock.held) lock.unlock();
    }
  }

  /**
   * Maps the range and reserves its first run: shared where that is enough, else exclusively. After a wait what was
   * mapped is void (R2), so it is mapped again with the reservation kept: giving it up and asking again would let two waiters
   * wait for each other for ever. @returns null when a shared reservation turns out not to be enough; the caller tries again
   */
  private reserveFirst(offset: GuestOffset, length: number): Run | null {
    const { access, clusterSize, mapper, reservations, writer } = this.parts;
    access.assertInside(offset, length);
    const run = mapper.map(offset, length);
    const mode = writer.isInPlace(run, offset) ? SHARED : EXCLUSIVE;
    const part = run.length;
    if (reservations.acquireBytes(offset, part, clusterSize, mode)) return run;
    access.assertInside(offset, length);
    const again = mapper.map(offset, part);
    return mode === EXCLUSIVE || writer.isInPlace(again, offset) ? again : null;
  }
}
