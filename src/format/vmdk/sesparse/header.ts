// The header of an SESparse extent: u64 fields, little-endian, in sectors where they are sizes or offsets.
//
//    0 magic 0xcafebabe      3 grain size: 8             16 17 grain directory: offset, size
//    1 version 2.1           4 grain table size: 64      18    grain tables: offset
//    2 capacity              5 .. 9 zeros                24    grains: offset
//                           10 volatile header           from byte 208 on zeros
//
// The volatile header says whether a journal has to be replayed first, which nothing here can do.

import { combine, hexWords, readU64LE } from '../../../bytes/endian.ts';
import { hostOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';

const SESPARSE_CONST_HEADER_MAGIC = 0xcafebabe;
const SESPARSE_VOLATILE_HEADER_MAGIC = 0xcafecafe;
const VERSION_HIGH = 2;
const VERSION_LOW = 1;
const GRAIN_SECTORS = 8;
const TABLE_SECTORS = 64;
const RESERVED = [5, 6, 7, 8, 9] as const;
export const GRAIN_BYTES = GRAIN_SECTORS * SECTOR_BYTES;
export const TABLE_BYTES = TABLE_SECTORS * SECTOR_BYTES;
export const ENTRY_BYTES = 8;
export const TABLE_ENTRIES = TABLE_BYTES / ENTRY_BYTES;
const REPLAY_FIELD = 3;

export interface SeSparseHeader {
  readonly capacity: number;
  readonly directoryOffset: number;
  readonly tablesOffset: number;
  readonly grainsOffset: number;
}

export function matchesSeSparse(head: Uint8Array): boolean {
  if (head.length < 8) return false;
  const view = new DataView(head.buffer, head.byteOffset);
  return view.getUint32(0, true) === SESPARSE_CONST_HEADER_MAGIC && view.getUint32(4, true) === 0;
}

/** Reads and checks both headers. @throws ImgfuseError corrupt, unsupported */
export function readSeSparseHeader(file: HostFile): SeSparseHeader {
  const view = readSector(file, 0, 'header');
  if (!matchesSeSparse(new Uint8Array(view.buffer))) throw invalid(file, 0, `the magic is ${shown(view, 0)}`);
  const [low, high] = [view.getUint32(8, true), view.getUint32(12, true)];
  if (high !== VERSION_HIGH || low !== VERSION_LOW) {
    throw unsupported(file, 8, `version ${high}.${low}, and known is 2.1`);
  }
  if (field(view, 3) !== GRAIN_SECTORS)
    throw unsupported(file, 24, `grains of ${shown(view, 3)} sectors, and known are 8`);
  if (field(view, 4) !== TABLE_SECTORS)
    throw unsupported(file, 32, `grain tables of ${shown(view, 4)} sectors, and known are 64`);
  for (const n of RESERVED) {
    if (field(view, n) !== 0) throw unsupported(file, n * 8, `${shown(view, n)} in a field that must be 0`);
  }
  const capacity = bytesOf(file, view, 2, 'capacity');
  if (capacity === 0) throw invalid(file, 16, 'capacity is 0; an extent has one sector at least');
  const header = {
    capacity,
    directoryOffset: placeOf(file, view, 16, 'grain directory'),
    tablesOffset: placeOf(file, view, 18, 'grain tables'),
    grainsOffset: placeOf(file, view, 24, 'grains'),
  };
  const entries = Math.ceil(capacity / (TABLE_ENTRIES * GRAIN_BYTES));
  const directoryBytes = bytesOf(file, view, 17, 'size of the grain directory');
  if (directoryBytes < entries * ENTRY_BYTES) {
    throw invalid(
      file,
      136,
      `the grain directory has ${directoryBytes} bytes, and the capacity needs ${entries * ENTRY_BYTES}`,
    );
  }
  if (header.directoryOffset + entries * ENTRY_BYTES > file.size()) {
    throw invalid(file, 128, `the grain directory ends beyond the file of ${file.size()} bytes, which is truncated`);
  }
  checkVolatile(file, placeOf(file, view, 10, 'volatile header'));
  return header;
}

function checkVolatile(file: HostFile, at: number): void {
  const view = readSector(file, at, 'volatile header');
  if (view.getUint32(0, true) !== SESPARSE_VOLATILE_HEADER_MAGIC || view.getUint32(4, true) !== 0) {
    throw invalid(file, at, `the magic of the volatile header is ${shown(view, 0)}`);
  }
  if (field(view, REPLAY_FIELD) === 0) return;
  const { path } = file;
  throw new ImgfuseError(
    'unsupported',
    `${path} was not closed clean: its journal must be replayed first; start and stop the virtual machine on its ESX host, or copy the image again`,
    { path, offset: at + REPLAY_FIELD * 8 },
  );
}

function readSector(file: HostFile, at: number, what: string): DataView {
  const bytes = new Uint8Array(SECTOR_BYTES);
  if (file.read(bytes, 0, bytes.length, hostOffset(at)) < bytes.length) {
    throw invalid(file, at, `the ${what} ends beyond the file of ${file.size()} bytes, which is truncated`);
  }
  return new DataView(bytes.buffer);
}

function field(view: DataView, n: number): number {
  return readU64LE(view, n * 8);
}

function shown(view: DataView, n: number): string {
  return hexWords(view.getUint32(n * 8 + 4, true), view.getUint32(n * 8, true));
}

function bytesOf(file: HostFile, view: DataView, n: number, what: string): number {
  const sectors = combine(view.getUint32(n * 8 + 4, true), view.getUint32(n * 8, true));
  if (sectors * SECTOR_BYTES <= MAX_VIRTUAL_SIZE) return sectors * SECTOR_BYTES;
  throw invalid(file, n * 8, `${what} is ${shown(view, n)} sectors, more than 8 PiB`);
}

/** Of what lies behind the header. */
function placeOf(file: HostFile, view: DataView, n: number, what: string): number {
  const offset = bytesOf(file, view, n, what);
  if (offset >= SECTOR_BYTES) return offset;
  throw invalid(file, n * 8, `${what} is sector ${shown(view, n)}, inside the header`);
}

function unsupported(file: HostFile, offset: number, what: string): ImgfuseError {
  const { path } = file;
  const sentence = `${path}: the SESparse header at offset ${offset} has ${what}; open the image with the program that made it`;
  return new ImgfuseError('unsupported', sentence, { path, offset });
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  const { path } = file;
  return new ImgfuseError('corrupt', `${path}: invalid SESparse header at offset ${offset}: ${what}`, { path, offset });
}
