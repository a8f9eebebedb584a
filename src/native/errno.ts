// errno of a failed system call -> ImgfuseError with kind, operation and errno. The only such map for native calls.

import { getSystemErrorName } from 'node:util';
import { ERRNO, type ErrorKind, ImgfuseError } from '../errors/index.ts';

const ERRNO_TO_KIND: Readonly<Record<number, ErrorKind>> = {
  [ERRNO.EPERM]: 'permission',
  [ERRNO.EACCES]: 'permission',
  [ERRNO.ENOENT]: 'missing',
  [ERRNO.EBUSY]: 'busy',
  [ERRNO.EFBIG]: 'limit',
  [ERRNO.ENOSPC]: 'no-space',
  [ERRNO.EDQUOT]: 'no-space',
  [ERRNO.EROFS]: 'read-only',
  [ERRNO.ENOSYS]: 'unsupported',
  [ERRNO.EOPNOTSUPP]: 'unsupported',
};

/** ENOSPC, ...; the number itself where the system has no name for it. */
export function errnoName(errno: number): string {
  // Node names number 95 after the other of its two names
  if (errno === ERRNO.EOPNOTSUPP) return 'EOPNOTSUPP';
  try {
    return getSystemErrorName(-errno);
  } catch {
    return `errno ${errno}`;
  }
}

/**
 * @param subject what the call was about (a path, a range), for the sentence
 * @param kind replaces the kind of the errno
 */
export function systemCallError(operation: string, errno: number, subject?: string, kind?: ErrorKind): ImgfuseError {
  const about = subject === undefined ? '' : ` ${subject}`;
  return new ImgfuseError(kind ?? ERRNO_TO_KIND[errno] ?? 'io', `${operation}${about} failed: ${errnoName(errno)}`, {
    operation,
    errno,
  });
}
