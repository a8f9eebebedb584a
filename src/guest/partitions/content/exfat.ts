// exFAT: its boot sector and serial number. Invariant: a boot sector is one only if the place of FAT's geometry is zero, as the
// specification demands so that no program takes it for FAT.
//
//   3 "EXFAT   "   11 zeros up to 64   100 serial u32   106 flags u16 (2: dirty)   510 0x55 0xAA

import { isZero } from '../guid.ts';
import type { Details } from './kind.ts';
import { startsWith, type Volume, viewOf } from './volume.ts';

const VOLUME_IS_DIRTY = 2;

/** @param sector at least the first 512 bytes of the volume */
export function isExfatBootSector(sector: Uint8Array): boolean {
  return startsWith(sector, 'EXFAT   ', 3) && isZero(sector, 11, 53) && startsWith(sector, '\x55\xaa', 510);
}

export function describeExfat(volume: Volume): Details | null {
  const sector = volume.bytes(0, 512);
  if (sector === null || !isExfatBootSector(sector)) return null;
  const view = viewOf(sector);
  const serial = view.getUint32(100, true).toString(16).toUpperCase().padStart(8, '0');
  const needsRecovery = (view.getUint16(106, true) & VOLUME_IS_DIRTY) !== 0;
  return { uuid: `${serial.slice(0, 4)}-${serial.slice(4)}`, needsRecovery };
}
