// What all threads of an open image of one file share beside what every image of tables has: where the clusters begin, where those in
// use and the file end, and how many entries the BAT has. Guarded by the metadata lock.

import { type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import { assert } from '../../../errors/index.ts';
import { FIRST_OWN_NUMBER } from '../../mapped/disk-numbers.ts';
import { LockedNumbers, type LockedNumbersParts } from '../../mapped/locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../../mapped/mapped-state.ts';
import type { ParallelsHeader } from '../header.ts';

/** The Int32 words behind the metadata lock: 1 when the header says "in use" and that is durable; the words of its mark */
export const IN_USE = 1;
export const IN_USE_MARK = 2;
const WORD_COUNT = 4;

/** Float64 numbers: PlainNumbers says what they are. */
const DATA_START = FIRST_OWN_NUMBER;
const BAT_ENTRIES = FIRST_OWN_NUMBER + 1;
const FILE_END = FIRST_OWN_NUMBER + 2;
const FILE_LENGTH = FIRST_OWN_NUMBER + 3;
const LAST_CHANGE_MS = FIRST_OWN_NUMBER + 4;
const NUMBER_COUNT = FIRST_OWN_NUMBER + 5;
/** The BAT begins behind the header, so its slices are those of the file. */
const SLICE_BYTES = 4096;

export interface PlainState extends MappedState {
  readonly header: ParallelsHeader;
  /** of the grid of clusters */
  readonly phase: number;
}

export interface PlainStateOptions extends MappedStateOptions {
  readonly phase: number;
  /** host offset of the first place of a cluster */
  readonly dataStart: number;
  /** behind the last cluster in use */
  readonly fileEnd: number;
  /** the header says that the image is in use */
  readonly isInUse: boolean;
}

export function createPlainState(header: ParallelsHeader, options: PlainStateOptions): PlainState {
  const { batEntries, clusterBytes } = header;
  const { dataStart, fileEnd, fileLength, isInUse, phase } = options;
  const sizes = {
    clusterSize: clusterBytes,
    wordCount: WORD_COUNT,
    numberCount: NUMBER_COUNT,
    sliceBytes: SLICE_BYTES,
  };
  const state = { header, ...createMappedState(options, sizes), phase };
  new Int32Array(state.words)[IN_USE] = isInUse ? 1 : 0;
  const numbers = new Float64Array(state.numbers);
  numbers[DATA_START] = dataStart;
  numbers[BAT_ENTRIES] = batEntries;
  numbers[FILE_END] = fileEnd;
  numbers[FILE_LENGTH] = fileLength;
  return state;
}

/** The numbers of an open image beside DiskNumbers. Each needs the metadata lock. */
export class PlainNumbers {
  private readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** Where the first cluster can lie. */
  get dataStart(): number {
    return this.numbers.get(DATA_START);
  }

  get batEntries(): number {
    return this.numbers.get(BAT_ENTRIES);
  }

  /** The header says so now. */
  noteLayout(batEntries: number, dataStart: number): void {
    this.numbers.set(BAT_ENTRIES, batEntries);
    this.numbers.set(DATA_START, dataStart);
  }

  /** Behind the last cluster in use, where the next one is appended. */
  get fileEnd(): HostOffset {
    return hostOffset(this.numbers.get(FILE_END));
  }

  /** Clusters up to `end` are in use. */
  advanceFileEnd(end: HostOffset): void {
    assert(end >= this.fileEnd && end <= this.fileLength, 'clusters are appended inside the file');
    this.numbers.set(FILE_END, end);
  }

  /** The clusters from `end` on are not in use any more. */
  lowerFileEnd(end: HostOffset): void {
    assert(end <= this.fileEnd, 'only an append moves the end of the clusters in use up');
    this.numbers.set(FILE_END, end);
  }

  /** Length of the file, which is extended ahead of `fileEnd`. */
  get fileLength(): number {
    return this.numbers.get(FILE_LENGTH);
  }

  noteExtended(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
  }

  noteCut(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
  }

  /** steadyMs() of the last change. */
  get lastChangeMs(): number {
    return this.numbers.get(LAST_CHANGE_MS);
  }

  noteChange(nowMs: number): void {
    this.numbers.set(LAST_CHANGE_MS, nowMs);
  }
}
