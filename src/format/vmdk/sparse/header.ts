// The header of a hosted sparse extent: bytes <-> fields, every limit checked. Little-endian; places of the 512 bytes:
//
//    0 "KDMV"            28 descriptorOffset u64   64 overHead u64
//    4 version u32       36 descriptorSize u64     72 uncleanShutdown u8
//    8 flags u32         44 numGTEsPerGT u32       73 newline test 0a 20 0d 0a
//   12 capacity u64      48 rgdOffset u64          77 compressAlgorithm u16
//   20 grainSize u64     56 gdOffset u64           79 zeros
//
// Sizes and offsets are in sectors there, and in bytes here. A SparseHeader that exists has been checked against its file.

import { hexWords, readU64LE, writeU64LE } from '../../../bytes/endian.ts';
import { hex, hostOffset, isPowerOfTwo, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ExtentFacts } from '../extent.ts';

export const SPARSE_MAGIC = 'KDMV';
export const SPARSE_HEADER_BYTES = SECTOR_BYTES;
export const SPARSEFLAG_VALID_NEWLINE = 1;
export const SPARSEFLAG_USE_REDUNDANT = 2;
export const SPARSEFLAG_ZERO_GRAINS = 4;
export const SPARSEFLAG_COMPRESSED = 0x10000;
export const SPARSEFLAG_EMBEDDED_LBA = 0x20000;
/** Flags from here on change what the extent means. */
const INCOMPATIBLE_FLAGS = 0xffff0000;
export const COMPRESSION_DEFLATE = 1;
/** Where the directory of a streamed extent is: in the footer. */
export const GD_AT_END = 'footer';

export const CAPACITY_AT = 12;
export const RGD_OFFSET_AT = 48;
export const GD_OFFSET_AT = 56;
export const UNCLEAN_AT = 72;
const NEWLINE_AT = 73;
const NEWLINE_TEST = [0x0a, 0x20, 0x0d, 0x0a] as const;

const MIN_GRAIN_SECTORS = 8;
const MAX_GRAIN_SECTORS = 2 ** 21;
const MIN_TABLE_ENTRIES = 128;
const MAX_TABLE_ENTRIES = 65536;
/** 128 MiB of memory, were all of them read at once. */
export const MAX_DIRECTORY_ENTRIES = 2 ** 25;
export const ENTRY_BYTES = 4;

export interface SparseHeader {
  readonly version: number;
  readonly flags: number;
  readonly capacity: number;
  readonly grainBytes: number;
  readonly descriptorOffset: number;
  readonly descriptorBytes: number;
  readonly tableEntries: number;
  /** 0: there is none */
  readonly redundantOffset: number;
  readonly directoryOffset: number | typeof GD_AT_END;
  readonly overheadBytes: number;
  readonly isUnclean: boolean;
  readonly compression: number;
}

/** Reads and checks the header. @throws ImgfuseError corrupt, unsupported */
export function readHeader(file: HostFile): SparseHeader {
  const bytes = new Uint8Array(SPARSE_HEADER_BYTES);
  const got = file.read(bytes, 0, bytes.length, hostOffset(0));
  if (got < bytes.length) {
    throw invalid(file, 0, `the file has ${got} bytes, and the header takes ${bytes.length}; the file is truncated`);
  }
  const header = parseHeader(file, bytes, 0);
  checkPlaces(file, header);
  return header;
}

