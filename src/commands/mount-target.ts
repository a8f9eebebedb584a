// Which mount a command means: named by its mountpoint or by its image, found in the mount table and in the records.

import { ImgfuseError } from '../errors/index.ts';
import { listMounts, type MountEntry } from '../fuse/index.ts';
import { canonicalEntry, canonicalPath } from './host-paths.ts';
import { deviceOf } from './mountpoint.ts';
import { listRecords, removeRuntimeFiles, type StoredRecord } from './runtime-directory.ts';

/** A mount, the process that serves it, or both. */
export interface Target {
  readonly mountpoint: string;
  readonly mount: MountEntry | null;
  readonly record: StoredRecord | null;
}

/** @throws ImgfuseError missing, usage when an image is mounted at several places */
export function findTarget(path: string): Target {
  const mounts = listMounts();
  const records = listRecords();
  for (const candidate of new Set([canonicalEntry(path), canonicalPath(path)])) {
    const found = targetAt(candidate, mounts, records);
    if (found !== null) return found;
  }
  const image = canonicalPath(path);
  const mountpoints = new Set<string>();
  for (const record of records) if (record.image === image) mountpoints.add(record.mountpoint);
  for (const mount of mounts) if (mount.source === image) mountpoints.add(mount.mountpoint);
  const found = [...mountpoints]
    .map((mountpoint) => targetAt(mountpoint, mounts, records))
    .filter((target) => target !== null);
  if (found.length === 1) return found[0]!;
  if (found.length > 1) {
    const places = found.map((target) => target.mountpoint).join(' and ');
    throw new ImgfuseError('usage', `${path} is mounted at ${places}; name the mountpoint`, { path });
  }
  throw new ImgfuseError('missing', `${path} is not mounted by imgfuse; "imgfuse status" lists what is`, { path });
}

/** The top mount at a mountpoint, with its process; or a process whose mount is gone but that has not ended yet. */
function targetAt(mountpoint: string, mounts: readonly MountEntry[], records: readonly StoredRecord[]): Target | null {
  const mount = mounts.filter((each) => each.mountpoint === mountpoint).at(-1) ?? null;
  const here = records.filter((record) => record.mountpoint === mountpoint);
  const record =
    mount === null
      ? here.filter((each) => each.alive).at(-1)
      : (here.filter((each) => each.device === deviceOf(mount)).at(-1) ??
        here.filter((each) => each.device === undefined && each.alive).at(-1));
  if (mount === null && record === undefined) {
    for (const stale of here) removeRuntimeFiles(stale);
    return null;
  }
  return { mountpoint, mount, record: record ?? null };
}
