// What all threads of an open sparse extent share, as one structured-clonable record. What may change is in `words` and `numbers`,
// guarded by the metadata lock.

import { type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import { MAX_SLICE_BYTES } from '../../../concurrency/table-cache.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../../mapped/mapped-state.ts';
import { initializeFileEnd } from '../../mapped/space/file-end.ts';
import { FIRST_AFTER_ROOM_END, RoomEnd } from '../../mapped/space/room-end.ts';
import type { TableLayout } from './layout.ts';

/** The Int32 words behind the metadata lock: 1 when the unclean mark is in the file and durable; the words of the mark */
export const UNCLEAN = 1;
export const UNCLEAN_MARK = 2;
/** the lock of whoever makes the file longer */
export const GROW_LOCK = 4;
/** 1 when something of the second tables could not be written */
export const SECOND_BEHIND = 5;
const WORD_COUNT = 6;

/** Float64 numbers: SparseNumbers says what they are. */
const DIRECTORY_OFFSET = FIRST_AFTER_ROOM_END;
const REDUNDANT_OFFSET = FIRST_AFTER_ROOM_END + 1;
const LAST_CHANGE_MS = FIRST_AFTER_ROOM_END + 2;
const UNCUT_END = FIRST_AFTER_ROOM_END + 3;
const LEFT_TABLES = FIRST_AFTER_ROOM_END + 4;
const NUMBER_COUNT = FIRST_AFTER_ROOM_END + 5;

export interface SparseState extends MappedState {
  /** as the extent was opened */
  readonly layout: TableLayout;
  /** of the grid of its grains */
  readonly phase: number;
}

export interface SparseStateOptions extends MappedStateOptions {
  readonly phase: number;
  /** end of the last grain and of all metadata */
  readonly usedEnd: number;
}

export function createSparseState(layout: TableLayout, options: SparseStateOptions): SparseState {
  const { fileLength, phase, usedEnd } = options;
  const sizes = { clusterSize: layout.grainBytes, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT };
  const state = { layout, ...createMappedState(options, { sliceBytes: MAX_SLICE_BYTES, ...sizes }), phase };
  new Int32Array(state.words)[UNCLEAN] = layout.isUnclean ? 1 : 0;
  initializeFileEnd(state.numbers, usedEnd, fileLength);
  const numbers = new Float64Array(state.numbers);
  numbers[DIRECTORY_OFFSET] = layout.directoryOffset;
  numbers[REDUNDANT_OFFSET] = layout.redundantOffset;
  return state;
}

/** The numbers of an open extent beside DiskNumbers. Each needs the metadata lock. */
export class SparseNumbers extends RoomEnd {
  get directoryOffset(): HostOffset {
    return hostOffset(this.numbers.get(DIRECTORY_OFFSET));
  }

  /** 0: the tables have no second copy. */
  get redundantOffset(): HostOffset {
    return hostOffset(this.numbers.get(REDUNDANT_OFFSET));
  }

  /** The header says so now. */
  moveDirectories(directory: number, redundant: number): void {
    this.numbers.set(DIRECTORY_OFFSET, directory);
    this.numbers.set(REDUNDANT_OFFSET, redundant);
  }

  /** End of the grains of the disk that a shrink has still to give up; 0: none. */
  get uncutEnd(): number {
    return this.numbers.get(UNCUT_END);
  }

  noteUncut(end: number): void {
    this.numbers.set(UNCUT_END, end);
  }

  /** A resize may have left directories or tables that nothing refers to, and that are not free yet. */
  get hasLeftTables(): boolean {
    return this.numbers.get(LEFT_TABLES) === 1;
  }

  noteLeftTables(hasLeft: boolean): void {
    this.numbers.set(LEFT_TABLES, hasLeft ? 1 : 0);
  }

  /** steadyMs() of the last change of the metadata. */
  get lastChangeMs(): number {
    return this.numbers.get(LAST_CHANGE_MS);
  }

  noteChange(nowMs: number): void {
    this.numbers.set(LAST_CHANGE_MS, nowMs);
  }
}
