// The descriptor of /dev/fuse: one message per read, one reply per write. Knows what their errors mean and nothing of
// what the messages say.

import * as fs from 'node:fs';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { attachFuseDevice, hasRequest, nativeAvailable } from '../native/index.ts';

export const FUSE_DEVICE = '/dev/fuse';

/** Why no more requests come: the mount is gone, or the connection was aborted. */
export type ConnectionEnd = 'unmounted' | 'aborted';

/** Where the server gets requests from; the kernel in production. */
export interface Channel {
  /** @returns bytes received into `target`; 0 = nothing this time, try again; or why the connection ended */
  receive(target: Uint8Array): number | ConnectionEnd;
  /** Sends the first `length` bytes. @returns false when nobody waits for the reply any more */
  send(source: Uint8Array, length: number): boolean;
}

const sleepWord = new Int32Array(new SharedArrayBuffer(4));

export class Device implements Channel {
  readonly fd: number;

  constructor(fd: number) {
    this.fd = fd;
  }

  receive(target: Uint8Array): number | ConnectionEnd {
    try {
      return fs.readSync(this.fd, target, 0, target.length, null);
    } catch (error) {
      switch ((error as NodeJS.ErrnoException).code) {
        case 'ENODEV':
        case 'ENOTCONN':
          return 'unmounted';
        case 'ECONNABORTED':
          return 'aborted';
        case 'EINTR':
        case 'ENOENT': // the request was taken back between being queued and being read
          return 0;
        case 'EAGAIN': // an inherited descriptor may be non-blocking
          Atomics.wait(sleepWord, 0, 0, 1);
          return 0;
        default:
          throw deviceError('read', error);
      }
    }
  }

  send(source: Uint8Array, length: number): boolean {
    try {
      fs.writeSync(this.fd, source, 0, length, null);
      return true;
    } catch (error) {
      switch ((error as NodeJS.ErrnoException).code) {
        case 'ENOENT': // interrupted: the caller is gone
        case 'ENODEV':
        case 'ENOTCONN':
        case 'ECONNABORTED': // the next read says so as well
          return false;
        default:
          throw deviceError('write', error);
      }
    }
  }
}

/** Whether a request waits that no thread has received; true if this system cannot tell. @param fd any descriptor of the connection */
export function mayHaveRequest(fd: number): boolean {
  return !nativeAvailable() || hasRequest(fd);
}

/** Opens /dev/fuse. @throws ImgfuseError permission, unsupported (no FUSE in this kernel or container) */
export function openDevice(): number {
  try {
    return fs.openSync(FUSE_DEVICE, 'r+');
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'EACCES' || code === 'EPERM') {
      const message = `${FUSE_DEVICE} may not be opened by this user; in a container pass it in with --device /dev/fuse`;
      throw new ImgfuseError('permission', message, { path: FUSE_DEVICE, operation: 'open' }, cause);
    }
    const message = `${FUSE_DEVICE} cannot be opened: is the fuse module loaded (modprobe fuse)?`;
    throw new ImgfuseError('unsupported', message, { path: FUSE_DEVICE, operation: 'open' }, cause);
  }
}

/**
 * A descriptor of the same connection with its own queue of requests in progress, so that workers do not share a lock
 * in the kernel. If the kernel or the permissions of /dev/fuse do not allow that: `fd` itself, which works as well.
 */
export function cloneDevice(fd: number): number {
  let clone: number | undefined;
  try {
    clone = fs.openSync(FUSE_DEVICE, 'r+');
    attachFuseDevice(clone, fd);
    return clone;
  } catch {
    if (clone !== undefined) fs.closeSync(clone);
    return fd;
  }
}

function deviceError(operation: string, cause: unknown): ImgfuseError {
  const errno = Math.abs((cause as NodeJS.ErrnoException).errno ?? ERRNO.EIO);
  return new ImgfuseError(
    'io',
    `${operation} of ${FUSE_DEVICE} failed`,
    { path: FUSE_DEVICE, operation, errno },
    cause,
  );
}
