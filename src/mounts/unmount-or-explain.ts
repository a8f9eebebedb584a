// Takes a mount out of the mount table, or says why it stays: who uses it, what covers it, and what to do. Whether the image is
// closed then is not asked here.

import { setTimeout as delay } from 'node:timers/promises';
import { ERRNO, errnoOf, ImgfuseError } from '../errors/index.ts';
import { assertNotCovered, listMounts, type MountEntry, mountsOfConnection, unmountPath } from '../fuse/index.ts';
import { cureForUsers, describeUsers, findMountUsers, isLettingGo } from './users.ts';

const BUSY_ATTEMPTS = 10;
const BUSY_DELAY_MS = 100;

/**
 * A mount that is busy although nobody is seen to keep it is tried again for a moment: a loop device that was detached
 * just now lets go of its file a little later.
 * @throws ImgfuseError that names who uses the mount, or what covers it, and what to do
 */
export async function unmountOrExplain({ id, mountpoint }: MountEntry, lazy: boolean): Promise<void> {
  assertNotCovered(mountpoint);
  for (let attempt = 1; ; attempt++) {
    try {
      unmountPath(mountpoint, { lazy });
      return;
    } catch (error) {
      // gone meanwhile: that is what was asked for
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

/** Where a mount that was unmounted here is still mounted, because it was bound to other places, too. */
export function otherPlacesOf({ minor, source }: MountEntry): MountEntry[] {
  return mountsOfConnection(minor).filter((entry) => entry.source === source);
}
