// The sizes that follow from the header of an image of one file, computed once. Its clusters lie in a grid, which need not begin at
// the start of the file; host cluster n is the n-th of the grid, whether or not the header or the BAT lie there.
//
//   host offset = phase + n * cluster size                entry of the BAT = host offset / unit

import {
  type GuestCluster,
  type GuestOffset,
  type HostCluster,
  type HostOffset,
  hostOffset,
} from '../../../bytes/offsets.ts';

export const ENTRY_BYTES = 4;
/** Entries are 32 bits wide. */
const MAX_ENTRY = 2 ** 32 - 1;

export class Geometry {
  readonly clusterSize: number;
  /** bytes that 1 in an entry stands for */
  readonly unitBytes: number;
  private readonly phase: number;

  constructor(clusterSize: number, unitBytes: number, phase: number) {
    this.clusterSize = clusterSize;
    this.unitBytes = unitBytes;
    this.phase = phase;
  }

  /** The guest cluster that holds the byte at `offset`. */
  clusterOf(offset: GuestOffset): GuestCluster {
    return Math.floor(offset / this.clusterSize) as GuestCluster;
  }

  /** The first byte of a guest cluster. */
  startOf(cluster: GuestCluster): GuestOffset {
    return (cluster * this.clusterSize) as GuestOffset;
  }

  /** Clusters that `bytes` bytes take, the last one maybe in part. */
  clustersFor(bytes: number): number {
    return Math.ceil(bytes / this.clusterSize);
  }

  hostClusterOf(offset: number): HostCluster {
    return Math.floor((offset - this.phase) / this.clusterSize) as HostCluster;
  }

  hostStartOf(cluster: number): HostOffset {
    return hostOffset(this.phase + cluster * this.clusterSize);
  }

  /** The first cluster that begins at this place of the file or behind it. */
  hostClusterFrom(offset: number): HostCluster {
    return Math.ceil((offset - this.phase) / this.clusterSize) as HostCluster;
  }

  isAligned(offset: number): boolean {
    return (offset - this.phase) % this.clusterSize === 0;
  }

  placeOf(entry: number): HostOffset {
    return hostOffset(entry * this.unitBytes);
  }

  /** @returns null if no entry can say this place */
  entryFor(offset: number): number | null {
    const entry = offset / this.unitBytes;
    return entry <= MAX_ENTRY ? entry : null;
  }
}
