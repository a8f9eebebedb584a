// The qcow2 header: its fields and all functions that write it. Source: QEMU docs/interop/qcow2. read-header.ts reads it.
// Invariant: every Qcow2Header that was read has passed the checks of read-header.ts. All numbers are big-endian.
//
//    0 magic "QFI\xfb"         32 crypt_method u32             72 incompatible_features u64 \
//    4 version u32             36 l1_size u32 (entries)        80 compatible_features u64    | version 3;
//    8 backing_file_offset u64 40 l1_table_offset u64          88 autoclear_features u64     | version 2 ends at 72
//   16 backing_file_size u32   48 refcount_table_offset u64    96 refcount_order u32         |
//   20 cluster_bits u32        56 refcount_table_clusters u32 100 header_length u32          |
//   24 size u64                60 nb_snapshots u32            104 compression_type u8       /
//                              64 snapshots_offset u64        105 to header_length: kept as it is
//
// The extensions follow, then the backing name, all in cluster 0.

import { writeU64BE } from '../../../bytes/endian.ts';
import { bytesOfName } from '../../../bytes/names.ts';
import { hostOffset } from '../../../bytes/offsets.ts';
import type { LuksArea } from '../../../codec/luks-header.ts';
import { assert, ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import {
  type BitmapsExtension,
  extensionBytes,
  type HeaderExtension,
  serializeExtensions,
} from './header-extension.ts';

export const QCOW_MAGIC = 0x514649fb;
export const QCOW2_V2_HEADER_BYTES = 72;
export const QCOW2_V3_HEADER_BYTES = 104;

export const QCOW2_INCOMPAT_DIRTY = 1;
export const QCOW2_INCOMPAT_CORRUPT = 2;
export const QCOW2_INCOMPAT_DATA_FILE = 4;
export const QCOW2_INCOMPAT_COMPRESSION = 8;
export const QCOW2_INCOMPAT_EXTL2 = 16;
export const QCOW2_INCOMPAT_MASK = 31;
export const QCOW2_COMPAT_LAZY_REFCOUNTS = 1;
export const QCOW2_AUTOCLEAR_BITMAPS = 1;
export const QCOW2_AUTOCLEAR_DATA_FILE_RAW = 2;

export const QCOW_CRYPT_NONE = 0;
export const QCOW_CRYPT_AES = 1;
export const QCOW_CRYPT_LUKS = 2;

export const MIN_CLUSTER_BITS = 9;
export const MAX_CLUSTER_BITS = 21;
export const QCOW_MAX_L1_SIZE = 32 * 1024 * 1024;
export const QCOW_MAX_REFTABLE_SIZE = 8 * 1024 * 1024;
export const QCOW_MAX_SNAPSHOTS = 65536;
/** QEMU refuses longer names. */
export const MAX_BACKING_NAME = 1023;
export const MAX_REFCOUNT_ORDER = 6;

/** Host offset of each field. */
export const FIELD = {
  version: 4,
  backingOffset: 8,
  backingSize: 16,
  clusterBits: 20,
  size: 24,
  cryptMethod: 32,
  l1Size: 36,
  l1TableOffset: 40,
  refcountTableOffset: 48,
  refcountTableClusters: 56,
  snapshotCount: 60,
  snapshotsOffset: 64,
  incompatibleFeatures: 72,
  compatibleFeatures: 80,
  autoclearFeatures: 88,
  refcountOrder: 96,
  headerLength: 100,
  compressionType: 104,
} as const;

/** The 64 bits of a feature field: bits 0 to 31, then bits 32 to 63. */
export type FeatureWords = readonly [low: number, high: number];

export type CompressionType = 'zlib' | 'zstd';
/** Indexed by the value of the header field. */
export const COMPRESSION_TYPES: readonly CompressionType[] = ['zlib', 'zstd'];

export interface Qcow2Header {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly clusterSize: number;
  /** virtual size in bytes */
  readonly size: number;
  /** QCOW_CRYPT_NONE, _AES or _LUKS */
  readonly cryptMethod: number;
  /** entries of the active L1 table */
  readonly l1Size: number;
  readonly l1TableOffset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly snapshotCount: number;
  readonly snapshotsOffset: number;
  readonly incompatible: FeatureWords;
  readonly compatible: FeatureWords;
  readonly autoclear: FeatureWords;
  readonly isDirty: boolean;
  readonly isCorrupt: boolean;
  readonly hasExternalData: boolean;
  readonly extendedL2: boolean;
  readonly lazyRefcounts: boolean;
  readonly dataFileRaw: boolean;
  /** refcounts have 2^refcountOrder bits */
  readonly refcountOrder: number;
  readonly headerLength: number;
  readonly compressionType: CompressionType;
  /** header bytes from offset 105 to headerLength: unknown here, kept as they are */
  readonly trailingFields: Uint8Array;
  readonly backingName: string | null;
  readonly backingFormat: string | null;
  /** null if the image has no external data file, or does not name it */
  readonly dataFileName: string | null;
  /** present exactly when cryptMethod is QCOW_CRYPT_LUKS */
  readonly cryptoHeader: LuksArea | null;
  /** null if there are no bitmaps, or if the autoclear bit says that they are inconsistent */
  readonly bitmaps: BitmapsExtension | null;
  /** all extensions in their order, known and unknown; serializeHeader() writes these */
  readonly extensions: readonly HeaderExtension[];
}

/** Cluster 0 of an image: fixed fields, extensions, backing name. @throws ImgfuseError limit if they do not fit */
export function serializeHeader(header: Qcow2Header): Uint8Array {
  const name = bytesOfName(header.backingName ?? '');
  const nameOffset = header.headerLength + extensionBytes(header.extensions);
  if (nameOffset + name.length > header.clusterSize) {
    throw new ImgfuseError(
      'limit',
      `the header with its extensions and the backing name takes ${nameOffset + name.length} bytes, but a cluster has ` +
        `${header.clusterSize}; use larger clusters or a shorter name`,
    );
  }
  const bytes = new Uint8Array(header.clusterSize);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, QCOW_MAGIC, false);
  view.setUint32(FIELD.version, header.version, false);
  writeU64BE(view, FIELD.backingOffset, name.length === 0 ? 0 : nameOffset);
  view.setUint32(FIELD.backingSize, name.length, false);
  view.setUint32(FIELD.clusterBits, header.clusterBits, false);
  bytes.set(sizeAndL1Bytes(header), FIELD.size);
  bytes.set(refcountTableBytes(header), FIELD.refcountTableOffset);
  view.setUint32(FIELD.snapshotCount, header.snapshotCount, false);
  writeU64BE(view, FIELD.snapshotsOffset, header.snapshotsOffset);
  if (header.version === 3) {
    bytes.set(wordsBytes(header.incompatible, header.compatible, header.autoclear), FIELD.incompatibleFeatures);
    view.setUint32(FIELD.refcountOrder, header.refcountOrder, false);
    view.setUint32(FIELD.headerLength, header.headerLength, false);
    if (header.headerLength > FIELD.compressionType) {
      bytes[FIELD.compressionType] = COMPRESSION_TYPES.indexOf(header.compressionType);
      bytes.set(header.trailingFields, FIELD.compressionType + 1);
    }
  }
  bytes.set(serializeExtensions(header.extensions), header.headerLength);
  bytes.set(name, nameOffset);
  return bytes;
}

