// The metadata region: a table of 64 KiB, then the items, which say what disk it is. Little-endian:
//
//   0 "metadata"   10 EntryCount u16   32 entries of 32 bytes: ItemId, Offset u32 from the region, Length u32, flags u32, reserved
//
//   block size u32, flags u32: 1 fixed, 2 has a parent   virtual disk size u64   logical and physical sector size u32 each
//   virtual disk ID, a GUID   parent locator, see locator.ts
//
// Nothing of it has a checksum, so every field is checked. An item that nobody here knows is refused if it is required.

import { readU64LE, writeU64LE } from '../../../bytes/endian.ts';
import { hex, isPowerOfTwo } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { uuidBytes } from '../../guid.ts';
import { bytesAt, guidAt, invalid, MIB, type Structure, textAt } from './fields.ts';
import { type ParentLocator, parseLocator } from './locator.ts';
import type { Region } from './region-table.ts';

/** Of the region of a new image. */
export const METADATA_BYTES = MIB;
const SIGNATURE = 'metadata';
const TABLE_BYTES = 64 * 1024;
const COUNT_AT = 10;
const ENTRIES_AT = 32;
const ENTRY_BYTES = 32;
const MAX_ENTRIES = 2047;
const MAX_ITEM_BYTES = MIB;
const IS_USER = 1;
const IS_VIRTUAL_DISK = 2;
const IS_REQUIRED = 4;

const FILE_PARAMETERS = 'caa16737-fa36-4d43-b3b6-33f0aa44e76b';
const VIRTUAL_DISK_SIZE = '2fa54224-cd1b-4876-b211-5dbed83bf4b8';
const VIRTUAL_DISK_ID = 'beca12ab-b2e6-4523-93ef-c309e000c746';
const LOGICAL_SECTOR_SIZE = '8141bf1d-a96f-4709-ba47-f233a8faab5f';
const PHYSICAL_SECTOR_SIZE = 'cda348c7-445d-4471-9cc9-e9885251c556';
const PARENT_LOCATOR = 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c';
/** Not published: Windows marks an image with it that is still being made. */
const UNFINISHED = '71cc85f0-1b69-4e28-9558-c3bf83ae75d3';

const LEAVE_BLOCK_ALLOCATED = 1;
const HAS_PARENT = 2;
const MIN_BLOCK_BYTES = MIB;
export const MAX_BLOCK_BYTES = 256 * MIB;
export const MAX_DISK_BYTES = 64 * 2 ** 40;
export const SECTOR_SIZES: readonly number[] = [512, 4096];

/** What disk it is; structured-clonable. */
export interface DiskFacts {
  readonly virtualSize: number;
  /** where the file says it, a u64 */
  readonly sizeAt: number;
  readonly blockBytes: number;
  /** of the guest, and of the bitmaps of a child */
  readonly sectorBytes: number;
  readonly diskId: string;
  readonly isFixed: boolean;
  /** null: the image has no parent */
  readonly parent: ParentLocator | null;
  /** where the locator begins in the file, if there is a parent */
  readonly locatorAt: number;
}

export interface Item {
  readonly offset: number;
  readonly length: number;
}

/** @param file as it is with its log replayed @throws ImgfuseError corrupt, unsupported */
export function readMetadata(file: HostFile, region: Region): DiskFacts {
  const items = readTable(file, region);
  const item = (id: string, what: string, length: number): Structure => {
    const found = items.get(id);
    if (found === undefined) throw invalid(file, region.start, `its metadata has no item with ${what}`);
    if (found.length < length) {
      throw invalid(file, found.offset, `the item with ${what} has ${found.length} bytes, and ${length} are needed`);
    }
    return bytesAt(file, found.offset, found.length);
  };
  const sectorBytes = sectorSize(file, item(LOGICAL_SECTOR_SIZE, 'the logical sector size', 4), 'logical');
  sectorSize(file, item(PHYSICAL_SECTOR_SIZE, 'the physical sector size', 4), 'physical');
  const diskId = guidAt(item(VIRTUAL_DISK_ID, 'the ID of the disk', 16).bytes, 0);
  const { view } = item(FILE_PARAMETERS, 'the block size', 8);
  const { blockBytes, flags } = parametersOf(file, view);
  const virtualSize = readU64LE(item(VIRTUAL_DISK_SIZE, 'the size of the disk', 8).view, 0);
  if (!(virtualSize <= MAX_DISK_BYTES) || virtualSize % sectorBytes !== 0) {
    throw invalid(
      file,
      region.start,
      `its disk has ${hex(virtualSize)} bytes; a disk has whole sectors of ${sectorBytes} bytes, and at most ${hex(MAX_DISK_BYTES)} bytes`,
    );
  }
  const hasParent = (flags & HAS_PARENT) !== 0;
  const parent = hasParent ? parseLocator(file, item(PARENT_LOCATOR, 'the parent', 0)) : null;
  const sizeAt = items.get(VIRTUAL_DISK_SIZE)!.offset;
  const locatorAt = items.get(PARENT_LOCATOR)?.offset ?? 0;
  const isFixed = (flags & LEAVE_BLOCK_ALLOCATED) !== 0;
  return { virtualSize, sizeAt, blockBytes, sectorBytes, diskId, isFixed, parent, locatorAt };
}