/** Checks each field by itself. @param at offset of the header in the file, for messages */
export function parseHeader(file: HostFile, bytes: Uint8Array, at: number): SparseHeader {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const refuse = (place: number, what: string): never => {
    throw invalid(file, at + place, what);
  };
  const magic = Buffer.from(bytes.subarray(0, 4)).toString('latin1');
  if (magic !== SPARSE_MAGIC) refuse(0, `the magic is ${JSON.stringify(magic)} instead of "${SPARSE_MAGIC}"`);
  const sectors = (place: number, most: number, what: string): number => {
    const value = readU64LE(view, place);
    if (!(value <= most)) {
      const shown = hexWords(view.getUint32(place + 4, true), view.getUint32(place, true));
      refuse(place, `${what} is ${shown} sectors; it must be at most ${hex(most)}`);
    }
    return value * SECTOR_BYTES;
  };
  const place = (where: number, what: string): number => sectors(where, 2 ** 32 - 1, what);
  const version = view.getUint32(4, true);
  const flags = view.getUint32(8, true);
  checkKind(file, at, version, flags);
  if ((flags & SPARSEFLAG_VALID_NEWLINE) !== 0 && NEWLINE_TEST.some((byte, i) => bytes[NEWLINE_AT + i] !== byte)) {
    refuse(NEWLINE_AT, 'the newline test is damaged: the file was copied as text; copy it again as binary');
  }
  const capacity = sectors(CAPACITY_AT, Math.floor(MAX_VIRTUAL_SIZE / SECTOR_BYTES), 'capacity');
  if (capacity === 0) refuse(CAPACITY_AT, 'capacity is 0; an extent has one sector at least');
  const grainBytes = sectors(20, MAX_GRAIN_SECTORS, 'grainSize');
  if (!isPowerOfTwo(grainBytes) || grainBytes < MIN_GRAIN_SECTORS * SECTOR_BYTES) {
    const limits = `a power of two from ${MIN_GRAIN_SECTORS} to ${MAX_GRAIN_SECTORS}`;
    refuse(20, `grainSize is ${grainBytes / SECTOR_BYTES} sectors; it must be ${limits}`);
  }
  const tableEntries = view.getUint32(44, true);
  if (!isPowerOfTwo(tableEntries) || tableEntries < MIN_TABLE_ENTRIES || tableEntries > MAX_TABLE_ENTRIES) {
    const limits = `a power of two from ${MIN_TABLE_ENTRIES} to ${MAX_TABLE_ENTRIES}, normally 512`;
    refuse(44, `numGTEsPerGT is ${tableEntries}; it must be ${limits}`);
  }
  const entries = Math.ceil(capacity / (tableEntries * grainBytes));
  if (entries > MAX_DIRECTORY_ENTRIES) {
    refuse(
      CAPACITY_AT,
      `capacity needs a directory of ${entries} grain tables; at most ${MAX_DIRECTORY_ENTRIES} are possible`,
    );
  }
  const usesRedundant = (flags & SPARSEFLAG_USE_REDUNDANT) !== 0;
  return {
    version,
    flags,
    capacity,
    grainBytes,
    tableEntries,
    descriptorOffset: place(28, 'descriptorOffset'),
    descriptorBytes: place(36, 'descriptorSize'),
    redundantOffset: usesRedundant ? place(RGD_OFFSET_AT, 'rgdOffset') : 0,
    directoryOffset: isAllOnes(view, GD_OFFSET_AT) ? GD_AT_END : place(GD_OFFSET_AT, 'gdOffset'),
    overheadBytes: place(64, 'overHead'),
    isUnclean: bytes[UNCLEAN_AT] !== 0,
    compression: view.getUint16(77, true),
  };
}

function isAllOnes(view: DataView, place: number): boolean {
  return view.getUint32(place, true) === 0xffffffff && view.getUint32(place + 4, true) === 0xffffffff;
}

function checkKind(file: HostFile, at: number, version: number, flags: number): void {
  const { path } = file;
  const unsupported = (place: number, what: string): never => {
    throw new ImgfuseError(
      'unsupported',
      `${path}: the VMDK header at offset ${at + place} has ${what}; open the image with the program that made it`,
      { path, offset: at + place },
    );
  };
  if (version < 1 || version > 3) unsupported(4, `version ${version}, and known are 1, 2 and 3`);
  const unknown = (flags & INCOMPATIBLE_FLAGS & ~(SPARSEFLAG_COMPRESSED | SPARSEFLAG_EMBEDDED_LBA)) >>> 0;
  if (unknown !== 0) unsupported(8, `flags ${hex(flags)}, of which ${hex(unknown)} are not known`);
  if ((flags & SPARSEFLAG_EMBEDDED_LBA) !== 0 && (flags & SPARSEFLAG_COMPRESSED) === 0) {
    unsupported(8, `flags ${hex(flags)}: markers without compression`);
  }
}

