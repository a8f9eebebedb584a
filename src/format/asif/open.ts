// Opening an ASIF image: the tables of its directory become one table. Of the two directories the one with the higher version counts.
//
//   directory: version u64, then the chunk number u64 of each table, 0 for none
//   table:     r entries of data, one that is reserved, r entries of data, ...     r = 4 * block size
//   entry:     bits 0 .. 54 chunk number, 0 for zeros; bit 62: the entry is dirty, bit 63: the content is

import { combine, hexWords, readU64BE } from '../../bytes/endian.ts';
import { hex, hostOffset, roundDown } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { PieceImage, PieceTable } from '../piece-image.ts';
import { type AsifHeader, describeHeader, invalid, readHeader } from './header.ts';

const ENTRY_BYTES = 8;
/** Of the high word of an entry. */
const CHUNK_MASK = 2 ** 23 - 1;
const DIRTY_BITS = 0xc0000000;
const READ_BYTES = 64 * 1024;

/** @throws ImgfuseError corrupt, unsupported, limit */
export function openAsif(file: HostFile): PieceImage {
  const header = readHeader(file);
  const { chunkBytes, diskBytes } = header;
  const table = new PieceTable(file.path, diskBytes, chunkBytes);
  const layout = layoutOf(header);
  const directory = activeDirectory(file, header);
  const tables = Math.ceil(table.count / layout.dataEntries);
  forEachEntry(file, directory + ENTRY_BYTES, tables, (index, high, low, at) => {
    const place = placeOf(header, high, low);
    if (place === null)
      throw invalid(file, at, `the entry of table ${index} is ${hexWords(high, low)}, which is no place`);
    const first = index * layout.dataEntries;
    const count = Math.min(layout.dataEntries, table.count - first);
    // a reserved entry stands behind each run of entries of data
    const entries = count + Math.floor((count - 1) / layout.run);
    forEachEntry(file, place, entries, (entry, entryHigh, entryLow, entryAt) => {
      const inRuns = entry % (layout.run + 1);
      if (inRuns === layout.run) return;
      const piece = first + entry - Math.floor(entry / (layout.run + 1));
      refuseDirty(file, entryHigh, entryLow, entryAt);
      const chunk = placeOf(header, entryHigh, entryLow);
      if (chunk === null) table.setBad(piece, entryAt);
      else table.set(piece, chunk);
    });
  });
  return new PieceImage(file, table.state(describeHeader(header), 'chunk'));
}

interface Layout {
  /** entries of data before one that is reserved */
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

function refuseDirty(file: HostFile, high: number, low: number, at: number): void {
  if ((high & DIRTY_BITS) === 0) return;
  throw new ImgfuseError(
    'unsupported',
    `${file.path}: the entry at offset ${hex(at)} is ${hexWords(high, low)}, marked dirty, and nobody outside Apple knows what has ` +
      'to be done then; let macOS attach and eject the image, or convert it to a raw image on a Mac',
    { path: file.path, offset: at },
  );
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
