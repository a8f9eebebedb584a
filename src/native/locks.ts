// Open-file-description locks (fcntl F_OFD_*), byte ranges as QEMU takes them. They end with the last descriptor of the
// open file description. Never mix them with F_SETLK on the same file: closing any descriptor would drop those.
//
//   struct flock (64-bit): 0 l_type i16 | 2 l_whence i16 | 8 l_start i64 | 16 l_len i64 | 24 l_pid i32 (0) | 32 bytes

import { readU64LE, writeU64LE } from '../bytes/endian.ts';
import { assert, ERRNO } from '../errors/index.ts';
import { systemCallError } from './errno.ts';
import { checked, lastErrno, lazyFunction } from './library.ts';

export const F_RDLCK = 0;
export const F_WRLCK = 1;
export const F_UNLCK = 2;

const F_OFD_GETLK = 36;
const F_OFD_SETLK = 37;
const FLOCK_SIZE = 32;

export type LockType = typeof F_RDLCK | typeof F_WRLCK | typeof F_UNLCK;

/** A lock of another open file description that conflicts with ours. */
export interface ConflictingLock {
  readonly type: LockType;
  readonly start: number;
  /** 0 = to the end of the file, however far it grows */
  readonly length: number;
}

const fcntlCall = lazyFunction('fcntl', (koffi, library) => {
  const fcntl = library.func('int fcntl(int fd, int command, ...)');
  const pointer = koffi.pointer('void');
  return (fd, command, flock) => fcntl(fd, command, pointer, flock);
});

/**
 * Takes (F_RDLCK, F_WRLCK) or drops (F_UNLCK) a lock without waiting.
 * @throws ImgfuseError busy if another program holds a conflicting lock; unsupported if the filesystem has no OFD locks
 */
export function setOfdLock(fd: number, type: LockType, start: number, length: number): void {
  const flock = encodeFlock(type, start, length);
  if (fcntlCall(fd, F_OFD_SETLK, flock) >= 0) return;
  const errno = lastErrno();
  const subject = `of bytes ${start}..${start + length}`;
  if (errno === ERRNO.EAGAIN || errno === ERRNO.EACCES) throw systemCallError('lock', errno, subject, 'busy');
  if (errno === ERRNO.EINVAL) throw systemCallError('lock', errno, subject, 'unsupported');
  throw systemCallError('lock', errno, subject);
}

/** The first lock that would keep us from taking `type`, or undefined. Locks of `fd` itself never conflict. */
export function getOfdLock(fd: number, type: LockType, start: number, length: number): ConflictingLock | undefined {
  const flock = encodeFlock(type, start, length);
  checked(fcntlCall(fd, F_OFD_GETLK, flock), 'lock test', `of bytes ${start}..${start + length}`);
  const view = new DataView(flock.buffer);
  const found = view.getInt16(0, true) as LockType;
  if (found === F_UNLCK) return undefined;
  return { type: found, start: readU64LE(view, 8), length: readU64LE(view, 16) };
}

function encodeFlock(type: LockType, start: number, length: number): Uint8Array<ArrayBuffer> {
  assert(Number.isSafeInteger(start) && start >= 0 && Number.isSafeInteger(length) && length >= 0, 'lock range');
  const flock = new Uint8Array(FLOCK_SIZE);
  const view = new DataView(flock.buffer);
  view.setInt16(0, type, true);
  writeU64LE(view, 8, start);
  writeU64LE(view, 16, length);
  return flock;
}
