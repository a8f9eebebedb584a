// Finds the mount that a command means. The user names it by its mountpoint, its image or its overlay; the mount table, the
// records of the runtime directory, and the records that mount processes hold are searched.

import { ImgfuseError } from '../errors/index.ts';
import { listMounts, type MountEntry } from '../fuse/mount-table.ts';
import { canonicalEntry, canonicalPath } from '../host/canonical-path.ts';
import { removeLeftovers } from './leftovers.ts';
import { isHeld, recordsOfProcesses } from './lost-records.ts';
import { deviceOf, isInherited } from './mountpoint.ts';
import { listRecords, ownUid, type StoredRecord } from './runtime-directory.ts';

/** A mount, the process that serves it, or both. */
export interface Target {
  readonly mountpoint: string;
  readonly mount: MountEntry | null;
  readonly record: StoredRecord | null;
}

/** @throws ImgfuseError missing; usage if an image is mounted at several places */
export function findTarget(path: string): Target {
  const found = targetNamed(path, listTargets()) ?? targetNamed(path, hiddenTargets());
  if (found !== null) return found;
  removeLeftovers();
  throw new ImgfuseError('missing', `${path} is not mounted by imgfuse; "imgfuse status" lists what is`, { path });
}

function targetNamed(path: string, targets: readonly Target[]): Target | null {
  // a mount in the mount table takes precedence over a record without a mount
  const sorted = targets.toSorted((a, b) => Number(a.mount !== null) - Number(b.mount !== null));
  const candidates = new Set([canonicalEntry(path), canonicalPath(path)]);
  for (const candidate of candidates) {
    const found = sorted.findLast(({ mountpoint }) => mountpoint === candidate);
    if (found !== undefined) return found;
  }
  const image = canonicalPath(path);
  const isMeant = ({ record, mount }: Target): boolean => {
    if ((record?.image ?? mount?.source) === image) return true;
    return record?.overlay?.isTemporary === false && candidates.has(record.overlay.path);
  };
  const ofImage = sorted.filter(isMeant);
  const mounted = ofImage.filter(({ mount }) => mount !== null);
  const found = mounted.length > 0 ? mounted : ofImage;
  if (found.length > 1) {
    const places = found.map((target) => target.mountpoint).join(' and ');
    throw new ImgfuseError('usage', `${path} is mounted at ${places}; name the mountpoint`, { path });
  }
  return found[0] ?? null;
}

/**
 * Every mount with its process, once for each place, then the processes that still run although their mount is not visible
 * here. The order is that of the mount table: of two mounts at one place, the later one covers the earlier one.
 */
export function listTargets(): Target[] {
  const records = listRecords();
  const mounts = listMounts();
  if (mounts.some((mount) => !recordOf(mount, records)?.alive)) records.push(...lostRecords(records));
  const targets: Target[] = mounts.map((mount) => {
    return { mountpoint: mount.mountpoint, mount, record: recordOf(mount, records) };
  });
  const used = new Set(targets.map(({ record }) => record));
  for (const record of records)
    if (record.alive && !isHeld(record) && !used.has(record)) targets.push(targetOf(record));
  return targets;
}

function targetOf(record: StoredRecord): Target {
  return { mountpoint: record.mountpoint, mount: null, record };
}

/** Processes whose record and mount are both not visible here. */
function hiddenTargets(): Target[] {
  const seen = listMounts().map(deviceOf);
  return recordsOfProcesses()
    .filter(({ device }) => device === undefined || !seen.includes(device))
    .map(targetOf);
}

/** Records that are only held by their processes. */
function lostRecords(known: readonly StoredRecord[]): StoredRecord[] {
  return recordsOfProcesses().filter(({ pid }) => !known.some((record) => record.alive && record.pid === pid));
}

/**
 * The record of a mount. The device identifies it, because the mount may have been moved. If the process is dead, the place must
 * match as well, because the kernel reuses device numbers. A record counts only for mounts that its own user has made.
 */
function recordOf(mount: MountEntry, records: readonly StoredRecord[]): StoredRecord | null {
  const believed = records.filter(({ owner }) => owner === ownUid() || mount.options.includes(`user_id=${owner}`));
  return (
    believed.findLast(
      ({ device, alive, mountpoint }) => device === deviceOf(mount) && (alive || mountpoint === mount.mountpoint),
    ) ??
    believed.findLast(
      ({ device, alive, mountpoint, opening }) =>
        device === undefined && alive && !opening && (mountpoint === mount.mountpoint || isInherited(mountpoint)),
    ) ??
    null
  );
}
