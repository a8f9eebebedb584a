// How many clusters of a disk may have data, as far as the host of the image file can tell without a look at any table.

import type { HostFile } from '../../host/host-file.ts';

/** As many clusters as the host has space for in the file, tables included, and no more than the disk has. */
export function clustersOnHost(file: HostFile, virtualSize: number, clusterSize: number): number {
  return Math.ceil(Math.min(file.allocatedBytes(), virtualSize) / clusterSize);
}
