// What all threads of an open qcow2 image share, as one structured-clonable record. `header` holds what never changes while
// the image is open; what does change is in `words` and `numbers`, guarded by the metadata lock.

import { type HostOffset, hostCluster, hostOffset } from '../../bytes/offsets.ts';
import type { VolumeKey } from '../../codec/encryption.ts';
import type { SharedByteMapState } from '../../concurrency/shared-byte-map.ts';
import { assert } from '../../errors/index.ts';
import type { ReadableSnapshot } from '../image-format.ts';
import { FIRST_OWN_NUMBER } from '../mapped/disk-numbers.ts';
import type { ClusterRun } from '../mapped/free-clusters.ts';
import { LockedNumbers, type LockedNumbersParts } from '../mapped/locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import { createPendingLinksState, type PendingLinksState } from '../mapped/pending-links.ts';
import { createDeferredDecrementsState, type DeferredDecrementsState } from './counters/deferred-decrements.ts';
import { L1_ENTRY_BYTES, REFCOUNT_TABLE_ENTRY_BYTES } from './geometry.ts';
import type { CompressionType, FeatureWords } from './header/header.ts';

/** The Int32 word after the metadata lock: QCOW2_INCOMPAT_DIRTY and _CORRUPT as they are in the header now */
export const HEADER_BITS = 1;
/** The two words of the dirty mark. */
export const DIRTY_MARK = 2;
const WORD_COUNT = 4;

/** Float64 numbers: Qcow2Numbers says what they are. */
const L1_OFFSET = FIRST_OWN_NUMBER;
const L1_ENTRIES = FIRST_OWN_NUMBER + 1;
const REFCOUNT_TABLE_OFFSET = FIRST_OWN_NUMBER + 2;
const REFCOUNT_TABLE_ENTRIES = FIRST_OWN_NUMBER + 3;
const FILE_END = FIRST_OWN_NUMBER + 4;
const NEVER_USED = FIRST_OWN_NUMBER + 5;
const SHOWN_TABLE_OFFSET = FIRST_OWN_NUMBER + 6;
const SHOWN_TABLE_ENTRIES = FIRST_OWN_NUMBER + 7;
const AHEAD_START = FIRST_OWN_NUMBER + 8;
const AHEAD_END = FIRST_OWN_NUMBER + 9;
const NUMBER_COUNT = FIRST_OWN_NUMBER + 10;

/** Refcount blocks that wait for their place in the refcount table: new-counters.ts says why they are never more. */
export const NEW_BLOCKS = 4096;
/** L2 tables that wait for their L1 entry. */
const PENDING_TABLES = 1024;

/** The header fields that the engine needs and that never change. */
export interface FixedHeader {
  readonly version: 2 | 3;
  readonly clusterBits: number;
  readonly refcountOrder: number;
  readonly extendedL2: boolean;
  readonly compressionType: CompressionType;
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
  /** refcount blocks that the refcount table does not show yet */
  readonly newBlocks: PendingLinksState;
  readonly decrements: DeferredDecrementsState;
  /** which clusters hold metadata */
  readonly metadata: SharedByteMapState;
  readonly unreadFree: SharedArrayBuffer;
  /** there are leaks that the next open shall free, by a walk */
  readonly hasLeaks: boolean;
  /** those that can be read; none if nobody asked for them */
  readonly snapshots: readonly PlacedSnapshot[];
}

/** Where a table lies and how long it is. */
export interface TablePlace {
  readonly offset: number;
  readonly entries: number;
}

/** A snapshot that can be read, with its L1 table. */
export interface PlacedSnapshot extends ReadableSnapshot {
  readonly l1Table: TablePlace;
}

export interface Qcow2StateOptions extends MappedStateOptions {
  readonly volumeKey: VolumeKey | null;
  readonly metadata: SharedByteMapState;
  readonly unreadFree: SharedArrayBuffer;
  readonly hasLeaks: boolean;
  readonly snapshots: readonly PlacedSnapshot[];
  /** QCOW2_INCOMPAT_DIRTY and _CORRUPT as they are in the header */
  readonly headerBits: number;
  readonly l1Table: TablePlace;
  readonly refcountTable: TablePlace;
  /** first byte after the last cluster in use */
  readonly usedEnd: number;
}

export function createQcow2State(header: FixedHeader, options: Qcow2StateOptions): Qcow2State {
  const { hasLeaks, metadata, readOnly, snapshots, unreadFree, volumeKey } = options;
  const clusterSize = 2 ** header.clusterBits;
  const state = {
    header,
    ...createMappedState(options, { clusterSize, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT }),
    volumeKey,
    metadata,
    unreadFree,
    hasLeaks,
    snapshots,
    pendingTables: createPendingLinksState(readOnly ? 1 : PENDING_TABLES),
    newBlocks: createPendingLinksState(readOnly ? 1 : NEW_BLOCKS),
    decrements: createDeferredDecrementsState(readOnly ? 1 : undefined),
  };
  new Int32Array(state.words)[HEADER_BITS] = options.headerBits;
  const numbers = new Float64Array(state.numbers);
  numbers[L1_OFFSET] = options.l1Table.offset;
  numbers[L1_ENTRIES] = options.l1Table.entries;
  numbers[REFCOUNT_TABLE_OFFSET] = options.refcountTable.offset;
  numbers[REFCOUNT_TABLE_ENTRIES] = options.refcountTable.entries;
  numbers[SHOWN_TABLE_OFFSET] = options.refcountTable.offset;
  numbers[SHOWN_TABLE_ENTRIES] = options.refcountTable.entries;
  numbers[FILE_END] = options.usedEnd;
  numbers[NEVER_USED] = options.fileLength;
  return state;
}

