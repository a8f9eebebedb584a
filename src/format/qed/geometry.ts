// The numbers that follow from cluster size and table size, computed once. L1 and L2 tables have the same size.

import { MAX_VIRTUAL_SIZE } from '../../bytes/offsets.ts';
import { TwoLevelGrid } from '../mapped/two-level-grid.ts';

export const ENTRY_BYTES = 8;

export class Geometry extends TwoLevelGrid {
  readonly tableSizeClusters: number;
  /** bytes of an L1 or L2 table */
  readonly tableBytes: number;
  /** entries of an L1 or L2 table */
  readonly tableEntries: number;

  constructor(clusterSize: number, tableSizeClusters: number) {
    const tableBytes = clusterSize * tableSizeClusters;
    const tableEntries = tableBytes / ENTRY_BYTES;
    super(clusterSize, tableEntries);
    this.tableSizeClusters = tableSizeClusters;
    this.tableBytes = tableBytes;
    this.tableEntries = tableEntries;
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
