// The footer of a VHD: bytes <-> fields (Microsoft's VHD 1.0). Big-endian, 512 bytes at the end of every image; an image that is
// not fixed has a copy of it at offset 0. Bytes that are not known here are kept as they are.
//
//    0 "conectix"           24 timestamp u32 (since 2000)   56 cylinders u16, heads u8, sectors u8
//    8 features u32         28 creator [4], version u32      60 type u32: 2 fixed, 3 dynamic, 4 differencing
//   12 version u32          36 OS [4]                        64 checksum u32
//   16 header offset u64    40 original, current size u64    68 UUID [16], 84 saved state, 85 hidden (Xen)

import { readU64BE, writeU64BE } from '../../../bytes/endian.ts';
import { SECTOR_BYTES } from '../../../bytes/offsets.ts';

export const FOOTER_BYTES = 512;
/** Old fixed images end in a footer that is a byte shorter. */
export const SHORT_FOOTER_BYTES = 511;
export const FOOTER_COOKIE = 'conectix';
/** What Xen writes over the cookie of an image that nobody must use. */
export const POISON_COOKIE = 'v_poison';
export const VHD_VERSION = 0x00010000;
export const FIXED = 2;
export const DYNAMIC = 3;
export const DIFFERENCING = 4;
export type DiskType = typeof FIXED | typeof DYNAMIC | typeof DIFFERENCING;

const HEADER_OFFSET = 16;
const CURRENT_SIZE = 48;
const ORIGINAL_SIZE = 40;
const GEOMETRY = 56;
const TYPE = 60;
export const FOOTER_CHECKSUM = 64;
const UUID = 68;
/** Seconds between 1970 and 2000. */
const EPOCH_SECONDS = 946_684_800;
/** Creators whose size is what their geometry says: Virtual PC, and QEMU without force_size. */
const SIZED_BY_GEOMETRY: readonly string[] = ['vpc ', 'qemu'];
/** What QEMU writes with force_size: every reader takes the size as it is. */
const EXACT_CREATOR = 'qem2';
/** 2040 GiB: the largest disk of the format. */
export const MAX_DISK_BYTES = 0xff000000 * SECTOR_BYTES;

export interface DiskGeometry {
  readonly cylinders: number;
  readonly heads: number;
  readonly sectors: number;
}

/** The geometry that says nothing about the size of the disk. */
export const LARGEST_GEOMETRY: DiskGeometry = { cylinders: 65535, heads: 16, sectors: 255 };

export interface Footer {
  /** all 512, as they were read */
  readonly bytes: Uint8Array;
  /** NaN if it is no safe integer, as the all-ones of a fixed image are */
  readonly headerOffset: number;
  readonly creator: string;
  /** bytes of the disk; NaN if that is no safe integer */
  readonly size: number;
  readonly type: number;
  readonly version: number;
  readonly uuid: string;
  /** the checksum is right */
  readonly isSound: boolean;
}

/** @param bytes 512, or the 511 of an old footer @returns null without the cookie */
export function parseFooter(bytes: Uint8Array): Footer | null {
  if (bytes.length < SHORT_FOOTER_BYTES || textAt(bytes, 0, 8) !== FOOTER_COOKIE) return null;
  const whole = new Uint8Array(FOOTER_BYTES);
  whole.set(bytes.subarray(0, FOOTER_BYTES));
  const view = new DataView(whole.buffer);
  return {
    bytes: whole,
    headerOffset: readU64BE(view, HEADER_OFFSET),
    creator: textAt(whole, 28, 4),
    size: sizeOf(view, textAt(whole, 28, 4)),
    type: view.getUint32(TYPE, false),
    version: view.getUint32(12, false),
    uuid: uuidAt(whole, UUID),
    isSound: view.getUint32(FOOTER_CHECKSUM, false) === checksumOf(whole, FOOTER_CHECKSUM),
  };
}

function sizeOf(view: DataView, creator: string): number {
  const geometry = geometryAt(view);
  const { cylinders, heads, sectors } = geometry;
  const isLargest = cylinders === 65535 && heads === 16 && sectors === 255;
  if (isLargest || !SIZED_BY_GEOMETRY.includes(creator)) return readU64BE(view, CURRENT_SIZE);
  return bytesOfGeometry(geometry);
}

function geometryAt(view: DataView): DiskGeometry {
  return {
    cylinders: view.getUint16(GEOMETRY, false),
    heads: view.getUint8(GEOMETRY + 2),
    sectors: view.getUint8(GEOMETRY + 3),
  };
}

export function bytesOfGeometry({ cylinders, heads, sectors }: DiskGeometry): number {
  return cylinders * heads * sectors * SECTOR_BYTES;
}

/** The one's complement of the sum of all bytes, the checksum itself left out. */
export function checksumOf(bytes: Uint8Array, field: number): number {
  let sum = 0;
  for (let at = 0; at < bytes.length; at++) if (at < field || at >= field + 4) sum += bytes[at]!;
  return ~sum >>> 0;
}

