// The file systems of a guest that are mounted from an attached disk: which they are, and how they are unmounted. The mount table
// and the loop devices are the truth about which these are: what lies on the disk, wherever it is mounted.

import { setTimeout as delay } from 'node:timers/promises';
import { shellQuote } from '../bytes/printable.ts';
import { ERRNO, ImgfuseError } from '../errors/index.ts';
import { isImgfuse, type MountEntry, readMountTable } from '../fuse/mount-table.ts';
import { readText } from '../host/small-files.ts';
import { liesIn } from '../mounts/processes-inside.ts';
import { ownUid } from '../mounts/runtime-directory.ts';
import { cureForUsers, describeUsers, findMountUsers, isMountedFrom, loopDevicesOver } from '../mounts/users.ts';
import type { Attachment } from './attachments.ts';
import { type ProgramEnd, runProgram } from './programs.ts';

/** how long a busy file system is tried again: a program that has just ended lets go a moment later */
const BUSY_MS = 1500;
const RETRY_MS = 100;
/** after this time the user is told what is waited for */
const PATIENCE_MS = 2000;

/** The mounts of the guest's file systems, latest first. Those that a user has made from the same disk are among them. */
export function guestMountsOf({ disk, partitions }: Attachment): MountEntry[] {
  const loops = loopDevicesOver(disk);
  const isGuest = (entry: MountEntry): boolean =>
    loops.some((loop) => isMountedFrom(loop, entry)) || isUserSpaceGuest(entry, disk) || isCutOff(entry, partitions);
  return readMountTable().filter(isGuest).reverse();
}

/** The loop device of each directory where a file system of the guest is mounted from one. */
export function loopDevicesOf({ disk }: Attachment): Map<string, string> {
  const table = readMountTable();
  const devices = new Map<string, string>();
  for (const loop of loopDevicesOver(disk)) {
    for (const { mountpoint } of table.filter((entry) => isMountedFrom(loop, entry)))
      devices.set(mountpoint, loop.device);
  }
  return devices;
}

/**
 * A file system in user space reads the raw file itself; its source says so. Where it is mounted says nothing: a user may have
 * unmounted it, and mounted something else at the same place.
 */
function isUserSpaceGuest(entry: MountEntry, disk: string): boolean {
  return entry.type.startsWith('fuse') && !isImgfuse(entry) && liesIn(entry.source, disk);
}

/**
 * A mount process that was told to end detaches the mount of the image although it is in use. The kernel then has no path any more
 * to the file of the loop device but its name.
 */
function isCutOff({ source, mountpoint }: MountEntry, partitions: Attachment['partitions']): boolean {
  const name = /^\/dev\/(loop\d+)$/.exec(source)?.[1];
  if (name === undefined || !partitions.some(({ directory }) => directory === mountpoint)) return false;
  return readText(`/sys/block/${name}/loop/backing_file`)?.trim() === '/disk.raw';
}

/**
 * Unmounts the guest's file systems, the latest first.
 * @param note told what a long wait is for
 * @returns whether one of them was served by a program, which may end a moment later
 * @throws ImgfuseError busy: what keeps it mounted, and what to do
 */
export async function unmountGuests(attachment: Attachment, note: (sentence: string) => void): Promise<boolean> {
  let hasServer = false;
  const guests = guestMountsOf(attachment);
  assertNothingElsewhere(attachment, guests);
  for (const entry of guests) {
    hasServer ||= entry.type.startsWith('fuse');
    await unmountGuest(entry, note);
  }
  return hasServer;
}

/** A file system that somebody has bound or mounted at a further place stays in use: refused before anything is unmounted. */
function assertNothingElsewhere({ directory }: Attachment, guests: readonly MountEntry[]): void {
  const foreign = guests.filter((entry) => !liesIn(entry.mountpoint, directory));
  if (foreign.length === 0) return;
  const places = foreign.map(({ mountpoint }) => mountpoint);
  const message =
    `${directory} stays attached: the guest's file system is also mounted at ${places.join(' and ')}; ` +
    `unmount that first: umount ${places.map(shellQuote).join(' ')}`;
  throw new ImgfuseError('busy', message, { path: directory, errno: ERRNO.EBUSY });
}

async function unmountGuest({ id, mountpoint }: MountEntry, note: (sentence: string) => void): Promise<void> {
  const isThere = (): boolean => readMountTable().some((entry) => entry.id === id && entry.mountpoint === mountpoint);
  const end = performance.now() + BUSY_MS;
  while (isThere()) {
    assertVisible(id, mountpoint);
    const patience = setTimeout(() => note(`waiting for ${mountpoint} to be written and unmounted ...`), PATIENCE_MS);
    const ended = await umount(mountpoint);
    clearTimeout(patience);
    if (!isThere()) return;
    if (performance.now() < end) {
      await delay(RETRY_MS);
      continue;
    }
    const reason = /busy/i.test(ended.complaint) ? await busyReason(mountpoint) : ended.complaint;
    throw new ImgfuseError('busy', `${mountpoint} stays mounted: ${reason}`, { path: mountpoint, errno: ERRNO.EBUSY });
  }
}

function umount(mountpoint: string): Promise<ProgramEnd> {
  if (ownUid() !== 0) return runProgram('fusermount3', ['-u', '--', mountpoint]);
  return runProgram('umount', ['-i', '--', mountpoint]);
}

/** umount(8) takes the latest mount of a place. */
function assertVisible(id: number, mountpoint: string): void {
  const top = readMountTable().findLast((entry) => entry.mountpoint === mountpoint);
  if (top === undefined || top.id === id) return;
  const message =
    `${mountpoint} is covered by ${top.source} (${top.type}), which was mounted there later; ` +
    `unmount that first: umount ${shellQuote(mountpoint)}`;
  throw new ImgfuseError('busy', message, { path: mountpoint, errno: ERRNO.EBUSY });
}

/** Who keeps a file system of the guest busy, and what to do. */
async function busyReason(mountpoint: string): Promise<string> {
  const below = readMountTable().filter(
    (entry) => entry.mountpoint !== mountpoint && liesIn(entry.mountpoint, mountpoint),
  );
  if (below.length > 0) {
    const places = below.map((entry) => entry.mountpoint).reverse();
    return `${places.join(' and ')} is mounted below it; unmount that first: umount ${places.map(shellQuote).join(' ')}`;
  }
  const users = await findMountUsers(mountpoint);
  const who = describeUsers(users);
  if (who === null) return 'something uses it that cannot be found here (a swap file, another user, a container?)';
  const cure = cureForUsers(users);
  return `it is in use by ${who}; ${cure === null ? 'end what uses it' : `run "${cure}"`} and detach again`;
}
