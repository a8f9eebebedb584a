// FUSE_NOTIFY_INVAL_INODE: the kernel drops what it has cached of a node. It waits for pages that are being read, so it must
// be sent while the requests for them are served, and never by the thread that serves them.

import * as fs from 'node:fs';
import { writeU64LE } from '../bytes/endian.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { FUSE_NOTIFY_INVAL_INODE, fuse_notify_inval_inode_out, fuse_out_header } from './abi.ts';
import { FUSE_DEVICE } from './device.ts';

/** What the kernel drops: the attributes, or all pages of the data as well. */
export type Invalidation = 'attributes' | 'data';

function encodeInvalidation(node: number, what: Invalidation): Uint8Array {
  const message = new Uint8Array(fuse_out_header.$bytes + fuse_notify_inval_inode_out.$bytes);
  const view = new DataView(message.buffer);
  view.setUint32(fuse_out_header.len, message.length, true);
  view.setInt32(fuse_out_header.error, FUSE_NOTIFY_INVAL_INODE, true);
  const body = fuse_out_header.$bytes;
  writeU64LE(view, body + fuse_notify_inval_inode_out.ino, node);
  // a negative offset: attributes only; length 0: to the end of the file
  writeU64LE(view, body + fuse_notify_inval_inode_out.off, what === 'data' ? 0 : -1);
  return message;
}

/** Resolves when it is dropped, also if the kernel has not cached the node or the connection has ended. */
export function invalidateNode(fd: number, node: number, what: Invalidation): Promise<void> {
  const message = encodeInvalidation(node, what);
  return new Promise((resolve, reject) => {
    fs.write(fd, message, 0, message.length, null, (error) => {
      const isGone = ['ENOENT', 'ENODEV', 'ENOTCONN', 'ECONNABORTED'].includes(error?.code ?? '');
      if (error === null || isGone) return resolve();
      const errno = Math.abs(error.errno ?? ERRNO.EIO);
      const message = `the kernel does not drop what it has cached of the mount (${error.code})`;
      reject(new ImgfuseError('io', message, { path: FUSE_DEVICE, operation: 'invalidate', errno }, error));
    });
  });
}
