// Superblocks of Linux file systems, swap and LUKS: label, UUID, and whether the journal has to be replayed. Invariant: a superblock
// whose sizes make no sense is none.

import { readU64LE } from '../../../bytes/endian.ts';
import { isPowerOfTwo } from '../../../bytes/offsets.ts';
import { isZero, uuidText } from '../guid.ts';
import type { Details } from './kind.ts';
import { labelText } from './text.ts';
import { type Volume, viewOf } from './volume.ts';
import { xfsNeedsRecovery } from './xfs-log.ts';

const COMPAT_HAS_JOURNAL = 0x4;
const INCOMPAT_RECOVER = 0x4;
const INCOMPAT_JOURNAL_DEV = 0x8;
/** What ext2 and ext3 know: filetype, meta_bg; recovery is ext3's. */
const INCOMPAT_EXT3 = 0x2 | 0x10 | INCOMPAT_RECOVER;
/** sparse_super, large_file, btree_dir */
const RO_COMPAT_EXT3 = 0x1 | 0x2 | 0x4;
/** Blocks have 1 KiB << this. */
const EXT_MAX_LOG_BLOCK_SIZE = 6;

/** 24 s_log_block_size u32   92 compat   96 incompat   100 ro_compat   104 s_uuid   120 s_volume_name[16] */
export function describeExt(volume: Volume): Details | null {
  const block = volume.bytes(1024, 1024);
  if (block === null) return null;
  const view = viewOf(block);
  if (view.getUint32(24, true) > EXT_MAX_LOG_BLOCK_SIZE) return null;
  const hasJournal = (view.getUint32(92, true) & COMPAT_HAS_JOURNAL) !== 0;
  const incompat = view.getUint32(96, true);
  const known = { uuid: uuidOrNull(block, 104), label: labelText(block.subarray(120, 136)) };
  if ((incompat & INCOMPAT_JOURNAL_DEV) !== 0) return { type: 'jbd', use: 'container', ...known };
  const isNewer = ((incompat & ~INCOMPAT_EXT3) | (view.getUint32(100, true) & ~RO_COMPAT_EXT3)) !== 0;
  const needsRecovery = (incompat & INCOMPAT_RECOVER) !== 0;
  return { type: isNewer ? 'ext4' : hasJournal ? 'ext3' : 'ext2', needsRecovery, ...known };
}

/** 0x20 fsid   0x30 bytenr u64   0x60 log_root u64   0x12b label[256] */
export function describeBtrfs(volume: Volume): Details | null {
  const at = 0x10000;
  const block = volume.bytes(at, 0x22b);
  if (block === null || readU64LE(viewOf(block), 0x30) !== at) return null;
  return {
    uuid: uuidOrNull(block, 0x20),
    label: labelText(block.subarray(0x12b)),
    needsRecovery: !isZero(block, 0x60, 8),
  };
}

/** 1024: version u32, last_page u32, nr_badpages u32, uuid, volume_name[16] */
export function describeSwap(volume: Volume): Details | null {
  const header = volume.bytes(1024, 44);
  if (header === null) return null;
  const view = viewOf(header);
  const isVersion1 = view.getUint32(0, true) === 1 || view.getUint32(0, false) === 1;
  if (!isVersion1 || view.getUint32(4) === 0) return null;
  return { uuid: uuidOrNull(header, 12), label: labelText(header.subarray(28)) };
}

/** 6 version u16 (big-endian)   24 label[48], of version 2   168 uuid[40] as text */
export function describeLuks(volume: Volume): Details | null {
  const header = volume.bytes(0, 208);
  if (header === null) return null;
  const version = viewOf(header).getUint16(6, false);
  if (version !== 1 && version !== 2) return null;
  return {
    uuid: labelText(header.subarray(168)),
    label: version === 2 ? labelText(header.subarray(24, 72)) : null,
  };
}

/** 4 block size u32   8 blocks u64   32 uuid   88 allocation groups u32   108 fname[12]; big-endian */
export function describeXfs(volume: Volume): Details | null {
  const block = volume.bytes(0, 512);
  if (block === null) return null;
  const view = viewOf(block);
  const blockBytes = view.getUint32(4, false);
  const isSane = isPowerOfTwo(blockBytes) && blockBytes >= 512 && blockBytes <= 65536 && view.getUint32(88, false) > 0;
  if (!isSane) return null;
  return {
    uuid: uuidOrNull(block, 32),
    label: labelText(block.subarray(108, 120)),
    needsRecovery: xfsNeedsRecovery(volume, view),
  };
}

/** 28 major version u16 */
export function describeSquashfs(volume: Volume): Details | null {
  const major = volume.view(0, 96)?.getUint16(28, true);
  if (major === undefined) return null;
  return { type: major < 4 ? 'squashfs3' : 'squashfs', needsRecovery: false };
}

/** 32 KiB: 40 volume identifier[32], padded with spaces */
export function describeIso9660(volume: Volume): Details {
  const name = volume.bytes(32 * 1024 + 40, 32);
  return { label: name === null ? null : labelText(name), needsRecovery: false };
}

/** A description of file systems that have a UUID and a label at fixed places. */
export function fixedPlaces(uuidOffset: number, labelOffset?: number, labelBytes = 0): (volume: Volume) => Details {
  return (volume) => {
    const uuid = volume.bytes(uuidOffset, 16);
    const label = labelOffset === undefined ? null : volume.bytes(labelOffset, labelBytes);
    return {
      uuid: uuid === null ? null : uuidOrNull(uuid, 0),
      label: label === null ? null : labelText(label),
    };
  };
}

/** As text, unless it is all zeros. */
export function uuidOrNull(bytes: Uint8Array, offset: number): string | null {
  return isZero(bytes, offset, 16) ? null : uuidText(bytes, offset);
}
