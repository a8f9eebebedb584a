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
const SECTOR_SIZES: readonly number[] = [512, 4096];
const NEW_SECTOR_BYTES = 512;
const MAX_NEW_ITEMS_BYTES = 4096;

/** What disk it is; structured-clonable. */
export interface DiskFacts {
  readonly virtualSize: number;
  /** where the file says it, a u64 */
  readonly sizeAt: number;
  readonly blockBytes: number;
  /** of the guest, and of the bitmaps of a child */
  readonly sectorBytes: number;
  readonly isFixed: boolean;
  /** null: the image has no parent */
  readonly parent: ParentLocator | null;
}

interface Item {
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
  item(VIRTUAL_DISK_ID, 'the ID of the disk', 16);
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
  return { virtualSize, sizeAt, blockBytes, sectorBytes, isFixed: (flags & LEAVE_BLOCK_ALLOCATED) !== 0, parent };
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
  readonly isFixed: boolean;
  readonly diskId: string;
}): Uint8Array {
  const size = new Uint8Array(8);
  writeU64LE(new DataView(size.buffer), 0, disk.virtualSize);
  const items: readonly (readonly [id: string, bytes: Uint8Array, flags: number])[] = [
    [FILE_PARAMETERS, u32s(disk.blockBytes, disk.isFixed ? LEAVE_BLOCK_ALLOCATED : 0), IS_REQUIRED],
    [VIRTUAL_DISK_SIZE, size, IS_VIRTUAL_DISK | IS_REQUIRED],
    [VIRTUAL_DISK_ID, uuidBytes(disk.diskId), IS_VIRTUAL_DISK | IS_REQUIRED],
    [LOGICAL_SECTOR_SIZE, u32s(NEW_SECTOR_BYTES), IS_VIRTUAL_DISK | IS_REQUIRED],
    [PHYSICAL_SECTOR_SIZE, u32s(NEW_SECTOR_BYTES), IS_VIRTUAL_DISK | IS_REQUIRED],
  ];
  const bytes = new Uint8Array(TABLE_BYTES + MAX_NEW_ITEMS_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(SIGNATURE, 'latin1'));
  view.setUint16(COUNT_AT, items.length, true);
  let end = TABLE_BYTES;
  for (const [i, [id, item, flags]] of items.entries()) {
    const at = ENTRIES_AT + i * ENTRY_BYTES;
    bytes.set(uuidBytes(id), at);
    view.setUint32(at + 16, end, true);
    view.setUint32(at + 20, item.length, true);
    view.setUint32(at + 24, flags, true);
    bytes.set(item, end);
    end += item.length;
  }
  return bytes;
}

function u32s(...values: number[]): Uint8Array {
  const bytes = new Uint8Array(4 * values.length);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of values.entries()) view.setUint32(4 * i, value, true);
  return bytes;
}
