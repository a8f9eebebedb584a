// What a replay of the log changes in the file, as the sum of all entries: of two changes of one place the later one counts. The
// data stays where it is, in the log, which no change may touch; so the sum is small, and all threads can share it. Invariant: every
// change lies behind the headers and below the length that the file will have, so it can be made any number of times.

import { hex } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { invalid, type Sequence } from '../header/fields.ts';
import type { VhdxHeader } from '../header/header.ts';
import { REGION_TABLE_OFFSETS } from '../header/region-table.ts';
import { findActiveSequence } from './active-sequence.ts';
import { changesOf, type LogChange, type LogEntry } from './entry.ts';
import { LOG_SECTOR_BYTES, LogRing } from './ring.ts';
import { ZeroRanges } from './zero-ranges.ts';

/** Bytes of a data sector that stand in its descriptor: the first 8, and the last 4. */
export const EDGE_BYTES = 12;
/** Each takes 32 bytes in the log and splits what memory keeps; programs write a few. */
const MAX_ZERO_CHANGES = 65_536;
/** A file of the largest disk, with what else an image has. */
const MAX_FILE_BYTES = 66 * 2 ** 40;

/** Structured-clonable; the arrays are over shared memory and ascend. */
export interface Replay {
  readonly entries: number;
  /** what the file has to be long at least */
  readonly fileLength: number;
  /** where each changed sector is in the file, in the order of the file */
  readonly targets: Float64Array;
  /** where the data sector of each is in the file, that is in the log */
  readonly sources: Float64Array;
  /** EDGE_BYTES of each */
  readonly edges: Uint8Array;
  /** number of the entry of each: the upper half, the lower half */
  readonly sequences: Uint32Array;
  /** start and end of each range that becomes zeros before the sectors are written */
  readonly zeros: Float64Array;
}

/** The last change of a sector. */
interface Kept {
  /** counts all changes */
  readonly order: number;
  readonly change: LogChange;
  /** of its entry */
  readonly sequence: Sequence;
}

/**
 * What the log holds that is not in its place yet; null if it holds nothing.
 * @throws ImgfuseError corrupt, limit: it cannot be replayed
 */
export function findReplay(file: HostFile, header: VhdxHeader): Replay | null {
  if (header.logGuid === null) return null;
  const ring = new LogRing(file, header);
  const entries = findActiveSequence(ring, header.logGuid);
  const last = entries.at(-1);
  if (last === undefined) return null;
  checkLengths(file, header, last);
  return sumOf(file, header, ring, entries, last.lastFileOffset);
}

function checkLengths(file: HostFile, { logOffset }: VhdxHeader, last: LogEntry): void {
  const at = logOffset + last.offset;
  // so that a length that is no number is refused as well
  if (!(last.flushedFileOffset <= file.size())) {
    throw invalid(
      file,
      at,
      `its log says that the file had ${last.flushedFileOffset} bytes, and it has ${file.size()}; it was cut: copy it again`,
    );
  }
  if (last.lastFileOffset <= MAX_FILE_BYTES) return;
  throw invalid(file, at, `its log says that the file has ${last.lastFileOffset} bytes, which no image has`);
}

function sumOf(
  file: HostFile,
  header: VhdxHeader,
  ring: LogRing,
  entries: readonly LogEntry[],
  fileLength: number,
): Replay {
  const sectors = new Map<number, Kept>();
  const zeros = new ZeroRanges();
  let order = 0;
  for (const entry of entries) {
    for (const change of changesOf(ring, entry)) {
      checkChange(file, header, entry, change, fileLength);
      order++;
      if (change.data !== null) sectors.set(change.offset, { order, change, sequence: entry.sequence });
      else if (zeros.count < MAX_ZERO_CHANGES) zeros.add(change.offset, change.offset + change.length, order);
      else throw tooManyZeros(file);
    }
  }
  const kept = [...sectors.values()]
    .filter(({ order: written, change }) => written > zeros.orderAt(change.offset))
    .sort((one, other) => one.change.offset - other.change.offset);
  const replay = {
    entries: entries.length,
    fileLength,
    targets: sharedNumbers(kept.map(({ change }) => change.offset)),
    sources: sharedNumbers(kept.map(({ change }) => header.logOffset + change.data!.sector)),
    edges: new Uint8Array(new SharedArrayBuffer(kept.length * EDGE_BYTES)),
    sequences: new Uint32Array(new SharedArrayBuffer(kept.length * 2 * Uint32Array.BYTES_PER_ELEMENT)),
    zeros: sharedNumbers(zeros.ranges()),
  };
  for (const [i, { change, sequence }] of kept.entries()) {
    replay.edges.set(change.data!.edges, i * EDGE_BYTES);
    replay.sequences.set([sequence.high, sequence.low], i * 2);
  }
  return replay;
}

function sharedNumbers(values: readonly number[]): Float64Array {
  const shared = new Float64Array(new SharedArrayBuffer(values.length * 8));
  shared.set(values);
  return shared;
}

/** The log comes from anybody. */
function checkChange(
  file: HostFile,
  { logLength, logOffset }: VhdxHeader,
  entry: LogEntry,
  { length, offset }: LogChange,
  fileLength: number,
): void {
  const end = offset + length;
  const isAligned = offset % LOG_SECTOR_BYTES === 0 && length % LOG_SECTOR_BYTES === 0;
  const isInside = offset >= REGION_TABLE_OFFSETS[0] && end <= fileLength;
  const isInLog = offset < logOffset + logLength && end > logOffset;
  if (isAligned && isInside && !isInLog) return;
  throw invalid(
    file,
    logOffset + entry.offset,
    `its log wants to change ${length} bytes at offset ${hex(offset)}, where no change may be; the image cannot be opened`,
  );
}

function tooManyZeros({ path }: HostFile): ImgfuseError {
  return new ImgfuseError('limit', `${path}: its log zeros more than ${MAX_ZERO_CHANGES} ranges`, { path });
}
