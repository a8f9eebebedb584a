// Makes a new qcow2 image. The header is written last, after everything else is durable: a crash before that leaves a file
// without a magic, which no program takes for an image. L2 tables and data exist only with preallocation:
//
//   header | refcount table | refcount blocks | LUKS header | L1 table | L2 tables | data
//
// Every cluster of the file has exactly one reference, so the refcount blocks are an array of ones.

import { writeU64BE } from '../../../bytes/endian.ts';
import { bytesOfName } from '../../../bytes/names.ts';
import { divideUp, guestOffset, hostOffset } from '../../../bytes/offsets.ts';
import { wipe } from '../../../codec/encryption.ts';
import { GuestData } from '../../../codec/guest-data.ts';
import { createLuksHeader, unlockLuks } from '../../../codec/luks.ts';
import type { LuksArea } from '../../../codec/luks-header.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { CreateOptions } from '../../image-format.ts';
import { l1EntriesFor } from '../geometry.ts';
import { serializeFeatureNames } from '../header/feature-name.ts';
import {
  QCOW_CRYPT_LUKS,
  QCOW_CRYPT_NONE,
  QCOW_MAX_L1_SIZE,
  QCOW_MAX_REFTABLE_SIZE,
  QCOW2_AUTOCLEAR_DATA_FILE_RAW,
  QCOW2_COMPAT_LAZY_REFCOUNTS,
  QCOW2_INCOMPAT_COMPRESSION,
  QCOW2_INCOMPAT_DATA_FILE,
  QCOW2_INCOMPAT_EXTL2,
  QCOW2_V2_HEADER_BYTES,
  type Qcow2Header,
  serializeHeader,
} from '../header/header.ts';
import {
  type HeaderExtension,
  QCOW2_EXT_MAGIC_BACKING_FORMAT,
  QCOW2_EXT_MAGIC_CRYPTO_HEADER,
  QCOW2_EXT_MAGIC_DATA_FILE,
  QCOW2_EXT_MAGIC_FEATURE_TABLE,
  serializeCryptoHeaderPointer,
} from '../header/header-extension.ts';
import { planImage, type Qcow2Plan } from './create-options.ts';

const ENTRY_BYTES = 8;
const EXTENDED_L2_ENTRY_BYTES = 16;
/** with compression_type and its padding */
const NEW_V3_HEADER_BYTES = 112;
/** In smaller clusters the backing name needs the room; QEMU leaves the names out, too. */
const MIN_CLUSTER_FOR_FEATURE_NAMES = 4096;
const CHUNK_BYTES = 1024 * 1024;
/** Host offsets have 56 bits in the format, 53 in a JavaScript number. */
const MAX_FILE_BYTES = 2 ** 53 - 2 ** 21;

/** The first cluster of each part of the file. */
interface Layout {
  readonly refcountTable: number;
  readonly refcountBlocks: number;
  readonly luksHeader: number;
  readonly l1Table: number;
  readonly l2Tables: number;
  readonly data: number;
  /** clusters of the whole file */
  readonly end: number;
  readonly l1Entries: number;
  /** guest clusters with an L2 entry: all with preallocation, otherwise 0 */
  readonly mappedClusters: number;
}

/**
 * Writes a new image into an empty file. The options are those of qemu-img, see create-options.ts; the size is rounded up
 * to a multiple of 512 bytes.
 * @throws ImgfuseError usage, limit, unsupported: nothing has been written then
 */
export function createQcow2(file: HostFile, options: CreateOptions): void {
  const plan = planImage(options);
  const luks = makeLuksHeader(plan, options);
  const layout = layOut(plan, luks.length);
  const header = serializeHeader(headerOf(plan, layout, luks.length));
  const dataFile = openDataFile(plan, options);
  const { clusterSize } = plan;
  file.truncate(layout.end * clusterSize);
  writeRefcounts(file, plan, layout);
  writeMapping(file, plan, layout);
  file.write(luks, 0, luks.length, hostOffset(layout.luksHeader * clusterSize));
  fillData(file, dataFile, plan, layout, cryptoPointer(plan, layout, luks.length), options);
  if (dataFile !== null) dataFile.sync();
  file.sync();
  file.write(header, 0, header.length, hostOffset(0));
  file.sync();
}

