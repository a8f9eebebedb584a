// What a partition contains, from its own bytes: every kind of the table is asked in turn. Invariant: a bounded number of bounded reads,
// whatever is written there, and nothing outside the partition.

import { assert } from '../../../errors/index.ts';
import type { PartitionSource } from '../source.ts';
import type { ContentUse, Details, Kind } from './kind.ts';
import { KINDS } from './kinds.ts';
import { Volume } from './volume.ts';

export interface Content {
  /** the TYPE of blkid: ext4, xfs, vfat, LVM2_member, crypto_LUKS, ... */
  readonly type: string;
  readonly use: ContentUse;
  /** hostile text; null if there is none, or if it is not read for this type */
  readonly label: string | null;
  readonly uuid: string | null;
  /** whether a mount has to replay a journal; null where that cannot be told */
  readonly needsRecovery: boolean | null;
  /** other types whose magic is there as well: remains of something older, or a disk made to be two things (an ambivalent result of blkid) */
  readonly also: readonly string[];
}

/**
 * What lies in the part [start, start + size) of a disk: a partition, or the whole disk.
 * @returns null if nothing is recognized @throws ImgfuseError only if the source does
 */
export function contentOf(source: PartitionSource, start: number, size: number): Content | null {
  assert(start >= 0 && size >= 0 && start + size <= source.size, 'a partition lies on its disk');
  const volume = new Volume(source, start, size);
  const found: { kind: Kind; details: Details }[] = [];
  for (const kind of KINDS) {
    const details = detailsOf(kind, volume);
    if (details === null) continue;
    found.push({ kind, details });
    // what shows through a container is its content
    if (kind.use === 'container') break;
  }
  const [first, ...others] = found;
  if (first === undefined) return null;
  const { kind, details } = first;
  return {
    type: details.type ?? kind.type,
    use: details.use ?? kind.use,
    label: details.label ?? null,
    uuid: details.uuid ?? null,
    needsRecovery: details.needsRecovery ?? null,
    also: others.map((other) => other.details.type ?? other.kind.type),
  };
}

/** Types that are told apart by `describe`, and the kind that they belong to. */
const VARIANTS: Readonly<Record<string, string>> = { ext2: 'ext4', ext3: 'ext4', squashfs3: 'squashfs' };

/** Null if the volume has nothing of this kind. */
function detailsOf({ magics, describe }: Kind, volume: Volume): Details | null {
  if (magics.length > 0 && !magics.some(({ at, bytes }) => volume.has(bytes, at))) return null;
  return describe === undefined ? {} : describe(volume);
}

/** What a type of the table, or one of its variants, is used for; undefined for other types. */
export function useOfType(type: string): ContentUse | undefined {
  return KINDS.find((kind) => kind.type === type || VARIANTS[type] === kind.type)?.use;
}
