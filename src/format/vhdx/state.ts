// What all threads of an open VHDX share beside what every image of tables has: the facts of its header and metadata, where its
// blocks end, and how far its log is. Guarded by the metadata lock.

import { type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import { newUuid, UUID_BYTES } from '../guid.ts';
import type { ImageDetails } from '../image-format.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import { createPendingLinksState, type PendingLinksState } from '../mapped/pending-links.ts';
import { FIRST_AFTER_FILE_END, FileEnd, initializeFileEnd } from '../mapped/space/file-end.ts';
import { ENTRY_BYTES, WORD_SECTORS } from './geometry.ts';
import { MIB } from './header/fields.ts';
import type { Layout } from './header/layout.ts';
import type { DiskFacts } from './header/metadata.ts';
import type { Replay } from './log/replay.ts';
import { LOG_SECTOR_BYTES } from './log/ring.ts';
import { MAX_ENTRY_SECTORS } from './log/serialize-entry.ts';
import { createUnplacedSectorsState, type UnplacedSectorsState } from './log/unplaced-sectors.ts';
import { type Stretch, takenIn } from './places.ts';

/** The Int32 words behind the metadata lock: which new GUIDs are in the headers, 1 when the headers name the log, durably */
export const ANNOUNCED = 1;
export const LOGGING = 2;
/** the lock of whoever changes the headers */
export const HEADERS_LOCK = 3;
const WORD_COUNT = 4;

/** Float64 numbers: VhdxNumbers says what they are. */
const DURABLE_LENGTH = FIRST_AFTER_FILE_END;
const SEQUENCE = FIRST_AFTER_FILE_END + 1;
const LAST_ENTRY = FIRST_AFTER_FILE_END + 2;
const LOG_HEAD = FIRST_AFTER_FILE_END + 3;
const DURABLE_SEQUENCE = FIRST_AFTER_FILE_END + 4;
const DURABLE_ENTRY = FIRST_AFTER_FILE_END + 5;
const LAST_CHANGE_MS = FIRST_AFTER_FILE_END + 6;
const CUT_BLOCKS = FIRST_AFTER_FILE_END + 7;
const BAT_OFFSET = FIRST_AFTER_FILE_END + 8;
const BAT_ENTRIES = FIRST_AFTER_FILE_END + 9;
const NUMBER_COUNT = FIRST_AFTER_FILE_END + 10;
/** Words of bitmaps that wait for their data at most: the bits of 512 MiB of adjoining sectors, and of the largest block. */
const WAITING_WORDS = 32_768;
/** A disk may become larger. */
const LEAST_WAITING_WORDS = 1024;

export interface VhdxState extends MappedState {
  readonly disk: DiskFacts;
  readonly details: ImageDetails;
  readonly logOffset: number;
  readonly logLength: number;
  /** of an image that is only read: what its log holds */
  readonly replay: Replay | null;
  /** what is no place for a block, the BAT aside */
  readonly taken: readonly Stretch[];
  /** bits of bitmaps that wait for their data */
  readonly waitingBits: PendingLinksState;
  readonly unplaced: UnplacedSectorsState;
  /** the LogGuid of this session, stored form */
  readonly logGuid: SharedArrayBuffer;
  /** the GUIDs that the first change gives the file */
  readonly fileWriteGuid: string;
  readonly dataWriteGuid: string;
}

export interface VhdxStateOptions extends MappedStateOptions {
  readonly details: ImageDetails;
  /** end of what is in use */
  readonly fileEnd: number;
  /** the next DataWriteGuid; absent: any new one */
  readonly nextGuid?: string | null;
}

export function createVhdxState({ disk, headers, regions, replay }: Layout, options: VhdxStateOptions): VhdxState {
  const { details, fileEnd, fileLength, nextGuid, readOnly } = options;
  const sizes = { clusterSize: disk.blockBytes, unitBytes: MIB, sliceBytes: LOG_SECTOR_BYTES };
  const mapped = createMappedState(options, { wordCount: WORD_COUNT, ...sizes, numberCount: NUMBER_COUNT });
  initializeFileEnd(mapped.numbers, fileEnd, fileLength);
  const numbers = new Float64Array(mapped.numbers);
  numbers[BAT_OFFSET] = regions.bat.start;
  numbers[BAT_ENTRIES] = (regions.bat.end - regions.bat.start) / ENTRY_BYTES;
  const { logLength, logOffset } = headers.current;
  return {
    taken: takenIn({ headers, regions }),
    ...mapped,
    ...{ details, disk, logLength, logOffset, replay: readOnly ? replay : null },
    waitingBits: createPendingLinksState(readOnly || disk.parent === null ? 1 : waitingCapacity(disk)),
    unplaced: createUnplacedSectorsState(readOnly ? 0 : MAX_ENTRY_SECTORS),
    logGuid: new SharedArrayBuffer(UUID_BYTES),
    fileWriteGuid: newUuid(),
    dataWriteGuid: nextGuid ?? newUuid(),
  };
}

/** A word that gets more bits during a flush waits twice. */
function waitingCapacity({ blockBytes, sectorBytes, virtualSize }: DiskFacts): number {
  const wordBytes = WORD_SECTORS * sectorBytes;
  const ofBlock = blockBytes / wordBytes + 1;
  return Math.min(WAITING_WORDS, 2 * Math.max(LEAST_WAITING_WORDS, ofBlock, Math.ceil(virtualSize / wordBytes)));
}

/**
 * The numbers of an open image beside DiskNumbers. Each needs the metadata lock. From `fileEnd` to `fileLength` the file reads as zeros,
 * unless the headers have not named the log since the open.
 */
export class VhdxNumbers extends FileEnd {
  /** Where the BAT is. */
  get batOffset(): HostOffset {
    return hostOffset(this.numbers.get(BAT_OFFSET));
  }

  /** Entries that the BAT has room for. */
  get batEntries(): number {
    return this.numbers.get(BAT_ENTRIES);
  }

  moveBat(offset: HostOffset, entries: number): void {
    this.numbers.set(BAT_OFFSET, offset);
    this.numbers.set(BAT_ENTRIES, entries);
  }

  override noteCut(length: number): void {
    super.noteCut(length);
    this.numbers.set(DURABLE_LENGTH, Math.min(length, this.durableLength));
  }

  /** A length that the file has had since a fdatasync. */
  get durableLength(): number {
    return this.numbers.get(DURABLE_LENGTH);
  }

  /** Number of the last entry of the log. */
  get sequence(): number {
    return this.numbers.get(SEQUENCE);
  }

  /** Where in the log the last entry begins. */
  get lastEntry(): number {
    return this.numbers.get(LAST_ENTRY);
  }

  /** Where in the log the next entry begins. */
  get logHead(): number {
    return this.numbers.get(LOG_HEAD);
  }

  /** Where in the log the newest durable entry begins. */
  get durableEntry(): number {
    return this.numbers.get(DURABLE_ENTRY);
  }

  /** There is an entry at `at`, and the next one begins at `head`. */
  noteEntry(at: number, head: number): void {
    this.numbers.add(SEQUENCE, 1);
    this.numbers.set(LAST_ENTRY, at);
    this.numbers.set(LOG_HEAD, head);
  }

  /** The entry with this number, at `at`, is durable, and so is this length of the file, unless it was cut meanwhile. */
  noteDurable(sequence: number, at: number, fileLength: number): void {
    this.numbers.set(DURABLE_LENGTH, Math.min(fileLength, this.fileLength));
    if (sequence <= this.numbers.get(DURABLE_SEQUENCE)) return;
    this.numbers.set(DURABLE_SEQUENCE, sequence);
    this.numbers.set(DURABLE_ENTRY, at);
  }

  /** Entries up to this block, behind the end of the disk, may lead to blocks: a shrink has not come to its end. 0: none. */
  get cutBlocks(): number {
    return this.numbers.get(CUT_BLOCKS);
  }

  noteCutBlocks(blocks: number): void {
    this.numbers.set(CUT_BLOCKS, blocks);
  }

  /** steadyMs() of the last change of tables. */
  get lastChangeMs(): number {
    return this.numbers.get(LAST_CHANGE_MS);
  }

  noteChange(nowMs: number): void {
    this.numbers.set(LAST_CHANGE_MS, nowMs);
  }
}