/** @returns an empty array for an image without encryption */
function makeLuksHeader({ encryption }: Qcow2Plan, { password }: CreateOptions): Uint8Array {
  if (encryption === null) return new Uint8Array(0);
  return withPassword(password, (secret) => createLuksHeader(secret, encryption));
}

function withPassword<T>(password: CreateOptions['password'], use: (secret: Uint8Array) => T): T {
  if (password === undefined) {
    throw new ImgfuseError(
      'permission',
      'an encrypted image needs a password; give it with --key-file, --key-env or at the prompt',
    );
  }
  const secret = password();
  try {
    return use(secret);
  } finally {
    wipe(secret);
  }
}

function cryptoPointer({ clusterSize }: Qcow2Plan, layout: Layout, length: number): LuksArea | null {
  return length === 0 ? null : { offset: layout.luksHeader * clusterSize, length };
}

function layOut(plan: Qcow2Plan, luksBytes: number): Layout {
  const { size, clusterSize, extendedL2, refcountBits, preallocation, dataFileName } = plan;
  const l1Entries = l1EntriesFor(size, clusterSize, extendedL2);
  if (l1Entries * ENTRY_BYTES > QCOW_MAX_L1_SIZE) {
    const limit = (QCOW_MAX_L1_SIZE / ENTRY_BYTES) * (clusterSize / l2EntryBytes(plan)) * clusterSize;
    throw tooLarge(plan, `its L1 table maps at most ${limit} bytes`);
  }
  const mappedClusters = preallocation === 'off' ? 0 : divideUp(size, clusterSize);
  const l1 = divideUp(l1Entries * ENTRY_BYTES, clusterSize);
  const l2 = preallocation === 'off' ? 0 : l1Entries;
  const data = dataFileName === null ? mappedClusters : 0;
  const luks = divideUp(luksBytes, clusterSize);
  const perBlock = (clusterSize * 8) / refcountBits;
  // the refcount structures also count themselves: grow them until they are large enough
  let blocks = 1;
  let table = 1;
  for (;;) {
    const total = 1 + table + blocks + luks + l1 + l2 + data;
    const neededBlocks = divideUp(total, perBlock);
    const neededTable = divideUp(neededBlocks * ENTRY_BYTES, clusterSize);
    if (neededBlocks <= blocks && neededTable <= table) break;
    blocks = Math.max(blocks, neededBlocks);
    table = Math.max(table, neededTable);
  }
  if (table * clusterSize > QCOW_MAX_REFTABLE_SIZE) throw tooLarge(plan, 'its refcount table would exceed 8 MiB');
  const end = 1 + table + blocks + luks + l1 + l2 + data;
  if (end * clusterSize > MAX_FILE_BYTES) throw tooLarge(plan, `the file would exceed ${MAX_FILE_BYTES} bytes`);
  return {
    refcountTable: 1,
    refcountBlocks: 1 + table,
    luksHeader: 1 + table + blocks,
    l1Table: 1 + table + blocks + luks,
    l2Tables: 1 + table + blocks + luks + l1,
    data: 1 + table + blocks + luks + l1 + l2,
    end,
    l1Entries,
    mappedClusters,
  };
}

