// HostFile: the only way to touch an image file, which PosixHostFile and HttpHostFile implement. Every call checks its offset
// in production, too: Node writes at the file's CURRENT position if it is handed a bigint, NaN, a fraction or a negative
// number, and on a fresh descriptor that is the header.

import { type HostOffset, hostOffset } from '../bytes/offsets.ts';
import type { FileIdentity } from './file-identity.ts';
import type { SharedFile } from './shared-file.ts';

/** What went over the network for a file: counts, and bytes of content. */
export interface Traffic {
  readonly requests: number;
  readonly bytes: number;
  readonly retries: number;
  readonly failures: number;
}

/** What can be asked of a file whose bytes come from a server, for all threads that use it. */
export interface RemoteFile {
  readonly url: string;
  /** Reads of this object serve a new request of the kernel from now on, which must be answered in time. */
  requestBegins(): void;
  /** Ends all waiting for the server, in every thread: a read of bytes that are not cached is an error from now on. */
  giveUp(): void;
  /** Another thread has died: a thread that waits for what it held gets an error. @param thread its `threadId` */
  abandon(thread: number): void;
  traffic(): Traffic;
}

export interface HostFile {
  /** absolute path, for messages */
  readonly path: string;
  /** true if the descriptor cannot write */
  readonly readOnly: boolean;
  /** descriptor number, which is valid in every thread of the process; null if there is none (remote files) */
  readonly descriptor: number | null;
  /** a block device: its length never changes, and nothing can be cut from it */
  readonly isDevice: boolean;
  /** absent if the bytes are on this host */
  readonly remote?: RemoteFile;

  /** Length of the file in bytes. */
  size(): number;

  /** Bytes the host has allocated for the file (st_blocks * 512). */
  allocatedBytes(): number;

  /** When its bytes last changed, in ms since the epoch; null if that is not known (devices, remote files). */
  modifiedMs(): number | null;

  identity(): FileIdentity;

  /**
   * Reads `length` bytes at `offset` into `target` from `targetOffset` on. Short transfers are continued.
   * @returns bytes read: fewer than `length` only at the end of the file
   * @throws ImgfuseError io
   */
  read(target: Uint8Array, targetOffset: number, length: number, offset: HostOffset): number;

  /**
   * Writes all `length` bytes or throws; `context.transferred` of the error says how many bytes arrived.
   * @throws ImgfuseError io, no-space (ENOSPC, EDQUOT), limit (EFBIG), read-only
   */
  write(source: Uint8Array, sourceOffset: number, length: number, offset: HostOffset): void;

  /** fdatasync: data and the length of the file are on stable storage when it returns. */
  sync(): void;

  /** Sets the length; new bytes read as zeros. */
  truncate(length: number): void;

  /**
   * Makes the range read as zeros and gives its space back to the host; writes zeros if the host cannot do that.
   * Never changes the length of the file.
   */
  punchHole(offset: HostOffset, length: number): void;

  /** False if punchHole() gives nothing back and writes zeros instead. Asks the host once, and changes no byte. */
  punchesHoles(): boolean;

  /** Makes the range read as zeros and keeps or takes its space (FALLOC_FL_ZERO_RANGE); writes zeros if the host cannot. */
  zeroRange(offset: HostOffset, length: number): void;

  /** Reserves space for the range without changing what it reads; grows the file if the range ends beyond it. */
  allocateRange(offset: HostOffset, length: number): void;

  /** The bytes will be read soon, and may be fetched beside other work. Absent where that cannot be said. */
  prefetch?(offset: HostOffset, length: number): void;

  /**
   * First offset >= `offset` that holds data, or the length of the file if none follows.
   * @param end a file of many pieces need not look further; what it answers then is not below
   */
  seekData(offset: HostOffset, end?: number): number;

  /** First offset >= `offset` that is a hole (the end of the file counts as one). @param end as in seekData() */
  seekHole(offset: HostOffset, end?: number): number;

  /** For attachHostFile in another thread. */
  share(): SharedFile;

  close(): void;
}

/**
 * An upper bound of the bytes of `file` that may be data, without a walk; 0 only if all of them read as zeros. A device counts
 * in full, and so does a file with data that its host does not count: some network file systems say 0 blocks of every file.
 */
export function possibleDataBytes(file: HostFile): number {
  const allocated = file.isDevice ? file.size() : file.allocatedBytes();
  if (allocated > 0) return allocated;
  const size = file.size();
  return file.seekData(hostOffset(0)) < size ? size : 0;
}

/** Reads exactly `length` bytes; bytes beyond the end of the file become zeros. */
export function readPadded(
  file: HostFile,
  target: Uint8Array,
  targetOffset: number,
  length: number,
  offset: HostOffset,
): void {
  const done = file.read(target, targetOffset, length, offset);
  if (done < length) target.fill(0, targetOffset + done, targetOffset + length);
}
