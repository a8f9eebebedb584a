// Where the clusters of new guest data come from: from the image file, where each is counted, or from the external data
// file, where every guest cluster has one place of its own, at its guest offset, that nobody counts.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import type { Allocation, Allocator } from './allocate.ts';
import { type Geometry, placeInDataFile } from './geometry.ts';

export interface ClusterSource {
  /** One to `count` adjoining clusters for guest clusters from `guestCluster` on. Under the metadata lock. */
  allocate(guestCluster: GuestCluster, count: number): Allocation;
  /** Clusters that were allocated and never linked. */
  giveBack(offset: HostOffset, count: number): void;
}

export function imageClusters(allocator: Allocator): ClusterSource {
  return {
    allocate: (_, count) => allocator.allocate(count),
    giveBack: (offset, count) => allocator.giveBack(offset, count),
  };
}

/** The place may hold anything, such as what the guest discarded. */
export function dataFileClusters(geometry: Geometry): ClusterSource {
  return {
    allocate: (guestCluster, count) => ({
      offset: placeInDataFile(geometry.startOf(guestCluster)),
      count,
      readsAsZeros: false,
    }),
    giveBack: () => undefined,
  };
}
