// Zeros inside clusters that stay, run by run: data is punched where it lies, what reads as zeros already is left alone, and
// where neither is possible zeros are written as a guest would.

import { guestOffset } from '../bytes/offsets.ts';
import type { Mutex } from '../concurrency/mutex.ts';
import { type Reservations, SHARED } from '../concurrency/reservations.ts';
import { readsAsZeros } from './backing.ts';
import type { ReadableImage, WritableImage } from './image-format.ts';
import type { RunMapper } from './run-mapper.ts';

const ZEROS = new Uint8Array(64 * 1024);

export interface ZeroInPlaceParts<Run> {
  readonly backing: ReadableImage | null;
  readonly clusterSize: number;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: RunMapper<Run>;
  /** the lock is held, and is released where the data of the run becomes zeros. @returns whether it did */
  readonly punch: (run: Run) => boolean;
  /** the image's own write */
  readonly write: WritableImage['write'];
}

export class ZeroInPlace<Run extends { readonly status: string; readonly length: number }> {
  private readonly parts: ZeroInPlaceParts<Run>;

  constructor(parts: ZeroInPlaceParts<Run>) {
    this.parts = parts;
  }

  /** Bytes [start, end) of the disk. */
  zero(start: number, end: number): void {
    for (let at = start; at < end; ) at += this.zeroFirst(at, end - at);
  }

  /** The first run of one status. @returns bytes done */
  private zeroFirst(offset: number, length: number): number {
    const { backing, clusterSize, lock, mapper, reservations, write } = this.parts;
    lock.lock();
    let status: string;
    let part: number;
    try {
      reservations.acquireBytes(offset, length, clusterSize, SHARED);
      const run = mapper.map(offset, length);
      status = run.status;
      part = run.length;
      if (this.parts.punch(run)) return part;
    } finally {
      reservations.release();
      if (lock.held) lock.unlock();
    }
    if (status === 'zero') return part;
    if (status === 'unallocated' && readsAsZeros(backing, offset, part)) return part;
    const zeros = Math.min(part, ZEROS.length);
    write(ZEROS, 0, zeros, guestOffset(offset));
    return zeros;
  }
}
