// The numbers that follow from a header, computed once. L2 tables of another program may be smaller than a cluster, or larger; each
// begins at the start of one.

import { TwoLevelGrid } from '../mapped/two-level-grid.ts';

export const ENTRY_BYTES = 8;

/** What a header says of its tables. */
export interface TableFields {
  readonly clusterBits: number;
  readonly l2Bits: number;
  readonly l1TableOffset: number;
  /** virtual size in bytes, rounded up to whole sectors */
  readonly size: number;
}

export class Geometry extends TwoLevelGrid {
  readonly clusterBits: number;
  /** bytes of an L2 table */
  readonly tableBytes: number;
  /** clusters of an L2 table, the last one maybe in part */
  readonly tableSizeClusters: number;
  readonly l1Entries: number;
  /** host offset of the end of the L1 table; nothing that an entry leads to begins before it */
  readonly l1End: number;

  constructor({ clusterBits, l2Bits, l1TableOffset, size }: TableFields) {
    super(2 ** clusterBits, 2 ** l2Bits);
    this.clusterBits = clusterBits;
    this.tableBytes = this.l2Entries * ENTRY_BYTES;
    this.tableSizeClusters = Math.ceil(this.tableBytes / this.clusterSize);
    this.l1Entries = Math.ceil(size / this.l2Coverage);
    this.l1End = l1TableOffset + this.l1Entries * ENTRY_BYTES;
  }
}
