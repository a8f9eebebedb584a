// One received request: the receive buffer and its decoder. The buffer is reused, so nothing of a request outlives it.
// Invariant: `accept` has compared the length in the header with the bytes really received before anything is read, and
// the server has compared the body with the size of its structure before an operation sees it.

import { combine } from '../bytes/endian.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { FUSE_NAME_MAX, fuse_in_header } from './abi.ts';

const BODY = fuse_in_header.$bytes;
const HIGH = 2 ** 32;
/** Room for the header and the structure before the data of a WRITE, and for the longest name. */
export const RECEIVE_HEADROOM = 4096;

/** The thread that a message comes from, by its number in the process namespace of the mount; 0 if it has none there. */
export function requesterOf(message: Uint8Array): number {
  return new DataView(message.buffer, message.byteOffset).getUint32(fuse_in_header.pid, true);
}

export class Request {
  /** the receive buffer: the message, then room */
  readonly bytes: Uint8Array;
  private readonly view: DataView;
  /** bytes received, header included */
  length = 0;
  opcode = 0;

  /** @param capacity bytes of the receive buffer: max_write + RECEIVE_HEADROOM */
  constructor(capacity: number) {
    this.bytes = new Uint8Array(capacity);
    this.view = new DataView(this.bytes.buffer);
  }

  /** Puts a message that was received elsewhere into the buffer. */
  load(message: Uint8Array): number {
    this.bytes.set(message);
    return message.length;
  }

  /** Takes in a message of `received` bytes. @returns false if it is not a whole request */
  accept(received: number): boolean {
    this.length = received;
    this.opcode = received >= fuse_in_header.opcode + 4 ? this.view.getUint32(fuse_in_header.opcode, true) : 0;
    return received >= BODY && this.view.getUint32(fuse_in_header.len, true) === received;
  }

  /** Whether the message is long enough to have `unique`, without which it cannot be answered. */
  get hasUnique(): boolean {
    return this.length >= fuse_in_header.nodeid;
  }

  get uniqueLow(): number {
    return this.view.getUint32(fuse_in_header.unique, true);
  }

  get uniqueHigh(): number {
    return this.view.getUint32(fuse_in_header.unique + 4, true);
  }

  /** The node; NaN, which no filesystem has, if the number is not a safe integer. */
  get nodeid(): number {
    return combine(
      this.view.getUint32(fuse_in_header.nodeid + 4, true),
      this.view.getUint32(fuse_in_header.nodeid, true),
    );
  }

  get uid(): number {
    return this.view.getUint32(fuse_in_header.uid, true);
  }

  get gid(): number {
    return this.view.getUint32(fuse_in_header.gid, true);
  }

  /** The process that asks; 0 if the kernel does it by itself, or if we cannot see that process. */
  get pid(): number {
    return this.view.getUint32(fuse_in_header.pid, true);
  }

  /** Bytes after the header. */
  get bodyLength(): number {
    return this.length - BODY;
  }

  /** 32-bit field at `offset` of the body. */
  u32(offset: number): number {
    return this.view.getUint32(BODY + offset, true);
  }

  /** 64-bit field at `offset` of the body; NaN if it is not a safe integer. */
  u64(offset: number): number {
    return combine(this.view.getUint32(BODY + offset + 4, true), this.view.getUint32(BODY + offset, true));
  }

  /** A file handle. All of ours are safe integers. @throws ImgfuseError usage (EBADF) */
  handle(offset: number): number {
    const value = this.u64(offset);
    if (Number.isNaN(value)) throw new ImgfuseError('usage', 'the file handle is not ours', { errno: ERRNO.EBADF });
    return value;
  }

  /** Seconds (signed) at `secondsOffset` and nanoseconds at `nanosecondsOffset` of the body, as milliseconds. */
  timeMs(secondsOffset: number, nanosecondsOffset: number): number {
    const seconds =
      this.view.getInt32(BODY + secondsOffset + 4, true) * HIGH + this.view.getUint32(BODY + secondsOffset, true);
    return seconds * 1000 + this.u32(nanosecondsOffset) / 1e6;
  }

  /**
   * The name that fills the body from `offset` on and ends with its only NUL.
   * @throws ImgfuseError io if it does not, usage (ENAMETOOLONG) above FUSE_NAME_MAX
   */
  name(offset: number): string {
    const start = BODY + offset;
    const end = this.length - 1;
    if (end <= start || this.bytes.indexOf(0, start) !== end) {
      throw new ImgfuseError('io', 'the kernel sent a name that does not end where the message does');
    }
    if (end - start > FUSE_NAME_MAX) throw new ImgfuseError('usage', 'the name is too long', { errno: 36 });
    return Buffer.from(this.bytes.buffer, start, end - start).toString('utf8');
  }

  /** Where the bytes after a structure of `size` bytes start in `bytes`. */
  dataOffset(size: number): number {
    return BODY + size;
  }
}
