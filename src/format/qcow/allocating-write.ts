// Writes into clusters that have no plain data yet. Every link is held back until a fdatasync has made its data and the length of
// the file durable: without a dirty bit nothing would find an entry that leads beyond the end of the file, or to bytes that were
// never written. A new cluster reads as zeros, so only the guest's bytes are transferred; over backing or compressed data, and in
// an encrypted image, where a hole reads as noise, the whole cluster is written.

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../bytes/offsets.ts';
import type { GuestData } from '../../codec/guest-data.ts';
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
import { MAX_RUN_CLUSTERS } from '../mapped/mapped-state.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { Allocation, Allocator } from '../mapped/space/cluster-allocator.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/space/full-host.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { Mapper, Run } from './mapping.ts';

export interface AllocatingWriteParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly access: GuestAccess;
  readonly data: GuestData;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks<number>;
  readonly linker: Linker;
  readonly mapper: Mapper;
  readonly allocator: Allocator;
  readonly tracker: WriteTracker;
  readonly flush: Flush;
  readonly disk: Pick<DiskNumbers, 'addAllocated'>;
  readonly reusable: FullHostParts['reusable'];
  readonly cow: CowBuffer;
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
  }

  /**
   * Writes into the clusters of a run, which have no plain data; they are reserved exclusively and the lock is held, then and now.
   * May do only the first clusters of the run. @returns bytes written
   */
  writeNewClusters(source: Uint8Array, sourceOffset: number, run: Run, offset: GuestOffset): number {
    const { cow, data, file, geometry } = this.parts;
    const { length, status } = run;
    const wanted = geometry.clustersFor(offset + length) - geometry.clusterOf(offset);
    return reclaimingWhenFull(this.parts, Math.min(wanted, MAX_RUN_CLUSTERS), (most) => {
      let part = 0;
      this.linkNew(geometry.clusterOf(offset), most, status === 'compressed', (start, bytes, host) => {
        part = Math.min(offset + length, start + bytes) - offset;
        const isWhole = status === 'compressed' || data.isEncrypted || !readsAsZeros(this.parts.backing, start, bytes);
        if (isWhole) {
          cow.writeAround(source, sourceOffset, part, offset, start, bytes, host);
          return;
        }
        failpoint('data-write');
        file.write(source, sourceOffset, part, after(host, offset - start));
      });
      return part;
    });
  }

  /** Gives clusters that read as zeros a place in the file; leaves data, here or below, as it is. */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, backing, cow, data, file, geometry, lock, mapper, reservations } = this.parts;
    const first = geometry.clusterOf(offset);
    return reservations.exclusively(first, geometry.clustersFor(offset + length), () => {
      access.assertInside(offset, length);
      const { status, length: part } = mapper.map(offset, length);
      if (status !== 'unallocated') return part;
      const wanted = geometry.clustersFor(offset + part) - first;
      // the clusters stay reserved, so they stay what they are (R3)
      lock.unlock();
      const isZero = readsAsZeros(backing, geometry.startOf(first), wanted * geometry.clusterSize);
      lock.lock();
      if (!isZero) return part;
      const count = reclaimingWhenFull(this.parts, Math.min(wanted, MAX_RUN_CLUSTERS), (most) =>
        this.linkNew(first, most, false, (start, bytes, host) => {
          if (data.isEncrypted) cow.copyOld(bytes, start, host);
          else file.allocateRange(host, bytes);
        }),
      );
      return Math.min(part, geometry.startOf(after(first, count)) - offset);
    });
  }

  /**
   * Takes up to `most` clusters of one L2 table for guest clusters from `first` on, with a place for that table, and fills them, without
   * the lock; their links wait then. When it throws the lock is held, and nothing has changed but that the table may wait. @param wasAllocated they have data already @returns clusters
   */
  private linkNew(
    first: GuestCluster,
    most: number,
    wasAllocated: boolean,
    fill: (start: GuestOffset, bytes: number, host: HostOffset) => void,
  ): number {
    const { disk, flush, geometry, lock, pending } = this.parts;
    const { offset: host, count } = this.allocate(first, most);
    try {
      lock.unlock();
      fill(geometry.startOf(first), count * geometry.clusterSize, host);
      if (!pending.hasRoom(count)) flush.linkEarly();
      lock.lock();
      // the list may have filled up again since room was made
      while (!pending.hasRoom(count)) {
        lock.unlock();
        flush.linkEarly();
        lock.lock();
      }
    } catch (error) {
      if (!lock.held) lock.lock();
      this.parts.allocator.release(host, count);
      throw error;
    }
    const now = steadyMs();
    for (let i = 0; i < count; i++) pending.add(after(first, i), after(host, i * geometry.clusterSize), now);
    if (!wasAllocated) disk.addAllocated(count);
    return count;
  }

  /** The table comes first: of what is left on a full host, the data can take less. */
  private allocate(first: GuestCluster, most: number): Allocation {
    const { allocator, flush, geometry, linker, lock, pendingTables, tracker } = this.parts;
    while (!pendingTables.hasRoom(1)) {
      lock.unlock();
      try {
        flush.linkEarly();
      } finally {
        lock.lock();
      }
    }
    tracker.assertWritable();
    const l1Index = geometry.l1IndexOf(first);
    const isNew = linker.holdTable(l1Index, steadyMs());
    try {
      return allocator.allocate(Math.min(most, geometry.l2Entries - geometry.l2IndexOf(first)));
    } catch (error) {
      if (isNew) linker.dropTable(l1Index);
      throw error;
    }
  }
}
