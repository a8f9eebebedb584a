// Checks whether a mountpoint can be mounted on. It runs before the image is opened, so that a refusal changes nothing.

import { shellQuote } from '../bytes/printable.ts';
import { ImgfuseError } from '../errors/index.ts';
import { canonicalMountpoint, findAnyMount, findMount, isImgfuse, type MountEntry } from '../fuse/mount-table.ts';
import { canonicalPath, pathKind } from '../host/canonical-path.ts';
import { liesIn } from './processes-inside.ts';
import { ownDirectories } from './runtime-directory.ts';

/** The mountpoint is the name of a descriptor instead of a path: the program that started us has already mounted it. */
export function isInherited(mountpoint: string): boolean {
  return mountpoint.startsWith('/dev/fd/');
}

/** "major:minor" of a mount, as stat(2) and /sys name devices. */
export function deviceOf(mount: MountEntry): string {
  return `${mount.major}:${mount.minor}`;
}

/** Device of the imgfuse mount at `path`; absent if no mount is there, or if `path` names something else. */
export function deviceAt(path: string): string | undefined {
  const mount = isInherited(path) ? undefined : findMount(path);
  return mount === undefined ? undefined : deviceOf(mount);
}

/** @param partition the one that is shown as the mountpoint, if so @throws ImgfuseError missing, usage, busy, permission */
export function assertMountpoint(path: string, partition?: number): void {
  if (isInherited(path)) return;
  const kind = pathKind(path);
  if (kind === 'missing') {
    throw new ImgfuseError('missing', `the mountpoint ${path} does not exist; make it: mkdir ${shellQuote(path)}`, {
      path,
    });
  }
  if (kind === 'unreachable') {
    throw new ImgfuseError('permission', `the mountpoint ${path} cannot be reached: permission denied`, { path });
  }
  if (kind === 'symlink') {
    const target = canonicalPath(path);
    const cure = target === path ? 'what it points to is missing' : `mount on ${target} itself`;
    throw new ImgfuseError('usage', `the mountpoint ${path} is a symbolic link; ${cure}`, { path });
  }
  const present = findAnyMount(path);
  if (present !== undefined) {
    const isDead = kind === 'dead' ? ' by a process that has ended' : '';
    const cure = isImgfuse(present) ? `imgfuse unmount ${shellQuote(path)}` : `umount ${shellQuote(path)}`;
    throw new ImgfuseError(
      'busy',
      `the mountpoint ${path} is mounted already (${present.source}, ${present.type}${isDead}); "${cure}" frees it`,
      { path },
    );
  }
  if (kind === 'directory') assertRecordsStayVisible(path);
  if (kind === 'dead' || kind === 'other') {
    throw new ImgfuseError('usage', `the mountpoint ${path} is neither a directory nor a regular file`, { path });
  }
  if (kind === 'directory' && partition !== undefined) throw needsFile(path, partition);
}

/** A partition was asked for, and the mountpoint cannot be one. */
export function needsFile(path: string, partition: number): ImgfuseError {
  return new ImgfuseError(
    'usage',
    `partition=${partition} shows the partition as the mountpoint, so that must be a regular file, and ${path} is a directory; ` +
      `mounted there without the option, the disk has the partition as partitions/${partition}.raw`,
    { path },
  );
}

/** A mount above the runtime directory would cover the record of the mount itself, and those of all others. */
function assertRecordsStayVisible(path: string): void {
  const mountpoint = canonicalMountpoint(path);
  // the best place is made when it is missing
  const inUse = ownDirectories().filter((directory, index) => index === 0 || pathKind(directory) === 'directory');
  const covered = inUse.find((directory) => liesIn(canonicalPath(directory), mountpoint));
  if (covered === undefined) return;
  const message =
    `a mount at ${path} would cover ${covered}, where imgfuse keeps its records; choose another directory, ` +
    'or another place for the records (IMGFUSE_RUNTIME_DIR)';
  throw new ImgfuseError('usage', message, { path });
}
