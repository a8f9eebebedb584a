// Members of Linux software RAID (md): the superblock of version 1 at one of three places, and of version 0.90 near the end.
// Invariant: a superblock of version 1 says where it stands, so that a copy elsewhere is none.
//
//   1.x: 0 magic u32   4 major u32   16 set_uuid   32 set_name[32]   144 super_offset u64 (in sectors of 512)
//   0.90: 0 magic u32   4 major u32   8 minor   20 set_uuid0   32 size u32 (KiB)   52 set_uuid1 to 3

import { readU64LE } from '../../../bytes/endian.ts';
import { roundDown } from '../../../bytes/offsets.ts';
import type { Details } from './kind.ts';
import { uuidOrNull } from './superblocks.ts';
import { labelText } from './text.ts';
import { type Volume, viewOf } from './volume.ts';

const MD_MAGIC = 0xa92b4efc;
/** Version 0.90 stands at the start of the last whole piece of this size. */
const MD_RESERVED_BYTES = 64 * 1024;
const SECTOR_BYTES = 512;
/** Where version 0.90 has the words of its UUID. */
const UUID_PLACES: readonly number[] = [20, 52, 56, 60];

export function describeRaidMember(volume: Volume): Details | null {
  const { size } = volume;
  return (
    versionOne(volume, 4096) ??
    versionOne(volume, 0) ??
    versionOne(volume, roundDown(size, 4096) - 8192) ??
    versionZero(volume, roundDown(size, MD_RESERVED_BYTES) - MD_RESERVED_BYTES)
  );
}

function versionOne(volume: Volume, at: number): Details | null {
  const block = volume.bytes(at, 256);
  if (block === null) return null;
  const view = viewOf(block);
  if (view.getUint32(0, true) !== MD_MAGIC || view.getUint32(4, true) !== 1) return null;
  if (readU64LE(view, 144) * SECTOR_BYTES !== at) return null;
  return { uuid: uuidOrNull(block, 16), label: labelText(block.subarray(32, 64)) };
}

function versionZero(volume: Volume, at: number): Details | null {
  const view = volume.view(at, 64);
  if (view === null) return null;
  const isLittle = view.getUint32(0, true) === MD_MAGIC;
  if (!isLittle && view.getUint32(0, false) !== MD_MAGIC) return null;
  if (view.getUint32(4, isLittle) !== 0) return null;
  // the component must have room before its superblock
  if (view.getUint32(32, isLittle) * 1024 > at) return null;
  const uuid = new DataView(new ArrayBuffer(16));
  for (const [index, place] of UUID_PLACES.entries()) {
    uuid.setUint32(index * 4, view.getUint32(place, isLittle), false);
  }
  return { uuid: uuidOrNull(new Uint8Array(uuid.buffer), 0) };
}
