// What comes with new clusters, besides their data: the dirty bit before them, and links that wait for the length of the file.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { NewClusters } from '../mapped/allocating-write.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import type { Allocation, Allocator } from '../mapped/space/cluster-allocator.ts';
import type { DirtyBit } from './dirty-bit.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { QedNumbers } from './state.ts';

export interface QedNewClustersParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly dirtyBit: DirtyBit;
  readonly free: FreeClusters;
  readonly numbers: Pick<QedNumbers, 'durableLength'>;
}

export class QedNewClusters implements NewClusters {
  private readonly parts: QedNewClustersParts;

  constructor(parts: QedNewClustersParts) {
    this.parts = parts;
  }

  take(_first: GuestCluster, most: number): Allocation {
    this.parts.dirtyBit.set();
    return this.parts.allocator.allocate(most);
  }

  link(first: GuestCluster, host: HostOffset, count: number): number {
    return this.parts.linker.link(first, host, count);
  }

  release(host: HostOffset, count: number): void {
    this.parts.allocator.release(host, count);
  }

  /** An entry beyond the end of a file that lost its growth would be repaired to 0, which shows the backing file. */
  waits(end: HostOffset): boolean {
    return end > this.parts.numbers.durableLength;
  }

  /** Data clusters that an idle image gave away hold nothing: they get their space, and are not taken back any more. */
  keepSpace(host: HostOffset, length: number): void {
    const { file, free, geometry } = this.parts;
    if (free.givenCount === 0) return;
    const end = geometry.clustersFor(host + length);
    for (let cluster = geometry.clusterOf(host); cluster < end; cluster++) {
      if (!free.isGiven(cluster)) continue;
      file.allocateRange(geometry.startOf(cluster), geometry.clusterSize);
      free.keepGiven(cluster);
    }
  }
}
