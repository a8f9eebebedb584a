// NTFS: the boot sector, its serial number, and the record of the volume, which has the label and the dirty flag. Invariant: a
// record is taken only with its magic, and its attributes only inside it.
//
//   3 "NTFS    "   11 bytes per sector u16   13 sectors per cluster   40 sectors u64   48 first cluster of the MFT u64
//   64 clusters (or -log2 of bytes) of a record i8   72 serial u64
//   record: 0 "FILE"   20 first attribute u16   attribute: 0 type u32   4 length u32   16 value length u32   20 value u16

import { hexWords, readU64LE } from '../../../bytes/endian.ts';
import { isPowerOfTwo } from '../../../bytes/offsets.ts';
import type { Details } from './kind.ts';
import { wideLabelText } from './text.ts';
import { startsWith, type Volume, viewOf } from './volume.ts';

const MAX_CLUSTER_BYTES = 2 * 1024 * 1024;
const MAX_RECORD_BYTES = 64 * 1024;
const VOLUME_RECORD = 3;
const ATTRIBUTE_VOLUME_NAME = 0x60;
const ATTRIBUTE_VOLUME_INFORMATION = 0x70;
const ATTRIBUTE_END = 0xffffffff;
const ATTRIBUTE_HEADER_BYTES = 24;
const VOLUME_IS_DIRTY = 1;

export interface NtfsGeometry {
  readonly recordBytes: number;
  /** in bytes from the start of the volume */
  readonly mftOffset: number;
}

/** @param sector at least the first 512 bytes of the volume @returns null if it is no boot sector of NTFS */
export function ntfsGeometry(sector: Uint8Array): NtfsGeometry | null {
  if (sector.length < 512 || !startsWith(sector, 'NTFS    ', 3)) return null;
  const view = viewOf(sector);
  const sectorBytes = view.getUint16(11, true);
  const clusterByte = view.getUint8(13);
  const clusterSectors = clusterByte >= 240 ? 2 ** (256 - clusterByte) : clusterByte;
  const clusterBytes = sectorBytes * clusterSectors;
  if (!isPowerOfTwo(sectorBytes) || sectorBytes < 256 || sectorBytes > 4096) return null;
  if (!isPowerOfTwo(clusterSectors) || clusterBytes > MAX_CLUSTER_BYTES) return null;
  const recordClusters = view.getInt8(64);
  const recordBytes = recordClusters > 0 ? recordClusters * clusterBytes : 2 ** -recordClusters;
  const mftOffset = readU64LE(view, 48) * clusterBytes;
  const isSane = isPowerOfTwo(recordBytes) && recordBytes >= 512 && recordBytes <= MAX_RECORD_BYTES;
  return isSane && Number.isSafeInteger(mftOffset) ? { recordBytes, mftOffset } : null;
}

export function describeNtfs(volume: Volume): Details | null {
  const sector = volume.bytes(0, 512);
  const geometry = sector === null ? null : ntfsGeometry(sector);
  if (sector === null || geometry === null) return null;
  const view = viewOf(sector);
  const serial = hexWords(view.getUint32(76, true), view.getUint32(72, true));
  const uuid = serial.slice('0x'.length).toUpperCase().padStart(16, '0');
  return { uuid, ...volumeRecord(volume, geometry) };
}

/** The label and the dirty flag; a record that is not sound has neither. */
function volumeRecord(volume: Volume, { mftOffset, recordBytes }: NtfsGeometry): Details {
  const record = volume.bytes(mftOffset + VOLUME_RECORD * recordBytes, recordBytes);
  let label: string | null = null;
  let needsRecovery: boolean | null = null;
  if (record === null || !startsWith(record, 'FILE')) return { label, needsRecovery };
  const view = viewOf(record);
  let at = view.getUint16(20, true);
  while (at + ATTRIBUTE_HEADER_BYTES <= recordBytes) {
    const type = view.getUint32(at, true);
    const length = view.getUint32(at + 4, true);
    if (type === ATTRIBUTE_END || length < ATTRIBUTE_HEADER_BYTES) break;
    const start = at + view.getUint16(at + 20, true);
    const end = start + view.getUint32(at + 16, true);
    if (end <= recordBytes) {
      if (type === ATTRIBUTE_VOLUME_NAME) label = wideLabelText(record.subarray(start, end));
      if (type === ATTRIBUTE_VOLUME_INFORMATION && end - start >= 12) {
        needsRecovery = (view.getUint16(start + 10, true) & VOLUME_IS_DIRTY) !== 0;
      }
    }
    at += length;
  }
  return { label, needsRecovery };
}
