// Copying clusters up from the backing file without a guest's write (copy-on-read). A guest's write always wins (R4): the
// clusters are reserved exclusively before anything is read below, and looked up again under the lock before anything is
// linked. What reads as zeros below becomes zero clusters. The steps of a piece, with what holds meanwhile:
//
//   look up (lock) -> reserve exclusively -> look up (lock) -> read below (reservation) -> write and link as any allocating
//   write does (reservation; lock for the metadata)

import { after, type GuestCluster, type GuestOffset, guestCluster, roundDown, roundUp } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { EXCLUSIVE, type Reservations } from '../../concurrency/reservations.ts';
import type { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import type { WriteTracker } from '../write-tracker.ts';
import { readBackingData, readsAsZeros } from './backing.ts';
import type { AnyRun, RunMapper } from './runs/run-mapper.ts';

/** Read from the backing file at once; of a larger cluster the allocating write itself copies the rest. */
const PIECE_BYTES = 1024 * 1024;
const ZEROS = new Uint8Array(64 * 1024);

/** What the formats have or do in their own way. */
export interface CopyUpParts<Run extends AnyRun> {
  readonly backing: ReadableImage;
  readonly access: GuestAccess;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly clusterSize: number;
  readonly tracker: WriteTracker;
  readonly mapper: RunMapper<Run>;
  /** makes reserved clusters zero clusters, under the lock. @returns how many; 0 where the format has none */
  readonly deallocator: { zeroReserved(first: GuestCluster, count: number): number };
  readonly allocating: {
    /** Writes into the clusters of a run, which are reserved; the lock is held, then and now. @returns bytes written */
    writeNewClusters(source: Uint8Array, sourceOffset: number, run: Run, offset: GuestOffset): number;
  };
}

export class CopyUp<Run extends AnyRun> {
  private readonly parts: CopyUpParts<Run>;
  private buffer: Uint8Array | null = null;

  constructor(parts: CopyUpParts<Run>) {
    this.parts = parts;
  }

  /** Clusters in which [offset, offset + length) lies and which only the backing file has are this image's afterwards. */
  run(offset: GuestOffset, length: number): void {
    const { backing, clusterSize } = this.parts;
    // behind the end of the backing file there is nothing to copy
    const end = roundUp(Math.min(offset + length, backing.virtualSize()), clusterSize);
    for (let at = roundDown(offset, clusterSize); at < end; ) at = after(at, this.copyFirst(at, end - at));
  }

  /** @returns bytes that are done: copied, or not in need of it */
  private copyFirst(offset: GuestOffset, length: number): number {
    const { access, clusterSize, lock, mapper, reservations } = this.parts;
    lock.lock();
    try {
      // the disk may have become smaller since its size was asked for
      if (offset >= access.virtualSize) return length;
      // without a reservation this is a guess, which saves clusters that are here from an exclusive one
      const guess = mapper.map(offset, length);
      if (guess.status !== 'unallocated') return guess.length;
      const wanted = Math.min(guess.length, Math.max(PIECE_BYTES, clusterSize));
      reservations.acquireBytes(offset, wanted, clusterSize, EXCLUSIVE);
      try {
        if (offset >= access.virtualSize) return length;
        const { status, length: part } = mapper.map(offset, wanted);
        return status === 'unallocated' ? this.copyReserved(offset, part) : part;
      } finally {
        if (!lock.held) lock.lock();
        reservations.release();
      }
    } finally {
      if (!lock.held) lock.lock();
      lock.unlock();
    }
  }

  /** The range is unallocated and reserved; the lock is held. @returns bytes done: a piece, at most, of data */
  private copyReserved(offset: GuestOffset, length: number): number {
    const { access, backing, lock, tracker } = this.parts;
    const inside = Math.min(length, access.virtualSize - offset);
    lock.unlock();
    const isZero = readsAsZeros(backing, offset, inside);
    const buffer = isZero ? ZEROS : this.readBelow(offset, length, inside);
    failpoint('cow-write');
    lock.lock();
    try {
      if (isZero) this.zeroClusters(offset, length);
      else this.link(buffer, offset, length);
    } finally {
      // what was done before it failed waits for the next flush all the same
      tracker.noteWrite();
    }
    return isZero ? length : Math.min(length, buffer.length);
  }

  /** Under the lock, which is released while data moves: what the guest finds here from now on. */
  private link(buffer: Uint8Array, offset: GuestOffset, length: number): void {
    for (let done = 0; done < Math.min(length, buffer.length); ) {
      const zeros = this.zerosFrom(buffer, done, length);
      const zeroed = zeros === 0 ? 0 : this.zeroClusters(after(offset, done), zeros);
      done += zeroed;
      // without zero clusters zeros are data
      if (zeroed === 0) done += this.writeData(buffer, done, this.dataFrom(buffer, done, length), after(offset, done));
    }
  }

  private writeData(buffer: Uint8Array, done: number, length: number, offset: GuestOffset): number {
    const { allocating, mapper } = this.parts;
    return allocating.writeNewClusters(buffer, done, mapper.map(offset, length), offset);
  }

  /** At most a piece of the range; what lies behind the end of the disk is zeros. */
  private readBelow(offset: GuestOffset, length: number, inside: number): Uint8Array {
    this.buffer ??= new Uint8Array(PIECE_BYTES);
    const piece = this.buffer.subarray(0, length);
    const read = Math.min(inside, piece.length);
    failpoint('cow-read');
    readBackingData(this.parts.backing, piece, 0, read, offset);
    piece.fill(0, read);
    return piece;
  }

  /** @returns bytes that zero clusters were made for */
  private zeroClusters(offset: GuestOffset, length: number): number {
    const { clusterSize, deallocator } = this.parts;
    // parts of clusters (subclusters) stay what they are, or become data
    if (offset % clusterSize !== 0) return 0;
    const end = Math.floor((offset + length) / clusterSize);
    let cluster = guestCluster(offset / clusterSize);
    while (cluster < end) {
      const done = deallocator.zeroReserved(cluster, end - cluster);
      if (done === 0) break;
      cluster = after(cluster, done);
    }
    return cluster * clusterSize - offset;
  }

  /** Bytes of whole clusters from `start` on that are zeros. */
  private zerosFrom(buffer: Uint8Array, start: number, length: number): number {
    const { clusterSize } = this.parts;
    let end = start;
    while (end + clusterSize <= Math.min(length, buffer.length) && isZero(buffer, end, clusterSize)) end += clusterSize;
    return end - start;
  }

  /** Bytes from `start` on up to the next cluster of zeros; the first cluster counts whatever it is. */
  private dataFrom(buffer: Uint8Array, start: number, length: number): number {
    const { clusterSize } = this.parts;
    const last = Math.min(length, buffer.length);
    let end = Math.min(start + clusterSize, last);
    while (end < last && this.zerosFrom(buffer, end, length) === 0) end = Math.min(end + clusterSize, last);
    return end - start;
  }
}

function isZero(bytes: Uint8Array, start: number, length: number): boolean {
  for (let at = start; at < start + length; at += ZEROS.length) {
    const part = Math.min(ZEROS.length, start + length - at);
    if (Buffer.compare(bytes.subarray(at, at + part), ZEROS.subarray(0, part)) !== 0) return false;
  }
  return true;
}