/** The numbers of an open qcow2 image beside DiskNumbers. Each needs the metadata lock. */
export class Qcow2Numbers {
  private readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** The active L1 table. */
  get l1Offset(): HostOffset {
    return hostOffset(this.numbers.get(L1_OFFSET));
  }

  get l1Entries(): number {
    return this.numbers.get(L1_ENTRIES);
  }

  /** The header shows this one now. */
  setL1Table(offset: HostOffset, entries: number): void {
    this.numbers.set(L1_OFFSET, offset);
    this.numbers.set(L1_ENTRIES, entries);
  }

  /** The refcount table; without entries in an image that is only read and whose header puts it where none can be. */
  get refcountTableOffset(): HostOffset {
    return hostOffset(this.numbers.get(REFCOUNT_TABLE_OFFSET));
  }

  get refcountTableEntries(): number {
    return this.numbers.get(REFCOUNT_TABLE_ENTRIES);
  }

  /** This one is in use; the header shows another for a while. */
  moveRefcountTable(offset: HostOffset, entries: number): void {
    this.numbers.set(REFCOUNT_TABLE_OFFSET, offset);
    this.numbers.set(REFCOUNT_TABLE_ENTRIES, entries);
  }

  get isRefcountTableShown(): boolean {
    return this.numbers.get(SHOWN_TABLE_OFFSET) === this.numbers.get(REFCOUNT_TABLE_OFFSET);
  }

  /** The header shows the refcount table that is in use. @returns the one that it showed before */
  noteRefcountTableShown(): { readonly offset: HostOffset; readonly entries: number } {
    const before = {
      offset: hostOffset(this.numbers.get(SHOWN_TABLE_OFFSET)),
      entries: this.numbers.get(SHOWN_TABLE_ENTRIES),
    };
    this.numbers.set(SHOWN_TABLE_OFFSET, this.refcountTableOffset);
    this.numbers.set(SHOWN_TABLE_ENTRIES, this.refcountTableEntries);
    return before;
  }

  /** First byte after the last cluster in use, where the next one is appended. */
  get fileEnd(): HostOffset {
    return hostOffset(this.numbers.get(FILE_END));
  }

  /** Clusters up to `end` are in use. */
  advanceFileEnd(end: HostOffset): void {
    assert(end >= this.fileEnd, 'an append moves the end of the clusters in use up');
    this.numbers.set(FILE_END, end);
  }

  /** The clusters from `end` on are not in use any more. */
  lowerFileEnd(end: HostOffset): void {
    assert(end <= this.fileEnd, 'only an append moves the end of the clusters in use up');
    this.numbers.set(FILE_END, end);
  }

  /**
   * [offset, offset + bytes) is inside the file, and neither in the active L1 table nor in the refcount table. Asked for every
   * entry that a read follows, so the lock is asserted once for all that is looked at.
   */
  isPlace(offset: HostOffset, bytes: number): boolean {
    const values = this.numbers.underLock();
    if (!(offset + bytes <= values[FILE_END]!)) return false;
    const inL1 = offset - values[L1_OFFSET]!;
    if (inL1 >= 0 && inL1 < values[L1_ENTRIES]! * L1_ENTRY_BYTES) return false;
    const inRefcounts = offset - values[REFCOUNT_TABLE_OFFSET]!;
    return inRefcounts < 0 || inRefcounts >= values[REFCOUNT_TABLE_ENTRIES]! * REFCOUNT_TABLE_ENTRY_BYTES;
  }

  /** Clusters [start, end) are counted and not in use: the next ones to be taken. Empty: start = end. */
  get countedAhead(): ClusterRun {
    return { start: hostCluster(this.numbers.get(AHEAD_START)), end: hostCluster(this.numbers.get(AHEAD_END)) };
  }

  setCountedAhead({ start, end }: ClusterRun): void {
    assert(start <= end, 'clusters that are counted ahead end after their start');
    this.numbers.set(AHEAD_START, start);
    this.numbers.set(AHEAD_END, end);
  }

  /** From here on the file has never held anything: new clusters read as zeros. */
  get neverUsed(): HostOffset {
    return hostOffset(this.numbers.get(NEVER_USED));
  }

  /** Something may be written below `end`. */
  noteUsed(end: HostOffset): void {
    this.numbers.set(NEVER_USED, Math.max(this.neverUsed, end));
  }

  /** The file was cut here, and what it is extended by reads as zeros. */
  noteCut(length: HostOffset): void {
    this.numbers.set(NEVER_USED, length);
  }
}