// The functions below each change a few fields with one host write inside the first sector: a crash leaves the old fields or
// the new ones, never a mix. They do not sync, and they do not change the state that the threads of an open image share.

/** Writes all 64 incompatible feature bits. Version 3 only: a version 2 header ends before them. */
export function writeIncompatibleFeatures(
  file: HostFile,
  header: Pick<Qcow2Header, 'version'>,
  words: FeatureWords,
): void {
  assert(header.version === 3, 'a version 2 header has no feature bits');
  writeBytes(file, FIELD.incompatibleFeatures, wordsBytes(words));
}

/** Writes all 64 autoclear feature bits. Version 3 only. */
export function writeAutoclearFeatures(file: HostFile, header: Qcow2Header, words: FeatureWords): void {
  assert(header.version === 3, 'a version 2 header has no feature bits');
  writeBytes(file, FIELD.autoclearFeatures, wordsBytes(words));
}

type SizeAndL1Fields = Pick<Qcow2Header, 'size' | 'cryptMethod' | 'l1Size' | 'l1TableOffset'>;
type RefcountTableFields = Pick<Qcow2Header, 'refcountTableOffset' | 'refcountTableClusters'>;

/** Writes virtual size, L1 size and L1 offset, and crypt_method, which lies between them. */
export function writeSizeAndL1Fields(file: HostFile, fields: SizeAndL1Fields): void {
  writeBytes(file, FIELD.size, sizeAndL1Bytes(fields));
}

export function writeRefcountTableFields(file: HostFile, fields: RefcountTableFields): void {
  writeBytes(file, FIELD.refcountTableOffset, refcountTableBytes(fields));
}

/** @param bits in the low word, which has all known bits */
export function withBits(words: FeatureWords, bits: number): FeatureWords {
  return [(words[0] | bits) >>> 0, words[1]];
}

export function withoutBits(words: FeatureWords, bits: number): FeatureWords {
  return [(words[0] & ~bits) >>> 0, words[1]];
}

/** The autoclear bits to keep when imgfuse writes to the disk. It does not update bitmaps, so their bit is cleared. */
export function autoclearWhenWritten(words: FeatureWords): FeatureWords {
  return [words[0] & QCOW2_AUTOCLEAR_DATA_FILE_RAW, 0];
}

function sizeAndL1Bytes({ size, cryptMethod, l1Size, l1TableOffset }: SizeAndL1Fields): Uint8Array {
  const bytes = new Uint8Array(24);
  const view = new DataView(bytes.buffer);
  writeU64BE(view, 0, size);
  view.setUint32(8, cryptMethod, false);
  view.setUint32(12, l1Size, false);
  writeU64BE(view, 16, l1TableOffset);
  return bytes;
}

function refcountTableBytes({ refcountTableOffset, refcountTableClusters }: RefcountTableFields): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  writeU64BE(view, 0, refcountTableOffset);
  view.setUint32(8, refcountTableClusters, false);
  return bytes;
}

function wordsBytes(...fields: readonly FeatureWords[]): Uint8Array {
  const bytes = new Uint8Array(8 * fields.length);
  const view = new DataView(bytes.buffer);
  fields.forEach(([low, high], index) => {
    view.setUint32(8 * index, high, false);
    view.setUint32(8 * index + 4, low, false);
  });
  return bytes;
}

function writeBytes(file: HostFile, offset: number, bytes: Uint8Array): void {
  file.write(bytes, 0, bytes.length, hostOffset(offset));
}
