// The end of a mount: umount2 as root, fusermount3 -u otherwise, and the abort of a connection through fusectl.
// Nothing here touches the mountpoint itself, and nothing is lazy unless it is asked for.

import * as fs from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { MNT_DETACH, mount, UMOUNT_NOFOLLOW, umount2 } from '../native/index.ts';
import { fusermountUnmount } from './fusermount.ts';
import { canonicalMountpoint, findAnyMount, findMount, isImgfuse, listMounts, readMountTable } from './mount-table.ts';

export interface UnmountOptions {
  /** detach now, end when the last user is gone; hides that the mount is still in use */
  readonly lazy?: boolean;
}

const FUSECTL = '/sys/fs/fuse/connections';

/**
 * Unmounts the imgfuse mount at `path`. Returns when the mount is gone; its server then gets ENODEV and closes the image.
 * @throws ImgfuseError missing (no imgfuse mount there), busy (in use, or covered by another mount), permission
 */
export function unmountPath(path: string, options: UnmountOptions = {}): void {
  const mountpoint = canonicalMountpoint(path);
  if (findMount(mountpoint) === undefined) {
    assertNotCovered(mountpoint);
    throw new ImgfuseError('missing', `no imgfuse mount is at ${mountpoint}`, { path: mountpoint });
  }
  const lazy = options.lazy === true;
  if (process.geteuid?.() !== 0) return fusermountUnmount(mountpoint, lazy);
  try {
    umount2(mountpoint, UMOUNT_NOFOLLOW | (lazy ? MNT_DETACH : 0));
  } catch (cause) {
    throw unmountError(mountpoint, cause);
  }
}

/** @throws ImgfuseError busy if another mount covers the imgfuse mount at the same place */
export function assertNotCovered(mountpoint: string): void {
  const top = findAnyMount(mountpoint);
  if (top === undefined || isImgfuse(top) || !listMounts().some((entry) => entry.mountpoint === mountpoint)) return;
  const message = `${mountpoint} is covered by ${top.source} (${top.type}), which was mounted there later; unmount that first`;
  throw new ImgfuseError('busy', message, { path: mountpoint, operation: 'umount' });
}

function unmountError(mountpoint: string, cause: unknown): unknown {
  if (!(cause instanceof ImgfuseError)) return cause;
  const context = { path: mountpoint, operation: 'umount', errno: cause.context.errno ?? ERRNO.EIO };
  if (cause.kind === 'busy') {
    const cure = 'unmount what is mounted from it, detach its loop devices and close its files first';
    return new ImgfuseError('busy', `${mountpoint} is in use: ${cure}`, context, cause);
  }
  if (context.errno === ERRNO.EINVAL) {
    return new ImgfuseError('missing', `nothing is mounted at ${mountpoint}`, context, cause);
  }
  return cause;
}

/**
 * Ends the connection of a mount of ours: see abortConnection.
 * @param connection its number, where it is known
 * @throws ImgfuseError unsupported also if the number is not known: the caller must not believe that its users get errors now
 */
export function abortMount(mountpoint: string, connection: number | undefined): void {
  if (connection !== undefined) return abortConnection(connection);
  const message = `the FUSE connection of ${mountpoint} is not known, so it cannot be aborted`;
  throw new ImgfuseError('unsupported', message, { path: mountpoint, operation: 'abort' });
}

/**
 * Ends the FUSE connection of this number at once, in use or not: requests in progress fail with ECONNABORTED, later
 * ones with ENOTCONN. The mount stays in the table until it is unmounted. A connection that is gone already is fine.
 * @throws ImgfuseError permission (not ours), unsupported (no fusectl filesystem and not root)
 */
export function abortConnection(connection: number): void {
  if (readMountTable().some((entry) => entry.type === 'fusectl' && entry.mountpoint === FUSECTL)) {
    return writeAbort(FUSECTL, connection);
  }
  if (process.geteuid?.() !== 0) {
    const message = `the connection cannot be aborted: no fusectl filesystem is mounted at ${FUSECTL}`;
    throw new ImgfuseError('unsupported', message, { path: FUSECTL, operation: 'abort' });
  }
  const folder = fs.mkdtempSync(join(tmpdir(), 'imgfuse-fusectl-'));
  try {
    mount('fusectl', folder, 'fusectl', 0, '');
    try {
      writeAbort(folder, connection);
    } finally {
      umount2(folder, UMOUNT_NOFOLLOW | MNT_DETACH);
    }
  } finally {
    fs.rmdirSync(folder);
  }
}

function writeAbort(fusectl: string, connection: number): void {
  const path = join(fusectl, String(connection), 'abort');
  try {
    fs.writeFileSync(path, '1', { flag: 'r+' });
  } catch (cause) {
    const code = (cause as NodeJS.ErrnoException).code;
    if (code === 'ENOENT') return;
    const kind = code === 'EACCES' || code === 'EPERM' ? 'permission' : 'io';
    throw new ImgfuseError(kind, `the FUSE connection ${connection} cannot be aborted`, { path }, cause);
  }
}
