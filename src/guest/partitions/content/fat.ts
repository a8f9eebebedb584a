// FAT12, FAT16 and FAT32: the boot sector, its serial number, and the volume label in the root directory. Invariant: a boot sector is
// one only if its geometry makes sense; some programs write no magic, and MBRs have jumps and signatures as well.
//
//   11 bytes per sector u16   13 sectors per cluster   14 reserved u16   16 FATs   17 root entries u16   19 sectors u16
//   21 media   22 sectors per FAT u16   32 sectors u32   FAT32: 36 sectors per FAT u32   44 root cluster u32
//   FAT12/16: 38 signature 0x28/0x29, 39 serial, 54 magic   FAT32: 66 signature, 67 serial, 82 magic

import { isPowerOfTwo } from '../../../bytes/offsets.ts';
import type { Details } from './kind.ts';
import { labelText } from './text.ts';
import { startsWith, type Volume, viewOf } from './volume.ts';

const SIGNATURE_OFFSET = 510;
const ENTRY_BYTES = 32;
const NAME_BYTES = 11;
const ATTRIBUTE_VOLUME_ID = 0x08;
const ATTRIBUTE_DIRECTORY = 0x10;
const ATTRIBUTES_LONG_NAME = 0x0f;
const ATTRIBUTES = 0x3f;
const ENTRY_FREE = 0xe5;
const ENTRY_ESCAPED_FREE = 0x05;
const MAX_CLUSTERS_16 = 0xfff4;
const MAX_CLUSTERS_32 = 0x0ffffff6;
/** The label is nearly always the first entry of the root directory. */
const MAX_ROOT_BYTES = 32 * 1024;
/** What other file systems write into a boot sector of FAT. */
const OTHERS: readonly string[] = ['JFS     ', 'HPFS    '];

export interface FatGeometry {
  readonly isFat32: boolean;
  readonly serial: Uint8Array;
  readonly hasSerial: boolean;
  /** in bytes from the start of the volume */
  readonly rootOffset: number;
  readonly rootBytes: number;
}

/** @param sector at least the first 512 bytes of the volume @returns null if it is no boot sector of FAT */
export function fatGeometry(sector: Uint8Array): FatGeometry | null {
  const view = viewOf(sector);
  if (sector.length < 512 || view.getUint16(SIGNATURE_OFFSET) !== 0x55aa) return null;
  if (OTHERS.some((magic) => startsWith(sector, magic, 54)) || startsWith(sector, '-FVE-FS-', 3)) return null;
  const sectorBytes = view.getUint16(11, true);
  const clusterSectors = view.getUint8(13);
  const reserved = view.getUint16(14, true);
  const fats = view.getUint8(16);
  const rootEntries = view.getUint16(17, true);
  const media = view.getUint8(21);
  if (!isPowerOfTwo(sectorBytes) || sectorBytes < 512 || sectorBytes > 4096) return null;
  if (!isPowerOfTwo(clusterSectors) || reserved === 0 || fats === 0 || !(media === 0xf0 || media >= 0xf8)) return null;
  const shortFat = view.getUint16(22, true);
  const isFat32 = shortFat === 0;
  const fatSectors = isFat32 ? view.getUint32(36, true) : shortFat;
  const sectors = view.getUint16(19, true) === 0 ? view.getUint32(32, true) : view.getUint16(19, true);
  const rootSectors = Math.ceil((rootEntries * ENTRY_BYTES) / sectorBytes);
  const dataStart = reserved + fats * fatSectors + rootSectors;
  const clusters = Math.floor((sectors - dataStart) / clusterSectors);
  const mostClusters = isFat32 ? MAX_CLUSTERS_32 : MAX_CLUSTERS_16;
  if (fatSectors === 0 || clusters < 1 || clusters > mostClusters) return null;
  const rootCluster = view.getUint32(44, true);
  if (isFat32 && (rootCluster < 2 || rootCluster >= clusters + 2)) return null;
  const signature = view.getUint8(isFat32 ? 66 : 38);
  const serialOffset = isFat32 ? 67 : 39;
  return {
    isFat32,
    serial: sector.slice(serialOffset, serialOffset + 4),
    hasSerial: isFat32 || signature === 0x28 || signature === 0x29,
    rootOffset: (isFat32 ? dataStart + (rootCluster - 2) * clusterSectors : dataStart - rootSectors) * sectorBytes,
    rootBytes: isFat32 ? clusterSectors * sectorBytes : rootEntries * ENTRY_BYTES,
  };
}

export function describeFat(volume: Volume): Details | null {
  const sector = volume.bytes(0, 512);
  const geometry = sector === null ? null : fatGeometry(sector);
  if (geometry === null) return null;
  const { serial, hasSerial, rootOffset, rootBytes } = geometry;
  const [a, b, c, d] = Array.from(serial, (byte) => byte.toString(16).toUpperCase().padStart(2, '0'));
  const root = volume.bytes(rootOffset, Math.min(rootBytes, MAX_ROOT_BYTES));
  return {
    uuid: hasSerial ? `${d}${c}-${b}${a}` : null,
    label: root === null ? null : rootLabel(root),
    needsRecovery: false,
  };
}

function rootLabel(root: Uint8Array): string | null {
  for (let at = 0; at + ENTRY_BYTES <= root.length && root[at] !== 0; at += ENTRY_BYTES) {
    const attributes = root[at + 11]! & ATTRIBUTES;
    if (root[at] === ENTRY_FREE || attributes === ATTRIBUTES_LONG_NAME) continue;
    if ((attributes & (ATTRIBUTE_VOLUME_ID | ATTRIBUTE_DIRECTORY)) !== ATTRIBUTE_VOLUME_ID) continue;
    const name = root.slice(at, at + NAME_BYTES);
    if (name[0] === ENTRY_ESCAPED_FREE) name[0] = ENTRY_FREE;
    return labelText(name);
  }
  return null;
}
