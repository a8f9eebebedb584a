// Reads the header and checks every limit, in QEMU's order, so that both programs name the same fault first. The size of an
// allocation is checked before the allocation. Nothing here writes.

import { readU64BE } from '../../../bytes/endian.ts';
import { hex, hostOffset } from '../../../bytes/offsets.ts';
import { isCorrupt } from '../../../errors/index.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import { SUBCLUSTERS_PER_CLUSTER } from '../subcluster.ts';
import { nameIncompatibleBits } from './feature-name.ts';
import {
  COMPRESSION_TYPES,
  type CompressionType,
  type FeatureWords,
  FIELD,
  MAX_BACKING_NAME,
  MAX_CLUSTER_BITS,
  MAX_REFCOUNT_ORDER,
  MIN_CLUSTER_BITS,
  QCOW_CRYPT_LUKS,
  QCOW_MAGIC,
  QCOW2_AUTOCLEAR_BITMAPS,
  QCOW2_AUTOCLEAR_DATA_FILE_RAW,
  QCOW2_COMPAT_LAZY_REFCOUNTS,
  QCOW2_INCOMPAT_COMPRESSION,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DATA_FILE,
  QCOW2_INCOMPAT_DIRTY,
  QCOW2_INCOMPAT_EXTL2,
  QCOW2_INCOMPAT_MASK,
  QCOW2_V2_HEADER_BYTES,
  QCOW2_V3_HEADER_BYTES,
  type Qcow2Header,
} from './header.ts';
import {
  decodeName,
  findExtension,
  type HeaderExtension,
  invalid,
  parseBackingFormat,
  parseBitmapsExtension,
  parseCryptoHeaderPointer,
  parseDataFileName,
  parseExtensions,
  QCOW2_EXT_MAGIC_FEATURE_TABLE,
  showU64,
} from './header-extension.ts';
import { type HeaderCluster, parseTables, type ReadHeaderOptions, unsupported } from './header-tables.ts';

type FixedFields = Omit<
  Qcow2Header,
  'backingName' | 'backingFormat' | 'dataFileName' | 'cryptoHeader' | 'bitmaps' | 'extensions'
>;

/**
 * Reads and checks the header of `file`, its extensions and its backing name.
 * @throws ImgfuseError corrupt, unsupported: one sentence with offset, value and what to do
 */
export function readHeader(file: HostFile, options: ReadHeaderOptions): Qcow2Header {
  const { version, clusterBits } = readStart(file);
  const bytes = new Uint8Array(2 ** clusterBits);
  readPadded(file, bytes, 0, Math.min(bytes.length, file.size()), hostOffset(0));
  const cluster = { file, bytes, view: new DataView(bytes.buffer), options };
  const headerLength = parseHeaderLength(cluster, version);
  const extensionsEnd = parseBackingOffset(cluster, version) || bytes.length;
  const features = parseFeatures(cluster, version, headerLength, extensionsEnd);
  const fixed: FixedFields = {
    version,
    clusterBits,
    clusterSize: bytes.length,
    headerLength,
    trailingFields: bytes.slice(Math.min(FIELD.compressionType + 1, headerLength), headerLength),
    ...features,
    ...parseEntryWidths(cluster, version, features.extendedL2),
    ...parseTables(cluster, features.extendedL2),
  };
  const extensions = parseExtensions(file, bytes, headerLength, extensionsEnd);
  return { ...fixed, ...parseVariablePart(cluster, fixed, extensions), extensions };
}

/** Magic, version and cluster size. The cluster size says how much to read. */
function readStart(file: HostFile): { version: 2 | 3; clusterBits: number } {
  const bytes = new Uint8Array(QCOW2_V2_HEADER_BYTES);
  const got = file.read(bytes, 0, bytes.length, hostOffset(0));
  const view = new DataView(bytes.buffer);
  const magic = view.getUint32(0, false);
  if (got >= 4 && magic !== QCOW_MAGIC) {
    throw invalid(file, 0, `magic is ${hex(magic)} instead of ${hex(QCOW_MAGIC)}; this is not a qcow2 image`);
  }
  if (got < bytes.length) {
    throw invalid(
      file,
      0,
      `the file has ${got} bytes, but a qcow2 header has at least ${bytes.length}; the file is truncated`,
    );
  }
  const version = view.getUint32(FIELD.version, false);
  if (version !== 2 && version !== 3) {
    throw unsupported(
      file,
      FIELD.version,
      `version is ${version}; only 2 and 3 are known, convert the image with qemu-img convert`,
    );
  }
  const clusterBits = view.getUint32(FIELD.clusterBits, false);
  if (clusterBits < MIN_CLUSTER_BITS || clusterBits > MAX_CLUSTER_BITS) {
    throw invalid(
      file,
      FIELD.clusterBits,
      `cluster_bits is ${clusterBits}; it must be from ${MIN_CLUSTER_BITS} to ${MAX_CLUSTER_BITS} (512 bytes to 2 MiB)`,
    );
  }
  return { version, clusterBits };
}

