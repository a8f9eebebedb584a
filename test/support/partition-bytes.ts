// Partition tables as bytes, field by field, with every field open to be wrong. Written from the specifications (UEFI 2.10, the MBR of
// DOS), not from the parsers.

import { crc32 } from 'node:zlib';
import { BufferDisk } from './buffer-disk.ts';

export const MIB = 1024 * 1024;

export interface Slot {
  readonly boot?: number;
  readonly type: number;
  /** in sectors */
  readonly start: number;
  readonly size: number;
}

/** 512 bytes with up to four slots. */
export function mbrSector(slots: readonly (Slot | null)[], diskId = 0x12345678): Uint8Array {
  const sector = new Uint8Array(512);
  const view = new DataView(sector.buffer);
  view.setUint32(440, diskId, true);
  slots.forEach((slot, index) => {
    if (slot === null) return;
    const at = 446 + index * 16;
    view.setUint8(at, slot.boot ?? 0);
    view.setUint8(at + 4, slot.type);
    view.setUint32(at + 8, slot.start, true);
    view.setUint32(at + 12, slot.size, true);
  });
  view.setUint16(510, 0x55aa);
  return sector;
}

export const PROTECTIVE: Slot = { type: 0xee, start: 1, size: 0xffffffff };

export const LINUX_TYPE = '0fc63daf-8483-4772-8e79-3d69d8477de4';

export interface Entry {
  readonly type?: string;
  readonly guid?: string;
  readonly first: number | bigint;
  readonly last: number | bigint;
  readonly attributes?: bigint;
  readonly name?: string | Uint8Array;
}

/** Fields of a header that differ from those of a sound one. */
export interface HeaderFields {
  readonly signature?: string;
  readonly headerSize?: number;
  readonly headerCrc?: number;
  readonly myLba?: bigint;
  readonly alternateLba?: bigint;
  readonly firstUsable?: bigint;
  readonly lastUsable?: bigint;
  readonly arrayLba?: bigint;
  readonly count?: number;
  readonly entrySize?: number;
  readonly arrayCrc?: number;
}

export interface GptOptions {
  readonly size: number;
  readonly sectorSize?: number;
  /** by index in the array; null leaves a hole */
  readonly entries: readonly (Entry | null)[];
  readonly count?: number;
  readonly mbr?: readonly (Slot | null)[];
  readonly primary?: HeaderFields | null;
  readonly backup?: HeaderFields | null;
  readonly diskGuid?: string;
}

/** A disk with a GPT; `primary` and `backup` change fields of the headers (with right checksums), or null leaves one out. */
export function gptDisk(options: GptOptions): BufferDisk {
  const { size, sectorSize = 512, entries, count = 128 } = options;
  const disk = new BufferDisk(size);
  const last = Math.floor(size / sectorSize) - 1;
  const array = entryArray(entries, count);
  const arraySectors = Math.ceil(array.length / sectorSize);
  disk.write(0, mbrSector(options.mbr ?? [PROTECTIVE], 0));
  const usable = { firstUsable: 2 + arraySectors, lastUsable: last - arraySectors - 1 };
  const place = (lba: number, alternate: number, arrayLba: number, fields: HeaderFields): void => {
    disk.write(arrayLba * sectorSize, array);
    const header = gptHeader({ lba, alternate, arrayLba, ...usable, array, count, options }, fields);
    disk.write(lba * sectorSize, header);
  };
  if (options.primary !== null) place(1, last, 2, options.primary ?? {});
  if (options.backup !== null) place(last, 1, last - arraySectors, options.backup ?? {});
  return disk;
}

interface HeaderPlaces {
  readonly lba: number;
  readonly alternate: number;
  readonly arrayLba: number;
  readonly firstUsable: number;
  readonly lastUsable: number;
  readonly array: Uint8Array;
  readonly count: number;
  readonly options: GptOptions;
}

function gptHeader(places: HeaderPlaces, fields: HeaderFields): Uint8Array {
  const sectorSize = places.options.sectorSize ?? 512;
  const header = Buffer.alloc(sectorSize);
  const headerSize = fields.headerSize ?? 92;
  header.write(fields.signature ?? 'EFI PART', 0, 'latin1');
  header.writeUInt32LE(0x00010000, 8);
  header.writeUInt32LE(headerSize, 12);
  header.writeBigUInt64LE(fields.myLba ?? BigInt(places.lba), 24);
  header.writeBigUInt64LE(fields.alternateLba ?? BigInt(places.alternate), 32);
  header.writeBigUInt64LE(fields.firstUsable ?? BigInt(places.firstUsable), 40);
  header.writeBigUInt64LE(fields.lastUsable ?? BigInt(places.lastUsable), 48);
  header.set(guidBytes(places.options.diskGuid ?? '11111111-2222-3333-4444-555566667777'), 56);
  header.writeBigUInt64LE(fields.arrayLba ?? BigInt(places.arrayLba), 72);
  header.writeUInt32LE(fields.count ?? places.count, 80);
  header.writeUInt32LE(fields.entrySize ?? 128, 84);
  header.writeUInt32LE(fields.arrayCrc ?? crc32(places.array), 88);
  const covered = header.subarray(0, Math.min(headerSize, header.length));
  header.writeUInt32LE(fields.headerCrc ?? crc32(covered), 16);
  return header;
}

function entryArray(entries: readonly (Entry | null)[], count: number): Uint8Array {
  const array = Buffer.alloc(count * 128);
  entries.forEach((entry, index) => {
    if (entry === null) return;
    const at = index * 128;
    array.set(guidBytes(entry.type ?? LINUX_TYPE), at);
    array.set(guidBytes(entry.guid ?? `00000000-0000-4000-8000-${String(index).padStart(12, '0')}`), at + 16);
    array.writeBigUInt64LE(BigInt(entry.first), at + 32);
    array.writeBigUInt64LE(BigInt(entry.last), at + 40);
    array.writeBigUInt64LE(entry.attributes ?? 0n, at + 48);
    const { name = '' } = entry;
    array.set(typeof name === 'string' ? Buffer.from(name, 'utf16le') : name, at + 56);
  });
  return array;
}

/** Of "01020304-0506-0708-090a-...": 04 03 02 01 06 05 08 07 09 0a ... */
export function guidBytes(text: string): Uint8Array {
  const [a, b, c, d, e] = text.split('-').map((part) => Buffer.from(part, 'hex'));
  return Buffer.concat([a!.reverse(), b!.reverse(), c!.reverse(), d!, e!]);
}
