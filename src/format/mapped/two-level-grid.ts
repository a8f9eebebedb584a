// A guest disk and its file in clusters of one size, which tables of two levels map. A guest offset is cut in three:
//
//   guest offset = ((l1Index * l2Entries) + l2Index) * clusterSize + offset in the cluster
//
// Everything is plain multiplication and division: offsets exceed 32 bits, so no shifts.

import {
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  type HostCluster,
  type HostOffset,
  remainder,
} from '../../bytes/offsets.ts';

export class TwoLevelGrid {
  readonly clusterSize: number;
  /** entries of an L2 table */
  readonly l2Entries: number;
  /** guest bytes that one L2 table maps */
  readonly l2Coverage: number;

  constructor(clusterSize: number, l2Entries: number) {
    this.clusterSize = clusterSize;
    this.l2Entries = l2Entries;
    this.l2Coverage = l2Entries * clusterSize;
  }

  /** The cluster that holds the byte at `offset`, of the same disk or file. */
  clusterOf(offset: GuestOffset): GuestCluster;
  clusterOf(offset: HostOffset): HostCluster;
  clusterOf(offset: number): number;
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
    return Math.floor(cluster / this.l2Entries);
  }

  l2IndexOf(cluster: GuestCluster): number {
    return remainder(cluster, this.l2Entries);
  }

  /** The first guest cluster that the L2 table of an L1 entry maps. */
  firstClusterOf(l1Index: number): GuestCluster {
    return guestCluster(l1Index * this.l2Entries);
  }
}
