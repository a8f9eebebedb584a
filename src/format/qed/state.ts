// What all threads of an open QED image share, as one structured-clonable record. The header fields in it never change
// while the image is open; what does change is in `words` and `numbers`, guarded by the metadata lock.

import { createReservationState, type ReservationState } from '../../concurrency/reservations.ts';
import { createTableCacheState, MAX_SLICE_BYTES, type TableCacheState } from '../../concurrency/table-cache.ts';
import { createFreeClustersState, type FreeClustersState } from '../free-clusters.ts';
import { createPendingLinksState, type PendingLinksState } from '../pending-links.ts';
import { createWriteTrackerState } from '../write-tracker.ts';
import type { QedHeader } from './header.ts';

/** Int32 words: the metadata lock and the flags. */
export const METADATA_LOCK = 0;
/** 1 when NEED_CHECK is set in the file and that is durable */
export const DIRTY = 1;
const WORD_COUNT = 2;

/** Float64 numbers. */
export const IMAGE_SIZE = 0;
/** first byte behind the last cluster in use; the next cluster is appended here */
export const FILE_END = 1;
/** length of the file, which is extended ahead of FILE_END */
export const FILE_LENGTH = 2;
/** data clusters that are linked or wait for their link */
export const ALLOCATED_CLUSTERS = 3;
/** Date.now() of the last allocation or deallocation */
export const LAST_CHANGE_MS = 4;
/** length of the file that is known to be on stable storage */
export const DURABLE_LENGTH = 5;
/** how often the file was cut: a sync that began before says nothing about a length that was reached again since */
export const CUTS = 6;
const NUMBER_COUNT = 7;

/** Links held back at most; a full list is linked early. */
const PENDING_CAPACITY = 16384;

export interface QedState {
  readonly header: QedHeader;
  readonly words: SharedArrayBuffer;
  readonly numbers: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  readonly cache: TableCacheState;
  readonly reservations: ReservationState;
  readonly pending: PendingLinksState;
  readonly free: FreeClustersState;
}

export interface QedStateOptions {
  readonly fileLength: number;
  readonly tableCacheBytes: number;
  readonly slots: number;
  readonly readOnly: boolean;
}

export function createQedState(header: QedHeader, options: QedStateOptions): QedState {
  const state: QedState = {
    header,
    words: new SharedArrayBuffer(WORD_COUNT * 4),
    numbers: new SharedArrayBuffer(NUMBER_COUNT * 8),
    tracker: createWriteTrackerState(),
    cache: createTableCacheState(options.tableCacheBytes, MAX_SLICE_BYTES),
    reservations: createReservationState(options.slots),
    pending: createPendingLinksState(options.readOnly ? 1 : PENDING_CAPACITY),
    free: createFreeClustersState(header.clusterSize, options.readOnly ? 0 : options.fileLength),
  };
  const numbers = new Float64Array(state.numbers);
  numbers[IMAGE_SIZE] = header.imageSize;
  numbers[FILE_END] = options.fileLength;
  numbers[FILE_LENGTH] = options.fileLength;
  numbers[DURABLE_LENGTH] = options.fileLength;
  return state;
}
