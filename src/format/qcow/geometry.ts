// The numbers that follow from a header, computed once. A guest offset is cut in three:
//
//   guest offset = ((l1Index * l2Entries) + l2Index) * clusterSize + offset in the cluster
//
// L2 tables of another program may be smaller than a cluster, or larger; each begins at the start of one.

import {
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  type HostCluster,
  type HostOffset,
  remainder,
} from '../../bytes/offsets.ts';

export const ENTRY_BYTES = 8;

/** What a header says of its tables. */
export interface TableFields {
  readonly clusterBits: number;
  readonly l2Bits: number;
  readonly l1TableOffset: number;
  /** virtual size in bytes, rounded up to whole sectors */
  readonly size: number;
}

export class Geometry {
  readonly clusterBits: number;
  readonly clusterSize: number;
  /** entries of an L2 table */
  readonly tableEntries: number;
  /** bytes of an L2 table */
  readonly tableBytes: number;
  /** clusters of an L2 table, the last one maybe in part */
  readonly tableSizeClusters: number;
  /** guest bytes that one L2 table maps */
  readonly l2Coverage: number;
  readonly l1Entries: number;
  /** host offset of the end of the L1 table; nothing that an entry leads to begins before it */
  readonly l1End: number;

  constructor({ clusterBits, l2Bits, l1TableOffset, size }: TableFields) {
    this.clusterBits = clusterBits;
    this.clusterSize = 2 ** clusterBits;
    this.tableEntries = 2 ** l2Bits;
    this.tableBytes = this.tableEntries * ENTRY_BYTES;
    this.tableSizeClusters = Math.ceil(this.tableBytes / this.clusterSize);
    this.l2Coverage = this.tableEntries * this.clusterSize;
    this.l1Entries = Math.ceil(size / this.l2Coverage);
    this.l1End = l1TableOffset + this.l1Entries * ENTRY_BYTES;
  }

  /** The cluster that holds the byte at `offset`, of the same disk or file. */
  clusterOf(offset: GuestOffset): GuestCluster;
  clusterOf(offset: HostOffset): HostCluster;
  clusterOf(offset: number): number {
    return Math.floor(offset / this.clusterSize);
  }

  /** The first byte of a cluster. */
  startOf(cluster: GuestCluster): GuestOffset;
  startOf(cluster: HostCluster): HostOffset;
  startOf(cluster: number): number {
    return cluster * this.clusterSize;
  }

  /** Clusters that `bytes` bytes take, the last one maybe in part. */
  clustersFor(bytes: number): number {
    return Math.ceil(bytes / this.clusterSize);
  }

  l1IndexOf(cluster: GuestCluster): number {
    return Math.floor(cluster / this.tableEntries);
  }

  l2IndexOf(cluster: GuestCluster): number {
    return remainder(cluster, this.tableEntries);
  }

  /** The first guest cluster that the L2 table of an L1 entry maps. */
  firstClusterOf(l1Index: number): GuestCluster {
    return guestCluster(l1Index * this.tableEntries);
  }
}
