// Persistent bitmaps: the directory, the bitmap tables, and the data clusters that the tables point to. A check counts these
// clusters; the bits themselves are neither read nor changed. The limits are QEMU's. In addition all tables together may not
// be larger than the file, so that overlapping tables in a small hostile file cannot make the walk long.
//
//    0 bitmap_table_offset u64   12 flags u32   17 granularity_bits u8   20 extra_data_size u32
//    8 bitmap_table_size u32     16 type u8     18 name_size u16         24 extra data, name, padding to 8

import { combine, hexWords, readU64BE } from '../../../bytes/endian.ts';
import { nameOfBytes } from '../../../bytes/names.ts';
import { hex, hostOffset, roundUp } from '../../../bytes/offsets.ts';
import { type ErrorContext, ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { Qcow2Header } from './header.ts';

const BME_MAX_TABLE_SIZE = 0x8000000;
const BME_MAX_PHYS_SIZE = 0x20000000;
const BME_MIN_GRANULARITY_BITS = 9;
const BME_MAX_GRANULARITY_BITS = 31;
const BME_MAX_NAME_SIZE = 1023;
const BME_FLAG_IN_USE = 1;
const BME_FLAG_AUTO = 2;
const BME_RESERVED_FLAGS = 0xfffffffc;
const BT_DIRTY_TRACKING_BITMAP = 1;
/** Reserved bits of a bitmap table entry: 1 to 8 and 56 to 63. */
const BME_TABLE_ENTRY_RESERVED_HIGH = 0xff000000;
const BME_TABLE_ENTRY_RESERVED_LOW = 0x1fe;
const BME_TABLE_ENTRY_FLAG_ALL_ONES = 1;

/** Limit for all bitmap tables of an image together, in bytes. */
export const MAX_BITMAP_TABLES_BYTES = 256 * 1024 * 1024;

const FIXED_BYTES = 24;
const TABLE_ENTRY_BYTES = 8;
const CHUNK_BYTES = 65536;

interface BitmapEntry {
  readonly name: string;
  /** guest bytes per bit */
  readonly granularity: number;
  /** the bitmap was not saved when the image was last closed, so its bits are stale */
  readonly inUse: boolean;
  /** QEMU records writes in it while the image is open */
  readonly auto: boolean;
  readonly tableOffset: number;
  readonly tableEntries: number;
}

/** Host bytes that belong to the bitmaps. They start at a cluster; the directory and the tables may end inside one. */
interface BitmapRange {
  readonly what: 'bitmap directory' | 'bitmap table' | 'bitmap data';
  readonly offset: number;
  readonly length: number;
}

type BitmapFields = Pick<Qcow2Header, 'bitmaps' | 'clusterSize' | 'size'>;

/**
 * The entries of the directory; an empty array if the image has no consistent bitmaps.
 * @throws ImgfuseError corrupt
 */
export function readBitmapDirectory(file: HostFile, header: BitmapFields): BitmapEntry[] {
  if (header.bitmaps === null) return [];
  const { count, directoryOffset, directorySize } = header.bitmaps;
  const end = directoryOffset + directorySize;
  if (end > file.size()) {
    const what = `${directorySize} bytes end beyond the file of ${file.size()} bytes`;
    throw invalid(file, directoryOffset, what, { isTruncated: true });
  }
  const entries: BitmapEntry[] = [];
  let tableBytes = 0;
  for (let at = directoryOffset; at < end; ) {
    if (entries.length === count) throw invalid(file, at, `there are more entries than the ${count} of the header`);
    const { entry, length } = readEntry(file, header, at, end);
    tableBytes += entry.tableEntries * TABLE_ENTRY_BYTES;
    if (tableBytes > Math.min(MAX_BITMAP_TABLES_BYTES, file.size())) {
      throw invalid(
        file,
        at,
        `the bitmap tables take ${tableBytes} bytes or more; at most ${MAX_BITMAP_TABLES_BYTES} and the size of the file are allowed`,
      );
    }
    entries.push(entry);
    at += length;
  }
  if (entries.length < count) throw invalid(file, end, `there are ${entries.length} entries, the header says ${count}`);
  return entries;
}

/**
 * Every range of the file that belongs to the bitmaps.
 * @throws ImgfuseError corrupt, possibly after some ranges
 */
export function* bitmapRanges(file: HostFile, header: BitmapFields): Generator<BitmapRange> {
  if (header.bitmaps === null) return;
  const { directoryOffset, directorySize } = header.bitmaps;
  const entries = readBitmapDirectory(file, header);
  yield { what: 'bitmap directory', offset: directoryOffset, length: directorySize };
  for (const { tableOffset, tableEntries } of entries) {
    yield { what: 'bitmap table', offset: tableOffset, length: tableEntries * TABLE_ENTRY_BYTES };
    for (const offset of dataClusters(file, tableOffset, tableEntries, header.clusterSize)) {
      yield { what: 'bitmap data', offset, length: header.clusterSize };
    }
  }
}

function readEntry(
  file: HostFile,
  header: BitmapFields,
  at: number,
  end: number,
): { entry: BitmapEntry; length: number } {
  const bytes = new Uint8Array(FIXED_BYTES);
  const view = new DataView(bytes.buffer);
  if (end - at < FIXED_BYTES) throw invalid(file, at, `an entry of ${end - at} bytes is cut off`);
  file.read(bytes, 0, FIXED_BYTES, hostOffset(at));
  const nameBytes = view.getUint16(18, false);
  const extraBytes = view.getUint32(20, false);
  const length = roundUp(FIXED_BYTES + extraBytes + nameBytes, 8);
  if (length > end - at) throw invalid(file, at, `an entry of ${length} bytes does not fit into the ${end - at} left`);
  checkEntry(file, header, at, view);
  const name = new Uint8Array(nameBytes);
  file.read(name, 0, nameBytes, hostOffset(at + FIXED_BYTES + extraBytes));
  const flags = view.getUint32(12, false);
  return {
    length,
    entry: {
      name: nameOfBytes(name),
      granularity: 2 ** view.getUint8(17),
      inUse: (flags & BME_FLAG_IN_USE) !== 0,
      auto: (flags & BME_FLAG_AUTO) !== 0,
      tableOffset: readU64BE(view, 0),
      tableEntries: view.getUint32(8, false),
    },
  };
}

function checkEntry(file: HostFile, { clusterSize, size }: BitmapFields, at: number, view: DataView): void {
  const tableOffset = readU64BE(view, 0);
  const tableEntries = view.getUint32(8, false);
  const flags = view.getUint32(12, false);
  const type = view.getUint8(16);
  const granularityBits = view.getUint8(17);
  const nameBytes = view.getUint16(18, false);
  const extraBytes = view.getUint32(20, false);
  const fail = (field: number, what: string, context: ErrorContext = {}): never => {
    throw invalid(file, at + field, what, context);
  };
  if (extraBytes !== 0) fail(20, `extra_data_size is ${extraBytes}; imgfuse does not know bitmaps with extra data`);
  if (Number.isNaN(tableOffset) || tableOffset === 0 || tableOffset % clusterSize !== 0) {
    const shown = hexWords(view.getUint32(0, false), view.getUint32(4, false));
    fail(0, `bitmap_table_offset is ${shown}; it must be a positive multiple of the cluster size ${clusterSize}`);
  }
  const physical = tableEntries * clusterSize;
  if (tableEntries === 0 || tableEntries > BME_MAX_TABLE_SIZE || physical > BME_MAX_PHYS_SIZE) {
    fail(8, `bitmap_table_size is ${tableEntries} clusters; it must be from 1 to ${BME_MAX_PHYS_SIZE / clusterSize}`);
  }
  if (tableOffset + tableEntries * TABLE_ENTRY_BYTES > file.size()) {
    fail(0, `bitmap_table_offset is ${hex(tableOffset)}; ${tableEntries} entries there end beyond the file`, {
      isTruncated: true,
    });
  }
  if ((flags & BME_RESERVED_FLAGS) !== 0) fail(12, `flags is ${hex(flags)}; only bits 0 and 1 are known`);
  if (type !== BT_DIRTY_TRACKING_BITMAP) fail(16, `type is ${type}; only 1 (dirty tracking) is known`);
  if (granularityBits < BME_MIN_GRANULARITY_BITS || granularityBits > BME_MAX_GRANULARITY_BITS) {
    fail(17, `granularity_bits is ${granularityBits}; it must be from 9 to 31`);
  }
  if (nameBytes === 0 || nameBytes > BME_MAX_NAME_SIZE) {
    fail(18, `name_size is ${nameBytes}; it must be from 1 to ${BME_MAX_NAME_SIZE}`);
  }
  // a stale bitmap may have missed the last resize, so its size is not checked
  if ((flags & BME_FLAG_IN_USE) === 0 && size > physical * 8 * 2 ** granularityBits) {
    fail(8, `bitmap_table_size is ${tableEntries} clusters, too few bits for a disk of ${size} bytes`);
  }
}

function* dataClusters(
  file: HostFile,
  tableOffset: number,
  tableEntries: number,
  clusterSize: number,
): Generator<number> {
  const tableBytes = tableEntries * TABLE_ENTRY_BYTES;
  const bytes = new Uint8Array(Math.min(CHUNK_BYTES, tableBytes));
  const view = new DataView(bytes.buffer);
  for (let done = 0; done < tableBytes; done += bytes.length) {
    const length = Math.min(bytes.length, tableBytes - done);
    file.read(bytes, 0, length, hostOffset(tableOffset + done));
    for (let at = 0; at < length; at += TABLE_ENTRY_BYTES) {
      const high = view.getUint32(at, false);
      const low = view.getUint32(at + 4, false);
      const offset = combine(high, (low & ~BME_TABLE_ENTRY_FLAG_ALL_ONES) >>> 0);
      const reserved = (high & BME_TABLE_ENTRY_RESERVED_HIGH) !== 0 || (low & BME_TABLE_ENTRY_RESERVED_LOW) !== 0;
      const ones = (low & BME_TABLE_ENTRY_FLAG_ALL_ONES) !== 0;
      if (reserved || Number.isNaN(offset) || offset % clusterSize !== 0 || (offset !== 0 && ones)) {
        throw invalid(
          file,
          tableOffset + done + at,
          `an entry of a bitmap table is ${hexWords(high, low)}, which is neither a cluster nor all zeros or ones`,
        );
      }
      if (offset !== 0) yield offset;
    }
  }
}

function invalid(file: HostFile, offset: number, what: string, context: ErrorContext = {}): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid qcow2 bitmap directory at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
    ...context,
  });
}
