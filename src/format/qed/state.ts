// What all threads of an open QED image share, as one structured-clonable record. The header fields in it never change
// while the image is open; what does change is in `words` and `numbers`, guarded by the metadata lock.

import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped-state.ts';
import type { QedHeader } from './header.ts';

/** The Int32 word behind the metadata lock: 1 when NEED_CHECK is set in the file and that is durable */
export const DIRTY = 1;
/** The two words of the dirty mark. */
export const DIRTY_MARK = 2;
const WORD_COUNT = 4;

/** Float64 numbers. */
export const IMAGE_SIZE = 0;
/** first byte behind the last cluster in use; the next cluster is appended here */
export const FILE_END = 1;
/** length of the file, which is extended ahead of FILE_END */
export const FILE_LENGTH = 2;
/** data clusters that are linked or wait for their link */
export const ALLOCATED_CLUSTERS = 3;
/** steadyMs() of the last allocation or deallocation */
export const LAST_CHANGE_MS = 4;
/** length of the file that is known to be on stable storage */
export const DURABLE_LENGTH = 5;
/** how often the file was cut: a sync that began before says nothing about a length that was reached again since */
export const CUTS = 6;
/** how often entries came into being that can take a free cluster, because they read as zeros */
export const TAKERS = 7;
/** TAKERS when a search for them last came to its end and found too few */
export const SEARCHED_TAKERS = 8;
const NUMBER_COUNT = 9;

export interface QedState extends MappedState {
  readonly header: QedHeader;
}

export function createQedState(header: QedHeader, options: MappedStateOptions): QedState {
  const { clusterSize } = header;
  const state = {
    ...createMappedState(options, { clusterSize, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT }),
    header,
  };
  const numbers = new Float64Array(state.numbers);
  numbers[IMAGE_SIZE] = header.imageSize;
  numbers[FILE_END] = options.fileLength;
  numbers[FILE_LENGTH] = options.fileLength;
  numbers[DURABLE_LENGTH] = options.fileLength;
  numbers[TAKERS] = 1;
  return state;
}
