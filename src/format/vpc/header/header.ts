// The header of a dynamic or differencing VHD: bytes <-> fields, every limit checked. Big-endian, 1024 bytes:
//
//    0 "cxsparse"               24 version u32             36 checksum u32         64 parent name, UTF-16BE, 512 bytes
//    8 u64, all ones            28 max_table_entries u32   40 parent UUID [16]    576 8 parent locators of 24 bytes
//   16 table_offset u64         32 block_size u32          56 parent timestamp
//
// table_offset, max_table_entries, the time of the parent and the checksum share the first sector, so that they change at once.
// Invariant: a DynamicHeader that exists has been checked against its file.

import { hexWords, readU64BE, writeU64BE } from '../../../bytes/endian.ts';
import { hex, hostOffset, isPowerOfTwo, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { checksumOf, sign, textAt, uuidAt, VHD_VERSION } from './footer.ts';
import { LOCATORS, LOCATORS_END, type Locator, locatorsIn, parentNameIn } from './locator.ts';

export const HEADER_BYTES = 1024;
export const HEADER_COOKIE = 'cxsparse';
export const ENTRY_BYTES = 4;
const CHECKSUM = 36;
const PARENT_UUID = 40;
const PARENT_TIMESTAMP = 56;
const PARENT_NAME = 64;
export const MIN_BLOCK_SIZE = 512;
/** The bitmap of a block has 64 KiB then. */
export const MAX_BLOCK_SIZE = 256 * 1024 * 1024;
/** Entries of a table at most: 128 MiB. A disk of 2040 GiB in blocks of 2 MiB takes a million. */
export const MAX_TABLE_ENTRIES = 2 ** 25;

export interface DynamicHeader {
  readonly offset: number;
  readonly tableOffset: number;
  readonly maxTableEntries: number;
  readonly blockSize: number;
  readonly parentUuid: string;
  /** seconds since 2000; 0 for none */
  readonly parentTimestamp: number;
  readonly parentName: string;
  readonly locators: readonly Locator[];
  /** the checksum is right */
  readonly isSound: boolean;
}

/** Bytes of the table on disk, which takes whole sectors. */
export function tableBytesOf(entries: number): number {
  return roundUp(entries * ENTRY_BYTES, SECTOR_BYTES);
}

/** Bytes of the bitmap before the data of a block: a bit for each of its sectors, in whole sectors. */
export function bitmapBytesOf(blockSize: number): number {
  return roundUp(Math.ceil(blockSize / SECTOR_BYTES / 8), SECTOR_BYTES);
}

/** @param size bytes of the disk, which the table must map @throws ImgfuseError corrupt, unsupported */
export function readHeader(file: HostFile, offset: number, size: number): DynamicHeader {
  const fileSize = file.size();
  if (!(offset >= SECTOR_BYTES && offset % SECTOR_BYTES === 0 && offset + HEADER_BYTES <= fileSize)) {
    throw invalid(file, 16, `the footer says that the header is at ${offset}, which is no place for one in this file`);
  }
  const bytes = new Uint8Array(HEADER_BYTES);
  file.read(bytes, 0, HEADER_BYTES, hostOffset(offset));
  const view = new DataView(bytes.buffer);
  if (textAt(bytes, 0, 8) !== HEADER_COOKIE) {
    throw invalid(file, offset, `there is no "${HEADER_COOKIE}", which a header begins with`);
  }
  const version = view.getUint32(24, false);
  if (version !== VHD_VERSION) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path}: the version of its header is ${hex(version)}, and ${hex(VHD_VERSION)} is known; open it with the program that ` +
        'wrote it',
      { path: file.path, offset: offset + 24 },
    );
  }
  const blockSize = view.getUint32(32, false);
  if (!isPowerOfTwo(blockSize) || blockSize < MIN_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE) {
    const range = `a power of two from ${MIN_BLOCK_SIZE} to ${MAX_BLOCK_SIZE}`;
    throw invalid(file, offset + 32, `block_size is ${blockSize}; it must be ${range}`);
  }
  const { tableOffset, maxTableEntries } = readTablePlace(file, view, offset, blockSize, size);
  return {
    offset,
    tableOffset,
    maxTableEntries,
    blockSize,
    parentUuid: uuidAt(bytes, PARENT_UUID),
    parentTimestamp: view.getUint32(PARENT_TIMESTAMP, false),
    parentName: parentNameIn(bytes),
    locators: locatorsIn(view),
    isSound: view.getUint32(CHECKSUM, false) === checksumOf(bytes, CHECKSUM),
  };
}

function readTablePlace(file: HostFile, view: DataView, offset: number, blockSize: number, size: number) {
  const maxTableEntries = view.getUint32(28, false);
  const needed = Math.ceil(size / blockSize);
  if (maxTableEntries < needed) {
    const what = `max_table_entries is ${maxTableEntries}, and a disk of ${size} bytes takes ${needed}`;
    throw invalid(file, offset + 28, what);
  }
  if (maxTableEntries > MAX_TABLE_ENTRIES) {
    throw invalid(file, offset + 28, `max_table_entries is ${maxTableEntries}; at most ${MAX_TABLE_ENTRIES} are read`);
  }
  const tableOffset = readU64BE(view, 16);
  const end = tableOffset + maxTableEntries * ENTRY_BYTES;
  const isApart = tableOffset >= offset + HEADER_BYTES || end <= offset;
  if (!(tableOffset >= SECTOR_BYTES && tableOffset % SECTOR_BYTES === 0 && end <= file.size() && isApart)) {
    const value = hexWords(view.getUint32(16, false), view.getUint32(20, false));
    throw invalid(
      file,
      offset + 16,
      `table_offset is ${value}, and a table of ${maxTableEntries} entries there is not inside the file of ${file.size()} bytes`,
    );
  }
  return { tableOffset, maxTableEntries };
}

/** What a header says of the parent of its image. */
export interface StoredParent {
  readonly uuid: Uint8Array;
  readonly timestamp: number;
  /** 512 bytes at 64, and 192 at 576 */
  readonly name: Uint8Array;
  readonly locators: Uint8Array;
}

export interface NewHeader {
  readonly tableOffset: number;
  readonly maxTableEntries: number;
  readonly blockSize: number;
  readonly parent?: StoredParent;
}

export function makeHeader({ tableOffset, maxTableEntries, blockSize, parent }: NewHeader): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(HEADER_COOKIE, 'latin1'));
  bytes.fill(0xff, 8, 16);
  writeU64BE(view, 16, tableOffset);
  view.setUint32(24, VHD_VERSION, false);
  view.setUint32(28, maxTableEntries, false);
  view.setUint32(32, blockSize, false);
  if (parent !== undefined) setParent(bytes, parent);
  return sign(bytes, CHECKSUM);
}

function setParent(bytes: Uint8Array, { locators, name, timestamp, uuid }: StoredParent): void {
  bytes.set(uuid, PARENT_UUID);
  new DataView(bytes.buffer).setUint32(PARENT_TIMESTAMP, timestamp, false);
  bytes.set(name, PARENT_NAME);
  bytes.set(locators, LOCATORS);
}

/** The header of an image that has another parent, or none. @param header all of it as it is on disk */
export function headerWithParent(header: Uint8Array, parent: StoredParent | null): Uint8Array {
  const bytes = header.slice();
  bytes.fill(0, PARENT_UUID, PARENT_TIMESTAMP + 4);
  bytes.fill(0, PARENT_NAME, LOCATORS_END);
  if (parent !== null) setParent(bytes, parent);
  return sign(bytes, CHECKSUM);
}

/** The first sector of a header whose parent was changed at another time. @param header all of it as it is on disk */
export function headerWithParentTimestamp(header: Uint8Array, timestamp: number): Uint8Array {
  const bytes = header.slice();
  new DataView(bytes.buffer).setUint32(PARENT_TIMESTAMP, timestamp, false);
  return sign(bytes, CHECKSUM).subarray(0, SECTOR_BYTES);
}

/** The first sector of a header whose table lies elsewhere now. @param header all of it as it is on disk */
export function headerWithTable(header: Uint8Array, tableOffset: number, maxTableEntries: number): Uint8Array {
  const bytes = header.slice();
  const view = new DataView(bytes.buffer);
  writeU64BE(view, 16, tableOffset);
  view.setUint32(28, maxTableEntries, false);
  return sign(bytes, CHECKSUM).subarray(0, SECTOR_BYTES);
}

/** The header with its checksum set right. */
export function resignedHeader(header: Uint8Array): Uint8Array {
  return sign(header.slice(), CHECKSUM);
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid VHD header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
