// What all threads of an open dynamic or differencing VHD share, as one structured-clonable record. What may change is in `words`,
// `numbers`, `footer` and `full`, guarded by the metadata lock.

import { type HostOffset, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { createSharedByteMap, type SharedByteMapState } from '../../concurrency/shared-byte-map.ts';
import { assert } from '../../errors/index.ts';
import { FIRST_OWN_NUMBER } from '../mapped/disk-numbers.ts';
import { LockedNumbers, type LockedNumbersParts } from '../mapped/locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import { createWaitingBits, type WaitingBitsState } from './bitmaps.ts';
import type { Grid } from './geometry.ts';
import { FOOTER_BYTES, MAX_DISK_BYTES } from './header/footer.ts';
import { type DynamicHeader, MAX_TABLE_ENTRIES } from './header/header.ts';

const WORD_COUNT = 1;

/** Float64 numbers: VpcNumbers says what they are. */
const FILE_END = FIRST_OWN_NUMBER;
const FILE_LENGTH = FIRST_OWN_NUMBER + 1;
const ROOM_END = FIRST_OWN_NUMBER + 2;
const TABLE_OFFSET = FIRST_OWN_NUMBER + 3;
const TABLE_ENTRIES = FIRST_OWN_NUMBER + 4;
const HAS_BATMAP = FIRST_OWN_NUMBER + 5;
const OFF_GRID_END = FIRST_OWN_NUMBER + 6;
const NUMBER_COUNT = FIRST_OWN_NUMBER + 7;

export interface VpcState extends MappedState {
  /** as the image was opened */
  readonly header: DynamicHeader;
  readonly uuid: string;
  readonly type: number;
  readonly creator: string;
  readonly grid: Grid;
  /** the footer as it is on disk */
  readonly footer: SharedArrayBuffer;
  /** 1 for a block whose bitmap is known to be full */
  readonly full: SharedByteMapState;
  readonly bits: WaitingBitsState;
}

export interface VpcStateOptions extends MappedStateOptions {
  readonly header: DynamicHeader;
  readonly footer: Uint8Array;
  readonly uuid: string;
  readonly type: number;
  readonly creator: string;
  readonly grid: Grid;
  /** end of what the file has, its footer aside */
  readonly usedEnd: number;
  /** the same for what are no blocks of the grid */
  readonly offGridEnd: number;
  readonly hasBatmap: boolean;
}

export function createVpcState(options: VpcStateOptions): VpcState {
  const { creator, fileLength, footer, grid, hasBatmap, header, offGridEnd, type, usedEnd, uuid } = options;
  const sizes = { clusterSize: header.blockSize, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT };
  const sharedFooter = new SharedArrayBuffer(FOOTER_BYTES);
  new Uint8Array(sharedFooter).set(footer);
  const mostBlocks = Math.min(MAX_TABLE_ENTRIES, Math.ceil(MAX_DISK_BYTES / header.blockSize));
  const mapped = createMappedState(options, { sliceBytes: SECTOR_BYTES, ...sizes });
  const state = {
    footer: sharedFooter,
    ...mapped,
    ...{ header, uuid, type, creator, grid },
    full: createSharedByteMap(mostBlocks),
    bits: createWaitingBits(mapped.pending),
  };
  const numbers = new Float64Array(state.numbers);
  numbers[FILE_END] = usedEnd;
  numbers[FILE_LENGTH] = fileLength;
  numbers[TABLE_OFFSET] = header.tableOffset;
  numbers[TABLE_ENTRIES] = header.maxTableEntries;
  numbers[HAS_BATMAP] = hasBatmap ? 1 : 0;
  numbers[OFF_GRID_END] = offGridEnd;
  return state;
}

/** The numbers of an open image beside DiskNumbers. Each needs the metadata lock. */
export class VpcNumbers {
  private readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** First byte behind the last block and all metadata but the footer. */
  get fileEnd(): HostOffset {
    return hostOffset(this.numbers.get(FILE_END));
  }

  /** What lies below `end` is in use. */
  advanceFileEnd(end: number): void {
    assert(end >= this.fileEnd && end <= this.roomEnd, 'blocks are appended where there is room');
    this.numbers.set(FILE_END, end);
  }

  /** Nothing from `end` on is in use any more. */
  lowerFileEnd(end: number): void {
    assert(end <= this.fileEnd, 'only an append moves the end of what is in use up');
    this.numbers.set(FILE_END, end);
  }

  /** Length of the file, its footer included. */
  get fileLength(): number {
    return this.numbers.get(FILE_LENGTH);
  }

  /** From the next place of the grid up to here the file reads as zeros, durably; 0 before it was made longer. */
  get roomEnd(): number {
    return this.numbers.get(ROOM_END);
  }

  /** The file has so many bytes now, all of which behind `fileEnd` read as zeros, but for its footer. */
  noteExtended(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
    this.numbers.set(ROOM_END, length - FOOTER_BYTES);
  }

  /** The file was cut; nobody appends to it before it is made longer. */
  noteCut(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
    this.numbers.set(ROOM_END, 0);
  }

  get tableOffset(): HostOffset {
    return hostOffset(this.numbers.get(TABLE_OFFSET));
  }

  get tableEntries(): number {
    return this.numbers.get(TABLE_ENTRIES);
  }

  /** End of the last of what lies off the grid: metadata, and blocks of other programs. */
  get offGridEnd(): number {
    return this.numbers.get(OFF_GRID_END);
  }

  /** The table has more entries, in the sectors that it has. */
  lengthenTable(entries: number): void {
    this.numbers.set(TABLE_ENTRIES, entries);
  }

  /** A larger table has come into use; what lay behind the old one, lies behind none. @param end of the new table */
  moveTable(offset: number, entries: number, end: number): void {
    this.numbers.set(TABLE_OFFSET, offset);
    this.numbers.set(TABLE_ENTRIES, entries);
    this.numbers.set(HAS_BATMAP, 0);
    this.numbers.set(OFF_GRID_END, Math.max(this.offGridEnd, end));
  }

  /** A batmap lies behind the table. */
  get hasBatmap(): boolean {
    return this.numbers.get(HAS_BATMAP) === 1;
  }
}
