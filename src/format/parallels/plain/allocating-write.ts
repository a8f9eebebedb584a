// Writes into clusters that have no data yet. A new cluster reads as zeros, so only the guest's bytes are transferred, without the
// lock, and the entry of the BAT follows; no sync between, because either order on disk reads old zeros or new data.

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { Reservations } from '../../../concurrency/reservations.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { GuestAccess } from '../../guest-access.ts';
import type { DiskNumbers } from '../../mapped/disk-numbers.ts';
import { type FullHostParts, reclaimingWhenFull } from '../../mapped/full-host.ts';
import { MAX_RUN_CLUSTERS } from '../../mapped/mapped-state.ts';
import type { UnallocatedRun } from '../../mapped/run-mapper.ts';
import type { Allocation, Allocator } from '../../mapped/space/cluster-allocator.ts';
import type { Geometry } from './geometry.ts';
import type { InUse } from './in-use.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';

export interface AllocatingWriteParts {
  readonly file: HostFile;
  readonly access: GuestAccess;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly inUse: InUse;
  readonly flush: FullHostParts['flush'];
  readonly disk: Pick<DiskNumbers, 'addAllocated'>;
  readonly reusable: FullHostParts['reusable'];
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
  }

  /**
   * Writes into the clusters of a run, which have no data yet; they are reserved exclusively and the lock is held. May do only
   * the first clusters of the run. @returns bytes written
   */
  writeNewClusters(source: Uint8Array, sourceOffset: number, run: UnallocatedRun, offset: GuestOffset): number {
    const { file, geometry, lock } = this.parts;
    const { length } = run;
    const first = geometry.clusterOf(offset);
    const inFirst = offset - geometry.startOf(first);
    return this.linkNew(first, geometry.clustersFor(offset + length) - first, ({ offset: host, count }) => {
      const part = Math.min(length, count * geometry.clusterSize - inFirst);
      lock.unlock();
      failpoint('data-write');
      file.write(source, sourceOffset, part, after(host, inFirst));
      lock.lock();
      return part;
    });
  }

  /** Links clusters that read as zeros to a run without any; leaves data as it is. */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, file, geometry, mapper, reservations } = this.parts;
    const { clusterSize } = geometry;
    const first = geometry.clusterOf(offset);
    return reservations.exclusively(first, geometry.clustersFor(offset + length), () => {
      // the disk may have become smaller while this waited
      access.assertInside(offset, length);
      const { status, length: part } = mapper.map(offset, length);
      if (status === 'data') return part;
      const done = this.linkNew(first, geometry.clustersFor(offset + part) - first, ({ offset: host, count }) => {
        file.allocateRange(host, count * clusterSize);
        return count * clusterSize;
      });
      return Math.min(part, geometry.startOf(first) + done - offset);
    });
  }

  /**
   * Takes clusters, fills them, and links them to `count` guest clusters from `first` on, or to the first ones of these; they are
   * reserved exclusively and the lock is held. @param fill may release the lock @returns what it returns
   */
  private linkNew(first: GuestCluster, count: number, fill: (taken: Allocation) => number): number {
    return reclaimingWhenFull(this.parts, Math.min(count, MAX_RUN_CLUSTERS), (most) => {
      const { allocator, disk, geometry, inUse, linker, lock } = this.parts;
      inUse.change();
      const taken = allocator.allocate(most);
      const { offset: host, count: got } = taken;
      const placeOf = (index: number): HostOffset => after(host, index * geometry.clusterSize);
      let linked = 0;
      try {
        this.assertReachable(placeOf(got - 1));
        const filled = fill(taken);
        while (linked < got) linked += linker.link(after(first, linked), placeOf(linked), got - linked);
        return filled;
      } finally {
        if (!lock.held) lock.lock();
        disk.addAllocated(linked);
        if (linked < got) allocator.release(placeOf(linked), got - linked);
      }
    });
  }

  private assertReachable(host: HostOffset): void {
    if (this.parts.geometry.entryFor(host) !== null) return;
    const { path } = this.parts.file;
    const sentence = `${path} cannot grow: entries of 32 bits lead no further; copy it into an image of another format`;
    throw new ImgfuseError('limit', sentence, { path });
  }
}
