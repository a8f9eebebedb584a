// The image locks of QEMU: OFD read locks on single bytes of the image file. Byte 100 + i says "I use permission i", byte
// 200 + i "I do not share permission i". Own locks are set first and then the others' are tested, so of two programs that
// start at once at least one sees the other. They belong to the open file description and end with its last descriptor.

import * as fs from 'node:fs';
import { ImgfuseError } from '../errors/index.ts';
import { F_RDLCK, F_UNLCK, F_WRLCK, getOfdLock, nativeAvailable, setOfdLock } from '../native/index.ts';
import type { HostFile } from './host-file.ts';
import { realPath } from './paths.ts';

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

/** What an opener does with an image: 'share' reads beside a writer and tests nothing. */
export type LockRole = 'read-write' | 'read-only' | 'share';

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
 * Takes the locks of `role` on an open image file.
 * @throws ImgfuseError busy when another program's locks forbid it, unsupported when the file system has no OFD locks
 */
export function lockImage(file: HostFile, role: LockRole): void {
  const { descriptor, path } = file;
  if (descriptor === null) return;
  if (!nativeAvailable()) {
    throw new ImgfuseError(
      'unsupported',
      `${path} cannot be locked because the package koffi is not installed; install it, or use --no-lock`,
      { path },
    );
  }
  const { uses, doesNotShare } = ROLES[role];
  const own = [...uses.map((i) => USED_BASE + i), ...doesNotShare.map((i) => UNSHARED_BASE + i)];
  for (const byte of own) setLock(file, descriptor, byte);
  if (role === 'share') return;
  const conflict =
    uses.find((i) => getOfdLock(descriptor, F_WRLCK, UNSHARED_BASE + i, 1) !== undefined) ??
    doesNotShare.find((i) => getOfdLock(descriptor, F_WRLCK, USED_BASE + i, 1) !== undefined);
  if (conflict === undefined) return;
  for (const byte of own) setOfdLock(descriptor, F_UNLCK, byte, 1);
  const wish = role === 'read-write' ? 'opened for writing' : 'opened';
  throw new ImgfuseError(
    'busy',
    `${path} is in use by ${describeHolders(file)}, which holds its "${PERMISSION_NAMES[conflict]}" lock, so it is not ${wish}; ` +
      'stop that program (or unmount the image) first',
    { path, operation: 'lock' },
  );
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
          `${path} is in use by ${describeHolders(file)}, which locks all of it`,
          { path },
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

/**
 * The other processes that have the file open, as far as this user may look; OFD locks themselves name nobody. Links are
 * read and never followed: what another descriptor leads to may be a mount that answers late, or our own that never does.
 */
function describeHolders(file: HostFile): string {
  const path = realPath(file.path);
  const holders: string[] = [];
  for (const entry of fs.readdirSync('/proc')) {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid || holders.length >= 4) continue;
    if (hasOpen(entry, path)) holders.push(`${commandOf(entry)} (process ${entry})`);
  }
  return holders.length === 0 ? 'another program' : holders.join(' and ');
}

function hasOpen(pid: string, path: string): boolean {
  try {
    return fs.readdirSync(`/proc/${pid}/fd`).some((fd) => linkOf(`/proc/${pid}/fd/${fd}`) === path);
  } catch {
    return false;
  }
}

function linkOf(path: string): string | null {
  try {
    return fs.readlinkSync(path);
  } catch {
    return null;
  }
}

function commandOf(pid: string): string {
  try {
    return fs.readFileSync(`/proc/${pid}/comm`, 'utf8').trim();
  } catch {
    return 'a program';
  }
}
