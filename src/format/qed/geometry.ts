// The numbers that follow from cluster size and table size, computed once. A guest offset is cut in three:
//
//   guest offset = ((l1Index * tableEntries) + l2Index) * clusterSize + offset in the cluster
//
// Everything is plain multiplication and division: offsets exceed 32 bits, so no shifts.

import { MAX_VIRTUAL_SIZE } from '../../bytes/offsets.ts';

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

  clusterOf(offset: number): number {
    return Math.floor(offset / this.clusterSize);
  }

  l1IndexOf(guestCluster: number): number {
    return Math.floor(guestCluster / this.tableEntries);
  }

  l2IndexOf(guestCluster: number): number {
    return guestCluster % this.tableEntries;
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
