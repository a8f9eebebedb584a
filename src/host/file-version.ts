// Which content a file of this machine has, without a look at it: the kernel sets the time of the last change (ctime) at every
// change of bytes, length or owner, and no program can set it back. Only file systems of which that is known have versions.
//
// Two changes within one tick of the kernel's clock get the same time. So a version is final only once that tick has passed; since
// Linux 6.13 the kernel gives a change after a stat() a time of its own.

import { fstatSync, statfsSync } from 'node:fs';
import { release } from 'node:os';
import { sleepMs } from '../concurrency/clock.ts';
import { type FileIdentity, identityOf } from './file-identity.ts';
import type { HostFile } from './host-file.ts';

/** f_type of ext2 to ext4, XFS, Btrfs, tmpfs and F2FS. Not: network file systems, FUSE, overlayfs. */
const KNOWN_FILE_SYSTEMS: ReadonlySet<number> = new Set([0xef53, 0x58465342, 0x9123683e, 0x01021994, 0xf2f52010]);

/** A tick of the slowest clock is 10 ms. */
const TICK_MS = 12;

export interface FileVersion extends FileIdentity {
  /** bytes */
  readonly size: number;
  /** ns since the epoch, in digits */
  readonly modified: string;
  readonly changed: string;
}

/** null: a device, a file of a server, or of a file system that is not known to keep times as told above. */
export function fileVersion({ descriptor }: Pick<HostFile, 'descriptor'>): FileVersion | null {
  if (descriptor === null) return null;
  const stat = fstatSync(descriptor, { bigint: true });
  if (!stat.isFile() || !KNOWN_FILE_SYSTEMS.has(statfsSync(`/proc/self/fd/${descriptor}`).type)) return null;
  return { ...identityOf(stat), size: Number(stat.size), modified: `${stat.mtimeNs}`, changed: `${stat.ctimeNs}` };
}

/** The version of now, after which every change shows in another one; it may wait for a tick. */
export function finalVersion(file: Pick<HostFile, 'descriptor'>): FileVersion | null {
  const version = fileVersion(file);
  if (version === null || tellsChangesApart()) return version;
  const ageMs = ageOf(version);
  if (ageMs < TICK_MS) sleepMs(Math.min(TICK_MS, TICK_MS - ageMs));
  return version;
}

/** The versions of several files at one moment. */
export type FileVersions = readonly FileVersion[];

/** Of files that others may change, without a wait; null: a later change of one of them need not show in another version. */
export function versionsOf(files: readonly Pick<HostFile, 'descriptor'>[]): FileVersions | null {
  const versions: FileVersion[] = [];
  for (const file of files) {
    const version = fileVersion(file);
    if (version === null || !(tellsChangesApart() || ageOf(version) >= TICK_MS)) return null;
    versions.push(version);
  }
  return versions;
}

/** No file has changed between the two moments. */
export function areSameFiles(one: FileVersions | null, other: FileVersions | null): boolean {
  if (one === null || other === null || one.length !== other.length) return false;
  return one.every((version, i) => isSameVersion(version, other[i]!));
}

/** How long ago the last change was. */
function ageOf({ changed }: FileVersion): number {
  return Date.now() - Number(changed) / 1e6;
}

/** @param kernel such as 6.13.0-1 */
export function tellsChangesApart(kernel = release()): boolean {
  const [major = 0, minor = 0] = kernel.split('.').map(Number);
  return major > 6 || (major === 6 && minor >= 13);
}

export function isSameVersion(one: FileVersion, other: FileVersion): boolean {
  return (['device', 'inode', 'size', 'modified', 'changed'] as const).every((key) => one[key] === other[key]);
}
