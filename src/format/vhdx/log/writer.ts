// New entries of the log. A change of metadata is an entry first; only when that is durable it is written in its place. Each entry
// has all sectors that are not durable in their places (unplaced-sectors.ts), and is its own tail: whichever entry a crash leaves
// as the last whole one, it alone gives the metadata of its moment.
//
// QEMU follows the ring from its first sector on, does not look at tails, and takes any entry for the second one of a sequence. So
// a sector of zeros stands behind the newest entry, in front of what the last round of the ring has left: then QEMU comes to the newest
// entry last as well.
//
// Invariant: the newest durable entry is not overwritten before a newer one is durable. Used under the metadata lock.

import { hostOffset } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { VhdxNumbers } from '../state.ts';
import { LOG_SECTOR_BYTES } from './ring.ts';
import { entryBytes, serializeEntry } from './serialize-entry.ts';
import type { PlacedSector, UnplacedSectors } from './unplaced-sectors.ts';

/** Bytes that metadata gets at a place of the file. */
export interface Patch {
  readonly offset: number;
  readonly bytes: Uint8Array;
}

/** What a fdatasync that begins now makes durable. */
export interface LogMoment {
  readonly sequence: number;
  /** of its entry */
  readonly at: number;
  readonly fileLength: number;
  readonly placed: readonly PlacedSector[];
}

export interface LogWriterParts {
  readonly file: HostFile;
  readonly logOffset: number;
  readonly logLength: number;
  /** of this session, for all threads */
  readonly logGuid: Uint8Array;
  readonly numbers: VhdxNumbers;
  readonly tracker: WriteTracker;
  readonly unplaced: UnplacedSectors;
}

export class LogWriter {
  private readonly parts: LogWriterParts;
  private scratch = new Uint8Array(0);

  constructor(parts: LogWriterParts) {
    this.parts = parts;
  }

  /** Whether an entry that changes these sectors fits now; if not, it fits once the log and what it holds are durable. */
  hasRoomFor(sectors: readonly number[]): boolean {
    const { unplaced } = this.parts;
    const count = unplaced.count + sectors.filter((offset) => !unplaced.has(offset)).length;
    return unplaced.fits(count) && this.hasRoom(entryBytes(count));
  }

  /** Writes the entry that makes these changes, which fit; not durable. When it throws nothing has changed, or the image has failed. */
  write(patches: readonly Patch[]): void {
    const { numbers, tracker, unplaced } = this.parts;
    const sectors = sectorsOf(patches);
    const targets = [...new Set([...sectors, ...unplaced.offsets()])];
    const bytes = this.buffer(entryBytes(targets.length) + LOG_SECTOR_BYTES);
    const entry = bytes.subarray(0, entryBytes(targets.length));
    bytes.fill(0, entry.length);
    for (const [i, offset] of targets.entries()) unplaced.readSector(offset, entry, entryBytes(i));
    for (const patch of patches) applyPatch(entry, targets, patch);
    // serialized in place, so what the sectors are is kept first
    const changed = sectors.map((_, i) => entry.slice(entryBytes(i), entryBytes(i) + LOG_SECTOR_BYTES));
    const sequence = numbers.sequence + 1;
    serializeEntry(entry, this.factsOf(sequence), targets);
    tracker.writeMetadata('l2-update', () => this.put(bytes, numbers.logHead));
    numbers.noteEntry(numbers.logHead, (numbers.logHead + entry.length) % this.parts.logLength);
    for (const [i, offset] of sectors.entries()) unplaced.put(offset, changed[i]!, sequence);
  }

  /** Writes an entry without a change, the first one with a new LogGuid. There is always room for one. */
  writeEmpty(): void {
    this.write([]);
  }

  moment(): LogMoment {
    const { numbers, unplaced } = this.parts;
    return {
      sequence: numbers.sequence,
      at: numbers.lastEntry,
      fileLength: numbers.fileLength,
      placed: unplaced.placed(),
    };
  }

  /** A fdatasync that began after `moment` is done: the log up to there is durable, and places that were written are. */
  noteDurable({ at, fileLength, placed, sequence }: LogMoment): void {
    const { numbers, unplaced } = this.parts;
    numbers.noteDurable(sequence, at, fileLength);
    unplaced.remove(placed);
  }

  private factsOf(sequence: number) {
    const { logGuid, numbers } = this.parts;
    const { durableLength, fileEnd, logHead } = numbers;
    return {
      logGuid,
      sequence,
      tail: logHead,
      lastFileOffset: fileEnd,
      flushedFileOffset: Math.min(durableLength, fileEnd),
    };
  }

  /** One sector stays free, for the zeros behind the entry; so a full ring and an empty one are not the same either. */
  private hasRoom(bytes: number): boolean {
    const { logLength, numbers } = this.parts;
    const used = (numbers.logHead - numbers.durableEntry + logLength) % logLength;
    return used + bytes + LOG_SECTOR_BYTES <= logLength;
  }

  private put(bytes: Uint8Array, at: number): void {
    const { file, logLength, logOffset } = this.parts;
    const part = Math.min(bytes.length, logLength - at);
    file.write(bytes, 0, part, hostOffset(logOffset + at));
    if (part < bytes.length) file.write(bytes, part, bytes.length - part, hostOffset(logOffset));
  }

  private buffer(bytes: number): Uint8Array {
    if (this.scratch.length < bytes) this.scratch = new Uint8Array(bytes);
    return this.scratch.subarray(0, bytes);
  }
}

/** Offsets of the sectors that patches change, each once. */
export function sectorsOf(patches: readonly Patch[]): number[] {
  const sectors = new Set<number>();
  for (const { bytes, offset } of patches) {
    const end = offset + bytes.length;
    for (let at = offset - (offset % LOG_SECTOR_BYTES); at < end; at += LOG_SECTOR_BYTES) sectors.add(at);
  }
  return [...sectors];
}

/** @param targets offsets of the data sectors of the entry */
function applyPatch(entry: Uint8Array, targets: readonly number[], { bytes, offset }: Patch): void {
  const end = offset + bytes.length;
  for (let at = offset - (offset % LOG_SECTOR_BYTES); at < end; at += LOG_SECTOR_BYTES) {
    const start = Math.max(offset, at);
    const part = bytes.subarray(start - offset, Math.min(end, at + LOG_SECTOR_BYTES) - offset);
    entry.set(part, entryBytes(targets.indexOf(at)) + start - at);
  }
}
