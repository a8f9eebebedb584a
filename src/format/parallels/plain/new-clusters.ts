// What comes with new clusters, besides their data: "in use" in the header before them, and how far entries reach.

import { after, type GuestCluster, type HostOffset } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { NewClusters } from '../../mapped/allocating-write.ts';
import type { Allocation, Allocator } from '../../mapped/space/cluster-allocator.ts';
import type { Geometry } from './geometry.ts';
import type { InUse } from './in-use.ts';
import type { Linker } from './link.ts';

export interface PlainNewClustersParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly inUse: InUse;
}

export class PlainNewClusters implements NewClusters {
  private readonly parts: PlainNewClustersParts;

  constructor(parts: PlainNewClustersParts) {
    this.parts = parts;
  }

  take(_first: GuestCluster, most: number): Allocation {
    const { allocator, file, geometry, inUse } = this.parts;
    inUse.change();
    const taken = allocator.allocate(most);
    const { offset, count } = taken;
    if (geometry.entryFor(after(offset, (count - 1) * geometry.clusterSize)) !== null) return taken;
    allocator.release(offset, count);
    const { path } = file;
    const sentence = `${path} cannot grow: entries of 32 bits lead no further; copy it into an image of another format`;
    throw new ImgfuseError('limit', sentence, { path });
  }

  link(first: GuestCluster, host: HostOffset, count: number): number {
    return this.parts.linker.link(first, host, count);
  }

  release(host: HostOffset, count: number): void {
    this.parts.allocator.release(host, count);
  }
}
