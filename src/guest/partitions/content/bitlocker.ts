// BitLocker: a volume of a fixed disk has its own magic. One of a USB stick (BitLocker To Go) begins as FAT, so that old systems show its
// reader, and is recognized by the metadata that its boot sector leads to.

import { readU64LE } from '../../../bytes/endian.ts';
import type { Details } from './kind.ts';
import type { Volume } from './volume.ts';

const MAGIC = '-FVE-FS-';
const OEM_OFFSET = 3;
const TO_GO_OEM = 'MSWIN4.1';
/** Where To Go has the offset of the first metadata block, u64. */
const TO_GO_METADATA_OFFSET = 440;

export function describeBitLocker(volume: Volume): Details | null {
  return volume.has(MAGIC, OEM_OFFSET) || isToGo(volume) ? {} : null;
}

function isToGo(volume: Volume): boolean {
  if (!volume.has(TO_GO_OEM, OEM_OFFSET)) return false;
  const view = volume.view(TO_GO_METADATA_OFFSET, 8);
  return view !== null && volume.has(MAGIC, readU64LE(view, 0));
}
