// Host space for guest clusters that have none: a sector of zeros makes the cluster this image's own, and its content does not
// change. Nobody else can write to the cluster meanwhile, or the zeros could come after a guest's bytes and hide them.

import { after, type GuestOffset, roundDown, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { GuestAccess } from '../guest-access.ts';
import type { ImageMap } from '../image-map.ts';
import type { AllocatingWrite } from './allocating-write.ts';
import type { Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';

const ZERO_SECTOR = new Uint8Array(SECTOR_BYTES); // a crash keeps or loses it as a whole

export interface PreallocatorParts {
  readonly access: GuestAccess;
  readonly allocating: AllocatingWrite;
  readonly geometry: Geometry;
  readonly imageMap: ImageMap;
  readonly lock: Mutex;
  readonly mapper: Mapper;
  readonly reservations: Reservations;
}

export class Preallocator {
  private readonly parts: PreallocatorParts;

  constructor(parts: PreallocatorParts) {
    this.parts = parts;
  }

  /** Gives the cluster at `offset` a place if it has no data and reads as zeros. @returns bytes that need no more */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, allocating, geometry, imageMap, lock, mapper, reservations } = this.parts;
    const { clusterSize } = geometry;
    const cluster = geometry.clusterOf(offset);
    const start = geometry.startOf(cluster);
    return reservations.exclusively(cluster, cluster + 1, () => {
      const { status, length: part } = mapper.map(offset, length);
      const rest = clusterSize - geometry.inCluster(offset);
      // a subcluster with data has the space of a whole cluster
      if (status === 'data' || status === 'compressed') return Math.max(part, rest);
      const inside = Math.min(clusterSize, access.virtualSize - start);
      lock.unlock();
      const isZero = imageMap.readsAsZeros(start, inside);
      reach('preallocate');
      lock.lock();
      if (!isZero) return Math.min(part, rest);
      const sector = roundDown(offset, SECTOR_BYTES);
      const bytes = Math.min(SECTOR_BYTES, after(start, inside) - sector);
      access.assertInside(sector, bytes);
      allocating.writeNewClusters(ZERO_SECTOR, 0, mapper.map(sector, bytes), sector);
      return rest;
    });
  }
}
