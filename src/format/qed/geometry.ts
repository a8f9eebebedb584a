// The numbers that follow from cluster size and table size, computed once. A guest offset is cut in three:
//
//   guest offset = ((l1Index * tableEntries) + l2Index) * clusterSize + offset in the cluster
//
// Everything is plain multiplication and division: offsets exceed 32 bits, so no shifts.

import {
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  type HostCluster,
  type HostOffset,
  MAX_VIRTUAL_SIZE,
  remainder,
} from '../../bytes/offsets.ts';

export const ENTRY_BYTES = 8;

export class Geometry {
  readonly clusterSize: number;
  readonly tableSizeClusters: number;
  /** bytes of an L1 or L2 table */
  readonly tableBytes: number;
  /** entries of an L1 or L2 table */
  readonly tableEntries: number;
  /** guest bytes that one L2 table maps */
  readonly l2Coverage: number;

  constructor(clusterSize: number, tableSizeClusters: number) {
    this.clusterSize = clusterSize;
    this.tableSizeClusters = tableSizeClusters;
    this.tableBytes = clusterSize * tableSizeClusters;
    this.tableEntries = this.tableBytes / ENTRY_BYTES;
    this.l2Coverage = this.tableEntries * clusterSize;
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

/** Largest image_size of a geometry in bytes: what its tables map, and no more than a JavaScript number can address. */
export function maxImageSize(clusterSize: number, tableSizeClusters: number): number {
  const entries = (clusterSize * tableSizeClusters) / ENTRY_BYTES;
  return Math.min(entries * entries * clusterSize, MAX_VIRTUAL_SIZE);
}

/** QEMU computes the limit in 64 bits, where these products of powers of two wrap to 0, and then refuses every size. */
export function isRefusedByQemu(clusterSize: number, tableSizeClusters: number): boolean {
  const entries = (clusterSize * tableSizeClusters) / ENTRY_BYTES;
  return tableSizeClusters === 1 || entries * entries * clusterSize >= 2 ** 64;
}
