// What all threads of an open qcow2 image share, as one structured-clonable record. `header` holds what never changes while
// the image is open; what does change is in `words` and `numbers`, guarded by the metadata lock.

import { LockedNumbers, type LockedNumbersParts } from '../locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped-state.ts';
import { createPendingLinksState, type PendingLinksState } from '../pending-links.ts';
import type { VolumeKey } from './encryption.ts';
import type { FeatureWords } from './header.ts';
import { createReleasesState, type ReleasesState } from './releases.ts';

/** The Int32 word behind the metadata lock: QCOW2_INCOMPAT_DIRTY and _CORRUPT as they are in the header now */
export const MARKS = 1;
/** The two words of the dirty mark. */
export const DIRTY_MARK = 2;
const WORD_COUNT = 4;

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

export interface Qcow2State extends MappedState {
  readonly header: FixedHeader;
  /** of an encrypted image; in the memory of this process and nowhere else */
  readonly volumeKey: VolumeKey | null;
  readonly pendingTables: PendingLinksState;
  readonly releases: ReleasesState;
  /** which clusters hold metadata */
  readonly metadata: SharedArrayBuffer;
}

export interface Qcow2StateOptions extends MappedStateOptions {
  readonly volumeKey: VolumeKey | null;
  readonly metadata: SharedArrayBuffer;
}

export function createQcow2State(header: FixedHeader, options: Qcow2StateOptions): Qcow2State {
  const { metadata, readOnly, volumeKey } = options;
  return {
    ...createMappedState(options, {
      ...{ clusterSize: 2 ** header.clusterBits, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT },
    }),
    ...{ header, volumeKey, metadata },
    pendingTables: createPendingLinksState(readOnly ? 1 : PENDING_TABLES),
    releases: createReleasesState(readOnly ? 1 : undefined),
  };
}

/** Numbers of an open qcow2 image. Each needs the metadata lock, but for those that say `OutsideLock`. */
export class Qcow2Numbers {
  private readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** Bytes of the disk. */
  get virtualSize(): number {
    return this.numbers.get(VIRTUAL_SIZE);
  }

  virtualSizeOutsideLock(): number {
    return this.numbers.getOutsideLock(VIRTUAL_SIZE);
  }

  allocatedClustersOutsideLock(): number {
    return this.numbers.getOutsideLock(ALLOCATED_CLUSTERS);
  }
}
