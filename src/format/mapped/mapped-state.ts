// What all threads of an open image share where tables map its guest data: the part of a format's state that is the same in
// every such format. Structured-clonable; what may change is guarded by the metadata lock.

import { createReservationState, type ReservationState } from '../../concurrency/reservations.ts';
import { createTableCacheState, MAX_SLICE_BYTES, type TableCacheState } from '../../concurrency/table-cache.ts';
import { createWriteTrackerState } from '../write-tracker.ts';
import { initializeDiskNumbers } from './disk-numbers.ts';
import { createFreeClustersState, type FreeClustersState, trackedClusters } from './free-clusters.ts';
import { createPendingLinksState, type PendingLinksState } from './pending-links.ts';

/** The word that is the metadata lock. */
export const METADATA_LOCK = 0;

/** Links held back at most; a full list is linked early. */
const PENDING_CAPACITY = 16384;
/** Links that a small disk has room for, which may grow while it is open. */
const LEAST_PENDING = 1024;
/** Clusters that one write allocates at once: more links than there is ever room for would wait for ever. */
export const MAX_RUN_CLUSTERS = LEAST_PENDING;

/** Table cache of the smallest image, and of one that may grow while it is open. */
const LEAST_CACHE_BYTES = 2 ** 20;
const ROOM_CACHE_BYTES = 2 ** 23;

export interface MappedState {
  /** Int32: METADATA_LOCK, then the format's */
  readonly words: SharedArrayBuffer;
  /** Float64: DiskNumbers, then the format's */
  readonly numbers: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  readonly cache: TableCacheState;
  readonly reservations: ReservationState;
  readonly pending: PendingLinksState;
  readonly free: FreeClustersState;
}

export interface MappedStateOptions {
  readonly fileLength: number;
  readonly virtualSize: number;
  /** data clusters of the disk */
  readonly allocatedClusters: number;
  readonly tableCacheBytes: number;
  readonly slots: number;
  readonly readOnly: boolean;
  /** false: nobody resizes the disk */
  readonly mayGrow?: boolean | undefined;
}

/** What the state of a format needs. */
export interface StateSizes {
  readonly clusterSize: number;
  readonly wordCount: number;
  readonly numberCount: number;
  /** bytes of its tables that are cached as one, where tables are not aligned to clusters; default: a cluster, 4 KiB at most */
  readonly sliceBytes?: number;
  /** what places in the file are counted in; default: clusters */
  readonly unitBytes?: number;
}

export function createMappedState(options: MappedStateOptions, format: StateSizes): MappedState {
  const { allocatedClusters, fileLength, mayGrow, readOnly, slots, virtualSize } = options;
  const { clusterSize, numberCount, sliceBytes = Math.min(MAX_SLICE_BYTES, clusterSize), wordCount } = format;
  const { unitBytes = clusterSize } = format;
  const numbers = new SharedArrayBuffer(numberCount * 8);
  initializeDiskNumbers(numbers, virtualSize, allocatedClusters);
  return {
    words: new SharedArrayBuffer(wordCount * 4),
    numbers,
    tracker: createWriteTrackerState(),
    cache: createTableCacheState(cacheBytes(options, clusterSize), sliceBytes),
    reservations: createReservationState(slots),
    pending: createPendingLinksState(readOnly ? 1 : pendingCapacity(virtualSize / clusterSize)),
    free: createFreeClustersState(
      unitBytes,
      readOnly ? 0 : trackedClusters(unitBytes, fileLength, virtualSize, mayGrow),
    ),
  };
}

/** A cluster that is dropped and written again waits twice. */
function pendingCapacity(guestClusters: number): number {
  return Math.min(PENDING_CAPACITY, Math.max(LEAST_PENDING, 2 * Math.ceil(guestClusters)));
}

/** The budget, or less where the tables of the image cannot fill it: 16 bytes a guest cluster and 8 a host cluster at most. */
function cacheBytes(
  { fileLength, mayGrow = true, readOnly, tableCacheBytes, virtualSize }: MappedStateOptions,
  clusterSize: number,
): number {
  const tables = (16 * virtualSize + 8 * fileLength) / clusterSize;
  return Math.min(tableCacheBytes, Math.max(tables, readOnly || !mayGrow ? LEAST_CACHE_BYTES : ROOM_CACHE_BYTES));
}
