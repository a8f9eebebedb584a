// Writes into clusters that have no data yet. A new cluster reads as zeros, so only the guest's bytes are transferred, without
// the lock, and the link follows. Over backing data the whole cluster is copied up, and its link is held back until a
// fdatasync has made it durable: a crash must not show zeros where the backing file had older data (R6).

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../bytes/offsets.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from '../mapped/backing.ts';
import type { CowBuffer } from '../mapped/cow-buffer.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/full-host.ts';
import { MAX_RUN_CLUSTERS } from '../mapped/mapped-state.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { UnallocatedRun, ZeroRun } from '../mapped/run-mapper.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import type { DirtyBit } from './dirty-bit.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { QedNumbers } from './state.ts';

export interface AllocatingWriteParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly access: GuestAccess;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly dirtyBit: DirtyBit;
  readonly flush: Flush;
  readonly free: FreeClusters;
  readonly disk: Pick<DiskNumbers, 'addAllocated'>;
  readonly numbers: Pick<QedNumbers, 'durableLength'>;
  readonly reusable: FullHostParts['reusable'];
  readonly cow: CowBuffer;
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
    const { geometry } = this.parts;
    const { length } = run;
    const overZeros = run.status === 'zero';
    const wanted = geometry.clustersFor(offset + length) - geometry.clusterOf(offset);
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
    const { allocator, cow, dirtyBit, file, flush, geometry, linker, lock, pending } = this.parts;
    const { clusterSize } = geometry;
    dirtyBit.set();
    const { offset: host, count } = allocator.allocate(most);
    const first = geometry.clusterOf(offset);
    const start = geometry.startOf(first);
    const part = Math.min(offset + length, start + count * clusterSize) - offset;
    let linked = 0;
    try {
      lock.unlock();
      const overBacking = !overZeros && !readsAsZeros(this.parts.backing, start, count * clusterSize);
      if (overBacking) {
        cow.writeAround(source, sourceOffset, part, offset, start, count * clusterSize, host);
        if (!pending.hasRoom(count)) flush.linkEarly();
      } else {
        failpoint('data-write');
        file.write(source, sourceOffset, part, after(host, offset - start));
      }
      lock.lock();
      if (overBacking || this.isBeyondDurable(after(host, count * clusterSize))) {
        this.hold(first, host, count);
        linked = count;
      }
      while (linked < count) {
        linked += linker.link(after(first, linked), after(host, linked * clusterSize), count - linked);
      }
    } catch (error) {
      if (!lock.held) lock.lock();
      allocator.release(after(host, linked * clusterSize), count - linked);
      this.parts.disk.addAllocated(linked);
      throw error;
    }
    this.parts.disk.addAllocated(count);
    return part;
  }

  /** An entry beyond the end of a file that lost its growth would be repaired to 0, which shows the backing file. */
  private isBeyondDurable(end: HostOffset): boolean {
    return this.parts.backing !== null && end > this.parts.numbers.durableLength;
  }

  /** Adds to the pending links; the list may have filled up again since room was made, so it is asked once more. */
  private hold(first: GuestCluster, host: HostOffset, count: number): void {
    const { flush, geometry, lock, pending } = this.parts;
    while (!pending.hasRoom(count)) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
    const now = steadyMs();
    for (let i = 0; i < count; i++) pending.add(after(first, i), after(host, i * geometry.clusterSize), now);
  }

  /** Links clusters that read as zeros to a run that reads as zeros; leaves data, here or below, as it is. */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, backing, geometry, lock, mapper, reservations } = this.parts;
    const first = geometry.clusterOf(offset);
    return reservations.exclusively(first, geometry.clustersFor(offset + length), () => {
      // the disk may have become smaller while this waited
      access.assertInside(offset, length);
      const run = mapper.map(offset, length);
      const { status, length: part } = run;
      if (run.status === 'data') {
        this.keepGiven(run.hostOffset, part);
        return part;
      }
      const count = geometry.clustersFor(offset + part) - first;
      // the clusters stay reserved, so they stay what they are (R3)
      lock.unlock();
      const isZero = status === 'zero' || readsAsZeros(backing, geometry.startOf(first), count * geometry.clusterSize);
      lock.lock();
      if (!isZero) return part;
      return Math.min(part, geometry.startOf(after(first, this.linkZeros(first, count))) - offset);
    });
  }

  /** Data clusters that an idle image gave away hold nothing: they get their space, and are not taken back any more. */
  private keepGiven(host: HostOffset, length: number): void {
    const { file, free, geometry } = this.parts;
    if (free.givenCount === 0) return;
    const end = geometry.clustersFor(host + length);
    for (let cluster = geometry.clusterOf(host); cluster < end; cluster++) {
      if (!free.isGiven(cluster)) continue;
      file.allocateRange(geometry.startOf(cluster), geometry.clusterSize);
      free.keepGiven(cluster);
    }
  }

  /** Clusters that are reserved exclusively; the lock is held, and may be released meanwhile. @returns how many; at least one */
  private linkZeros(first: GuestCluster, count: number): number {
    return reclaimingWhenFull(this.parts, Math.min(count, MAX_RUN_CLUSTERS), (most) => this.attemptZeros(first, most));
  }

  private attemptZeros(first: GuestCluster, most: number): number {
    const { allocator, dirtyBit, file, geometry, linker, lock } = this.parts;
    const { clusterSize } = geometry;
    dirtyBit.set();
    const { offset: host, count: got } = allocator.allocate(most);
    let linked = 0;
    try {
      file.allocateRange(host, got * clusterSize);
      if (this.isBeyondDurable(after(host, got * clusterSize))) {
        this.hold(first, host, got);
        linked = got;
      }
      while (linked < got) linked += linker.link(after(first, linked), after(host, linked * clusterSize), got - linked);
    } finally {
      // making room for links gives the lock back while it flushes, and that may fail
      if (!lock.held) lock.lock();
      this.parts.disk.addAllocated(linked);
      allocator.release(after(host, linked * clusterSize), got - linked);
    }
    return got;
  }
}
