// Writes into clusters that have no data yet, in formats whose new clusters read as zeros: only the guest's bytes are transferred,
// without the lock, and the link follows. Over backing data the whole cluster is copied up, and its link is held back until a
// fdatasync has made it durable: a crash must not show zeros where the backing file had older data (R6). Where new clusters come
// from, and what changes with them, is the format's: its NewClusters.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  guestOffset,
  type HostOffset,
} from '../../bytes/offsets.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from './backing.ts';
import type { CowBuffer } from './cow-buffer.ts';
import type { DiskNumbers } from './disk-numbers.ts';
import { MAX_RUN_CLUSTERS } from './mapped-state.ts';
import type { PendingLinks } from './pending-links.ts';
import type { DataRun, RunMapper, UnallocatedRun, ZeroRun } from './runs/run-mapper.ts';
import type { Allocation } from './space/cluster-allocator.ts';
import { type FullHostParts, reclaimingWhenFull } from './space/full-host.ts';

/** What a format does for new clusters. The lock is held. */
export interface NewClusters {
  /**
   * Takes one to `most` clusters that read as zeros, for guest clusters from `first` on, after making durable what has to be durable
   * before they are linked. The lock may be released meanwhile. Throws no-space or limit, and none are taken then.
   */
  take(first: GuestCluster, most: number): Allocation;
  /** Links adjoining guest clusters to adjoining clusters. @returns how many; less than `count` at the end of a table's slice */
  link(first: GuestCluster, host: HostOffset, count: number): number;
  /** Clusters that were taken and not linked. */
  release(host: HostOffset, count: number): void;
  /** Over a backing file, links to clusters that end at `end` wait for a fdatasync whatever it has there. Absent: they do not. */
  waits?(end: HostOffset): boolean;
  /** Data clusters whose space the guest wants reserved. Absent: they have it. */
  keepSpace?(host: HostOffset, length: number): void;
}

/** What an image with a backing file has besides. */
export interface Below {
  readonly backing: ReadableImage;
  readonly cow: CowBuffer;
  readonly pending: PendingLinks;
}

export interface AllocatingWriteParts extends FullHostParts {
  readonly file: HostFile;
  readonly below: Below | null;
  readonly clusterSize: number;
  readonly access: GuestAccess;
  readonly reservations: Reservations;
  readonly mapper: RunMapper<DataRun | ZeroRun | UnallocatedRun>;
  readonly newClusters: NewClusters;
  readonly flush: FullHostParts['flush'] & {
    /** Makes the data of links that wait durable and links it; without the lock. */
    linkEarly(): void;
  };
  readonly disk: Pick<DiskNumbers, 'addAllocated'>;
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
  writeNewClusters(
    source: Uint8Array,
    sourceOffset: number,
    run: ZeroRun | UnallocatedRun,
    offset: GuestOffset,
  ): number {
    const { length } = run;
    const overZeros = run.status === 'zero';
    const wanted = this.clustersOf(offset, length);
    return reclaimingWhenFull(this.parts, Math.min(wanted, MAX_RUN_CLUSTERS), (most) =>
      this.attempt(source, sourceOffset, length, offset, overZeros, most),
    );
  }

  /** The same in at most `most` new clusters; when it throws the lock is held and nothing is linked that was not before. */
  private attempt(
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: GuestOffset,
    overZeros: boolean,
    most: number,
  ): number {
    const { below, clusterSize, disk, file, flush, lock, newClusters } = this.parts;
    const first = this.clusterOf(offset);
    const { offset: host, count } = newClusters.take(first, most);
    const bytes = count * clusterSize;
    const start = this.startOf(first);
    const part = Math.min(offset + length, start + bytes) - offset;
    let linked = 0;
    try {
      lock.unlock();
      const overData = overZeros ? null : this.dataBelow(start, bytes);
      if (overData !== null) {
        overData.cow.writeAround(source, sourceOffset, part, offset, start, bytes, host);
        if (!overData.pending.hasRoom(count)) flush.linkEarly();
      } else {
        failpoint('data-write');
        file.write(source, sourceOffset, part, after(host, offset - start));
      }
      lock.lock();
      if (below !== null && (overData !== null || newClusters.waits?.(after(host, bytes)) === true)) {
        this.hold(below.pending, first, host, count);
        linked = count;
      }
      while (linked < count) linked += this.link(first, host, linked, count);
    } catch (error) {
      if (!lock.held) lock.lock();
      newClusters.release(after(host, linked * clusterSize), count - linked);
      disk.addAllocated(linked);
      throw error;
    }
    disk.addAllocated(count);
    return part;
  }