function parseHeaderLength({ file, bytes, view }: HeaderCluster, version: 2 | 3): number {
  if (version === 2) return QCOW2_V2_HEADER_BYTES;
  const length = view.getUint32(FIELD.headerLength, false);
  // the specification asks for a multiple of 8, but QEMU opens an image with any length
  if (length < QCOW2_V3_HEADER_BYTES || length > bytes.length) {
    throw invalid(
      file,
      FIELD.headerLength,
      `header_length is ${length}; it must be from ${QCOW2_V3_HEADER_BYTES} to the cluster size ${bytes.length}`,
    );
  }
  if (file.size() < length) {
    throw invalid(file, 0, `the file has ${file.size()} bytes, but its header has ${length}; the file is truncated`);
  }
  return length;
}

/**
 * The name may start before the end of the header (header_length), as in QEMU, but not inside the known fields: they change
 * while the image is open.
 * @returns 0 if there is no backing file
 */
function parseBackingOffset({ file, bytes, view }: HeaderCluster, version: 2 | 3): number {
  const offset = readU64BE(view, FIELD.backingOffset);
  const fieldsEnd = version === 2 ? QCOW2_V2_HEADER_BYTES : QCOW2_V3_HEADER_BYTES;
  if (offset === 0 || (offset >= fieldsEnd && offset <= bytes.length)) return offset;
  throw invalid(
    file,
    FIELD.backingOffset,
    `backing_file_offset is ${showU64(view, FIELD.backingOffset)}; the name must lie between the fields of ${fieldsEnd} bytes and the end of ` +
      `the first cluster at ${bytes.length}`,
  );
}

function parseFeatures(cluster: HeaderCluster, version: 2 | 3, headerLength: number, extensionsEnd: number) {
  const { view } = cluster;
  const words = (at: number): FeatureWords =>
    version === 2 ? [0, 0] : [view.getUint32(at + 4, false), view.getUint32(at, false)];
  const incompatible = words(FIELD.incompatibleFeatures);
  const compatible = words(FIELD.compatibleFeatures);
  const autoclear = words(FIELD.autoclearFeatures);
  const compressionType = parseCompressionType(cluster, incompatible, headerLength);
  checkIncompatible(cluster, incompatible, headerLength, extensionsEnd);
  return {
    incompatible,
    compatible,
    autoclear,
    compressionType,
    isDirty: (incompatible[0] & QCOW2_INCOMPAT_DIRTY) !== 0,
    isCorrupt: (incompatible[0] & QCOW2_INCOMPAT_CORRUPT) !== 0,
    hasExternalData: (incompatible[0] & QCOW2_INCOMPAT_DATA_FILE) !== 0,
    extendedL2: (incompatible[0] & QCOW2_INCOMPAT_EXTL2) !== 0,
    lazyRefcounts: (compatible[0] & QCOW2_COMPAT_LAZY_REFCOUNTS) !== 0,
    dataFileRaw: (autoclear[0] & QCOW2_AUTOCLEAR_DATA_FILE_RAW) !== 0,
  };
}

function parseCompressionType(
  { file, view }: HeaderCluster,
  incompatible: FeatureWords,
  headerLength: number,
): CompressionType {
  const value = headerLength > FIELD.compressionType ? view.getUint8(FIELD.compressionType) : 0;
  const type = COMPRESSION_TYPES[value];
  if (type === undefined) {
    throw unsupported(
      file,
      FIELD.compressionType,
      `compression_type is ${value}; only 0 (zlib) and 1 (zstd) are known, open the image with the program that wrote it`,
    );
  }
  const bit = (incompatible[0] & QCOW2_INCOMPAT_COMPRESSION) !== 0;
  if (bit === (value !== 0)) return type;
  throw invalid(
    file,
    FIELD.compressionType,
    `compression_type is ${value} (${type}), but incompatible feature bit 3 is ${bit ? 'set' : 'clear'}; ` +
      'the bit must be set for zstd and clear for zlib',
  );
}

