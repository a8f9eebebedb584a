// What all threads of an open qcow2 image share, as one structured-clonable record. `header` holds what never changes while
// the image is open; what does change is in `words` and `numbers`, guarded by the metadata lock.

import { createReservationState, type ReservationState } from '../../concurrency/reservations.ts';
import { createTableCacheState, MAX_SLICE_BYTES, type TableCacheState } from '../../concurrency/table-cache.ts';
import { createFreeClustersState, type FreeClustersState } from '../free-clusters.ts';
import { createPendingLinksState, type PendingLinksState } from '../pending-links.ts';
import { createWriteTrackerState } from '../write-tracker.ts';
import type { VolumeKey } from './encryption.ts';
import type { FeatureWords } from './header.ts';
import { createReleasesState, type ReleasesState } from './releases.ts';

/** Int32 words: the metadata lock. */
export const METADATA_LOCK = 0;
/** QCOW2_INCOMPAT_DIRTY and _CORRUPT as they are in the header now */
export const MARKS = 1;
const WORD_COUNT = 2;

/** Float64 numbers. */
export const VIRTUAL_SIZE = 0;
export const L1_OFFSET = 1;
export const L1_ENTRIES = 2;
export const REFCOUNT_TABLE_OFFSET = 3;
export const REFCOUNT_TABLE_ENTRIES = 4;
/** first byte behind the last cluster in use; the next cluster is appended here */
export const FILE_END = 5;
/** from here on the file has never held anything: clusters read as zeros */
export const NEVER_USED = 6;
/** data clusters that are linked or wait for their link */
export const ALLOCATED_CLUSTERS = 7;
const NUMBER_COUNT = 8;

const PENDING_CAPACITY = 16384;
/** L2 tables that wait for their L1 entry. */
const PENDING_TABLES = 1024;

/** The header fields that the engine needs and that never change. */
export interface FixedHeader {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly extendedL2: boolean;
  readonly compressionType: 'zlib' | 'zstd';
  readonly cryptMethod: number;
  readonly snapshotCount: number;
  /** the dirty and the corrupt bit may change: state.words */
  readonly incompatible: FeatureWords;
  /** the dirty bit is set while counters change */
  readonly lazyRefcounts: boolean;
  /** guest data lies in a file of its own */
  readonly hasDataFile: boolean;
  /** ... which is the disk itself */
  readonly dataFileRaw: boolean;
  readonly backingName: string | null;
  readonly backingFormat: string | null;
  /** for info and status, with qemu-img's keys */
  readonly specific: Readonly<Record<string, unknown>>;
}

export interface Qcow2State {
  readonly header: FixedHeader;
  /** of an encrypted image; in the memory of this process and nowhere else */
  readonly volumeKey: VolumeKey | null;
  readonly words: SharedArrayBuffer;
  readonly numbers: SharedArrayBuffer;
  readonly tracker: SharedArrayBuffer;
  readonly cache: TableCacheState;
  readonly reservations: ReservationState;
  readonly pending: PendingLinksState;
  readonly pendingTables: PendingLinksState;
  readonly releases: ReleasesState;
  readonly free: FreeClustersState;
  /** which clusters hold metadata */
  readonly metadata: SharedArrayBuffer;
}

export interface Qcow2StateOptions {
  readonly volumeKey: VolumeKey | null;
  readonly fileLength: number;
  readonly tableCacheBytes: number;
  readonly slots: number;
  readonly readOnly: boolean;
  readonly metadata: SharedArrayBuffer;
}

export function createQcow2State(header: FixedHeader, options: Qcow2StateOptions): Qcow2State {
  const clusterSize = 2 ** header.clusterBits;
  return {
    header,
    volumeKey: options.volumeKey,
    words: new SharedArrayBuffer(WORD_COUNT * 4),
    numbers: new SharedArrayBuffer(NUMBER_COUNT * 8),
    tracker: createWriteTrackerState(),
    cache: createTableCacheState(options.tableCacheBytes, Math.min(MAX_SLICE_BYTES, clusterSize)),
    reservations: createReservationState(options.slots),
    pending: createPendingLinksState(options.readOnly ? 1 : PENDING_CAPACITY),
    pendingTables: createPendingLinksState(options.readOnly ? 1 : PENDING_TABLES),
    releases: createReleasesState(options.readOnly ? 1 : undefined),
    metadata: options.metadata,
    free: createFreeClustersState(clusterSize, options.readOnly ? 0 : options.fileLength),
  };
}
