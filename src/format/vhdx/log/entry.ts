// One entry of the log, which is a ring of sectors of 4 KiB; an entry may go on at the start of the ring. Little-endian:
//
//   0 "loge"  4 CRC-32C of the entry  8 EntryLength u32   12 Tail u32  16 SequenceNumber u64  24 DescriptorCount u32  32 LogGuid
//   48 FlushedFileOffset u64   56 LastFileOffset u64
//
// Descriptors of 32 bytes follow, 126 in the first sector and 128 in each later one, then a data sector for each data descriptor:
//
//   "desc" TrailingBytes u32  LeadingBytes u64  FileOffset u64  SequenceNumber      4 KiB of the file
//   "zero" 0                  ZeroLength u64    FileOffset u64  SequenceNumber      a range of zeros
//   "data" sequence high u32, 4084 bytes, sequence low u32: the first 8 and the last 4 bytes are in the descriptor

import { readU64LE } from '../../../bytes/endian.ts';
import { crc32c } from '../../../codec/crc32c.ts';
import { checksumOf, compareSequences, guidAt, type Sequence, sequenceAt, textAt } from '../header/fields.ts';
import { LOG_SECTOR_BYTES, type LogRing } from './ring.ts';

export const ENTRY_HEADER_BYTES = 64;
export const DESCRIPTOR_BYTES = 32;

/** What the header of an entry says. */
export interface LogEntry {
  /** in the log, as `tail` */
  readonly offset: number;
  readonly length: number;
  /** where the oldest entry stands that is needed together with this one */
  readonly tail: number;
  readonly sequence: Sequence;
  readonly descriptors: number;
  /** sectors of header and descriptors; the data sectors follow */
  readonly descriptorSectors: number;
  readonly flushedFileOffset: number;
  readonly lastFileOffset: number;
}

/** A change that an entry wants. */
export interface LogChange {
  /** of the file */
  readonly offset: number;
  /** bytes of zeros; of data always a sector */
  readonly length: number;
  /** null: zeros */
  readonly data: SectorPlace | null;
}

/** Where the bytes of a data sector are. */
export interface SectorPlace {
  /** of the data sector in the log */
  readonly sector: number;
  /** its first 8 and its last 4 bytes */
  readonly edges: Uint8Array;
}

/** The valid entry that begins at `offset` of the log, or null. Reads no further than to its first sector that cannot be. */
export function validEntryAt(ring: LogRing, offset: number, logGuid: string): LogEntry | null {
  const entry = parseEntry(ring, offset, logGuid);
  if (entry === null) return null;
  const first = ring.sector(offset);
  const checksum = new DataView(first.buffer, first.byteOffset).getUint32(4, true);
  let found = checksumOf(first);
  let data = countData(first, entry, 0);
  for (let index = 1; index * LOG_SECTOR_BYTES < entry.length && data >= 0; index++) {
    const sector = ring.sector(offset + index * LOG_SECTOR_BYTES);
    if (index < entry.descriptorSectors) {
      const more = countData(sector, entry, index);
      data = more < 0 ? -1 : data + more;
    } else if (!isDataSector(sector, entry.sequence)) return null;
    found = crc32c(sector, found);
  }
  const isWhole = (entry.descriptorSectors + data) * LOG_SECTOR_BYTES === entry.length;
  return data >= 0 && isWhole && found === checksum ? entry : null;
}

function parseEntry(ring: LogRing, offset: number, logGuid: string): LogEntry | null {
  const bytes = ring.sector(offset);
  if (textAt(bytes, 0, 4) !== 'loge') return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, LOG_SECTOR_BYTES);
  const length = view.getUint32(8, true);
  const tail = view.getUint32(12, true);
  const sequence = sequenceAt(view, 16);
  const descriptors = view.getUint32(24, true);
  const descriptorSectors = Math.ceil((ENTRY_HEADER_BYTES + descriptors * DESCRIPTOR_BYTES) / LOG_SECTOR_BYTES);
  const isInside = length % LOG_SECTOR_BYTES === 0 && length <= ring.length && tail % LOG_SECTOR_BYTES === 0;
  if (!isInside || tail >= ring.length || descriptorSectors * LOG_SECTOR_BYTES > length) return null;
  if (guidAt(bytes, 32) !== logGuid || compareSequences(sequence, { high: 0, low: 0 }) === 0) return null;
  return {
    offset,
    length,
    tail,
    sequence,
    descriptors,
    descriptorSectors,
    flushedFileOffset: readU64LE(view, 48),
    lastFileOffset: readU64LE(view, 56),
  };
}

/** Data descriptors in a sector of an entry; -1 if one of its descriptors cannot be. */
function countData(sector: Uint8Array, entry: LogEntry, index: number): number {
  const view = new DataView(sector.buffer, sector.byteOffset, LOG_SECTOR_BYTES);
  let count = 0;
  for (const at of descriptorsIn(entry, index)) {
    const signature = textAt(sector, at, 4);
    if (signature !== 'desc' && signature !== 'zero') return -1;
    if (compareSequences(sequenceAt(view, at + 24), entry.sequence) !== 0) return -1;
    if (signature === 'desc') count++;
  }
  return count;
}

/** Where descriptors begin in sector `index` of an entry. */
function* descriptorsIn({ descriptors }: LogEntry, index: number): Generator<number> {
  const end = ENTRY_HEADER_BYTES + descriptors * DESCRIPTOR_BYTES - index * LOG_SECTOR_BYTES;
  const start = index === 0 ? ENTRY_HEADER_BYTES : 0;
  for (let at = start; at < Math.min(end, LOG_SECTOR_BYTES); at += DESCRIPTOR_BYTES) yield at;
}

/** Whether a sector of the log is a data sector of the entry with this number. */
export function isDataSector(sector: Uint8Array, { high, low }: Sequence): boolean {
  const view = new DataView(sector.buffer, sector.byteOffset, LOG_SECTOR_BYTES);
  return (
    textAt(sector, 0, 4) === 'data' &&
    view.getUint32(4, true) === high &&
    view.getUint32(LOG_SECTOR_BYTES - 4, true) === low
  );
}

/** The changes of a valid entry, in its order. An offset or a length that is no safe integer is NaN. */
export function* changesOf(ring: LogRing, entry: LogEntry): Generator<LogChange> {
  let data = entry.offset + entry.descriptorSectors * LOG_SECTOR_BYTES;
  for (let index = 0; index < entry.descriptorSectors; index++) {
    // a copy: the ring reuses its buffer, and whoever takes the changes may read meanwhile
    const sector = ring.sector(entry.offset + index * LOG_SECTOR_BYTES).slice();
    const view = new DataView(sector.buffer);
    for (const at of descriptorsIn(entry, index)) {
      const offset = readU64LE(view, at + 16);
      if (textAt(sector, at, 4) === 'zero') {
        yield { offset, length: readU64LE(view, at + 8), data: null };
        continue;
      }
      const edges = new Uint8Array(12);
      edges.set(sector.subarray(at + 8, at + 16));
      edges.set(sector.subarray(at + 4, at + 8), 8);
      yield { offset, length: LOG_SECTOR_BYTES, data: { sector: data % ring.length, edges } };
      data += LOG_SECTOR_BYTES;
    }
  }
}
