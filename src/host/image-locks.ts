// The image locks of QEMU: OFD read locks on single bytes of the image file. Byte 100 + i says "I use permission i", byte
// 200 + i "I do not share permission i". Own locks are set first and then the others' are tested, so of two programs that
// start at once at least one sees the other. They belong to the open file description and end with its last descriptor. For a
// loop device the file behind it is locked as well. VMware knows none of these: while it uses FILE, a folder FILE.lck has a file.

import { ImgfuseError } from '../errors/index.ts';
import { F_RDLCK, F_UNLCK, F_WRLCK, getOfdLock, nativeAvailable, setOfdLock } from '../native/index.ts';
import type { HostFile } from './host-file.ts';
import { describeHolders } from './lock-holders.ts';
import { loopWindow, openLoopFile } from './loop-device.ts';
import { PosixHostFile } from './posix-file.ts';
import { linkTarget, namesIn } from './small-files.ts';

const USED_BASE = 100;
const UNSHARED_BASE = 200;
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;
const PERMISSION_NAMES: Readonly<Record<number, string>> = {
  [CONSISTENT_READ]: 'consistent read',
  [WRITE]: 'write',
  [RESIZE]: 'resize',
};

/** Which locks an opening takes: those that QEMU would take, those of a reader beside a writer, or none. */
export type LockMode = 'take' | 'share' | 'none';

/** Nothing keeps another program from writing to a file that is opened so to read. */
export function mayHaveWriter(mode: LockMode = 'take'): boolean {
  return mode !== 'take';
}

/** What an opener does with an image: 'share' reads beside a writer and tests nothing. */
type LockRole = 'read-write' | 'read-only' | 'share';

interface Permissions {
  readonly uses: readonly number[];
  readonly doesNotShare: readonly number[];
}

const ROLES: Readonly<Record<LockRole, Permissions>> = {
  'read-write': { uses: [CONSISTENT_READ, WRITE, RESIZE], doesNotShare: [WRITE, RESIZE] },
  'read-only': { uses: [CONSISTENT_READ], doesNotShare: [WRITE, RESIZE] },
  share: { uses: [CONSISTENT_READ], doesNotShare: [] },
};

/**
 * Takes the locks of an opening on an image file; before its header is read.
 * @throws ImgfuseError busy when another program's locks forbid it, unsupported when the file system has no OFD locks
 */
export function lockImage(file: HostFile, mode: LockMode = 'take'): void {
  if (mode === 'none' || file.descriptor === null) return;
  if (mode === 'share') return lockBesideWriter(file.descriptor);
  assertNoLockFolder(file.path, file.path);
  // beside the file itself, if the path leads there over symbolic links; the kernel knows without asking a mount that may be ours
  const place = linkTarget(`/proc/self/fd/${file.descriptor}`);
  if (place !== null && place !== file.path) assertNoLockFolder(file.path, place);
  if (!nativeAvailable()) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path} cannot be locked because the package koffi is not installed; install it, or use --no-lock`,
      { path: file.path },
    );
  }
  const role = file.readOnly ? 'read-only' : 'read-write';
  takeLocks(file, file.descriptor, role);
  lockFileBehind(file, role);
}

/** @param place of the file, where the folder is */
function assertNoLockFolder(path: string, place: string): void {
  const folder = `${place}.lck`;
  const names = namesIn(folder);
  if (names.length === 0) return;
  throw new ImgfuseError(
    'busy',
    `${path} is in use by VMware, which holds ${folder}/${names[0]}, so it is not opened; power off that virtual machine first, or ` +
      'remove the folder if none uses the disk',
    { path, operation: 'lock' },
  );
}

/**
 * Takes the locks on the file behind a loop device as well: programs that use that file by its own name hold their locks there,
 * not on the device. It stays open as long as the device does. If it is not found or cannot be locked, that is no error.
 */
function lockFileBehind(file: HostFile, role: LockRole): void {
  if (!(file instanceof PosixHostFile)) return;
  const window = loopWindow(file);
  const behind = window === null ? null : openLoopFile(window);
  if (behind?.descriptor == null) return;
  try {
    takeLocks(behind, behind.descriptor, role);
    file.closeTogetherWith(behind);
  } catch (error) {
    behind.close();
    if (!(error instanceof ImgfuseError) || error.kind !== 'unsupported') throw error;
  }
}

function takeLocks(file: HostFile, descriptor: number, role: LockRole): void {
  const { path } = file;
  const { uses, doesNotShare } = ROLES[role];
  const own = [...uses.map((i) => USED_BASE + i), ...doesNotShare.map((i) => UNSHARED_BASE + i)];
  for (const byte of own) setLock(file, descriptor, byte);
  const conflict = [...uses.map((i) => [i, UNSHARED_BASE + i]), ...doesNotShare.map((i) => [i, USED_BASE + i])].find(
    ([, byte]) => getOfdLock(descriptor, F_WRLCK, byte!, 1) !== undefined,
  );
  if (conflict === undefined) return;
  const [permission, byte] = conflict as [number, number];
  for (const each of own) setOfdLock(descriptor, F_UNLCK, each, 1);
  const wish = role === 'read-write' ? 'opened for writing' : 'opened';
  throw new ImgfuseError(
    'busy',
    `${path} is in use by ${describeHolders(file, byte)}, which holds its "${PERMISSION_NAMES[permission]}" lock, so it is ` +
      `not ${wish}; stop that program (or unmount the image) first`,
    { path, operation: 'lock' },
  );
}

/** A reader beside a writer is never refused, not even on a file system without locks. */
function lockBesideWriter(descriptor: number): void {
  try {
    for (const permission of ROLES.share.uses) setOfdLock(descriptor, F_RDLCK, USED_BASE + permission, 1);
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
  }
}

/** The program that has an image open for writing now, as a phrase; null if there is none, or if that is not known. */
export function writerOf(file: HostFile): string | null {
  const byte = USED_BASE + WRITE;
  const { descriptor } = file;
  if (descriptor === null || !nativeAvailable()) return null;
  try {
    return getOfdLock(descriptor, F_WRLCK, byte, 1) === undefined ? null : describeHolders(file, byte);
  } catch (error) {
    if (error instanceof ImgfuseError) return null;
    throw error;
  }
}

function setLock(file: HostFile, descriptor: number, byte: number): void {
  try {
    setOfdLock(descriptor, F_RDLCK, byte, 1);
  } catch (error) {
    const busy = error instanceof ImgfuseError && error.kind === 'busy';
    const { path } = file;
    throw busy
      ? new ImgfuseError(
          'busy',
          `${path} is in use by ${describeHolders(file, byte)}, which locks all of it; stop that program first`,
          { path, operation: 'lock' },
          error,
        )
      : new ImgfuseError(
          'unsupported',
          `${path} cannot be locked here; if no other program uses it, use --no-lock`,
          { path },
          error,
        );
  }
}
