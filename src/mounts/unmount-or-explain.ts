// Takes a mount out of the mount table, or says why it stays: who uses it, what covers it, and what to do. It does not wait for
// the image to be closed.

import { setTimeout as delay } from 'node:timers/promises';
import { ERRNO, errnoOf, ImgfuseError } from '../errors/index.ts';
import { assertNotCovered, listMounts, type MountEntry, mountsOfConnection, unmountPath } from '../fuse/index.ts';
import { cureForUsers, describeUsers, findMountUsers, isLettingGo } from './users.ts';

const BUSY_ATTEMPTS = 10;
const BUSY_DELAY_MS = 100;

/**
 * Unmounts. If the mount is busy, but no user of it is found, it tries again for a moment: a loop device that was just detached
 * releases its file a little later.
 * @throws ImgfuseError that names the users of the mount, or what covers it, and says what to do
 */
export async function unmountOrExplain({ id, mountpoint }: MountEntry, lazy: boolean): Promise<void> {
  assertNotCovered(mountpoint);
  for (let attempt = 1; ; attempt++) {
    try {
      unmountPath(mountpoint, { lazy });
      return;
    } catch (error) {
      // the mount is gone already
      if (!listMounts().some((entry) => entry.id === id && entry.mountpoint === mountpoint)) return;
      if (errnoOf(error) !== ERRNO.EBUSY) throw error;
      const users = await findMountUsers(mountpoint);
      if (!isLettingGo(users) || attempt === BUSY_ATTEMPTS) {
        throw busyError(mountpoint, describeUsers(users), cureForUsers(users));
      }
    }
    await delay(BUSY_DELAY_MS);
  }
}

function busyError(mountpoint: string, who: string | null, cure: string | null): ImgfuseError {
  const users = who === null ? '' : ` by ${who}`;
  const advice = cure === null ? 'end what uses it' : `run "${cure}"`;
  return new ImgfuseError('busy', `${mountpoint} is in use${users}; ${advice} and unmount again`, {
    path: mountpoint,
    errno: ERRNO.EBUSY,
  });
}

/** The other places where an unmounted file system is still mounted, through bind mounts. */
export function otherPlacesOf({ minor, source }: MountEntry): MountEntry[] {
  return mountsOfConnection(minor).filter((entry) => entry.source === source);
}
