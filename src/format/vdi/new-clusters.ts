// New blocks by their places in the file, after a new uuidModify: the map has their indices.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import type { NewClusters } from '../mapped/allocating-write.ts';
import type { Allocation } from '../mapped/space/cluster-allocator.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { ModifyUuid } from './modify-uuid.ts';
import type { VdiNumbers } from './state.ts';

export interface VdiNewClustersParts {
  readonly geometry: Geometry;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly modifyUuid: ModifyUuid;
  readonly numbers: Pick<VdiNumbers, 'dataOffset'>;
}

export class VdiNewClusters implements NewClusters {
  private readonly parts: VdiNewClustersParts;

  constructor(parts: VdiNewClustersParts) {
    this.parts = parts;
  }

  take(_first: GuestCluster, most: number): Allocation {
    const { allocator, geometry, modifyUuid, numbers } = this.parts;
    modifyUuid.change();
    const { index, count } = allocator.allocate(most);
    return { offset: geometry.hostDataOf(index, numbers.dataOffset), count };
  }

  link(first: GuestCluster, host: HostOffset, count: number): number {
    return this.parts.linker.link(first, this.indexOf(host), count);
  }

  release(host: HostOffset, count: number): void {
    this.parts.allocator.release(this.indexOf(host), count);
  }

  private indexOf(host: HostOffset): number {
    return this.parts.geometry.indexOf(host, this.parts.numbers.dataOffset);
  }
}
