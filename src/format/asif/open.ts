// Opening an ASIF image: the tables of its directory become one table. Of the two directories the one with the higher version counts.
//
//   directory: version u64, then the chunk number u64 of each table, 0 for none
//   table:     r entries of data, the entry of their bitmap, r entries of data, ...     r = 4 * block size
//   entry:     bits 0 .. 54 chunk number; of data, bits 62 and 63 are 0 for nothing, 1 for a chunk that was written as a whole, 3 for one
//              whose bitmap says which blocks were (image.ts)
//
// What else there may be was not seen by anybody outside Apple: such an entry is an error of whoever reads the chunk.

import { combine, hexWords, readU64BE } from '../../bytes/endian.ts';
import { hostOffset, roundDown } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { OpenOptions } from '../image-format.ts';
import { PieceTable } from '../piece-image.ts';
import { type AsifHeader, describeHeader, invalid, readHeader } from './header.ts';
import { AsifImage } from './image.ts';

const ENTRY_BYTES = 8;
/** Of the high word of an entry. */
const CHUNK_MASK = 2 ** 23 - 1;
const STATUS_SHIFT = 30;
const WHOLE = 1;
const PARTIAL = 3;
const READ_BYTES = 64 * 1024;

/** @throws ImgfuseError corrupt, unsupported, limit */
export function openAsif(file: HostFile, { log }: OpenOptions): AsifImage {
  const header = readHeader(file);
  const { chunkBytes, diskBytes } = header;
  const table = new PieceTable(file.path, diskBytes, chunkBytes);
  const layout = layoutOf(header);
  const partial = new Uint8Array(new SharedArrayBuffer(table.count));
  const bitmaps = new Float64Array(new SharedArrayBuffer(Math.ceil(table.count / layout.run) * 8));
  const directory = activeDirectory(file, header);
  const tables = Math.ceil(table.count / layout.dataEntries);
  forEachEntry(file, directory + ENTRY_BYTES, tables, (index, high, low, at) => {
    const place = placeOf(header, high, low);
    if (place === null)
      throw invalid(file, at, `the entry of table ${index} is ${hexWords(high, low)}, which is no place`);
    const first = index * layout.dataEntries;
    const count = Math.min(layout.dataEntries, table.count - first);
    const entries = Math.ceil(count / layout.run) * (layout.run + 1);
    forEachEntry(file, place, entries, (entry, entryHigh, entryLow, entryAt) => {
      const group = Math.floor(entry / (layout.run + 1));
      if (entry % (layout.run + 1) === layout.run) {
        bitmaps[first / layout.run + group] = placeOf(header, entryHigh, entryLow) ?? 0;
        return;
      }
      const piece = first + entry - group;
      if (piece >= table.count) return;
      const status = entryHigh >>> STATUS_SHIFT;
      const chunk = placeOf(header, entryHigh & ~(PARTIAL << STATUS_SHIFT), entryLow);
      if (chunk === null || (status !== WHOLE && status !== PARTIAL)) {
        table.setBad(piece, entryAt);
        return;
      }
      table.set(piece, chunk);
      if (status === PARTIAL) partial[piece] = 1;
    });
  });
  table.sayWhatIsCut([file], log);
  return new AsifImage(file, {
    pieces: table.state(describeHeader(header), 'chunk'),
    blockBytes: header.blockBytes,
    run: layout.run,
    ...{ partial: partial.buffer, bitmaps: bitmaps.buffer },
  });
}

interface Layout {
  /** entries of data before that of their bitmap */
  readonly run: number;
  /** entries of data of a table */
  readonly dataEntries: number;
}

function layoutOf({ blockBytes, chunkBytes }: AsifHeader): Layout {
  const run = 4 * blockBytes;
  return { run, dataEntries: Math.floor(chunkBytes / ENTRY_BYTES / (run + 1)) * run };
}

function activeDirectory(file: HostFile, { directories }: AsifHeader): number {
  const versions = directories.map((at) => versionAt(file, at));
  return versions[0]! >= versions[1]! ? directories[0] : directories[1];
}

function versionAt(file: HostFile, at: number): number {
  const bytes = new Uint8Array(ENTRY_BYTES);
  const got = Number.isSafeInteger(at + ENTRY_BYTES) ? file.read(bytes, 0, ENTRY_BYTES, hostOffset(at)) : 0;
  const version = got < ENTRY_BYTES ? Number.NaN : readU64BE(new DataView(bytes.buffer), 0);
  if (!Number.isNaN(version) && at > 0) return version;
  throw invalid(file, at, `there is no directory, or its version is too large`);
}

/** Host offset of the chunk in an entry that is not 0; null if that is no place. */
function placeOf({ chunkBytes }: AsifHeader, high: number, low: number): number | null {
  const place = combine(high, low) * chunkBytes;
  return high <= CHUNK_MASK && place > 0 && place + chunkBytes <= Number.MAX_SAFE_INTEGER ? place : null;
}

/** Visits the entries that are not 0, in order. Holes of the file are passed over. */
function forEachEntry(
  file: HostFile,
  start: number,
  count: number,
  visit: (index: number, high: number, low: number, at: number) => void,
): void {
  const end = start + count * ENTRY_BYTES;
  if (end > file.size()) {
    throw invalid(file, start, `a table there has ${count} entries, and the file of ${file.size()} bytes ends before`);
  }
  const bytes = new Uint8Array(READ_BYTES);
  const view = new DataView(bytes.buffer);
  for (let at = start; at < end; ) {
    const data = file.seekData(hostOffset(at));
    at = Math.max(at, start + roundDown(data - start, ENTRY_BYTES));
    const got = file.read(bytes, 0, Math.max(0, Math.min(READ_BYTES, end - at)), hostOffset(at));
    for (let i = 0; i + ENTRY_BYTES <= got; i += ENTRY_BYTES) {
      const [high, low] = [view.getUint32(i, false), view.getUint32(i + 4, false)];
      if (high !== 0 || low !== 0) visit((at + i - start) / ENTRY_BYTES, high, low, at + i);
    }
    at += Math.max(got, ENTRY_BYTES);
  }
}
