// What all threads of an open QED image share, as one structured-clonable record. The header fields in it never change
// while the image is open; what does change is in `words` and `numbers`, guarded by the metadata lock.

import { type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import { FIRST_OWN_NUMBER } from '../mapped/disk-numbers.ts';
import { LockedNumbers, type LockedNumbersParts } from '../mapped/locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import type { QedHeader } from './header.ts';

/** The Int32 word behind the metadata lock: 1 when NEED_CHECK is set in the file and that is durable */
export const DIRTY = 1;
/** The two words of the dirty mark. */
export const DIRTY_MARK = 2;
const WORD_COUNT = 4;

/** Float64 numbers: QedNumbers says what they are. */
const FILE_END = FIRST_OWN_NUMBER;
const FILE_LENGTH = FIRST_OWN_NUMBER + 1;
const LAST_CHANGE_MS = FIRST_OWN_NUMBER + 2;
const DURABLE_LENGTH = FIRST_OWN_NUMBER + 3;
const CUTS = FIRST_OWN_NUMBER + 4;
const ZERO_ENTRY_EPOCH = FIRST_OWN_NUMBER + 5;
const SEARCHED_EPOCH = FIRST_OWN_NUMBER + 6;
const NUMBER_COUNT = FIRST_OWN_NUMBER + 7;

export interface QedState extends MappedState {
  readonly header: QedHeader;
}

export interface QedStateOptions extends MappedStateOptions {
  /** NEED_CHECK is set in the file */
  readonly isDirty: boolean;
}

export function createQedState(header: QedHeader, options: QedStateOptions): QedState {
  const { fileLength, isDirty } = options;
  const { clusterSize } = header;
  const state = {
    header,
    ...createMappedState(options, { clusterSize, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT }),
  };
  new Int32Array(state.words)[DIRTY] = isDirty ? 1 : 0;
  const numbers = new Float64Array(state.numbers);
  numbers[FILE_END] = fileLength;
  numbers[FILE_LENGTH] = fileLength;
  numbers[DURABLE_LENGTH] = fileLength;
  numbers[ZERO_ENTRY_EPOCH] = 1;
  return state;
}

/** Length of the file at some moment, and how often it had been cut by then. */
export interface ReachedLength {
  readonly length: number;
  readonly cuts: number;
}

/** The numbers of an open QED image beside DiskNumbers. Each needs the metadata lock. */
export class QedNumbers {
  private readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** First byte behind the last cluster in use, where the next one is appended. */
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

  /** The file was made longer. */
  noteExtended(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
  }

  /** The file was made shorter. */
  noteCut(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
    this.numbers.add(CUTS, 1);
    this.numbers.set(DURABLE_LENGTH, Math.min(this.durableLength, length));
  }

  /** Length of the file that is known to be on stable storage. */
  get durableLength(): number {
    return this.numbers.get(DURABLE_LENGTH);
  }

  /** What noteDurable() wants to know from before a sync. */
  reachedLength(): ReachedLength {
    return { length: this.fileLength, cuts: this.numbers.get(CUTS) };
  }

  /** A sync is done that began when the file had reached this. It says nothing about a length that was cut and reached again. */
  noteDurable({ length, cuts }: ReachedLength): void {
    if (this.numbers.get(CUTS) !== cuts) return;
    this.numbers.set(DURABLE_LENGTH, Math.max(this.durableLength, length));
  }

  /** steadyMs() of the last change of the metadata. */
  get lastChangeMs(): number {
    return this.numbers.get(LAST_CHANGE_MS);
  }

  noteChange(nowMs: number): void {
    this.numbers.set(LAST_CHANGE_MS, nowMs);
  }

  /** How often entries came into being that read as zeros, and so can take a free cluster. */
  get zeroEntryEpoch(): number {
    return this.numbers.get(ZERO_ENTRY_EPOCH);
  }

  noteZeroEntries(): void {
    this.numbers.add(ZERO_ENTRY_EPOCH, 1);
  }

  /** A search of the whole disk found too few such entries, and none came into being since. */
  get isSearchedForZeroEntries(): boolean {
    return this.numbers.get(SEARCHED_EPOCH) === this.zeroEntryEpoch;
  }

  /** @param epoch `zeroEntryEpoch` when the search began */
  noteSearched(epoch: number): void {
    this.numbers.set(SEARCHED_EPOCH, epoch);
  }
}
