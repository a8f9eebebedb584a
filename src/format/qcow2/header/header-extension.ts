// Header extensions: the list between the header and the backing name. Known extensions are decoded here; all of them are kept
// byte for byte, so that a rewritten header loses nothing. Invariant: no extension reaches into the backing name or beyond
// cluster 0.
//
//    0 type u32    4 length u32    8 data, padded with zeros to a multiple of 8          type 0 ends the list

import { hexWords, readU64BE, writeU64BE } from '../../../bytes/endian.ts';
import { nameOfBytes } from '../../../bytes/names.ts';
import { divideUp, hex, roundUp } from '../../../bytes/offsets.ts';
import type { LuksArea } from '../../../codec/luks-header.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';

const QCOW2_EXT_MAGIC_END = 0;
export const QCOW2_EXT_MAGIC_BACKING_FORMAT = 0xe2792aca;
export const QCOW2_EXT_MAGIC_FEATURE_TABLE = 0x6803f857;
export const QCOW2_EXT_MAGIC_CRYPTO_HEADER = 0x0537be77;
export const QCOW2_EXT_MAGIC_BITMAPS = 0x23852875;
export const QCOW2_EXT_MAGIC_DATA_FILE = 0x44415441;

const QCOW2_MAX_BITMAPS = 65535;
export const QCOW2_MAX_BITMAP_DIRECTORY_SIZE = 1024 * QCOW2_MAX_BITMAPS;
/** QEMU keeps the format name in 16 bytes, including a NUL. */
export const MAX_BACKING_FORMAT_BYTES = 15;
/** Bounds the memory for a header full of empty extensions; programs write a handful. */
export const MAX_EXTENSIONS = 4096;

const PREFIX_BYTES = 8;
const BITMAPS_BYTES = 24;
const CRYPTO_HEADER_BYTES = 16;
const KNOWN: ReadonlyMap<number, string> = new Map([
  [QCOW2_EXT_MAGIC_BACKING_FORMAT, 'backing format'],
  [QCOW2_EXT_MAGIC_FEATURE_TABLE, 'feature name table'],
  [QCOW2_EXT_MAGIC_CRYPTO_HEADER, 'encryption header pointer'],
  [QCOW2_EXT_MAGIC_BITMAPS, 'bitmaps'],
  [QCOW2_EXT_MAGIC_DATA_FILE, 'data file name'],
]);

export interface HeaderExtension {
  readonly type: number;
  /** without padding */
  readonly data: Uint8Array;
  /** host offset of the data, for messages; 0 for an extension that is not in the file yet */
  readonly offset: number;
}

/** Where the bitmap directory lies in the image file, in bytes; the offset is a multiple of the cluster size. */
export interface BitmapsExtension {
  readonly count: number;
  readonly directoryOffset: number;
  readonly directorySize: number;
}

/**
 * Parses the extensions in `cluster`, the first cluster of `file`, from `start` to an end mark (type 0) or to `end`.
 * @throws ImgfuseError corrupt
 */
export function parseExtensions(file: HostFile, cluster: Uint8Array, start: number, end: number): HeaderExtension[] {
  const view = new DataView(cluster.buffer, cluster.byteOffset, cluster.byteLength);
  const extensions: HeaderExtension[] = [];
  for (let at = start; at < end; ) {
    if (end - at < PREFIX_BYTES) {
      throw invalid(file, at, `a header extension begins ${end - at} bytes before the area ends at ${end}`);
    }
    const type = view.getUint32(at, false);
    const length = view.getUint32(at + 4, false);
    const offset = at + PREFIX_BYTES;
    if (type === QCOW2_EXT_MAGIC_END) break;
    if (length > end - offset) {
      throw invalid(
        file,
        at + 4,
        `header extension ${hex(type)} has ${length} bytes, of which only ${end - offset} fit before the area ends at ${end}`,
      );
    }
    if (extensions.length === MAX_EXTENSIONS) {
      throw invalid(file, at, `there are more than ${MAX_EXTENSIONS} header extensions`);
    }
    extensions.push({ type, data: cluster.slice(offset, offset + length), offset });
    at = offset + roundUp(length, 8);
  }
  return extensions;
}

/** All extensions with their padding, and the end mark. */
export function serializeExtensions(extensions: readonly HeaderExtension[]): Uint8Array {
  const bytes = new Uint8Array(extensionBytes(extensions));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const { type, data } of extensions) {
    view.setUint32(at, type, false);
    view.setUint32(at + 4, data.length, false);
    bytes.set(data, at + PREFIX_BYTES);
    at += PREFIX_BYTES + roundUp(data.length, 8);
  }
  return bytes;
}

/** Bytes that the extensions take with their padding and the end mark. */
export function extensionBytes(extensions: readonly HeaderExtension[]): number {
  return extensions.reduce((sum, { data }) => sum + PREFIX_BYTES + roundUp(data.length, 8), PREFIX_BYTES);
}

/** The extension of this type; the last one if there are several, as in QEMU. */
export function findExtension(extensions: readonly HeaderExtension[], type: number): HeaderExtension | null {
  return extensions.findLast((extension) => extension.type === type) ?? null;
}

