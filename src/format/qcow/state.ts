// What all threads of an open qcow image share, beside what every image of tables has: where the clusters in use end.
// Guarded by the metadata lock.

import { roundUp } from '../../bytes/offsets.ts';
import type { VolumeKey } from '../../codec/encryption.ts';
import { createMappedState, type MappedState, type MappedStateOptions } from '../mapped/mapped-state.ts';
import { createPendingLinksState, type PendingLinksState } from '../mapped/pending-links.ts';
import { FIRST_AFTER_FILE_END, initializeFileEnd } from '../mapped/space/file-end.ts';
import type { QcowHeader } from './header.ts';

/** The metadata lock is the only word. */
const WORD_COUNT = 1;

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
  const format = { clusterSize, wordCount: WORD_COUNT, numberCount: FIRST_AFTER_FILE_END };
  const mapped = createMappedState(options, format);
  const { volumeKey } = options;
  // each link may need a table
  const pendingTables = createPendingLinksState(mapped.pending.capacity);
  const state = { header, ...mapped, volumeKey, pendingTables };
  initializeFileEnd(state.numbers, roundUp(options.fileLength, clusterSize), options.fileLength);
  return state;
}
