// The one error class of imgfuse: kind + context + cause, and the only map from kind to errno.
// Messages are sentences for the user: they name the file, the offset, the value and the cure.

export { didYouMean, nearestWord } from './suggest.ts';

/** errno numbers of Linux (asm-generic), as FUSE replies and system calls use them. */
export const ERRNO = {
  EPERM: 1,
  ENOENT: 2,
  EINTR: 4,
  EIO: 5,
  ENXIO: 6,
  EBADF: 9,
  EAGAIN: 11,
  ENOMEM: 12,
  EACCES: 13,
  EBUSY: 16,
  EEXIST: 17,
  ENODEV: 19,
  ENOTDIR: 20,
  EISDIR: 21,
  EINVAL: 22,
  EFBIG: 27,
  ENOSPC: 28,
  EROFS: 30,
  ERANGE: 34,
  ENOSYS: 38,
  ENODATA: 61,
  EPROTO: 71,
  EOVERFLOW: 75,
  EOPNOTSUPP: 95,
  ENOTCONN: 107,
  EDQUOT: 122,
} as const;

const KIND_TO_ERRNO = {
  /** the caller passed an argument that makes no sense */
  usage: ERRNO.EINVAL,
  /** a file, entry or mount that does not exist */
  missing: ERRNO.ENOENT,
  /** another program uses it: image locks, busy mountpoints */
  busy: ERRNO.EBUSY,
  /** the metadata of the image contradicts itself or the file */
  corrupt: ERRNO.EIO,
  /** a feature or operation that is not available here */
  unsupported: ERRNO.EOPNOTSUPP,
  /** writing is not possible: opened read-only, or turned read-only by an error */
  'read-only': ERRNO.EROFS,
  /** a host system call failed */
  io: ERRNO.EIO,
  /** the host has no space left */
  'no-space': ERRNO.ENOSPC,
  /** beyond the end of the disk or above a limit of the format */
  limit: ERRNO.EFBIG,
  /** the user may not do this */
  permission: ERRNO.EACCES,
} as const;

export type ErrorKind = keyof typeof KIND_TO_ERRNO;

export interface ErrorContext {
  /** the file or mountpoint the sentence is about */
  readonly path?: string;
  /** byte offset in that file */
  readonly offset?: number;
  /** the operation that failed, in the words of the host or the protocol (write, fdatasync, mount, ...) */
  readonly operation?: string;
  /** errno to answer instead of the one of the kind */
  readonly errno?: number;
  /** bytes that were transferred before the failure */
  readonly transferred?: number;
  /** the missing part lies beyond the end of the file: a truncated copy, the rest of which can be read */
  readonly isTruncated?: boolean;
}

/** Everything that imgfuse throws on purpose. Programmer errors are plain AssertionErrors from `assert`. */
export class ImgfuseError extends Error {
  override readonly name = 'ImgfuseError';
  readonly kind: ErrorKind;
  readonly context: ErrorContext;

  constructor(kind: ErrorKind, message: string, context: ErrorContext = {}, cause?: unknown) {
    super(message, cause === undefined ? undefined : { cause });
    this.kind = kind;
    this.context = context;
  }
}

/** The errno (positive) that answers a request which failed with `error`; EIO unless it is an ImgfuseError. */
export function errnoOf(error: unknown): number {
  if (!(error instanceof ImgfuseError)) return ERRNO.EIO;
  return error.context.errno ?? KIND_TO_ERRNO[error.kind];
}

/** The image is damaged: not a failing host, and not a bug. */
export function isCorrupt(error: unknown): boolean {
  return error instanceof ImgfuseError && error.kind === 'corrupt';
}

/** The host has no space left, or lets the file grow no further: ENOSPC, EDQUOT, EFBIG. A later try may succeed. */
export function isHostFull(error: unknown): boolean {
  if (!(error instanceof ImgfuseError)) return false;
  return error.kind === 'no-space' || (error.kind === 'limit' && error.context.errno === ERRNO.EFBIG);
}

/** The host has no space left, ENOSPC or EDQUOT: a later try succeeds once there is some. */
export function isOutOfSpace(error: unknown): error is ImgfuseError {
  return error instanceof ImgfuseError && error.kind === 'no-space';
}

/** One line for a log or a terminal: the message, then the messages of its causes. */
export function describeError(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const cause = error.cause === undefined ? '' : ` (${describeError(error.cause)})`;
  return `${error.message}${cause}`;
}

/** Throws if `condition` is false, which only a bug can make it. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Error(`assertion failed: ${message}`);
}
