// Finds mounts in the mount namespaces of other processes (containers, unshare), and makes the commands to enter them.
// It finds a namespace only through a process in it that this user may inspect, so it never finds one without processes.

import { shellQuote } from '../bytes/printable.ts';
import { type MountEntry, mountsSeenBy } from '../fuse/mount-table.ts';
import { processIds, processName } from '../host/processes.ts';
import { linkTarget } from '../host/small-files.ts';
import { deviceOf } from './mountpoint.ts';
import type { Target } from './target.ts';

/** A place in another mount namespace where a mount exists. */
export interface PlaceElsewhere {
  readonly mountpoint: string;
  /** a process in that namespace */
  readonly pid: number;
  readonly name: string;
  /** the process is in another user namespace as well, and nsenter must enter that first */
  readonly isOtherUserNamespace: boolean;
}

/**
 * Where the file system of a device is mounted outside this mount namespace; null if no such place is found.
 * @param device "major:minor"
 * @param preferred pid of the process to name if there are several
 */
export function findElsewhere(device: string, preferred: number): PlaceElsewhere | null {
  return findMountElsewhere(({ major, minor }) => `${major}:${minor}` === device, preferred);
}

/** Where a mount that fits is found outside this mount namespace; see findElsewhere(). */
export function findMountElsewhere(fits: (mount: MountEntry) => boolean, preferred: number): PlaceElsewhere | null {
  const looked = new Set([linkTarget('/proc/self/ns/mnt')]);
  for (const pid of [preferred, ...processIds()]) {
    const namespace = linkTarget(`/proc/${pid}/ns/mnt`);
    if (namespace === null || looked.has(namespace)) continue;
    looked.add(namespace);
    const mount = mountsSeenBy(pid).findLast(fits);
    if (mount === undefined) continue;
    const isOtherUserNamespace = linkTarget(`/proc/${pid}/ns/user`) !== linkTarget('/proc/self/ns/user');
    return { mountpoint: mount.mountpoint, pid, name: processName(pid), isOtherUserNamespace };
  }
  return null;
}

/** Where the mount is in another mount namespace, for a message. */
export function placeElsewhere({ mount, record }: Target): PlaceElsewhere | null {
  const device = mount === null ? record?.device : deviceOf(mount);
  return device === undefined ? null : findElsewhere(device, record?.pid ?? process.pid);
}

/** "at PATH in the mount namespace of process 1 (sh)" */
export function describePlace({ mountpoint, pid, name }: PlaceElsewhere): string {
  return `at ${mountpoint} in the mount namespace of process ${pid} (${name})`;
}

/** The command that unmounts it there. */
export function commandThere(
  { mountpoint, pid, isOtherUserNamespace }: PlaceElsewhere,
  program = 'imgfuse unmount',
): string {
  const user = isOtherUserNamespace ? '--user --preserve-credentials ' : '';
  return `nsenter --target ${pid} ${user}--mount ${program} ${shellQuote(mountpoint)}`;
}
