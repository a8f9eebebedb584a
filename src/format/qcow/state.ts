// What all threads of an open qcow image share, beside what every image of tables has: where the clusters in use end.
// Guarded by the metadata lock.

import { type HostOffset, hostOffset, roundUp } from '../../bytes/offsets.ts';
import type { VolumeKey } from '../../codec/encryption.ts';
import { assert } from '../../errors/index.ts';
import { FIRST_OWN_NUMBER } from '../mapped/disk-numbers.ts';
import { LockedNumbers, type LockedNumbersParts } from '../mapped/locked-numbers.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import { createPendingLinksState, type PendingLinksState } from '../mapped/pending-links.ts';
import type { FileEndNumbers } from '../mapped/space/cluster-allocator.ts';
import type { QcowHeader } from './header.ts';

/** The metadata lock is the only word. */
const WORD_COUNT = 1;

/** Float64 numbers: QcowNumbers says what they are. */
const FILE_END = FIRST_OWN_NUMBER;
const FILE_LENGTH = FIRST_OWN_NUMBER + 1;
const NUMBER_COUNT = FIRST_OWN_NUMBER + 2;

export interface QcowState extends MappedState {
  readonly header: QcowHeader;
  /** null: the data is not encrypted */
  readonly volumeKey: VolumeKey | null;
  /** L2 tables that wait for their L1 entry */
  readonly pendingTables: PendingLinksState;
}

export interface QcowStateOptions extends MappedStateOptions {
  readonly volumeKey: VolumeKey | null;
}

export function createQcowState(header: QcowHeader, options: QcowStateOptions): QcowState {
  const clusterSize = 2 ** header.clusterBits;
  const format = { clusterSize, wordCount: WORD_COUNT, numberCount: NUMBER_COUNT };
  const mapped = createMappedState(options, format);
  const { volumeKey } = options;
  // each link may need a table
  const pendingTables = createPendingLinksState(mapped.pending.capacity);
  const state = { header, ...mapped, volumeKey, pendingTables };
  const numbers = new Float64Array(state.numbers);
  numbers[FILE_END] = roundUp(options.fileLength, clusterSize);
  numbers[FILE_LENGTH] = options.fileLength;
  return state;
}

/** The numbers of an open qcow image beside DiskNumbers. Each needs the metadata lock. */
export class QcowNumbers implements FileEndNumbers {
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

  /** Length of the file. It is extended ahead of `fileEnd`; a file that nobody has written to may end within its last cluster. */
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
  }
}
