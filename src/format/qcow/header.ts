// The header of a qcow image of version 1, big-endian. Source: QEMU block/qcow.c.
//
//    0 magic "QFI\xfb"    8 backing name u64    20 mtime u32    32 cluster bits u8    36 encryption u32
//    4 version u32 = 1   16 its length u32      24 size u64     33 L2 bits u8         40 L1 table u64
//
// The name of the backing file follows the header, and the L1 table the name; a name that was given later may lie in a cluster of its own.
// Nothing else in it ever changes once it is made.
// Invariant: a QcowHeader has been checked against its file, so its whole L1 table can be read.

import { hexWords, readU64BE, writeU64BE } from '../../bytes/endian.ts';
import { bytesOfName, nameOfBytes } from '../../bytes/names.ts';
import { hex, hostOffset, MAX_VIRTUAL_SIZE, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';
import { ENTRY_BYTES, Geometry, type TableFields } from './geometry.ts';

const QCOW_MAGIC = 0x514649fb;
const QCOW_VERSION = 1;
export const QCOW_CRYPT_NONE = 0;
export const QCOW_CRYPT_AES = 1;

export const HEADER_BYTES = 48;
export const BACKING_OFFSET_AT = 8;
export const BACKING_SIZE_AT = 16;
const SIZE_AT = 24;
const CLUSTER_BITS_AT = 32;
const L2_BITS_AT = 33;
const CRYPT_METHOD_AT = 36;
const L1_OFFSET_AT = 40;

export const MIN_CLUSTER_BITS = 9;
const MAX_CLUSTER_BITS = 16;
const MIN_L2_BITS = 6;
const MAX_L2_BITS = 13;
export const MAX_BACKING_NAME = 1023;
/** As QEMU, which holds the whole table in memory. */
export const MAX_L1_ENTRIES = (2 ** 31 - 1) >> 3;

export interface QcowHeader extends TableFields {
  readonly isEncrypted: boolean;
  readonly backingName: string | null;
  /** host offset of that name; 0: there is none */
  readonly backingOffset: number;
}

/** @throws ImgfuseError corrupt, unsupported: with field, value and what to do */
export function readHeader(file: HostFile): QcowHeader {
  const bytes = new Uint8Array(HEADER_BYTES);
  const got = file.read(bytes, 0, HEADER_BYTES, hostOffset(0));
  if (got < HEADER_BYTES) {
    throw invalid(file, 0, `the file has ${got} bytes, but a qcow header has ${HEADER_BYTES}; the file is truncated`);
  }
  const view = new DataView(bytes.buffer);
  if (view.getUint32(0, false) !== QCOW_MAGIC || view.getUint32(4, false) !== QCOW_VERSION) {
    throw invalid(file, 0, 'this is not a qcow image of version 1');
  }
  const clusterBits = bitsOf(file, view, CLUSTER_BITS_AT, 'cluster_bits', MIN_CLUSTER_BITS, MAX_CLUSTER_BITS);
  const l2Bits = bitsOf(file, view, L2_BITS_AT, 'l2_bits', MIN_L2_BITS, MAX_L2_BITS);
  const size = sizeOf(file, view, clusterBits + l2Bits);
  const header = {
    clusterBits,
    l2Bits,
    size,
    isEncrypted: isEncrypted(file, view),
    l1TableOffset: readU64BE(view, L1_OFFSET_AT),
  };
  checkL1(file, view, header);
  const backingName = backingNameOf(file, view);
  return { ...header, backingName, backingOffset: backingName === null ? 0 : readU64BE(view, BACKING_OFFSET_AT) };
}

function bitsOf(file: HostFile, view: DataView, at: number, name: string, least: number, most: number): number {
  const bits = view.getUint8(at);
  if (bits >= least && bits <= most) return bits;
  throw invalid(file, at, `${name} is ${bits}; it must be from ${least} to ${most}`);
}

function sizeOf(file: HostFile, view: DataView, tableBits: number): number {
  const size = roundUp(readU64BE(view, SIZE_AT), SECTOR_BYTES);
  const limit = Math.min(MAX_L1_ENTRIES * 2 ** tableBits, MAX_VIRTUAL_SIZE);
  if (size <= limit) return size;
  const value = hexWords(view.getUint32(SIZE_AT, false), view.getUint32(SIZE_AT + 4, false));
  throw invalid(file, SIZE_AT, `size is ${value} bytes; its tables map at most ${limit}`);
}

function isEncrypted(file: HostFile, view: DataView): boolean {
  const method = view.getUint32(CRYPT_METHOD_AT, false);
  if (method === QCOW_CRYPT_NONE) return false;
  if (method === QCOW_CRYPT_AES) return true;
  throw new ImgfuseError(
    'unsupported',
    `${file.path}: the qcow header at offset ${CRYPT_METHOD_AT} has encryption ${method}, and imgfuse knows 0 (none) and 1 (AES)`,
    { path: file.path, offset: CRYPT_METHOD_AT },
  );
}

function checkL1(file: HostFile, view: DataView, header: TableFields): void {
  const { l1TableOffset } = header;
  const bytes = new Geometry(header).l1Entries * ENTRY_BYTES;
  if (l1TableOffset >= HEADER_BYTES && l1TableOffset % ENTRY_BYTES === 0 && l1TableOffset + bytes <= file.size())
    return;
  const value = hexWords(view.getUint32(L1_OFFSET_AT, false), view.getUint32(L1_OFFSET_AT + 4, false));
  throw invalid(
    file,
    L1_OFFSET_AT,
    `l1_table_offset is ${value}; a table of ${bytes} bytes must begin at a multiple of 8 behind the header, and end in the ` +
      `${file.size()} bytes of the file; if that is truncated, copy it again`,
  );
}

function backingNameOf(file: HostFile, view: DataView): string | null {
  const offset = readU64BE(view, BACKING_OFFSET_AT);
  if (offset === 0) return null;
  const length = view.getUint32(BACKING_SIZE_AT, false);
  if (length === 0 || length > MAX_BACKING_NAME) {
    throw invalid(file, BACKING_SIZE_AT, `backing_file_size is ${length}; it must be from 1 to ${MAX_BACKING_NAME}`);
  }
  if (!(offset >= HEADER_BYTES && offset + length <= file.size())) {
    throw invalid(
      file,
      BACKING_OFFSET_AT,
      `backing_file_offset is ${hex(offset)}; ${length} bytes there must lie behind the header, in the file`,
    );
  }
  const bytes = new Uint8Array(length);
  file.read(bytes, 0, length, hostOffset(offset));
  if (bytes.includes(0)) throw invalid(file, BACKING_OFFSET_AT, 'the name of the backing file contains a NUL byte');
  return nameOfBytes(bytes);
}

/** The bytes up to the L1 table: the header, and the name of the backing file. */
export function serializeHeader(header: QcowHeader): Uint8Array {
  const name = bytesOfName(header.backingName ?? '');
  const bytes = new Uint8Array(header.l1TableOffset);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, QCOW_MAGIC, false);
  view.setUint32(4, QCOW_VERSION, false);
  writeU64BE(view, BACKING_OFFSET_AT, header.backingOffset);
  view.setUint32(BACKING_SIZE_AT, name.length, false);
  writeU64BE(view, SIZE_AT, header.size);
  view.setUint8(CLUSTER_BITS_AT, header.clusterBits);
  view.setUint8(L2_BITS_AT, header.l2Bits);
  view.setUint32(CRYPT_METHOD_AT, header.isEncrypted ? QCOW_CRYPT_AES : QCOW_CRYPT_NONE, false);
  writeU64BE(view, L1_OFFSET_AT, header.l1TableOffset);
  bytes.set(name, header.backingOffset);
  return bytes;
}

/** The facts of a header for info and status. */
export function describeHeader({ backingName, clusterBits, isEncrypted, size }: QcowHeader): ImageDetails {
  return {
    format: 'qcow',
    virtualSize: size,
    clusterSize: 2 ** clusterBits,
    dirty: false,
    ...(backingName === null ? {} : { backing: { name: backingName } }),
    specific: isEncrypted ? { encrypt: { format: 'aes' } } : {},
  };
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid qcow header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