function readTable(file: HostFile, region: Region): Map<string, Item> {
  const { bytes, view } = bytesAt(file, region.start, TABLE_BYTES);
  if (textAt(bytes, 0, SIGNATURE.length) !== SIGNATURE) {
    throw invalid(file, region.start, `there is no metadata table at offset ${hex(region.start)}`);
  }
  const count = view.getUint16(COUNT_AT, true);
  if (count > MAX_ENTRIES) {
    throw invalid(file, region.start + COUNT_AT, `its metadata has ${count} items; it can have ${MAX_ENTRIES}`);
  }
  const items = new Map<string, Item>();
  for (let i = 0; i < count; i++) {
    const at = ENTRIES_AT + i * ENTRY_BYTES;
    const place = region.start + at;
    const id = guidAt(bytes, at);
    const flags = view.getUint32(at + 24, true);
    const inRegion = view.getUint32(at + 16, true);
    const length = view.getUint32(at + 20, true);
    refuseUnknown(file, id, flags, place);
    const isEmpty = length === 0 && inRegion === 0;
    const isInside = inRegion >= TABLE_BYTES && inRegion + length <= region.end - region.start;
    if (!isEmpty && (!isInside || length > MAX_ITEM_BYTES)) {
      throw invalid(
        file,
        place,
        `the metadata item ${id} has ${length} bytes at ${hex(inRegion)}, outside its region of ${region.end - region.start} bytes`,
      );
    }
    // a user's item may have the ID of one of the system's
    if ((flags & IS_USER) !== 0) continue;
    if (items.has(id)) throw invalid(file, place, `the metadata item ${id} is there twice`);
    items.set(id, { offset: region.start + inRegion, length });
  }
  return items;
}

