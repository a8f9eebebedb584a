// LVM2: the label of a physical volume, which stands in one of the first four sectors. Invariant: an identifier is taken only with
// characters that LVM writes.

import type { Details } from './kind.ts';
import { startsWith, type Volume } from './volume.ts';

const LABEL_SECTORS = 4;
const SECTOR_BYTES = 512;
export const LVM_LABEL_AREA_BYTES = LABEL_SECTORS * SECTOR_BYTES;
const TYPE_OFFSET = 24;
const UUID_OFFSET = 32;

/** Where the label stands, in bytes; -1 without one. @param area the first 2 KiB of the volume */
function labelOffset(area: Uint8Array): number {
  for (let at = 0; at < LVM_LABEL_AREA_BYTES; at += SECTOR_BYTES) {
    if (startsWith(area, 'LABELONE', at) && startsWith(area, 'LVM2 001', at + TYPE_OFFSET)) return at;
  }
  return -1;
}

export function hasLvmLabel(area: Uint8Array): boolean {
  return labelOffset(area) >= 0;
}

export function describeLvm(volume: Volume): Details | null {
  const area = volume.bytes(0, LVM_LABEL_AREA_BYTES);
  const at = area === null ? -1 : labelOffset(area);
  if (area === null || at < 0) return null;
  const id = String.fromCharCode(...area.subarray(at + UUID_OFFSET, at + UUID_OFFSET + 32));
  const groups = /^([A-Za-z0-9]{6})(.{4})(.{4})(.{4})(.{4})(.{4})([A-Za-z0-9]{6})$/.exec(id);
  return { uuid: groups === null || !/^[A-Za-z0-9]+$/.test(id) ? null : groups.slice(1).join('-') };
}
