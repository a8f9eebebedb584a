// What all threads of an open image of one file share beside what every image of tables has: where the clusters begin, where those in
// use and the file end, and how many entries the BAT has. Guarded by the metadata lock.

import { createMappedState, type MappedState, type MappedStateOptions } from '../../mapped/mapped-state.ts';
import { FIRST_AFTER_FILE_END, FileEnd, initializeFileEnd } from '../../mapped/space/file-end.ts';
import type { ParallelsHeader } from '../header.ts';

/** The Int32 words behind the metadata lock: 1 when the header says "in use" and that is durable; the words of its mark */
export const IN_USE = 1;
export const IN_USE_MARK = 2;
const WORD_COUNT = 4;

/** Float64 numbers: PlainNumbers says what they are. */
const DATA_START = FIRST_AFTER_FILE_END;
const BAT_ENTRIES = FIRST_AFTER_FILE_END + 1;
const LAST_CHANGE_MS = FIRST_AFTER_FILE_END + 2;
const NUMBER_COUNT = FIRST_AFTER_FILE_END + 3;
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
  initializeFileEnd(state.numbers, fileEnd, fileLength);
  const numbers = new Float64Array(state.numbers);
  numbers[DATA_START] = dataStart;
  numbers[BAT_ENTRIES] = batEntries;
  return state;
}

/** The numbers of an open image beside DiskNumbers. Each needs the metadata lock. */
export class PlainNumbers extends FileEnd {
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

  /** steadyMs() of the last change. */
  get lastChangeMs(): number {
    return this.numbers.get(LAST_CHANGE_MS);
  }

  noteChange(nowMs: number): void {
    this.numbers.set(LAST_CHANGE_MS, nowMs);
  }
}
