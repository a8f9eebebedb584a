// A note in /run/mount/utab for umount(8). Given an absolute path, umount(8) asks the kernel only for the type "fuse" and never
// finds /sbin/umount.fuse.imgfuse, which waits for the clean close. For a mount in utab it reads the full type.
// Invariant: the mount goes on if the note cannot be made, and a note that is left over does no harm.

import { describeError } from '../errors/index.ts';
import { FUSE_TYPE } from '../fuse/index.ts';
import { addToMountTable, removeFromMountTable } from '../native/index.ts';
import { isInherited } from './mountpoint.ts';

const OPTION = 'x-imgfuse';

/** Failures are only logged for debugging. */
type Log = (level: 'debug', sentence: string) => void;

/** Only root can write utab. For mounts of other users umount(8) reads the full type anyway. */
function isNoted(mountpoint: string): boolean {
  return process.geteuid?.() === 0 && !isInherited(mountpoint);
}

export function noteForUmount(source: string, mountpoint: string, log: Log): void {
  if (!isNoted(mountpoint)) return;
  try {
    addToMountTable(source, mountpoint, FUSE_TYPE, OPTION);
  } catch (error) {
    log('debug', `umount(8) may not wait until the image is closed: ${describeError(error)}`);
  }
}

export function forgetForUmount(mountpoint: string, log: Log): void {
  if (!isNoted(mountpoint)) return;
  try {
    removeFromMountTable(mountpoint);
  } catch (error) {
    log('debug', describeError(error));
  }
}
