// Copy-on-write: new clusters get the guest's bytes and, around them, what the disk held there before. Head, guest bytes and
// tail go to the host in one write if they fit the buffer; a crash cannot tear them apart more than any write.
//
//   start         offset                offset + length        start + bytes
//     | what was    |  the guest's bytes  |  what was there      |
//     |  there      |                     |  before              |

import { after, type GuestOffset, type HostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';

/** Copied at once. */
const BUFFER_BYTES = 1024 * 1024;

/** What the disk held before, for a range that this thread has reserved; without the lock. */
export interface OldContent {
  readReserved(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void;
}

/** Where the guest's data goes; a HostFile is one. */
export interface DataPlace {
  write(source: Uint8Array, sourceOffset: number, length: number, host: HostOffset, guest: GuestOffset): void;
}

export class CowBuffer {
  private readonly old: OldContent;
  private readonly place: DataPlace;
  private buffer: Uint8Array | null = null;

  constructor(old: OldContent, place: DataPlace) {
    this.old = old;
    this.place = place;
  }

  /**
   * Writes `bytes` bytes of the disk from `start` on to `host`: `length` bytes of the guest at `offset`, and around them what
   * was there before. A caller that needs no old content on one side begins or ends with the guest's bytes there.
   */
  writeAround(
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: GuestOffset,
    start: GuestOffset,
    bytes: number,
    host: HostOffset,
  ): void {
    const head = offset - start;
    const tail = bytes - head - length;
    const isOneWrite = bytes <= BUFFER_BYTES && head + tail > 0;
    if (isOneWrite) {
      const buffer = this.allocated();
      this.readOld(buffer, 0, head, start);
      buffer.set(source.subarray(sourceOffset, sourceOffset + length), head);
      this.readOld(buffer, head + length, tail, after(offset, length));
      failpoint('data-write');
      this.place.write(buffer, 0, bytes, host, start);
      return;
    }
    this.copyOld(head, start, host);
    failpoint('data-write');
    this.place.write(source, sourceOffset, length, after(host, head), offset);
    this.copyOld(tail, after(offset, length), after(host, head + length));
  }

  /** Copies `length` bytes of the disk at `offset`, as they were before, to `host`. */
  copyOld(length: number, offset: GuestOffset, host: HostOffset): void {
    for (let done = 0; done < length; ) {
      const part = Math.min(BUFFER_BYTES, length - done);
      this.readOld(this.allocated(), 0, part, after(offset, done));
      failpoint('cow-write');
      this.place.write(this.allocated(), 0, part, after(host, done), after(offset, done));
      done += part;
    }
  }

  private readOld(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    if (length === 0) return;
    failpoint('cow-read');
    this.old.readReserved(target, targetOffset, length, offset);
  }

  private allocated(): Uint8Array {
    this.buffer ??= new Uint8Array(BUFFER_BYTES);
    return this.buffer;
  }
}