function checkIncompatible(
  { file, bytes, options }: HeaderCluster,
  incompatible: FeatureWords,
  headerLength: number,
  extensionsEnd: number,
): void {
  const unknown: FeatureWords = [(incompatible[0] & ~QCOW2_INCOMPAT_MASK) >>> 0, incompatible[1]];
  if (unknown[0] !== 0 || unknown[1] !== 0) {
    let table: Uint8Array | null = null;
    try {
      const extensions = parseExtensions(file, bytes, headerLength, extensionsEnd);
      table = findExtension(extensions, QCOW2_EXT_MAGIC_FEATURE_TABLE)?.data ?? null;
    } catch (error) {
      // report the unknown bit, even without its name
      if (!isCorrupt(error)) throw error;
    }
    throw unsupported(
      file,
      FIELD.incompatibleFeatures,
      `the image uses features that imgfuse does not know: ${nameIncompatibleBits(unknown, table).join(', ')}; ` +
        'open it with the newer program that wrote it',
    );
  }
  if ((incompatible[0] & QCOW2_INCOMPAT_CORRUPT) === 0 || options.readOnly || options.check === true) return;
  throw invalid(
    file,
    FIELD.incompatibleFeatures,
    `the corrupt bit is set, so the image is not opened for writing; repair a copy with imgfuse check -r all ${file.path}, or mount ` +
      'with -o ro',
  );
}

function parseEntryWidths({ file, bytes, view }: HeaderCluster, version: 2 | 3, extendedL2: boolean) {
  if (extendedL2 && bytes.length / SUBCLUSTERS_PER_CLUSTER < 2 ** MIN_CLUSTER_BITS) {
    throw invalid(
      file,
      FIELD.clusterBits,
      `clusters of ${bytes.length} bytes have subclusters of ${bytes.length / SUBCLUSTERS_PER_CLUSTER}; ` +
        'extended L2 entries need cluster_bits of at least 14',
    );
  }
  const refcountOrder = version === 2 ? 4 : view.getUint32(FIELD.refcountOrder, false);
  if (refcountOrder > MAX_REFCOUNT_ORDER) {
    throw invalid(
      file,
      FIELD.refcountOrder,
      `refcount_order is ${refcountOrder}; it must be at most ${MAX_REFCOUNT_ORDER} (64-bit refcounts)`,
    );
  }
  const cryptMethod = view.getUint32(FIELD.cryptMethod, false);
  if (cryptMethod > QCOW_CRYPT_LUKS) {
    throw unsupported(
      file,
      FIELD.cryptMethod,
      `crypt_method is ${cryptMethod}; only 0 (none), 1 (AES) and 2 (LUKS) are known, open the image with the program that wrote it`,
    );
  }
  return { refcountOrder, cryptMethod };
}

/** Parses everything after the fixed fields: the extensions and the backing name. */
function parseVariablePart(cluster: HeaderCluster, fixed: FixedFields, extensions: readonly HeaderExtension[]) {
  const { file, options } = cluster;
  const { clusterSize, cryptMethod } = fixed;
  const backingFormat = parseBackingFormat(file, extensions);
  const cryptoHeader = parseCryptoHeaderPointer(file, extensions, clusterSize);
  if (cryptoHeader !== null && cryptMethod !== QCOW_CRYPT_LUKS) {
    throw invalid(
      file,
      FIELD.cryptMethod,
      `there is an encryption header, which only LUKS images (2) have, but crypt_method is ${cryptMethod}`,
    );
  }
  const consistent = (fixed.autoclear[0] & QCOW2_AUTOCLEAR_BITMAPS) !== 0;
  const bitmaps = consistent ? parseBitmapsExtension(file, extensions, clusterSize) : null;
  const dataFileName = fixed.hasExternalData ? parseDataFileName(file, extensions) : null;
  if (fixed.dataFileRaw && !fixed.hasExternalData) {
    throw invalid(
      file,
      FIELD.autoclearFeatures,
      'autoclear feature bit 1 (raw external data) is set, but the image has no external data file',
    );
  }
  if (cryptMethod === QCOW_CRYPT_LUKS && cryptoHeader === null) {
    throw invalid(file, FIELD.cryptMethod, 'crypt_method is 2 (LUKS), but there is no encryption header extension');
  }
  const backingName = parseBackingName(cluster);
  if (backingName !== null && fixed.dataFileRaw && !options.readOnly) {
    throw invalid(
      file,
      FIELD.backingOffset,
      'the image has a backing file and a raw data file, which exclude each other; mount it with -o ro',
    );
  }
  return { backingName, backingFormat, dataFileName, cryptoHeader, bitmaps };
}

function parseBackingName({ file, bytes, view }: HeaderCluster): string | null {
  const offset = readU64BE(view, FIELD.backingOffset);
  if (offset === 0) return null;
  const length = view.getUint32(FIELD.backingSize, false);
  const limit = Math.min(MAX_BACKING_NAME, bytes.length - offset);
  if (length > limit) {
    throw invalid(
      file,
      FIELD.backingSize,
      `backing_file_size is ${length}; at offset ${offset} it must be at most ${limit}`,
    );
  }
  if (length === 0) return null;
  if (offset + length > file.size()) {
    throw invalid(
      file,
      FIELD.backingOffset,
      `the backing name of ${length} bytes at ${offset} ends beyond the file of ${file.size()} bytes, which is truncated`,
    );
  }
  return decodeName(file, offset, bytes.subarray(offset, offset + length), 'backing file name');
}