function headerOf(plan: Qcow2Plan, layout: Layout, luksBytes: number): Qcow2Header {
  const { version, clusterSize } = plan;
  const hasExternalData = plan.dataFileName !== null;
  const zstd = plan.compressionType === 'zstd';
  const headerLength = version === 2 ? QCOW2_V2_HEADER_BYTES : NEW_V3_HEADER_BYTES;
  const incompatible =
    (hasExternalData ? QCOW2_INCOMPAT_DATA_FILE : 0) |
    (zstd ? QCOW2_INCOMPAT_COMPRESSION : 0) |
    (plan.extendedL2 ? QCOW2_INCOMPAT_EXTL2 : 0);
  return {
    version,
    clusterBits: Math.log2(clusterSize),
    clusterSize,
    size: plan.size,
    cryptMethod: plan.encryption === null ? QCOW_CRYPT_NONE : QCOW_CRYPT_LUKS,
    l1Size: layout.l1Entries,
    l1TableOffset: layout.l1Entries === 0 ? 0 : layout.l1Table * clusterSize,
    refcountTableOffset: layout.refcountTable * clusterSize,
    refcountTableClusters: layout.refcountBlocks - layout.refcountTable,
    snapshotCount: 0,
    snapshotsOffset: 0,
    incompatible: [incompatible, 0],
    compatible: [plan.lazyRefcounts ? QCOW2_COMPAT_LAZY_REFCOUNTS : 0, 0],
    autoclear: [plan.dataFileRaw ? QCOW2_AUTOCLEAR_DATA_FILE_RAW : 0, 0],
    isDirty: false,
    isCorrupt: false,
    hasExternalData,
    extendedL2: plan.extendedL2,
    lazyRefcounts: plan.lazyRefcounts,
    dataFileRaw: plan.dataFileRaw,
    refcountOrder: Math.log2(plan.refcountBits),
    headerLength,
    compressionType: plan.compressionType,
    trailingFields: new Uint8Array(version === 2 ? 0 : NEW_V3_HEADER_BYTES - 105),
    backingName: plan.backing?.name ?? null,
    backingFormat: plan.backing?.format ?? null,
    dataFileName: plan.dataFileName,
    cryptoHeader: cryptoPointer(plan, layout, luksBytes),
    bitmaps: null,
    extensions: extensionsOf(plan, cryptoPointer(plan, layout, luksBytes)),
  };
}

function extensionsOf(
  { version, clusterSize, backing, dataFileName }: Qcow2Plan,
  cryptoHeader: LuksArea | null,
): HeaderExtension[] {
  const extensions: HeaderExtension[] = [];
  const add = (type: number, data: Uint8Array): void => {
    extensions.push({ type, data, offset: 0 });
  };
  if (backing?.format !== undefined) add(QCOW2_EXT_MAGIC_BACKING_FORMAT, bytesOfName(backing.format));
  if (dataFileName !== null) add(QCOW2_EXT_MAGIC_DATA_FILE, bytesOfName(dataFileName));
  if (cryptoHeader !== null) add(QCOW2_EXT_MAGIC_CRYPTO_HEADER, serializeCryptoHeaderPointer(cryptoHeader));
  if (version === 3 && clusterSize >= MIN_CLUSTER_FOR_FEATURE_NAMES) {
    add(QCOW2_EXT_MAGIC_FEATURE_TABLE, serializeFeatureNames());
  }
  return extensions;
}

function openDataFile({ dataFileName }: Qcow2Plan, { createExtent }: CreateOptions): HostFile | null {
  if (dataFileName === null) return null;
  if (createExtent === undefined) {
    throw new ImgfuseError('unsupported', `data_file=${dataFileName}: a data file cannot be created here`);
  }
  const file = createExtent(dataFileName, 'data');
  if (file.size() === 0) return file;
  throw new ImgfuseError(
    'usage',
    `the data file ${file.path} has content, which a new image would destroy; move it away`,
    {
      path: file.path,
    },
  );
}

function writeRefcounts(file: HostFile, plan: Qcow2Plan, layout: Layout): void {
  const { clusterSize, refcountBits } = plan;
  const { refcountTable, refcountBlocks, luksHeader, end } = layout;
  const table = { offset: refcountTable * clusterSize, count: luksHeader - refcountBlocks, entryBytes: ENTRY_BYTES };
  writeEntries(file, table, (view, at, index) => writeU64BE(view, at, (refcountBlocks + index) * clusterSize));
  const offset = refcountBlocks * clusterSize;
  if (refcountBits >= 8) {
    const entryBytes = refcountBits / 8;
    writeEntries(file, { offset, count: end, entryBytes }, (view, at) => view.setUint8(at + entryBytes - 1, 1));
    return;
  }
  // a byte has several counters, the first one in its low bits
  const perByte = 8 / refcountBits;
  writeEntries(file, { offset, count: divideUp(end, perByte), entryBytes: 1 }, (view, at, index) => {
    const counters = Math.min(perByte, end - index * perByte);
    let byte = 0;
    for (let counter = 0; counter < counters; counter++) byte |= 1 << (counter * refcountBits);
    view.setUint8(at, byte);
  });
}

