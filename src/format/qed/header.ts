// The QED header: bytes <-> fields, every limit checked (QEMU docs/interop/qed_spec). Little-endian, 64 bytes at offset 0:
//
//    0 magic "QED\0"          16 features u64            48 image_size u64
//    4 cluster_size u32       24 compat_features u64     56 backing_filename_offset u32
//    8 table_size u32         32 autoclear_features u64  60 backing_filename_size u32
//   12 header_size u32        40 l1_table_offset u64
//
// table_size and header_size count clusters. Invariant: a QedHeader that exists has been checked against its file.

import { combine, hexWords, readU64LE, writeU64LE } from '../../bytes/endian.ts';
import { bytesOfName, nameOfBytes } from '../../bytes/names.ts';
import { hex, hostOffset, isPowerOfTwo, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';
import { maxImageSize } from './geometry.ts';

export const QED_MAGIC = 0x00444551;
export const QED_HEADER_BYTES = 64;

export const QED_F_BACKING_FILE = 1;
export const QED_F_NEED_CHECK = 2;
export const QED_F_BACKING_FORMAT_NO_PROBE = 4;
const QED_FEATURE_MASK = QED_F_BACKING_FILE | QED_F_NEED_CHECK | QED_F_BACKING_FORMAT_NO_PROBE;

export const QED_MIN_CLUSTER_SIZE = 4096;
export const QED_MAX_CLUSTER_SIZE = 64 * 1024 * 1024;
export const QED_MAX_TABLE_SIZE = 16;
/** QEMU refuses backing_filename_size >= 4096 minus its terminator. */
export const QED_MAX_BACKING_NAME = 4095;

/** Where single fields stand, for writes of one field. */
export const FEATURES_OFFSET = 16;
export const AUTOCLEAR_OFFSET = 32;
export const IMAGE_SIZE_OFFSET = 48;

export interface QedHeader {
  readonly clusterSize: number;
  readonly tableSizeClusters: number;
  readonly headerSizeClusters: number;
  readonly features: number;
  /** unknown bits are kept as they are, so both words are only copied */
  readonly compatFeatures: readonly [low: number, high: number];
  readonly autoclearFeatures: readonly [low: number, high: number];
  readonly l1TableOffset: number;
  readonly imageSize: number;
  /** name of the backing file (bytes/names.ts), or null */
  readonly backingName: string | null;
}

export interface ReadHeaderOptions {
  /** the file may end before or inside its L1 table, what is missing of it reading as zeros: for reading, and for a check */
  readonly mayBeCut: boolean;
}

/** Reads and checks the header of `file`. Throws corrupt or unsupported with field, value and cure. */
export function readHeader(file: HostFile, options: ReadHeaderOptions): QedHeader {
  const bytes = new Uint8Array(QED_HEADER_BYTES);
  const got = file.read(bytes, 0, QED_HEADER_BYTES, hostOffset(0));
  if (got < QED_HEADER_BYTES) {
    throw invalid(file, 0, `the file has ${got} bytes, a QED header takes ${QED_HEADER_BYTES}; the file is truncated`);
  }
  const view = new DataView(bytes.buffer);
  const fields = parseFields(file, view, options);
  const backingName = readBackingName(file, view, fields);
  return { ...fields, backingName };
}

type Fields = Omit<QedHeader, 'backingName'>;

function parseFields(file: HostFile, view: DataView, { mayBeCut }: ReadHeaderOptions): Fields {
  const magic = view.getUint32(0, true);
  if (magic !== QED_MAGIC)
    throw invalid(file, 0, `magic is ${hex(magic)} instead of ${hex(QED_MAGIC)}; this is no QED image`);
  const clusterSize = view.getUint32(4, true);
  if (!isPowerOfTwo(clusterSize) || clusterSize < QED_MIN_CLUSTER_SIZE || clusterSize > QED_MAX_CLUSTER_SIZE) {
    throw invalid(file, 4, `cluster_size is ${clusterSize}; it must be a power of two from 4096 to 67108864`);
  }
  const tableSizeClusters = view.getUint32(8, true);
  if (!isPowerOfTwo(tableSizeClusters) || tableSizeClusters > QED_MAX_TABLE_SIZE) {
    throw invalid(file, 8, `table_size is ${tableSizeClusters} clusters; it must be a power of two from 1 to 16`);
  }
  const headerSizeClusters = view.getUint32(12, true);
  if (headerSizeClusters < 1 || headerSizeClusters * clusterSize >= 2 ** 32) {
    throw invalid(file, 12, `header_size is ${headerSizeClusters} clusters; it must be from 1 to below 4 GiB in bytes`);
  }
  const features = parseFeatures(file, view);
  const l1TableOffset = parseL1Offset(file, view, clusterSize, headerSizeClusters);
  if (!mayBeCut) checkL1Whole(file, l1TableOffset, tableSizeClusters * clusterSize);
  const imageSize = readU64LE(view, IMAGE_SIZE_OFFSET);
  const limit = maxImageSize(clusterSize, tableSizeClusters);
  if (Number.isNaN(imageSize) || imageSize % SECTOR_BYTES !== 0 || imageSize > limit) {
    const value = hexWords(view.getUint32(IMAGE_SIZE_OFFSET + 4, true), view.getUint32(IMAGE_SIZE_OFFSET, true));
    throw invalid(file, IMAGE_SIZE_OFFSET, `image_size is ${value}; it must be a multiple of 512 up to ${limit} bytes`);
  }
  return {
    clusterSize,
    tableSizeClusters,
    headerSizeClusters,
    features,
    compatFeatures: [view.getUint32(24, true), view.getUint32(28, true)],
    autoclearFeatures: [view.getUint32(AUTOCLEAR_OFFSET, true), view.getUint32(AUTOCLEAR_OFFSET + 4, true)],
    l1TableOffset,
    imageSize,
  };
}

function parseFeatures(file: HostFile, view: DataView): number {
  const low = view.getUint32(FEATURES_OFFSET, true);
  const high = view.getUint32(FEATURES_OFFSET + 4, true);
  if (high === 0 && (low & ~QED_FEATURE_MASK) === 0) return low;
  throw new ImgfuseError(
    'unsupported',
    `${file.path}: the QED header at offset ${FEATURES_OFFSET} has features ${hexWords(high, low)}, of which only bits 0 to 2 ` +
      'are known; a newer program wrote this image, open it with that one',
    { path: file.path, offset: FEATURES_OFFSET },
  );
}

function parseL1Offset(file: HostFile, view: DataView, cluster: number, header: number): number {
  const offset = readU64LE(view, 40);
  const shown = hexWords(view.getUint32(44, true), view.getUint32(40, true));
  if (Number.isNaN(offset) || offset % cluster !== 0) {
    throw invalid(file, 40, `l1_table_offset is ${shown}; it must be a multiple of the cluster size ${cluster}`);
  }
  if (offset < header * cluster) {
    throw invalid(file, 40, `l1_table_offset is ${shown}, which overlaps the header area of ${header * cluster} bytes`);
  }
  return offset;
}

/** What is missing of an L1 table reads as zeros, but a guest must not write into a disk that has lost most of itself. */
function checkL1Whole(file: HostFile, offset: number, bytes: number): void {
  const size = file.size();
  if (offset + bytes <= size) return;
  throw invalid(
    file,
    40,
    `l1_table_offset is ${hex(offset)}; a table of ${bytes} bytes there ends beyond the file of ${size} bytes, which is truncated: ` +
      'copy it again, mount what is left with -o ro, or make it whole with imgfuse check -r all',
  );
}

function readBackingName(file: HostFile, view: DataView, fields: Fields): string | null {
  if ((fields.features & QED_F_BACKING_FILE) === 0) return null;
  const offset = view.getUint32(56, true);
  const length = view.getUint32(60, true);
  if (length === 0 || length > QED_MAX_BACKING_NAME) {
    throw invalid(file, 60, `backing_filename_size is ${length}; it must be from 1 to ${QED_MAX_BACKING_NAME}`);
  }
  const headerBytes = fields.headerSizeClusters * fields.clusterSize;
  if (offset < QED_HEADER_BYTES || offset + length > headerBytes || offset + length > file.size()) {
    throw invalid(
      file,
      56,
      `backing_filename_offset is ${offset} with ${length} bytes; the name must lie between ${QED_HEADER_BYTES} and ${headerBytes}`,
    );
  }
  const bytes = new Uint8Array(length);
  file.read(bytes, 0, length, hostOffset(offset));
  if (bytes.includes(0)) throw invalid(file, offset, 'the backing file name contains a NUL byte');
  return nameOfBytes(bytes);
}

/** The 64 header bytes; the backing name is written behind them by whoever creates the image. */
export function serializeHeader(header: QedHeader): Uint8Array {
  const bytes = new Uint8Array(QED_HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, QED_MAGIC, true);
  view.setUint32(4, header.clusterSize, true);
  view.setUint32(8, header.tableSizeClusters, true);
  view.setUint32(12, header.headerSizeClusters, true);
  view.setUint32(FEATURES_OFFSET, header.features, true);
  view.setUint32(24, header.compatFeatures[0], true);
  view.setUint32(28, header.compatFeatures[1], true);
  view.setUint32(AUTOCLEAR_OFFSET, header.autoclearFeatures[0], true);
  view.setUint32(AUTOCLEAR_OFFSET + 4, header.autoclearFeatures[1], true);
  writeU64LE(view, 40, header.l1TableOffset);
  writeU64LE(view, IMAGE_SIZE_OFFSET, header.imageSize);
  const name = header.backingName === null ? 0 : bytesOfName(header.backingName).length;
  view.setUint32(56, name === 0 ? 0 : QED_HEADER_BYTES, true);
  view.setUint32(60, name, true);
  return bytes;
}

/** Writes one u64 field of the header in place. The caller makes it durable. */
export function writeHeaderField(file: HostFile, offset: number, value: number): void {
  const bytes = new Uint8Array(8);
  writeU64LE(new DataView(bytes.buffer), 0, value);
  file.write(bytes, 0, 8, hostOffset(offset));
}

export function isAutoclearSet(header: QedHeader): boolean {
  return combine(header.autoclearFeatures[1], header.autoclearFeatures[0]) !== 0;
}

/** The facts of a header for info and status. */
export function describeHeader(header: QedHeader, virtualSize: number, dirty: boolean): ImageDetails {
  const noProbe = (header.features & QED_F_BACKING_FORMAT_NO_PROBE) !== 0;
  return {
    format: 'qed',
    virtualSize,
    clusterSize: header.clusterSize,
    dirty,
    ...(header.backingName === null
      ? {}
      : { backing: { name: header.backingName, ...(noProbe ? { format: 'raw' } : {}) } }),
    specific: { 'table-size': header.tableSizeClusters, 'need-check': dirty },
  };
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid QED header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
