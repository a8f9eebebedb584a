// The header of a growing Bochs disk image (Bochs iodev/hdimage), little-endian:
//
//    0 magic[32] "Bochs Virtual HD Image"    72 catalog u32, entries     84 disk u64, bytes      (version 1)
//   32 type[16] "Redolog"                    76 bitmap u32, bytes        84 timestamp u32, 88 disk u64 (version 2)
//   48 subtype[16] "Growing"                 80 extent u32, bytes
//   64 version u32   68 header u32, bytes
//
// Invariant: a BochsHeader has been checked against its file, so its whole catalog can be read.

import { hexWords, readU64LE } from '../../bytes/endian.ts';
import { hex, hostOffset, isPowerOfTwo, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { HEADER_MAGIC } from './signature.ts';

const REDOLOG_TYPE = 'Redolog';
const GROWING_TYPE = 'Growing';
const HEADER_VERSION = 0x00020000;
const HEADER_V1 = 0x00010000;

/** End of the last field of version 2. */
const HEADER_BYTES = 96;
const MAGIC_BYTES = 32;
const TYPE_BYTES = 16;
const VERSION_AT = 64;
const HEADER_AT = 68;
const CATALOG_AT = 72;
const BITMAP_AT = 76;
const EXTENT_AT = 80;
const DISK_V1_AT = 84;
const DISK_AT = 88;

export const CATALOG_ENTRY_BYTES = 4;
/** 4 MiB of memory, as in QEMU. */
const MAX_CATALOG_ENTRIES = 0x100000;
const MIN_EXTENT_BYTES = 512;
const MAX_EXTENT_BYTES = 8 * 1024 * 1024;
/** Keeps every host offset a safe integer. It is far above what Bochs writes: one bit per sector. */
const MAX_BITMAP_BYTES = 1024 * 1024;

export interface BochsHeader {
  readonly version: 1 | 2;
  /** length of the header: the host offset of the catalog */
  readonly headerBytes: number;
  /** entries of the whole catalog; the extents follow it */
  readonly catalogEntries: number;
  /** bytes of the bitmap before the sectors of an extent */
  readonly bitmapBytes: number;
  readonly extentBytes: number;
  /** virtual size in bytes */
  readonly diskBytes: number;
}

/** Reads and checks the header of `file`. @throws ImgfuseError corrupt, unsupported: with field, value and what to do */
export function readHeader(file: HostFile): BochsHeader {
  const bytes = new Uint8Array(HEADER_BYTES);
  const got = file.read(bytes, 0, HEADER_BYTES, hostOffset(0));
  if (got < HEADER_BYTES) {
    throw invalid(file, 0, `the file has ${got} bytes, but a Bochs header has ${HEADER_BYTES}; the file is truncated`);
  }
  const view = new DataView(bytes.buffer);
  checkKind(file, bytes);
  const version = versionOf(file, view);
  const catalogEntries = view.getUint32(CATALOG_AT, true);
  if (catalogEntries === 0 || catalogEntries > MAX_CATALOG_ENTRIES) {
    const sentence = `catalog has ${catalogEntries} entries; it must have from 1 to ${MAX_CATALOG_ENTRIES}`;
    throw invalid(file, CATALOG_AT, sentence);
  }
  const headerBytes = view.getUint32(HEADER_AT, true);
  const catalogEnd = headerBytes + catalogEntries * CATALOG_ENTRY_BYTES;
  if (headerBytes < HEADER_BYTES || catalogEnd > file.size()) {
    const sentence = `header has ${headerBytes} bytes, and the catalog after it would end at ${hex(catalogEnd)}`;
    throw invalid(file, HEADER_AT, `${sentence}; the file has ${file.size()} bytes`);
  }
  const extentBytes = extentBytesOf(file, view);
  return {
    version,
    headerBytes,
    catalogEntries,
    bitmapBytes: bitmapBytesOf(file, view, extentBytes),
    extentBytes,
    diskBytes: diskBytesOf(file, view, version, catalogEntries * extentBytes),
  };
}

function checkKind(file: HostFile, bytes: Uint8Array): void {
  const text = (at: number, length: number): string =>
    Buffer.from(bytes.subarray(at, at + length))
      .toString('latin1')
      .replace(/\0.*$/s, '');
  const magic = text(0, MAGIC_BYTES);
  if (magic !== HEADER_MAGIC) throw invalid(file, 0, `magic is ${JSON.stringify(magic)}; this is not a Bochs image`);
  const type = text(MAGIC_BYTES, TYPE_BYTES);
  const subtype = text(MAGIC_BYTES + TYPE_BYTES, TYPE_BYTES);
  if (type === REDOLOG_TYPE && subtype === GROWING_TYPE) return;
  const kind = JSON.stringify(`${type} ${subtype}`);
  throw new ImgfuseError(
    'unsupported',
    `${file.path} is a Bochs image of the kind ${kind}, but only growing images are whole disks; commit it to its base with bximage`,
    { path: file.path, offset: MAGIC_BYTES },
  );
}

function versionOf(file: HostFile, view: DataView): 1 | 2 {
  const version = view.getUint32(VERSION_AT, true);
  if (version === HEADER_VERSION) return 2;
  if (version === HEADER_V1) return 1;
  throw new ImgfuseError(
    'unsupported',
    `${file.path}: the Bochs header at offset ${VERSION_AT} has version ${hex(version)}, and imgfuse knows ` +
      `${hex(HEADER_V1)} and ${hex(HEADER_VERSION)}; open the image with the newer program that wrote it`,
    { path: file.path, offset: VERSION_AT },
  );
}

function extentBytesOf(file: HostFile, view: DataView): number {
  const extentBytes = view.getUint32(EXTENT_AT, true);
  if (isPowerOfTwo(extentBytes) && extentBytes >= MIN_EXTENT_BYTES && extentBytes <= MAX_EXTENT_BYTES)
    return extentBytes;
  const limits = `a power of two from ${MIN_EXTENT_BYTES} to ${MAX_EXTENT_BYTES}`;
  throw invalid(file, EXTENT_AT, `extent has ${extentBytes} bytes; it must be ${limits}`);
}

function bitmapBytesOf(file: HostFile, view: DataView, extentBytes: number): number {
  const bitmapBytes = view.getUint32(BITMAP_AT, true);
  const needed = Math.ceil(extentBytes / SECTOR_BYTES / 8);
  if (bitmapBytes >= needed && bitmapBytes <= MAX_BITMAP_BYTES) return bitmapBytes;
  const limits = `from ${needed} for an extent of ${extentBytes} bytes to ${MAX_BITMAP_BYTES}`;
  throw invalid(file, BITMAP_AT, `bitmap has ${bitmapBytes} bytes; it must have ${limits}`);
}

function diskBytesOf(file: HostFile, view: DataView, version: 1 | 2, mapped: number): number {
  const at = version === 1 ? DISK_V1_AT : DISK_AT;
  const diskBytes = readU64LE(view, at);
  if (diskBytes % SECTOR_BYTES === 0 && diskBytes <= mapped) return diskBytes;
  const value = hexWords(view.getUint32(at + 4, true), view.getUint32(at, true));
  const limits = `a multiple of ${SECTOR_BYTES} up to the ${mapped} bytes that the catalog maps`;
  throw invalid(file, at, `disk has ${value} bytes; it must be ${limits}`);
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: Bochs header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
