// What all threads of an open dynamic or differencing VHD share, as one structured-clonable record. What may change is in `words`,
// `numbers`, `footer` and `full`, guarded by the metadata lock.

import { type HostOffset, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { createSharedByteMap, type SharedByteMapState } from '../../concurrency/shared-byte-map.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import { initializeFileEnd } from '../mapped/space/file-end.ts';
import { FIRST_AFTER_ROOM_END, RoomEnd } from '../mapped/space/room-end.ts';
import { createWaitingBits, type WaitingBitsState } from './bitmaps.ts';
import type { Grid } from './geometry.ts';
import { FOOTER_BYTES, MAX_DISK_BYTES } from './header/footer.ts';
import { type DynamicHeader, MAX_TABLE_ENTRIES } from './header/header.ts';

const WORD_COUNT = 1;

/** Float64 numbers: VpcNumbers says what they are. */
const TABLE_OFFSET = FIRST_AFTER_ROOM_END;
const TABLE_ENTRIES = FIRST_AFTER_ROOM_END + 1;
const HAS_BATMAP = FIRST_AFTER_ROOM_END + 2;
const OFF_GRID_END = FIRST_AFTER_ROOM_END + 3;
const NUMBER_COUNT = FIRST_AFTER_ROOM_END + 4;

export interface VpcState extends MappedState {
  /** as the image was opened */
  readonly header: DynamicHeader;
  readonly uuid: string;
  readonly type: number;
  readonly creator: string;
  readonly grid: Grid;
  /** entries behind the end of the disk may lead anywhere: the open has found some that are no places */
  readonly hasStrays: boolean;
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
  readonly hasStrays: boolean;
}

export function createVpcState(options: VpcStateOptions): VpcState {
  const { creator, fileLength, footer, grid, hasBatmap, hasStrays, header, offGridEnd, type, usedEnd, uuid } = options;
  const sizes = { clusterSize: header.blockSize, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT };
  const sharedFooter = new SharedArrayBuffer(FOOTER_BYTES);
  new Uint8Array(sharedFooter).set(footer);
  const mostBlocks = Math.min(MAX_TABLE_ENTRIES, Math.ceil(MAX_DISK_BYTES / header.blockSize));
  const mapped = createMappedState(options, { sliceBytes: SECTOR_BYTES, ...sizes });
  const state = {
    footer: sharedFooter,
    ...mapped,
    ...{ header, uuid, type, creator, grid, hasStrays },
    full: createSharedByteMap(mostBlocks),
    bits: createWaitingBits(mapped.pending),
  };
  initializeFileEnd(state.numbers, usedEnd, fileLength);
  const numbers = new Float64Array(state.numbers);
  numbers[TABLE_OFFSET] = header.tableOffset;
  numbers[TABLE_ENTRIES] = header.maxTableEntries;
  numbers[HAS_BATMAP] = hasBatmap ? 1 : 0;
  numbers[OFF_GRID_END] = offGridEnd;
  return state;
}

/** The numbers of an open image beside DiskNumbers. Each needs the metadata lock. The footer counts as no part of what is in use. */
export class VpcNumbers extends RoomEnd {
  /** The file has so many bytes now, all of which behind `fileEnd` read as zeros, but for its footer. */
  override noteExtended(length: number): void {
    super.noteExtended(length, length - FOOTER_BYTES);
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
