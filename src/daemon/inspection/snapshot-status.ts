// What the status of a mount says of the internal snapshots of its image. Invariant: ids and names come from the image and are hostile
// text; they are strings of JSON here, and there are at most MAX_SNAPSHOTS of them.

import type { VirtualDisk } from '../../disk/index.ts';
import { nameSnapshots } from '../../filesystem/index.ts';

/** So that the answer over the control socket stays below its limit. */
const MAX_SNAPSHOTS = 256;

/** Keys are spelled as in qemu-img, if it has them. */
export interface SnapshotStatus {
  readonly id: string;
  readonly name: string;
  /** in snapshots/ of the mount; null: it is not there */
  readonly file: string | null;
  readonly 'virtual-size': number;
  /** bytes of machine state */
  readonly 'vm-state-size': number;
  readonly 'date-sec': number;
  readonly 'date-nsec': number;
}

/** Absent as a whole if the image has no snapshots that can be read. */
export interface SnapshotsStatus {
  readonly snapshots?: readonly SnapshotStatus[];
  /** how many more there are; absent: none */
  readonly 'more-snapshots'?: number;
}

/** @param hasFiles the mount is a directory, which shows them */
export function snapshotsStatus(disk: Pick<VirtualDisk, 'snapshots'>, hasFiles: boolean): SnapshotsStatus {
  const all = disk.snapshots();
  if (all.length === 0) return {};
  const files = new Map<number, string>();
  if (hasFiles) for (const [file, position] of nameSnapshots(all).listed) files.set(position, file);
  const snapshots = all
    .slice(0, MAX_SNAPSHOTS)
    .map(({ id, name, virtualSize, vmStateSize, dateSeconds, dateNanoseconds }, position) => ({
      ...{ id, name, file: files.get(position) ?? null },
      'virtual-size': virtualSize,
      'vm-state-size': Number(vmStateSize),
      'date-sec': dateSeconds,
      'date-nsec': dateNanoseconds,
    }));
  const more = all.length - snapshots.length;
  return { snapshots, ...(more === 0 ? {} : { 'more-snapshots': more }) };
}