/** Sets the checksum of a footer or header whose other bytes have changed. */
export function sign(bytes: Uint8Array, field: number): Uint8Array {
  new DataView(bytes.buffer, bytes.byteOffset, bytes.length).setUint32(field, checksumOf(bytes, field), false);
  return bytes;
}

/** The same image with a disk of another size, which every reader takes to the byte. */
export function footerOfSize(footer: Uint8Array, size: number): Uint8Array {
  const bytes = footer.slice();
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(EXACT_CREATOR, 'latin1'), 28);
  writeU64BE(view, CURRENT_SIZE, size);
  setGeometry(view, LARGEST_GEOMETRY);
  return sign(bytes, FOOTER_CHECKSUM);
}

/** The same image with its header elsewhere, and with a parent or without one. */
export function footerOfHeader(footer: Uint8Array, type: DiskType, headerOffset: number): Uint8Array {
  const bytes = footer.slice();
  const view = new DataView(bytes.buffer);
  writeU64BE(view, HEADER_OFFSET, headerOffset);
  view.setUint32(TYPE, type, false);
  return sign(bytes, FOOTER_CHECKSUM);
}

/** The size that the footer says, whatever its geometry. */
export function currentSizeOf(footer: Uint8Array): number {
  return readU64BE(new DataView(footer.buffer, footer.byteOffset, footer.length), CURRENT_SIZE);
}

export interface NewFooter {
  readonly type: DiskType;
  readonly size: number;
  /** 'exact': the size is `size`; else the size is what the geometry says, as QEMU writes it without force_size */
  readonly geometry: DiskGeometry | 'exact';
  /** of the header; null for a fixed image */
  readonly headerOffset: number | null;
  readonly uuid: Uint8Array;
  readonly timestamp: number;
}

export function makeFooter({ type, size, geometry, headerOffset, uuid, timestamp }: NewFooter): Uint8Array {
  const bytes = new Uint8Array(FOOTER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(FOOTER_COOKIE, 'latin1'));
  view.setUint32(8, 2, false);
  view.setUint32(12, VHD_VERSION, false);
  if (headerOffset === null) bytes.fill(0xff, HEADER_OFFSET, HEADER_OFFSET + 8);
  else writeU64BE(view, HEADER_OFFSET, headerOffset);
  view.setUint32(24, timestamp, false);
  bytes.set(Buffer.from(geometry === 'exact' ? EXACT_CREATOR : 'qemu', 'latin1'), 28);
  view.setUint32(32, 0x00050003, false);
  bytes.set(Buffer.from('Wi2k', 'latin1'), 36);
  writeU64BE(view, ORIGINAL_SIZE, size);
  writeU64BE(view, CURRENT_SIZE, size);
  setGeometry(view, geometry === 'exact' ? LARGEST_GEOMETRY : geometry);
  view.setUint32(TYPE, type, false);
  bytes.set(uuid, UUID);
  return sign(bytes, FOOTER_CHECKSUM);
}

function setGeometry(view: DataView, { cylinders, heads, sectors }: DiskGeometry): void {
  view.setUint16(GEOMETRY, cylinders, false);
  view.setUint8(GEOMETRY + 2, heads);
  view.setUint8(GEOMETRY + 3, sectors);
}

/** The geometry of a disk of so many sectors, by the algorithm of the specification; it may stand for fewer. */
export function geometryOf(sectorCount: number): DiskGeometry {
  if (sectorCount >= 65535 * 16 * 63) {
    return { cylinders: Math.min(65535, Math.floor(Math.floor(sectorCount / 255) / 16)), heads: 16, sectors: 255 };
  }
  let sectors = 17;
  let tracks = Math.floor(sectorCount / 17);
  let heads = Math.max(4, Math.ceil(tracks / 1024));
  if (tracks >= heads * 1024 || heads > 16) {
    [sectors, heads] = [31, 16];
    tracks = Math.floor(sectorCount / 31);
  }
  if (tracks >= heads * 1024) {
    [sectors, heads] = [63, 16];
    tracks = Math.floor(sectorCount / 63);
  }
  return { cylinders: Math.floor(tracks / heads), heads, sectors };
}

/** Milliseconds since 1970 as a timestamp of the format: seconds since 2000, 0 before that. */
export function timestampOf(ms: number): number {
  return Math.min(0xffffffff, Math.max(0, Math.floor(ms / 1000) - EPOCH_SECONDS));
}

export function uuidAt(bytes: Uint8Array, at: number): string {
  const digits = Buffer.from(bytes.subarray(at, at + 16)).toString('hex');
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

export const NO_UUID = uuidAt(new Uint8Array(16), 0);

export function uuidBytes(uuid: string): Uint8Array {
  return Uint8Array.from(Buffer.from(uuid.replaceAll('-', ''), 'hex'));
}

export function textAt(bytes: Uint8Array, at: number, length: number): string {
  return Buffer.from(bytes.subarray(at, at + length)).toString('latin1');
}