/** Writes the L1 and L2 tables for preallocation. The L2 tables are adjacent, so their entries form one array. */
function writeMapping(file: HostFile, plan: Qcow2Plan, layout: Layout): void {
  const { clusterSize, dataFileName } = plan;
  const { l1Table, l2Tables, l1Entries, mappedClusters, data } = layout;
  if (mappedClusters === 0) return;
  const l1 = { offset: l1Table * clusterSize, count: l1Entries, entryBytes: ENTRY_BYTES };
  writeEntries(file, l1, (view, at, index) => writeCopied(view, at, (l2Tables + index) * clusterSize));
  const entryBytes = l2EntryBytes(plan);
  const firstCluster = dataFileName === null ? data : 0;
  // subclusters stay unallocated, so that reads get the backing file's data; those of a raw data file are all allocated
  const isAllocated = plan.extendedL2 && plan.dataFileRaw;
  writeEntries(file, { offset: l2Tables * clusterSize, count: mappedClusters, entryBytes }, (view, at, index) => {
    writeCopied(view, at, (firstCluster + index) * clusterSize);
    if (isAllocated) view.setUint32(at + 12, 0xffffffff, false);
  });
}

/** Sets QCOW_OFLAG_COPIED (bit 63) in the byte: a number cannot hold it together with the offset. */
function writeCopied(view: DataView, at: number, offset: number): void {
  writeU64BE(view, at, offset);
  view.setUint8(at, view.getUint8(at) | 0x80);
}

function fillData(
  file: HostFile,
  dataFile: HostFile | null,
  plan: Qcow2Plan,
  layout: Layout,
  cryptoHeader: LuksArea | null,
  { password }: CreateOptions,
): void {
  const target = dataFile ?? file;
  const start = dataFile === null ? layout.data * plan.clusterSize : 0;
  const end = dataFile === null ? layout.end * plan.clusterSize : plan.size;
  if (dataFile !== null) dataFile.truncate(plan.size);
  if (end <= start) return;
  if (plan.preallocation === 'falloc') target.allocateRange(hostOffset(start), end - start);
  if (plan.preallocation !== 'full') return;
  const key = cryptoHeader === null ? null : withPassword(password, (secret) => unlockLuks(file, cryptoHeader, secret));
  const data = new GuestData(target, key);
  const zeros = new Uint8Array(Math.min(CHUNK_BYTES, end - start));
  for (let at = start; at < end; at += zeros.length) {
    data.write(zeros, 0, Math.min(zeros.length, end - at), hostOffset(at), guestOffset(at - start));
  }
}

interface EntryArray {
  readonly offset: number;
  readonly count: number;
  readonly entryBytes: number;
}

/** Writes an array of entries in large pieces. `set` writes one entry; its bytes are zero before. */
function writeEntries(
  file: HostFile,
  { offset, count, entryBytes }: EntryArray,
  set: (view: DataView, at: number, index: number) => void,
): void {
  const perChunk = CHUNK_BYTES / entryBytes;
  const bytes = new Uint8Array(Math.min(count, perChunk) * entryBytes);
  const view = new DataView(bytes.buffer);
  for (let first = 0; first < count; first += perChunk) {
    const entries = Math.min(perChunk, count - first);
    bytes.fill(0);
    for (let entry = 0; entry < entries; entry++) set(view, entry * entryBytes, first + entry);
    file.write(bytes, 0, entries * entryBytes, hostOffset(offset + first * entryBytes));
  }
}

function l2EntryBytes({ extendedL2 }: Qcow2Plan): number {
  return extendedL2 ? EXTENDED_L2_ENTRY_BYTES : ENTRY_BYTES;
}

function tooLarge({ size, clusterSize }: Qcow2Plan, why: string): ImgfuseError {
  return new ImgfuseError(
    'limit',
    `a qcow2 image of ${size} bytes with cluster_size=${clusterSize} is too large: ${why}; use a larger cluster_size`,
  );
}
