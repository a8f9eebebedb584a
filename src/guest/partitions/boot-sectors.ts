// Sectors that end in 55 AA as an MBR does and are none: boot sectors of file systems, and the start of an LVM physical volume that
// boots. Invariant: whatever is recognized here is no partition table, whatever its slots say.

import { isExfatBootSector } from './content/exfat.ts';
import { fatGeometry } from './content/fat.ts';
import { hasLvmLabel, LVM_LABEL_AREA_BYTES } from './content/lvm.ts';
import { ntfsGeometry } from './content/ntfs.ts';
import type { RecordedSource } from './source.ts';

/** @param sector the first 512 bytes of the disk */
export function isBootSectorOfFileSystem(sector: Uint8Array): boolean {
  return fatGeometry(sector) !== null || ntfsGeometry(sector) !== null || isExfatBootSector(sector);
}

export function isLvmPhysicalVolume(source: RecordedSource): boolean {
  const bytes = source.bytes(0, LVM_LABEL_AREA_BYTES);
  return bytes !== null && hasLvmLabel(bytes);
}
