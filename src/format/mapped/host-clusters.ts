// How many clusters of a disk may have data, as far as the host of the image file can tell without a look at any table.

import { type HostFile, possibleDataBytes } from '../../host/host-file.ts';

/**
 * Bytes of L2 tables that a read-only open reads to count exactly: those of 128 GiB of data in 64 KiB clusters. Its cost must
 * not grow with the image, so of one with more tables the clusters are estimated.
 */
export const COUNTED_TABLE_BYTES = 16 * 1024 * 1024;

/** As many clusters as the host has space for in the file, tables included, and no more than the disk has. */
export function clustersOnHost(file: HostFile, virtualSize: number, clusterSize: number): number {
  return Math.ceil(Math.min(file.allocatedBytes(), virtualSize) / clusterSize);
}

/** The same, but 0 only if the file holds nothing but zeros: some network file systems say 0 blocks of every file. */
export function possibleClusters(file: HostFile, virtualSize: number, clusterSize: number): number {
  return Math.ceil(Math.min(possibleDataBytes(file), virtualSize) / clusterSize);
}