/** What the header says of the file, checked against its length. */
function checkPlaces(file: HostFile, header: SparseHeader): void {
  const { descriptorBytes, descriptorOffset, directoryOffset, overheadBytes, redundantOffset } = header;
  const size = file.size();
  const refuse = (place: number, what: string): never => {
    throw invalid(file, place, what);
  };
  if (overheadBytes > size) {
    refuse(64, `overHead is ${overheadBytes} bytes, and the file has ${size}; it is truncated: copy it again`);
  }
  if (descriptorOffset !== 0 && (descriptorOffset < SPARSE_HEADER_BYTES || descriptorOffset + descriptorBytes > size)) {
    refuse(28, `the descriptor of ${descriptorBytes} bytes at ${hex(descriptorOffset)} lies outside the file`);
  }
  const bytes = directoryEntriesOf(header) * ENTRY_BYTES;
  const check = (place: number, offset: number, what: string): void => {
    if (offset < SPARSE_HEADER_BYTES) refuse(place, `${what} is sector ${offset / SECTOR_BYTES}, inside the header`);
    if (offset + bytes > size) {
      refuse(place, `the ${what} of ${bytes} bytes at ${hex(offset)} ends beyond the file of ${size} bytes`);
    }
  };
  if (directoryOffset !== GD_AT_END) check(GD_OFFSET_AT, directoryOffset, 'grain directory');
  if (isCompressed(header) || directoryOffset === GD_AT_END) return;
  if (redundantOffset !== 0) check(RGD_OFFSET_AT, redundantOffset, 'redundant grain directory');
  // what is written to one of them would change the other
  const apart = (place: number, what: string, start: number, otherStart: number, otherBytes: number): void => {
    if (start === 0 || otherStart === 0 || start >= otherStart + otherBytes || start + bytes <= otherStart) return;
    refuse(place, `the ${what} at ${hex(start)} overlaps what lies at ${hex(otherStart)}`);
  };
  apart(GD_OFFSET_AT, 'grain directory', directoryOffset, descriptorOffset, descriptorBytes);
  apart(RGD_OFFSET_AT, 'redundant grain directory', redundantOffset, descriptorOffset, descriptorBytes);
  if (redundantOffset !== directoryOffset) {
    apart(RGD_OFFSET_AT, 'redundant grain directory', redundantOffset, directoryOffset, bytes);
  }
}

export function directoryEntriesOf(header: Pick<SparseHeader, 'capacity' | 'grainBytes' | 'tableEntries'>): number {
  return Math.ceil(header.capacity / (header.tableEntries * header.grainBytes));
}

export function isCompressed({ flags }: Pick<SparseHeader, 'flags'>): boolean {
  return (flags & SPARSEFLAG_COMPRESSED) !== 0;
}

/** The header as bytes. */
export function serializeHeader(header: SparseHeader): Uint8Array {
  const bytes = new Uint8Array(SPARSE_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(SPARSE_MAGIC, 'latin1'));
  view.setUint32(4, header.version, true);
  view.setUint32(8, header.flags, true);
  const fields: readonly (readonly [place: number, bytes: number])[] = [
    [CAPACITY_AT, header.capacity],
    [20, header.grainBytes],
    [28, header.descriptorOffset],
    [36, header.descriptorBytes],
    [RGD_OFFSET_AT, header.redundantOffset],
    [64, header.overheadBytes],
  ];
  for (const [place, value] of fields) writeU64LE(view, place, value / SECTOR_BYTES);
  if (header.directoryOffset === GD_AT_END) bytes.fill(0xff, GD_OFFSET_AT, GD_OFFSET_AT + 8);
  else writeU64LE(view, GD_OFFSET_AT, header.directoryOffset / SECTOR_BYTES);
  view.setUint32(44, header.tableEntries, true);
  bytes[UNCLEAN_AT] = header.isUnclean ? 1 : 0;
  bytes.set(NEWLINE_TEST, NEWLINE_AT);
  view.setUint16(77, header.compression, true);
  return bytes;
}

/** @param onlyRead as in ExtentFacts */
export function factsOf(header: SparseHeader, onlyRead: string | null): ExtentFacts {
  const { capacity, descriptorBytes, descriptorOffset, grainBytes, isUnclean } = header;
  const hasRoom = descriptorOffset !== 0 && descriptorBytes !== 0;
  return {
    capacity,
    grainBytes,
    isUnclean,
    onlyRead,
    isCompressed: isCompressed(header),
    descriptor: hasRoom ? { offset: hostOffset(descriptorOffset), length: descriptorBytes } : null,
  };
}

/** Whether a file begins with a header of a hosted sparse extent, compressed or not. */
export function matchesSparse(head: Uint8Array, compressed: boolean): boolean {
  if (head.length < 12 || Buffer.from(head.subarray(0, 4)).toString('latin1') !== SPARSE_MAGIC) return false;
  const flags = new DataView(head.buffer, head.byteOffset).getUint32(8, true);
  return ((flags & SPARSEFLAG_COMPRESSED) !== 0) === compressed;
}

export function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  const { path } = file;
  return new ImgfuseError('corrupt', `${path}: invalid VMDK header at offset ${offset}: ${what}`, { path, offset });
}
