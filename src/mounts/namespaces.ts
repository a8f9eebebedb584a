// Mounts that are seen in the mount namespaces of other processes (containers, unshare), and how to get there.
// A namespace is seen as far as this user may look at a process in it; one that no process is in is not seen at all.

import { shellQuote } from '../bytes/printable.ts';
import { mountsSeenBy } from '../fuse/mount-table.ts';
import { processIds, processName } from '../host/processes.ts';
import { linkTarget } from '../host/small-files.ts';
import { deviceOf } from './mountpoint.ts';
import type { Target } from './target.ts';

/** A place in another mount namespace where a mount is seen. */
export interface PlaceElsewhere {
  readonly mountpoint: string;
  /** a process in that namespace */
  readonly pid: number;
  readonly name: string;
  /** the process is in another user namespace as well, which has to be entered first */
  readonly isOtherUserNamespace: boolean;
}

/**
 * Where the file system of a device is mounted besides this mount namespace; null when no such place is seen.
 * @param device "major:minor"
 * @param preferred a process to name rather than others
 */
export function findElsewhere(device: string, preferred: number): PlaceElsewhere | null {
  const looked = new Set([linkTarget('/proc/self/ns/mnt')]);
  for (const pid of [preferred, ...processIds()]) {
    const namespace = linkTarget(`/proc/${pid}/ns/mnt`);
    if (namespace === null || looked.has(namespace)) continue;
    looked.add(namespace);
    const mount = mountsSeenBy(pid).findLast(({ major, minor }) => `${major}:${minor}` === device);
    if (mount === undefined) continue;
    const isOtherUserNamespace = linkTarget(`/proc/${pid}/ns/user`) !== linkTarget('/proc/self/ns/user');
    return { mountpoint: mount.mountpoint, pid, name: processName(pid), isOtherUserNamespace };
  }
  return null;
}

/** Where another mount namespace has the mount of a command. */
export function placeElsewhere({ mount, record }: Target): PlaceElsewhere | null {
  const device = mount === null ? record?.device : deviceOf(mount);
  return device === undefined ? null : findElsewhere(device, record?.pid ?? process.pid);
}

/** "at PATH in the mount namespace of process 1 (sh)" */
export function describePlace({ mountpoint, pid, name }: PlaceElsewhere): string {
  return `at ${mountpoint} in the mount namespace of process ${pid} (${name})`;
}

/** The command that unmounts it there. */
export function commandThere({ mountpoint, pid, isOtherUserNamespace }: PlaceElsewhere): string {
  const user = isOtherUserNamespace ? '--user --preserve-credentials ' : '';
  return `nsenter --target ${pid} ${user}--mount imgfuse unmount ${shellQuote(mountpoint)}`;
}
