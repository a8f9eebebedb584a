// The GUID partition table: a header at LBA 1, its backup at the last LBA, and an array of entries for each. Invariant: an entry is
// looked at only after the checksums of its header and of the whole array were right, and after both lay inside the disk.
//
//   header: 0 "EFI PART"   8 revision   12 header_size u32   16 header_crc32   24 my_lba u64   32 alternate_lba
//     40 first_usable_lba   48 last_usable_lba   56 disk GUID   72 partition_entry_lba   80 number of entries u32
//     84 size of an entry u32   88 CRC-32 of the array
//   entry: 0 type GUID   16 unique GUID   32 first LBA u64   40 last LBA (inclusive)   48 attributes   56 name, 36 UTF-16LE units

import { crc32 } from 'node:zlib';
import { readU64LE } from '../../bytes/endian.ts';
import { MAX_PARTITION_NUMBER, type PartitionList } from './entries.ts';
import { guidText, isZero } from './guid.ts';
import type { RecordedSource } from './source.ts';
import { gptTypeName } from './type-names.ts';

const SIGNATURE = 'EFI PART';
const MIN_HEADER_BYTES = 92;
const HEADER_CRC_OFFSET = 16;
export const GPT_ENTRY_BYTES = 128;
/** Larger arrays are refused before memory is taken for them; 128 entries take 16 KiB. */
export const MAX_GPT_ARRAY_BYTES = 2 ** 20;
/** No header at all, or no room for one. */
export const NO_HEADER = 'there is no header';
const ATTRIBUTE_LEGACY_BIOS_BOOTABLE = 4;
const NAME_OFFSET = 56;

const utf16 = new TextDecoder('utf-16le', { ignoreBOM: true });

/** A header whose own fields are sound; its array has not been read. */
export interface GptHeader {
  readonly lba: number;
  readonly firstUsable: number;
  readonly lastUsable: number;
  readonly diskGuid: string;
  readonly arrayLba: number;
  readonly entryCount: number;
  readonly arrayCrc: number;
}

/** What is wrong with a header or with its array, as the end of a sentence. */
export interface Damage {
  readonly damage: string;
}

/** Number of the last whole sector of a disk. */
export function lastLba(size: number, sectorSize: number): number {
  return Math.floor(size / sectorSize) - 1;
}

/** The header at `lba`. */
export function readGptHeader(source: RecordedSource, lba: number, sectorSize: number): GptHeader | Damage {
  const bytes = lba < 1 ? null : source.bytes(lba * sectorSize, sectorSize);
  if (bytes === null) return { damage: NO_HEADER };
  const text = String.fromCharCode(...bytes.subarray(0, SIGNATURE.length));
  if (text !== SIGNATURE) return { damage: NO_HEADER };
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const headerBytes = view.getUint32(12, true);
  if (headerBytes < MIN_HEADER_BYTES || headerBytes > sectorSize) {
    return { damage: `its header size is ${headerBytes} bytes` };
  }
  const covered = bytes.slice(0, headerBytes);
  covered.fill(0, HEADER_CRC_OFFSET, HEADER_CRC_OFFSET + 4);
  if (crc32(covered) !== view.getUint32(HEADER_CRC_OFFSET, true)) return { damage: 'its checksum is wrong' };
  if (readU64LE(view, 24) !== lba) return { damage: 'it says that it belongs elsewhere' };
  return usableHeader(source, bytes, view, lba, sectorSize);
}

/** The fields that describe partitions, of a header that is what was written. */
function usableHeader(
  source: RecordedSource,
  bytes: Uint8Array,
  view: DataView,
  lba: number,
  sectorSize: number,
): GptHeader | Damage {
  const firstUsable = readU64LE(view, 40);
  const lastUsable = readU64LE(view, 48);
  // a field beyond 2^53 is NaN, for which no comparison is true
  if (!(firstUsable <= lastUsable && lastUsable <= lastLba(source.size, sectorSize))) {
    return { damage: 'the usable range that it gives is not on the disk' };
  }
  if (firstUsable < lba && lba < lastUsable) return { damage: 'it lies inside its own usable range' };
  const entryCount = view.getUint32(80, true);
  const entryBytes = view.getUint32(84, true);
  if (entryBytes !== GPT_ENTRY_BYTES) {
    return {
      damage: `its entries have ${entryBytes} bytes; Linux reads tables with entries of ${GPT_ENTRY_BYTES} bytes only`,
    };
  }
  if (entryCount === 0 || entryCount * GPT_ENTRY_BYTES > MAX_GPT_ARRAY_BYTES) {
    return { damage: `it has ${entryCount} entries; 1 to ${MAX_GPT_ARRAY_BYTES / GPT_ENTRY_BYTES} are read` };
  }
  return {
    lba,
    firstUsable,
    lastUsable,
    diskGuid: guidText(bytes, 56),
    arrayLba: readU64LE(view, 72),
    entryCount,
    arrayCrc: view.getUint32(88, true),
  };
}

/** The array of entries that belongs to a header. */
export function readGptArray(source: RecordedSource, header: GptHeader, sectorSize: number): Uint8Array | Damage {
  const array = source.bytes(header.arrayLba * sectorSize, header.entryCount * GPT_ENTRY_BYTES);
  if (array === null) return { damage: 'its array of entries is not on the disk' };
  return crc32(array) === header.arrayCrc ? array : { damage: 'the checksum of its entries is wrong' };
}

/** Adds the partitions of an array; numbers are places in the array, and those of empty entries stay free. */
export function addGptPartitions(header: GptHeader, array: Uint8Array, sectorSize: number, list: PartitionList): void {
  const view = new DataView(array.buffer, array.byteOffset, array.byteLength);
  let beyond = 0;
  for (let index = 0; index < header.entryCount; index++) {
    const at = index * GPT_ENTRY_BYTES;
    if (isZero(array, at, 16)) continue;
    const number = index + 1;
    if (number > MAX_PARTITION_NUMBER) {
      beyond++;
      continue;
    }
    const first = readU64LE(view, at + 32);
    const last = readU64LE(view, at + 40);
    if (!(first >= header.firstUsable && first <= last && last <= header.lastUsable)) {
      list.warn(`partition ${number} is not inside the usable range of the table; it is not shown`);
      continue;
    }
    const type = guidText(array, at);
    list.add({
      number,
      start: first * sectorSize,
      size: (last - first + 1) * sectorSize,
      type,
      typeName: gptTypeName(type),
      name: nameAt(array, at + NAME_OFFSET),
      uuid: guidText(array, at + 16),
      bootable: (view.getUint8(at + 48) & ATTRIBUTE_LEGACY_BIOS_BOOTABLE) !== 0,
    });
  }
  if (beyond > 0) {
    list.warn(`${beyond} partitions above number ${MAX_PARTITION_NUMBER} are not shown, as in the kernel`);
  }
}

/** Up to the first NUL; a lone surrogate becomes U+FFFD. */
function nameAt(array: Uint8Array, start: number): string | null {
  let end = start;
  while (end < start + 72 && (array[end] !== 0 || array[end + 1] !== 0)) end += 2;
  return end === start ? null : utf16.decode(array.subarray(start, end));
}
