// FUSE_NOTIFY_INVAL_INODE: the kernel drops what it has cached of a node. It waits for pages that are being read, so where there may be
// some it must be sent while the requests for them are served, and never by the thread that serves them.

import * as fs from 'node:fs';
import { writeU64LE } from '../bytes/endian.ts';
import { describeError, ERRNO, ImgfuseError } from '../errors/index.ts';
import { FUSE_NOTIFY_INVAL_INODE, fuse_notify_inval_inode_out, fuse_out_header } from './abi.ts';
import { type Channel, FUSE_DEVICE } from './device.ts';

/** Bytes of a file, whose pages are dropped: also those that begin before them, or end after them. */
export interface PageRange {
  readonly node: number;
  readonly start: number;
  readonly end: number;
}

/** What the kernel drops: the attributes, or all pages of the data as well. */
export type Invalidation = 'attributes' | 'data';

/** @param offset negative: attributes only @param length 0: to the end of the file */
function encodeInvalidation(node: number, offset: number, length: number): Uint8Array {
  const message = new Uint8Array(fuse_out_header.$bytes + fuse_notify_inval_inode_out.$bytes);
  const view = new DataView(message.buffer);
  view.setUint32(fuse_out_header.len, message.length, true);
  view.setInt32(fuse_out_header.error, FUSE_NOTIFY_INVAL_INODE, true);
  const body = fuse_out_header.$bytes;
  writeU64LE(view, body + fuse_notify_inval_inode_out.ino, node);
  writeU64LE(view, body + fuse_notify_inval_inode_out.off, offset);
  writeU64LE(view, body + fuse_notify_inval_inode_out.len, length);
  return message;
}

/** @returns null if the kernel has nothing to drop: it has not cached the node, or the connection has ended */
function failureOf(error: NodeJS.ErrnoException): ImgfuseError | null {
  if (['ENOENT', 'ENODEV', 'ENOTCONN', 'ECONNABORTED'].includes(error.code ?? '')) return null;
  const errno = Math.abs(error.errno ?? ERRNO.EIO);
  const message = `the kernel does not drop what it has cached of the mount (${error.code})`;
  return new ImgfuseError('io', message, { path: FUSE_DEVICE, operation: 'invalidate', errno }, error);
}

/** Resolves when it is dropped. */
function send(fd: number, message: Uint8Array): Promise<void> {
  return new Promise((resolve, reject) => {
    fs.write(fd, message, 0, message.length, null, (error) => {
      const failure = error === null ? null : failureOf(error);
      if (failure === null) resolve();
      else reject(failure);
    });
  });
}

/** Resolves when it is dropped, also if the kernel has not cached the node or the connection has ended. */
export function invalidateNode(fd: number, node: number, what: Invalidation): Promise<void> {
  return send(fd, encodeInvalidation(node, what === 'data' ? 0 : -1, 0));
}

/** Has all pages of a node dropped when it returns. Nobody may have it open. */
export function dropPages(fd: number, node: number): void {
  const message = encodeInvalidation(node, 0, 0);
  try {
    fs.writeSync(fd, message, 0, message.length, null);
  } catch (error) {
    const failure = failureOf(error as NodeJS.ErrnoException);
    if (failure !== null) throw failure;
  }
}

/**
 * Has pages dropped, and sends the reply to the request that has changed what they show, if there is one. For the main thread.
 * @param fd of the connection @param channel that the request was received from @returns what went wrong, if anything did
 */
export async function answerAfterDrop(
  fd: number,
  { ranges, reply }: { readonly ranges: readonly PageRange[]; readonly reply: Uint8Array | null },
  channel: Channel,
): Promise<string | null> {
  let failure: string | null = null;
  for (const { node, start, end } of ranges) {
    await send(fd, encodeInvalidation(node, start, end - start)).catch((error: unknown) => {
      failure = describeError(error);
    });
  }
  if (reply !== null) channel.send(reply, reply.length);
  return failure;
}
