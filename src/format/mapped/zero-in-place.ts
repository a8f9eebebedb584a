// Zeros inside clusters that stay, run by run: data is punched where it lies, what reads as zeros already is left alone, and
// where neither is possible zeros are written as a guest would.

import { after, type GuestOffset, guestOffset, roundUp } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { type Reservations, SHARED } from '../../concurrency/reservations.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from './backing.ts';
import type { ReservedRuns, RunWriter } from './runs/reserved-runs.ts';
import type { AnyRun, RunMapper } from './runs/run-mapper.ts';

const ZEROS = new Uint8Array(64 * 1024);

export interface ZeroInPlaceParts<Run extends AnyRun> {
  readonly backing: ReadableImage | null;
  readonly clusterSize: number;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: RunMapper<Run>;
  readonly runs: Pick<ReservedRuns<Run>, 'writeReserving'>;
  readonly writer: Pick<RunWriter<Run>, 'punchRun'>;
}

export class ZeroInPlace<Run extends AnyRun> {
  private readonly parts: ZeroInPlaceParts<Run>;

  constructor(parts: ZeroInPlaceParts<Run>) {
    this.parts = parts;
  }

  /** Bytes [start, end) of the disk. */
  zero(start: GuestOffset, end: number): void {
    for (let at = start; at < end; ) at = after(at, this.zeroFirst(at, end - at));
  }

  /** The rest of the cluster that a disk of `size` bytes ends in, where it has data. */
  zeroBehindEnd(size: number): void {
    const end = roundUp(size, this.parts.clusterSize);
    for (let at = size; at < end; ) at += this.punchFirst(guestOffset(at), end - at);
  }

  /** Punches the first run of a range in one cluster, if it is data. @returns bytes done */
  private punchFirst(offset: GuestOffset, length: number): number {
    const { clusterSize, lock, mapper, reservations, writer } = this.parts;
    lock.lock();
    try {
      // other bytes of the cluster may be written meanwhile
      reservations.acquireBytes(offset, length, clusterSize, SHARED);
      const run = mapper.map(offset, length);
      const part = run.length;
      writer.punchRun(run);
      return part;
    } finally {
      reservations.release();
      if (lock.held) lock.unlock();
    }
  }

  /** The first run of one status. @returns bytes done */
  private zeroFirst(offset: GuestOffset, length: number): number {
    const { backing, clusterSize, lock, mapper, reservations, runs, writer } = this.parts;
    lock.lock();
    let status: string;
    let part: number;
    try {
      reservations.acquireBytes(offset, length, clusterSize, SHARED);
      const run = mapper.map(offset, length);
      status = run.status;
      part = run.length;
      if (writer.punchRun(run)) return part;
    } finally {
      reservations.release();
      if (lock.held) lock.unlock();
    }
    if (status === 'zero') return part;
    if (status === 'unallocated' && readsAsZeros(backing, offset, part)) return part;
    const zeros = Math.min(part, ZEROS.length);
    runs.writeReserving(ZEROS, 0, zeros, offset);
    return zeros;
  }
}
