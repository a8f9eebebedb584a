// What all threads of an open QED image share, as one structured-clonable record. The header fields in it never change
// while the image is open; what does change is in `words` and `numbers`, guarded by the metadata lock.

import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import { FIRST_AFTER_FILE_END, FileEnd, initializeFileEnd } from '../mapped/space/file-end.ts';
import type { QedHeader } from './header.ts';

/** The Int32 word behind the metadata lock: 1 when NEED_CHECK is set in the file and that is durable */
export const DIRTY = 1;
/** The two words of the dirty mark. */
export const DIRTY_MARK = 2;
const WORD_COUNT = 4;

/** Float64 numbers: QedNumbers says what they are. */
const LAST_CHANGE_MS = FIRST_AFTER_FILE_END;
const DURABLE_LENGTH = FIRST_AFTER_FILE_END + 1;
const CUTS = FIRST_AFTER_FILE_END + 2;
const ZERO_ENTRY_EPOCH = FIRST_AFTER_FILE_END + 3;
const SEARCHED_EPOCH = FIRST_AFTER_FILE_END + 4;
const NUMBER_COUNT = FIRST_AFTER_FILE_END + 5;

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
  initializeFileEnd(state.numbers, fileLength, fileLength);
  const numbers = new Float64Array(state.numbers);
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
export class QedNumbers extends FileEnd {
  override noteCut(length: number): void {
    super.noteCut(length);
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
