// fallocate(2) and lseek(2) with 64-bit offsets. Invariant: every offset and length is a safe integer >= 0.

import { POSIX_FADV_WILLNEED } from '../bytes/linux.ts';
import { isSafeOffset } from '../bytes/offsets.ts';
import { assert, ERRNO } from '../errors/index.ts';
import { checked, lastErrno, lazyFunction } from './library.ts';

const fallocateCall = lazyFunction('fallocate', 'int fallocate(int fd, int mode, int64 offset, int64 length)');
const fadviseCall = lazyFunction('posix_fadvise', 'int posix_fadvise(int fd, int64 offset, int64 length, int advice)');
const lseekCall = lazyFunction('lseek', 'int64 lseek(int fd, int64 offset, int whence)');

/**
 * @param mode FALLOC_FL_* bits, 0 = reserve space and grow
 * @throws ImgfuseError unsupported (EOPNOTSUPP: the filesystem cannot), no-space, limit, io
 */
export function fallocate(fd: number, mode: number, offset: number, length: number): void {
  assert(isSafeOffset(offset) && isSafeOffset(length), `fallocate of ${length} bytes at ${offset}`);
  let result = fallocateCall(fd, mode, offset, length);
  while (result < 0 && lastErrno() === ERRNO.EINTR) result = fallocateCall(fd, mode, offset, length);
  checked(result, 'fallocate', `of ${length} bytes at ${offset}`);
}

/**
 * The new offset. SEEK_DATA past the last data and anything at or past the end fail with ENXIO.
 * It moves the file offset of the descriptor, which nothing in imgfuse relies on.
 * @throws ImgfuseError io (context.errno ENXIO, EINVAL)
 */
export function lseek(fd: number, offset: number, whence: number): number {
  assert(isSafeOffset(offset), `lseek to ${offset}`);
  return checked(lseekCall(fd, offset, whence), 'lseek', `to ${offset}`);
}

/** Like lseek(), but null for ENXIO: there is no data after `offset`. That is an ordinary answer, and an error costs microseconds. */
export function lseekOrNone(fd: number, offset: number, whence: number): number | null {
  assert(isSafeOffset(offset), `lseek to ${offset}`);
  const result = lseekCall(fd, offset, whence);
  if (result < 0 && lastErrno() === ERRNO.ENXIO) return null;
  return checked(result, 'lseek', `to ${offset}`);
}

/** The bytes will be read soon: the host may fetch them beside other work. What it answers means nothing. */
export function willNeed(fd: number, offset: number, length: number): void {
  assert(isSafeOffset(offset) && isSafeOffset(length), `fadvise of ${length} bytes at ${offset}`);
  fadviseCall(fd, offset, length, POSIX_FADV_WILLNEED);
}
