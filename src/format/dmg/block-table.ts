// The block tables of a dmg image, one for each partition, in the array resource-fork/blkx of its property list or as
// resources "blkx" of its resource fork, big-endian:
//
//     0 "mish"   8 first sector u64   16 sectors u64   24 data, host offset u64 (from the data fork)
//    64 checksum: type u32, bits u32, value[128]      200 runs u32
//   204 runs of 40 bytes: type u32, comment u32, sector u64 (from the first one), sectors u64, host offset u64, bytes u64
//
// Invariant: the runs of a RunTable are sorted by guest offset, do not overlap, lie inside the disk, and those with data inside
// the file; none of them is larger than a decoder may take memory for.

import { readU64BE } from '../../bytes/endian.ts';
import { hex, isSafeOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { MAX_PIECE_BYTES } from '../../codec/compressed-pieces.ts';
import { DamagedData } from '../../codec/damaged-data.ts';
import { arrayAt, dataAt, dictionaryAt, parsePlist } from '../../codec/plist.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { resourcesOf } from './resource-fork.ts';
import { isCompressed, isSkipped, isZero, RAW_RUN, TERMINATOR } from './run-types.ts';
import type { Trailer } from './trailer.ts';

const TABLE_MAGIC = 'mish';
const FIRST_SECTOR_AT = 8;
const DATA_AT = 24;
const CHECKSUM_AT = 64;
const RUNS_AT = 200;
const FIRST_RUN_AT = 204;
const RUN_BYTES = 40;
const CRC32_CHECKSUM = 2;

export interface Run {
  readonly type: number;
  /** guest offset */
  readonly start: number;
  /** of the disk */
  readonly bytes: number;
  /** without a meaning for zeros */
  readonly hostOffset: number;
  readonly storedBytes: number;
}

/** The table of one partition, for a check. */
export interface BlockTable {
  readonly runs: readonly Run[];
  /** of the data of its runs; undefined if it has none, or one of another kind */
  readonly crc32: number | undefined;
}

/** Reads and checks all tables of an image. @throws ImgfuseError corrupt, unsupported */
export function readBlockTables(file: HostFile, trailer: Trailer): readonly BlockTable[] {
  const { name, offset, bytes } = trailer.tables;
  const holder = new Uint8Array(bytes);
  const got = file.read(holder, 0, bytes, offset);
  let found: readonly (Uint8Array | undefined)[];
  try {
    found =
      name === 'property list' ? tablesOfList(holder.subarray(0, got)) : resourcesOf(holder.subarray(0, got), 'blkx');
    if (found.length === 0) throw new DamagedData('has no block table');
  } catch (error) {
    if (!(error instanceof DamagedData)) throw error;
    throw corrupt(file, offset, `the ${name} at ${hex(offset)} ${error.message}`, error);
  }
  const tables = found.map((table, i) => new TableReader(file, trailer, i, table).read());
  checkOverlaps(file, offset, sortedRuns(tables));
  return tables;
}

/** undefined for an entry without a table */
function tablesOfList(bytes: Uint8Array): readonly (Uint8Array | undefined)[] {
  // some programs count the NUL behind the text
  const text = bytes.at(-1) === 0 ? bytes.subarray(0, -1) : bytes;
  const entries = arrayAt(dictionaryAt(parsePlist(text), 'resource-fork'), 'blkx');
  if (entries === undefined) throw new DamagedData('has no array resource-fork/blkx');
  return entries.map((entry) => dataAt(entry, 'Data'));
}

/** Runs of every table, in the order of the disk. */
export function sortedRuns(tables: readonly BlockTable[]): Run[] {
  return inDiskOrder(tables.flatMap(({ runs }) => runs));
}

export function inDiskOrder(runs: readonly Run[]): Run[] {
  return [...runs].sort((a, b) => a.start - b.start);
}

function checkOverlaps(file: HostFile, offset: number, runs: readonly Run[]): void {
  for (const [i, { start }] of runs.entries()) {
    const before = runs[i - 1];
    if (before !== undefined && before.start + before.bytes > start) {
      const sentence = `the block tables have two runs for sector ${start / SECTOR_BYTES} of the disk`;
      throw corrupt(file, offset, sentence);
    }
  }
}

class TableReader {
  private readonly file: HostFile;
  private readonly trailer: Trailer;
  private readonly index: number;
  private readonly bytes: Uint8Array;
  private readonly view: DataView;

  constructor(file: HostFile, trailer: Trailer, index: number, bytes: Uint8Array | undefined) {
    this.file = file;
    this.trailer = trailer;
    this.index = index;
    this.bytes = bytes ?? new Uint8Array(0);
    this.view = new DataView(this.bytes.buffer, this.bytes.byteOffset, this.bytes.length);
  }

  read(): BlockTable {
    const { bytes, view } = this;
    if (bytes.length < FIRST_RUN_AT) throw this.invalid(`has ${bytes.length} bytes; it must have ${FIRST_RUN_AT}`);
    const magic = Buffer.from(bytes.subarray(0, TABLE_MAGIC.length)).toString('latin1');
    if (magic !== TABLE_MAGIC) throw this.invalid(`has the magic ${JSON.stringify(magic)}`);
    const count = view.getUint32(RUNS_AT);
    if (FIRST_RUN_AT + count * RUN_BYTES > bytes.length)
      throw this.invalid(`has ${count} runs, for which its ${bytes.length} bytes are too few`);
    const runs: Run[] = [];
    for (let i = 0; i < count; i++) {
      const run = this.run(i);
      if (run.type === TERMINATOR) break;
      if (!isSkipped(run.type) && run.bytes !== 0) runs.push(this.checked(i, run));
    }
    const hasCrc = view.getUint32(CHECKSUM_AT) === CRC32_CHECKSUM && view.getUint32(CHECKSUM_AT + 4) === 32;
    return { runs, crc32: hasCrc ? view.getUint32(CHECKSUM_AT + 8) : undefined };
  }

  private run(index: number): Run {
    const { view } = this;
    const at = FIRST_RUN_AT + index * RUN_BYTES;
    return {
      type: view.getUint32(at),
      start: (readU64BE(view, FIRST_SECTOR_AT) + readU64BE(view, at + 8)) * SECTOR_BYTES,
      bytes: readU64BE(view, at + 16) * SECTOR_BYTES,
      hostOffset: this.trailer.dataFork + readU64BE(view, DATA_AT) + readU64BE(view, at + 24),
      storedBytes: readU64BE(view, at + 32),
    };
  }

  private checked(index: number, run: Run): Run {
    const { type, start, bytes, hostOffset, storedBytes } = run;
    const { diskBytes } = this.trailer;
    if (!(start + bytes <= diskBytes)) {
      const place = `run ${index} at sector ${start / SECTOR_BYTES} with ${bytes / SECTOR_BYTES} sectors`;
      throw this.invalid(`has ${place}, beyond the ${diskBytes / SECTOR_BYTES} sectors of the disk`);
    }
    if (isZero(type)) return run;
    if (type !== RAW_RUN && !isCompressed(type)) {
      const sentence = `has run ${index} of the type ${hex(type)}, which imgfuse does not know`;
      throw this.invalid(`${sentence}; convert it with hdiutil convert -format UDZO on a Mac`, 'unsupported');
    }
    const end = hostOffset + storedBytes;
    if (!isSafeOffset(end) || end > this.file.size()) {
      const place = `run ${index} with ${storedBytes} bytes at ${hex(hostOffset)}`;
      throw this.invalid(`has ${place}, beyond the end of the file at ${hex(this.file.size())}`);
    }
    if (type === RAW_RUN && storedBytes !== bytes)
      throw this.invalid(`has run ${index}, in which ${storedBytes} raw bytes are to be ${bytes}`);
    if (type !== RAW_RUN && Math.max(bytes, storedBytes) > MAX_PIECE_BYTES)
      throw this.invalid(`has run ${index} of ${storedBytes} compressed bytes for ${bytes}; the limit is 64 MiB`);
    return run;
  }

  private invalid(what: string, kind: 'corrupt' | 'unsupported' = 'corrupt'): ImgfuseError {
    const { path } = this.file;
    return new ImgfuseError(kind, `${path}: block table ${this.index} of the ${this.trailer.tables.name} ${what}`, {
      path,
    });
  }
}

function corrupt(file: HostFile, offset: number, what: string, cause?: unknown): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: ${what}`, { path: file.path, offset }, cause);
}
