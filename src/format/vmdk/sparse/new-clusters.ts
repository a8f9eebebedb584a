// What comes with new grains, besides their data: the unclean mark and their table, before them, because either takes a sync.

import type { GuestCluster, HostOffset } from '../../../bytes/offsets.ts';
import type { NewClusters } from '../../mapped/allocating-write.ts';
import type { Allocation } from '../../mapped/space/cluster-allocator.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import type { GrainTables } from './grain-tables.ts';
import type { Linker } from './link.ts';
import type { Unclean } from './unclean.ts';

export interface SparseNewClustersParts {
  readonly geometry: Geometry;
  readonly linker: Linker;
  readonly grainTables: GrainTables;
  readonly allocator: Allocator;
  readonly unclean: Unclean;
}

export class SparseNewClusters implements NewClusters {
  private readonly parts: SparseNewClustersParts;

  constructor(parts: SparseNewClustersParts) {
    this.parts = parts;
  }

  /** Grains of one table. */
  take(first: GuestCluster, most: number): Allocation {
    const { allocator, geometry, grainTables, unclean } = this.parts;
    unclean.set();
    grainTables.ensure(first);
    return allocator.allocate(Math.min(most, geometry.tableEntries - geometry.tableIndexOf(first)));
  }

  link(first: GuestCluster, host: HostOffset, count: number): number {
    return this.parts.linker.link(first, host, count);
  }

  release(host: HostOffset, count: number): void {
    this.parts.allocator.release(host, count);
  }
}
