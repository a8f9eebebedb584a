// fallocate(2) and lseek(2) with 64-bit offsets. Invariant: every offset and length is a safe integer >= 0.

import { assert, ERRNO } from '../errors/index.ts';
import { checked, lastErrno, lazyFunction } from './library.ts';

/** Mode bits of fallocate(2), as in <linux/falloc.h>. */
export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;
export const FALLOC_FL_COLLAPSE_RANGE = 0x08;
export const FALLOC_FL_ZERO_RANGE = 0x10;
export const FALLOC_FL_INSERT_RANGE = 0x20;
export const FALLOC_FL_UNSHARE_RANGE = 0x40;

export const SEEK_SET = 0;
export const SEEK_CUR = 1;
export const SEEK_END = 2;
export const SEEK_DATA = 3;
export const SEEK_HOLE = 4;

const fallocateCall = lazyFunction('fallocate', 'int fallocate(int fd, int mode, int64 offset, int64 length)');
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

/** The same, or null where errno is ENXIO: there is no data behind `offset`. That is no failure, and an error costs microseconds. */
export function lseekOrNone(fd: number, offset: number, whence: number): number | null {
  assert(isSafeOffset(offset), `lseek to ${offset}`);
  const result = lseekCall(fd, offset, whence);
  if (result < 0 && lastErrno() === ERRNO.ENXIO) return null;
  return checked(result, 'lseek', `to ${offset}`);
}

function isSafeOffset(value: number): boolean {
  return Number.isSafeInteger(value) && value >= 0;
}
