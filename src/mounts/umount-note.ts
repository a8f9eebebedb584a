// A note for umount(8): of a mount with an absolute path it asks the kernel for no more than "fuse", and then never finds
// /sbin/umount.fuse.imgfuse, which waits for the clean close; for a mount that is in /run/mount/utab it looks closer.
// Invariant: a note that cannot be made costs no mount; one that is left over does no harm.

import { describeError } from '../errors/index.ts';
import { FUSE_TYPE } from '../fuse/index.ts';
import { addToMountTable, removeFromMountTable } from '../native/index.ts';
import { isInherited } from './mountpoint.ts';

const OPTION = 'x-imgfuse';

/** What becomes of the note is for whoever looks into a trouble. */
type Log = (level: 'debug', sentence: string) => void;

/** utab belongs to root; what other users mount, umount(8) looks at closely by itself. */
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