  /** Adds to the pending links; the list may have filled up again since room was made, so it is asked once more. */
  private hold(pending: PendingLinks, first: GuestCluster, host: HostOffset, count: number): void {
    const { clusterSize, flush, lock } = this.parts;
    while (!pending.hasRoom(count)) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
    const now = steadyMs();
    for (let i = 0; i < count; i++) pending.add(after(first, i), after(host, i * clusterSize), now);
  }

  /** Links clusters that read as zeros to a run that reads as zeros; leaves data, here or below, as it is. @returns bytes done */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, clusterSize, lock, mapper, newClusters, reservations } = this.parts;
    const first = this.clusterOf(offset);
    return reservations.exclusively(first, Math.ceil((offset + length) / clusterSize), () => {
      // the disk may have become smaller while this waited
      access.assertInside(offset, length);
      const run = mapper.map(offset, length);
      const { status, length: part } = run;
      if (run.status === 'data') {
        newClusters.keepSpace?.(run.hostOffset, part);
        return part;
      }
      const count = this.clustersOf(offset, part);
      // the clusters stay reserved, so they stay what they are (R3)
      lock.unlock();
      const isZero = status === 'zero' || this.dataBelow(this.startOf(first), count * clusterSize) === null;
      lock.lock();
      if (!isZero) return part;
      return Math.min(part, this.startOf(after(first, this.linkZeros(first, count, true))) - offset);
    });
  }

  /**
   * Gives clusters that are reserved exclusively new ones that read as zeros; the lock is held, and may be released meanwhile.
   * @param takesSpace the host reserves theirs @returns how many; at least one
   */
  linkZeros(first: GuestCluster, count: number, takesSpace: boolean): number {
    return reclaimingWhenFull(this.parts, Math.min(count, MAX_RUN_CLUSTERS), (most) =>
      this.attemptZeros(first, most, takesSpace),
    );
  }

  private attemptZeros(first: GuestCluster, most: number, takesSpace: boolean): number {
    const { below, clusterSize, disk, file, lock, newClusters } = this.parts;
    const { offset: host, count } = newClusters.take(first, most);
    let linked = 0;
    try {
      if (takesSpace) {
        failpoint('preallocate');
        file.allocateRange(host, count * clusterSize);
      }
      if (below !== null && newClusters.waits?.(after(host, count * clusterSize)) === true) {
        this.hold(below.pending, first, host, count);
        linked = count;
      }
      while (linked < count) linked += this.link(first, host, linked, count);
    } finally {
      // making room for links gives the lock back while it flushes, and that may fail
      if (!lock.held) lock.lock();
      disk.addAllocated(linked);
      if (linked < count) newClusters.release(after(host, linked * clusterSize), count - linked);
    }
    return count;
  }

  /** @returns what lies below a range, null where it reads as zeros; without the lock */
  private dataBelow(start: GuestOffset, length: number): Below | null {
    const { below } = this.parts;
    return below === null || readsAsZeros(below.backing, start, length) ? null : below;
  }

  /** Links clusters of an allocation, of which `linked` are linked, up to `count`. @returns how many it did */
  private link(first: GuestCluster, host: HostOffset, linked: number, count: number): number {
    const { clusterSize, newClusters } = this.parts;
    return newClusters.link(after(first, linked), after(host, linked * clusterSize), count - linked);
  }

  private clusterOf(offset: GuestOffset): GuestCluster {
    return guestCluster(Math.floor(offset / this.parts.clusterSize));
  }

  private startOf(cluster: GuestCluster): GuestOffset {
    return guestOffset(cluster * this.parts.clusterSize);
  }

  /** Clusters that a range touches. */
  private clustersOf(offset: GuestOffset, length: number): number {
    return Math.ceil((offset + length) / this.parts.clusterSize) - this.clusterOf(offset);
  }
}
