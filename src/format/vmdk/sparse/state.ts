// What all threads of an open sparse extent share, as one structured-clonable record. What may change is in `words` and `numbers`,
// guarded by the metadata lock.

import { type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import { MAX_SLICE_BYTES } from '../../../concurrency/table-cache.ts';
import { assert } from '../../../errors/index.ts';
import { FIRST_OWN_NUMBER } from '../../mapped/disk-numbers.ts';
import { LockedNumbers, type LockedNumbersParts } from '../../mapped/locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../../mapped/mapped-state.ts';
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
const DIRECTORY_OFFSET = FIRST_OWN_NUMBER;
const REDUNDANT_OFFSET = FIRST_OWN_NUMBER + 1;
const FILE_END = FIRST_OWN_NUMBER + 2;
const FILE_LENGTH = FIRST_OWN_NUMBER + 3;
const ROOM_END = FIRST_OWN_NUMBER + 4;
const LAST_CHANGE_MS = FIRST_OWN_NUMBER + 5;
const UNCUT_END = FIRST_OWN_NUMBER + 6;
const LEFT_TABLES = FIRST_OWN_NUMBER + 7;
const NUMBER_COUNT = FIRST_OWN_NUMBER + 8;

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
  const numbers = new Float64Array(state.numbers);
  numbers[DIRECTORY_OFFSET] = layout.directoryOffset;
  numbers[REDUNDANT_OFFSET] = layout.redundantOffset;
  numbers[FILE_END] = usedEnd;
  numbers[FILE_LENGTH] = fileLength;
  return state;
}

/** The numbers of an open extent beside DiskNumbers. Each needs the metadata lock. */
export class SparseNumbers {
  private readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

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

  /** First byte behind the last grain in use and all metadata. */
  get fileEnd(): HostOffset {
    return hostOffset(this.numbers.get(FILE_END));
  }

  /** What lies below `end` is in use. */
  advanceFileEnd(end: number): void {
    assert(end >= this.fileEnd && end <= this.roomEnd, 'grains are appended where there is room');
    this.numbers.set(FILE_END, end);
  }

  /** Nothing from `end` on is in use any more. */
  lowerFileEnd(end: number): void {
    assert(end <= this.fileEnd, 'only an append moves the end of what is in use up');
    this.numbers.set(FILE_END, end);
  }

  get fileLength(): number {
    return this.numbers.get(FILE_LENGTH);
  }

  /** From `fileEnd` up to here the file reads as zeros, durably; 0 before it was made longer. */
  get roomEnd(): number {
    return this.numbers.get(ROOM_END);
  }

  /** The file has so many bytes now, durably; those behind `fileEnd` read as zeros. */
  noteExtended(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
    this.numbers.set(ROOM_END, length);
  }

  /** The file was cut; nobody appends to it before it is made longer. */
  noteCut(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
    this.numbers.set(ROOM_END, 0);
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