/** Bytes that a change puts at a place of the file. */
export interface MetadataChange {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/**
 * What has to change, all of it at once, for another parent or for none. A new locator lies where nothing is. @param locator of
 * serializeLocator() @throws ImgfuseError limit: there is no room for it
 */
export function parentChanges(file: HostFile, region: Region, locator: Uint8Array | null): MetadataChange[] {
  const items = readTable(file, region);
  const { bytes, view } = bytesAt(file, region.start, TABLE_BYTES);
  const parametersAt = items.get(FILE_PARAMETERS)!.offset + 4;
  const { view: parameters } = bytesAt(file, parametersAt, 4);
  const old = parameters.getUint32(0, true);
  const flags = locator === null ? old & ~HAS_PARENT : old | HAS_PARENT;
  const changes: MetadataChange[] = [{ offset: parametersAt, bytes: u32s(flags) }];
  const count = view.getUint16(COUNT_AT, true);
  const entryAt = (index: number): number => ENTRIES_AT + index * ENTRY_BYTES;
  const setEntry = (index: number, entry: Uint8Array): void =>
    void changes.push({ offset: region.start + entryAt(index), bytes: entry });
  const setCount = (entries: number): void =>
    void changes.push({ offset: region.start + COUNT_AT, bytes: Uint8Array.of(entries & 0xff, entries >>> 8) });
  const known = Array.from({ length: count }, (_, index) => index).find((index) =>
    isLocator(bytes, view, entryAt(index)),
  );
  if (locator === null) {
    if (known === undefined) return changes;
    // the last one takes its place
    setEntry(known, bytes.slice(entryAt(count - 1), entryAt(count)));
    setEntry(count - 1, new Uint8Array(ENTRY_BYTES));
    setCount(count - 1);
    return changes;
  }
  if (known === undefined && count === MAX_ENTRIES) throw noRoom(file);
  const offset = freePlace(file, region, view, locator.length);
  setEntry(known ?? count, tableEntry(PARENT_LOCATOR, { offset, length: locator.length }, IS_REQUIRED));
  if (known === undefined) setCount(count + 1);
  changes.push({ offset: region.start + offset, bytes: locator });
  return changes;
}

function isLocator(bytes: Uint8Array, view: DataView, at: number): boolean {
  return guidAt(bytes, at) === PARENT_LOCATOR && (view.getUint32(at + 24, true) & IS_USER) === 0;
}

/** Where in the region so many bytes lie behind an item, or behind the table, and before the next item. */
function freePlace(file: HostFile, region: Region, view: DataView, length: number): number {
  const items: Item[] = [{ offset: 0, length: TABLE_BYTES }];
  for (let i = 0; i < view.getUint16(COUNT_AT, true); i++) {
    const at = ENTRIES_AT + i * ENTRY_BYTES;
    items.push({ offset: view.getUint32(at + 16, true), length: view.getUint32(at + 20, true) });
  }
  const room = region.end - region.start;
  for (const { length: own, offset } of items) {
    const start = Math.max(TABLE_BYTES, offset + own);
    const isFree = items.every((item) => item.offset + item.length <= start || item.offset >= start + length);
    if (start + length <= room && isFree) return start;
  }
  throw noRoom(file);
}

function noRoom({ path }: HostFile): ImgfuseError {
  return new ImgfuseError('limit', `${path}: its metadata has no room for what an image stores of its parent`, {
    path,
  });
}

const KNOWN: readonly string[] = [
  FILE_PARAMETERS,
  VIRTUAL_DISK_SIZE,
  VIRTUAL_DISK_ID,
  LOGICAL_SECTOR_SIZE,
  PHYSICAL_SECTOR_SIZE,
  PARENT_LOCATOR,
];

function refuseUnknown({ path }: HostFile, id: string, flags: number, offset: number): void {
  if (id === UNFINISHED) {
    throw new ImgfuseError(
      'unsupported',
      `${path} says that whoever made it has not finished; make it again, or finish it with that program`,
      { path, offset },
    );
  }
  const isKnown = KNOWN.includes(id) && (flags & IS_USER) === 0;
  if (isKnown || (flags & IS_REQUIRED) === 0) return;
  throw new ImgfuseError(
    'unsupported',
    `${path} has the metadata item ${id}, which is not known here and without which the disk must not be read; open it with the ` +
      'program that wrote it',
    { path, offset },
  );
}

function parametersOf(file: HostFile, view: DataView): { readonly blockBytes: number; readonly flags: number } {
  const blockBytes = view.getUint32(0, true);
  const flags = view.getUint32(4, true);
  if (!isPowerOfTwo(blockBytes) || blockBytes < MIN_BLOCK_BYTES || blockBytes > MAX_BLOCK_BYTES) {
    throw new ImgfuseError(
      'corrupt',
      `${file.path}: its blocks have ${blockBytes} bytes; a block has a power of two from ${MIN_BLOCK_BYTES} to ${MAX_BLOCK_BYTES}`,
      { path: file.path },
    );
  }
  const unknown = flags & ~(LEAVE_BLOCK_ALLOCATED | HAS_PARENT);
  if (unknown === 0) return { blockBytes, flags };
  throw new ImgfuseError(
    'unsupported',
    `${file.path}: its file parameters have the flags ${hex(unknown >>> 0)}, which are not known here`,
    { path: file.path },
  );
}

function sectorSize(file: HostFile, { view }: Structure, what: string): number {
  const bytes = view.getUint32(0, true);
  if (SECTOR_SIZES.includes(bytes)) return bytes;
  throw new ImgfuseError(
    'corrupt',
    `${file.path}: its ${what} sectors have ${bytes} bytes; 512 and 4096 are possible`,
    {
      path: file.path,
    },
  );
}

/** The metadata region of a new image, METADATA_BYTES long from its start on: table and items. */
export function serializeMetadata(disk: {
  readonly virtualSize: number;
  readonly blockBytes: number;
  readonly sectorBytes: number;
  readonly isFixed: boolean;
  readonly diskId: string;
  /** of serializeLocator() */
  readonly locator: Uint8Array | null;
}): Uint8Array {
  const { blockBytes, diskId, isFixed, locator, sectorBytes } = disk;
  const size = new Uint8Array(8);
  writeU64LE(new DataView(size.buffer), 0, disk.virtualSize);
  const flags = (isFixed ? LEAVE_BLOCK_ALLOCATED : 0) | (locator === null ? 0 : HAS_PARENT);
  const items: (readonly [id: string, bytes: Uint8Array, flags: number])[] = [
    [FILE_PARAMETERS, u32s(blockBytes, flags), IS_REQUIRED],
    [VIRTUAL_DISK_SIZE, size, IS_VIRTUAL_DISK | IS_REQUIRED],
    [VIRTUAL_DISK_ID, uuidBytes(diskId), IS_VIRTUAL_DISK | IS_REQUIRED],
    [LOGICAL_SECTOR_SIZE, u32s(sectorBytes), IS_VIRTUAL_DISK | IS_REQUIRED],
    [PHYSICAL_SECTOR_SIZE, u32s(sectorBytes), IS_VIRTUAL_DISK | IS_REQUIRED],
  ];
  if (locator !== null) items.push([PARENT_LOCATOR, locator, IS_REQUIRED]);
  const bytes = new Uint8Array(items.reduce((end, [, item]) => end + item.length, TABLE_BYTES));
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(SIGNATURE, 'latin1'));
  view.setUint16(COUNT_AT, items.length, true);
  let end = TABLE_BYTES;
  for (const [i, [id, item, itemFlags]] of items.entries()) {
    bytes.set(tableEntry(id, { offset: end, length: item.length }, itemFlags), ENTRIES_AT + i * ENTRY_BYTES);
    bytes.set(item, end);
    end += item.length;
  }
  return bytes;
}

/** @param item its offset counts from the start of the region */
function tableEntry(id: string, { length, offset }: Item, flags: number): Uint8Array {
  const entry = new Uint8Array(ENTRY_BYTES);
  const view = new DataView(entry.buffer);
  entry.set(uuidBytes(id));
  view.setUint32(16, offset, true);
  view.setUint32(20, length, true);
  view.setUint32(24, flags, true);
  return entry;
}

function u32s(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setUint32(4 * i, value, true);
  return bytes;
}