/** Format name of the backing file; null if the image has none. */
export function parseBackingFormat(file: HostFile, extensions: readonly HeaderExtension[]): string | null {
  const extension = findExtension(extensions, QCOW2_EXT_MAGIC_BACKING_FORMAT);
  if (extension === null || extension.data.length === 0) return null;
  const { data, offset } = extension;
  if (data.length > MAX_BACKING_FORMAT_BYTES) {
    throw invalid(
      file,
      offset,
      `the backing format name has ${data.length} bytes; at most ${MAX_BACKING_FORMAT_BYTES} are allowed`,
    );
  }
  return decodeName(file, offset, data, 'backing format name');
}

/** Name of the external data file, as stored; null if the image has none. */
export function parseDataFileName(file: HostFile, extensions: readonly HeaderExtension[]): string | null {
  const extension = findExtension(extensions, QCOW2_EXT_MAGIC_DATA_FILE);
  if (extension === null || extension.data.length === 0) return null;
  return decodeName(file, extension.offset, extension.data, 'data file name');
}

/** @returns null if there is no such extension */
export function parseCryptoHeaderPointer(
  file: HostFile,
  extensions: readonly HeaderExtension[],
  clusterSize: number,
): LuksArea | null {
  const extension = findExtension(extensions, QCOW2_EXT_MAGIC_CRYPTO_HEADER);
  if (extension === null) return null;
  const view = viewOf(file, extension, CRYPTO_HEADER_BYTES);
  const offset = readU64BE(view, 0);
  const length = readU64BE(view, 8);
  const shown = `${showU64(view, 0)} with ${showU64(view, 8)} bytes`;
  if (Number.isNaN(offset) || offset % clusterSize !== 0 || offset === 0) {
    throw invalid(
      file,
      extension.offset,
      `the encryption header is at ${shown}; its offset must be a positive multiple of the cluster size ${clusterSize}`,
    );
  }
  const end = divideUp(file.size(), clusterSize) * clusterSize;
  if (Number.isNaN(length) || length === 0 || length > end - offset) {
    throw invalid(
      file,
      extension.offset,
      `the encryption header is at ${shown}, which does not lie in the file of ${file.size()} bytes; the file is truncated`,
    );
  }
  return { offset, length };
}

/** Call it only if the autoclear bit says that the extension is valid. @returns null if there is no such extension */
export function parseBitmapsExtension(
  file: HostFile,
  extensions: readonly HeaderExtension[],
  clusterSize: number,
): BitmapsExtension | null {
  const extension = findExtension(extensions, QCOW2_EXT_MAGIC_BITMAPS);
  if (extension === null) return null;
  const view = viewOf(file, extension, BITMAPS_BYTES);
  const at = extension.offset;
  const reserved = view.getUint32(4, false);
  if (reserved !== 0)
    throw invalid(file, at + 4, `the reserved field of the bitmaps extension is ${hex(reserved)}, not 0`);
  const count = view.getUint32(0, false);
  if (count === 0 || count > QCOW2_MAX_BITMAPS) {
    throw invalid(file, at, `nb_bitmaps is ${count}; it must be from 1 to ${QCOW2_MAX_BITMAPS}`);
  }
  const directoryOffset = readU64BE(view, 16);
  if (Number.isNaN(directoryOffset) || directoryOffset % clusterSize !== 0 || directoryOffset === 0) {
    throw invalid(
      file,
      at + 16,
      `bitmap_directory_offset is ${showU64(view, 16)}; it must be a positive multiple of the cluster size ${clusterSize}`,
    );
  }
  const directorySize = readU64BE(view, 8);
  if (!(directorySize <= QCOW2_MAX_BITMAP_DIRECTORY_SIZE)) {
    throw invalid(
      file,
      at + 8,
      `bitmap_directory_size is ${showU64(view, 8)}; it must be at most ${QCOW2_MAX_BITMAP_DIRECTORY_SIZE} bytes`,
    );
  }
  return { count, directoryOffset, directorySize };
}

export function serializeCryptoHeaderPointer({ offset, length }: LuksArea): Uint8Array {
  const bytes = new Uint8Array(CRYPTO_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  writeU64BE(view, 0, offset);
  writeU64BE(view, 8, length);
  return bytes;
}

/** Decodes a name. @param what names it in the error @throws ImgfuseError corrupt if it contains NUL */
export function decodeName(file: HostFile, offset: number, bytes: Uint8Array, what: string): string {
  if (bytes.includes(0)) throw invalid(file, offset, `the ${what} contains a NUL byte`);
  return nameOfBytes(bytes);
}

export function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid qcow2 header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}

function viewOf(file: HostFile, { type, data, offset }: HeaderExtension, length: number): DataView {
  if (data.length !== length) {
    throw invalid(file, offset, `the ${KNOWN.get(type)} extension has ${data.length} bytes instead of ${length}`);
  }
  return new DataView(data.buffer, data.byteOffset, data.byteLength);
}

/** The big-endian u64 at `at` as hexadecimal, also if it is too large for a number. */
export function showU64(view: DataView, at: number): string {
  return hexWords(view.getUint32(at, false), view.getUint32(at + 4, false));
}
