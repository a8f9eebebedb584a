// The VDI header: bytes <-> fields, every limit checked. Little-endian; the places of version 1.1:
//
//    0 text[64]               340 offBlocks u32        388 cBlocksAllocated u32
//   64 signature u32          344 offData u32          392 uuidCreate[16]
//   68 version u32            348 CHS, sector size     408 uuidModify[16]
//   72 cbHeader u32, from 72  368 cbDisk u64           424 uuidLinkage[16]
//   76 type u32               376 cbBlock u32          440 uuidParentModify[16]
//   80 flags u32              380 cbBlockExtra u32     456 LCHS, if cbHeader >= 0x190
//   84 comment[256]           384 cBlocks u32
//
// Version 0 has the first fields at 72 already, its map at 420, and its blocks right after the map. Invariant: a VdiHeader that
// exists has been checked against its file; all that is written of it later lies in sector 0.

import { hexWords, readU64LE, writeU64LE } from '../../bytes/endian.ts';
import { hex, hostOffset, isPowerOfTwo, MAX_VIRTUAL_SIZE, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { NULL_UUID, UUID_BYTES, uuidBytes, uuidText } from '../guid.ts';
import type { ImageDetails } from '../image-format.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import { identityOf, parentReference, type VdiUuids } from './parent.ts';

export const VDI_SIGNATURE = 0xbeda107f;
export const VDI_VERSION = 0x00010001;
const VDI_VERSION_0 = 0x00000002;
/** The smallest cbHeader of version 1.1, and the one with the LCHS. */
const VDI_HEADER_BYTES = 0x180;
export const VDI_HEADER_BYTES_LCHS = 0x190;
/** Where cbHeader counts from. */
export const VDI_HEADER_START = 72;

export const VDI_IMAGE_TYPE_NORMAL = 1;
export const VDI_IMAGE_TYPE_FIXED = 2;
const VDI_IMAGE_TYPE_UNDO = 3;
export const VDI_IMAGE_TYPE_DIFF = 4;
const TYPE_NAMES: Readonly<Record<number, string>> = { 1: 'dynamic', 2: 'static', 4: 'differencing' };
const VDI_IMAGE_FLAGS_ZERO_EXPAND = 1;

export const VDI_MIN_BLOCK_SIZE = SECTOR_BYTES;
/** Entries that stand for no block; all lower ones are indices. */
export const VDI_IMAGE_BLOCK_ZERO = 0xfffffffe;
export const VDI_IMAGE_BLOCK_FREE = 0xffffffff;

/** Where single fields of version 1.1 stand. */
export const TYPE_AT = 76;
export const OFF_BLOCKS_AT = 340;
export const OFF_DATA_AT = 344;
export const DISK_SIZE_AT = 368;
export const BLOCK_COUNT_AT = 384;
export const ALLOCATED_AT = 388;
export const UUID_MODIFY_AT = 408;
export const UUID_LINKAGE_AT = 424;
export const UUID_PARENT_MODIFY_AT = 440;

/** The places of the fields that both versions have. */
interface Places {
  readonly type: number;
  readonly flags: number;
  readonly diskSize: number;
  readonly blockSize: number;
  readonly blockCount: number;
  readonly allocated: number;
  readonly uuids: number;
}
const PLACES: Places = {
  type: TYPE_AT,
  flags: 80,
  diskSize: DISK_SIZE_AT,
  blockSize: 376,
  ...{ blockCount: BLOCK_COUNT_AT, allocated: ALLOCATED_AT, uuids: 392 },
};
const PLACES_0: Places = {
  ...{ type: 72, flags: 76, diskSize: 352, blockSize: 360, blockCount: 364, allocated: 368, uuids: 372 },
};
/** The map of version 0. */
const MAP_OFFSET_0 = 420;

export interface VdiHeader extends VdiUuids {
  readonly isVersion0: boolean;
  readonly type: number;
  readonly flags: number;
  /** of the map, from the start of the file */
  readonly mapOffset: number;
  /** of block 0, its extra bytes included */
  readonly dataOffset: number;
  /** as stored; it need not be a multiple of 512 */
  readonly diskSize: number;
  readonly blockSize: number;
  readonly blockExtra: number;
  readonly blockCount: number;
  readonly allocated: number;
}

/** Reads and checks the header of `file`. Throws corrupt or unsupported with field, value and cure. */
export function readHeader(file: HostFile): VdiHeader {
  const bytes = new Uint8Array(SECTOR_BYTES);
  const got = file.read(bytes, 0, bytes.length, hostOffset(0));
  const view = new DataView(bytes.buffer);
  const least = view.getUint32(68, true) === VDI_VERSION_0 ? MAP_OFFSET_0 : VDI_HEADER_START + VDI_HEADER_BYTES;
  if (got < least) {
    throw invalid(file, 0, `the file has ${got} bytes, a VDI header takes ${least}; the file is truncated`);
  }
  const signature = view.getUint32(64, true);
  if (signature !== VDI_SIGNATURE)
    throw invalid(
      file,
      64,
      `the signature is ${hex(signature)} instead of ${hex(VDI_SIGNATURE)}; this is no VDI image`,
    );
  const isVersion0 = isVersionZero(file, view);
  const places = isVersion0 ? PLACES_0 : PLACES;
  const type = view.getUint32(places.type, true);
  if (TYPE_NAMES[type] === undefined) throw unknownType(file, places.type, type);
  const blocks = parseBlocks(file, view, places, isVersion0);
  const [uuidCreate, uuidModify, uuidLinkage, uuidParentModify] = parseUuids(bytes, places);
  const header: VdiHeader = {
    isVersion0,
    type,
    flags: view.getUint32(places.flags, true),
    ...blocks,
    ...parsePlaces(file, view, blocks, isVersion0),
    ...{ uuidCreate, uuidModify, uuidLinkage, uuidParentModify },
  };
  checkLinkage(file, header, places.uuids + 2 * UUID_BYTES);
  return header;
}

function isVersionZero(file: HostFile, view: DataView): boolean {
  const version = view.getUint32(68, true);
  if (version === VDI_VERSION_0) return true;
  if (version !== VDI_VERSION) {
    throw new ImgfuseError(
      'unsupported',
      `${file.path}: the VDI header at offset 68 has version ${hex(version)}, and known are ${hex(VDI_VERSION)} and ` +
        `${hex(VDI_VERSION_0)}; open the image with the program that made it`,
      { path: file.path, offset: 68 },
    );
  }
  const headerBytes = view.getUint32(VDI_HEADER_START, true);
  if (headerBytes < VDI_HEADER_BYTES) {
    const least = VDI_HEADER_BYTES;
    throw invalid(file, VDI_HEADER_START, `cbHeader is ${headerBytes}; it must be ${least} or more`);
  }
  return false;
}

function unknownType(file: HostFile, offset: number, type: number): ImgfuseError {
  if (type !== VDI_IMAGE_TYPE_UNDO)
    return invalid(file, offset, `type is ${type}; it must be 1 (dynamic), 2 (static) or 4 (differencing)`);
  return new ImgfuseError(
    'unsupported',
    `${file.path}: the VDI header at offset ${offset} has type 3 (undo), which no program uses; copy the image again, or ask ` +
      'whoever made it',
    { path: file.path, offset },
  );
}

type Blocks = Pick<VdiHeader, 'allocated' | 'blockCount' | 'blockExtra' | 'blockSize' | 'diskSize'>;

function parseBlocks(file: HostFile, view: DataView, places: Places, isVersion0: boolean): Blocks {
  const blockSize = view.getUint32(places.blockSize, true);
  if (!isPowerOfTwo(blockSize) || blockSize < VDI_MIN_BLOCK_SIZE) {
    throw invalid(file, places.blockSize, `cbBlock is ${blockSize}; it must be a power of two of at least 512`);
  }
  const blockExtra = isVersion0 ? 0 : view.getUint32(380, true);
  if (blockExtra !== 0 && !isPowerOfTwo(blockExtra)) {
    throw invalid(file, 380, `cbBlockExtra is ${blockExtra}; it must be 0 or a power of two`);
  }
  const blockCount = view.getUint32(places.blockCount, true);
  if (blockCount > VDI_IMAGE_BLOCK_ZERO) {
    throw invalid(file, places.blockCount, `cBlocks is ${blockCount}; it must be at most ${VDI_IMAGE_BLOCK_ZERO}`);
  }
  const diskSize = readU64LE(view, places.diskSize);
  if (Number.isNaN(diskSize) || diskSize > Math.min(blockCount * blockSize, MAX_VIRTUAL_SIZE)) {
    const { diskSize: at } = places;
    const value = hexWords(view.getUint32(at + 4, true), view.getUint32(at, true));
    const most = `the ${blockCount} blocks of ${blockSize} bytes`;
    throw invalid(file, at, `cbDisk is ${value}; it must be at most what ${most} hold, and below 8 PiB`);
  }
  return { blockSize, blockExtra, blockCount, diskSize, allocated: view.getUint32(places.allocated, true) };
}

function parsePlaces(
  file: HostFile,
  view: DataView,
  { blockCount, blockExtra, blockSize }: Blocks,
  isVersion0: boolean,
): Pick<VdiHeader, 'dataOffset' | 'mapOffset'> {
  const mapBytes = blockCount * ENTRY_BYTES;
  const mapOffset = isVersion0 ? MAP_OFFSET_0 : view.getUint32(OFF_BLOCKS_AT, true);
  const headerEnd = isVersion0 ? MAP_OFFSET_0 : VDI_HEADER_START + view.getUint32(VDI_HEADER_START, true);
  if (mapOffset < headerEnd || mapOffset % ENTRY_BYTES !== 0) {
    throw invalid(file, OFF_BLOCKS_AT, `offBlocks is ${mapOffset}; it must be a multiple of 4 from ${headerEnd} on`);
  }
  const dataOffset = isVersion0 ? MAP_OFFSET_0 + mapBytes : view.getUint32(OFF_DATA_AT, true);
  if (dataOffset < mapOffset + mapBytes) {
    const map = `the map of ${mapBytes} bytes at ${mapOffset}`;
    throw invalid(file, OFF_DATA_AT, `offData is ${dataOffset}; ${map} ends behind it`);
  }
  const size = file.size();
  if (mapOffset + mapBytes > size) {
    const at = isVersion0 ? PLACES_0.blockCount : OFF_BLOCKS_AT;
    const what = `the map of ${mapBytes} bytes at ${mapOffset} ends beyond the file of ${size} bytes`;
    throw invalid(file, at, `${what}, which is truncated; without its map nothing of it can be read: copy it again`);
  }
  const end = new Geometry(blockSize, blockExtra).hostStartOf(blockCount, dataOffset);
  if (!Number.isSafeInteger(end)) {
    throw invalid(file, PLACES.blockCount, `cBlocks is ${blockCount}; so many blocks reach beyond 8 PiB of the file`);
  }
  return { mapOffset, dataOffset };
}

function parseUuids(bytes: Uint8Array, { uuids }: Places): [string, string, string, string] {
  const at = (n: number): string => uuidText(bytes.subarray(uuids + n * UUID_BYTES, uuids + (n + 1) * UUID_BYTES));
  return [at(0), at(1), at(2), uuids === PLACES_0.uuids ? NULL_UUID : at(3)];
}

/** An image that is not said to be a differencing one, and has a parent, would show zeros in place of the parent's data. */
function checkLinkage(file: HostFile, { type, uuidLinkage }: VdiHeader, offset: number): void {
  const hasParent = uuidLinkage !== NULL_UUID;
  if (hasParent === (type === VDI_IMAGE_TYPE_DIFF)) return;
  const what = hasParent
    ? `uuidLinkage is ${uuidLinkage}, and an image of type ${type} (${TYPE_NAMES[type]}) has no parent`
    : 'uuidLinkage is null, and an image of type 4 (differencing) has a parent';
  throw invalid(file, offset, what);
}

const SIGNATURE_TEXT = '<<< imgfuse Virtual Disk Image >>>\n';
/** Of a disk for old programs: sectors, and heads at most. */
const [SECTORS_PER_TRACK, HEADS, MAX_CYLINDERS] = [63, 16, 16383];

/** Sector 0 of a new image of version 1.1. */
export function serializeHeader(header: Omit<VdiHeader, 'isVersion0'>): Uint8Array {
  const bytes = new Uint8Array(SECTOR_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(SIGNATURE_TEXT));
  const cylinders = Math.floor(header.diskSize / (SECTORS_PER_TRACK * HEADS * SECTOR_BYTES));
  const words: readonly (readonly [at: number, value: number])[] = [
    [64, VDI_SIGNATURE],
    [68, VDI_VERSION],
    [VDI_HEADER_START, VDI_HEADER_BYTES_LCHS],
    [PLACES.type, header.type],
    [PLACES.flags, header.flags],
    [OFF_BLOCKS_AT, header.mapOffset],
    [OFF_DATA_AT, header.dataOffset],
    [348, Math.min(cylinders, MAX_CYLINDERS)],
    [352, HEADS],
    [356, SECTORS_PER_TRACK],
    [360, SECTOR_BYTES],
    [PLACES.blockSize, header.blockSize],
    [380, header.blockExtra],
    [BLOCK_COUNT_AT, header.blockCount],
    [ALLOCATED_AT, header.allocated],
    // of the LCHS; the rest of it is 0, and whoever needs one computes it
    [468, SECTOR_BYTES],
  ];
  for (const [at, value] of words) view.setUint32(at, value, true);
  writeU64LE(view, DISK_SIZE_AT, header.diskSize);
  const { uuidCreate, uuidModify, uuidLinkage, uuidParentModify } = header;
  for (const [n, uuid] of [uuidCreate, uuidModify, uuidLinkage, uuidParentModify].entries()) {
    bytes.set(uuidBytes(uuid), PLACES.uuids + n * UUID_BYTES);
  }
  return bytes;
}

/** False for an image that is only read. */
export function isWritable({ flags, isVersion0 }: VdiHeader): boolean {
  return !isVersion0 && (flags & ~VDI_IMAGE_FLAGS_ZERO_EXPAND) === 0;
}

/** Throws unsupported for an image that is only read. */
export function assertWritable(file: HostFile, header: VdiHeader): void {
  if (isWritable(header)) return;
  const { flags, isVersion0 } = header;
  const unknown = (flags & ~VDI_IMAGE_FLAGS_ZERO_EXPAND) >>> 0;
  const what = isVersion0 ? 'is a VDI image of version 0' : `has unknown flags (${hex(unknown)}) in its VDI header`;
  const message = `${file.path} ${what}, which imgfuse only reads; mount it with -o ro, or with -o overlay=FILE, which takes the changes`;
  throw new ImgfuseError('unsupported', message, { path: file.path });
}

/** Bytes of the disk as QEMU shows them: whole sectors. */
export function virtualSizeOf({ diskSize }: Pick<VdiHeader, 'diskSize'>): number {
  return roundUp(diskSize, SECTOR_BYTES);
}

export function geometryOf({ blockExtra, blockSize }: VdiHeader): Geometry {
  return new Geometry(blockSize, blockExtra);
}

/** A change of one field of sector 0. */
export interface FieldChange {
  readonly at: number;
  readonly bytes: Uint8Array;
}

export function u32Field(at: number, value: number): FieldChange {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return { at, bytes };
}

export function u64Field(at: number, value: number): FieldChange {
  const bytes = new Uint8Array(8);
  writeU64LE(new DataView(bytes.buffer), 0, value);
  return { at, bytes };
}

/** Changes fields of sector 0 in one write, which happens as a whole or not at all. The caller makes it durable. */
export function writeHeaderFields(file: HostFile, changes: readonly FieldChange[]): void {
  const start = Math.min(...changes.map(({ at }) => at));
  const end = Math.max(...changes.map(({ at, bytes }) => at + bytes.length));
  const sector = new Uint8Array(end - start);
  file.read(sector, 0, sector.length, hostOffset(start));
  for (const { at, bytes } of changes) sector.set(bytes, at - start);
  file.write(sector, 0, sector.length, hostOffset(start));
}

/** The facts of a header for info and status. */
export function describeHeader(header: VdiHeader, virtualSize: number, uuidModify = header.uuidModify): ImageDetails {
  const isDiff = header.type === VDI_IMAGE_TYPE_DIFF;
  return {
    format: 'vdi',
    virtualSize,
    clusterSize: header.blockSize,
    dirty: false,
    isOnlyRead: !isWritable(header),
    ...(isDiff ? { backing: parentReference(header) } : {}),
    identity: identityOf({ uuidCreate: header.uuidCreate, uuidModify }),
    specific: {
      'image-type': TYPE_NAMES[header.type],
      'uuid-create': header.uuidCreate,
      'uuid-modify': uuidModify,
      ...(isDiff ? { 'uuid-parent': header.uuidLinkage, 'uuid-parent-modify': header.uuidParentModify } : {}),
    },
  };
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid VDI header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
