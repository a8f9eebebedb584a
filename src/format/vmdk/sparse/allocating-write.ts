// Writes into grains that have no data yet. A new grain reads as zeros, so only the guest's bytes are transferred, without the lock,
// and the link follows. Over the parent's data the whole grain is copied up, and its link is held back until a fdatasync has made it
// durable: a crash must not show zeros where the parent had older data (R6).

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../../bytes/offsets.ts';
import { steadyMs } from '../../../concurrency/clock.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { Reservations } from '../../../concurrency/reservations.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { GuestAccess } from '../../guest-access.ts';
import type { ReadableImage } from '../../image-format.ts';
import { readsAsZeros } from '../../mapped/backing.ts';
import type { CowBuffer } from '../../mapped/cow-buffer.ts';
import type { DiskNumbers } from '../../mapped/disk-numbers.ts';
import { type FullHostParts, reclaimingWhenFull } from '../../mapped/full-host.ts';
import { MAX_RUN_CLUSTERS } from '../../mapped/mapped-state.ts';
import type { PendingLinks } from '../../mapped/pending-links.ts';
import type { UnallocatedRun, ZeroRun } from '../../mapped/run-mapper.ts';
import type { Allocator } from './allocate.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { GrainTables } from './grain-tables.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { Unclean } from './unclean.ts';

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
  readonly grainTables: GrainTables;
  readonly allocator: Allocator;
  readonly unclean: Unclean;
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
   * Writes into the grains of a run, which have no data yet; they are reserved exclusively and the lock is held. May do only the
   * first grains of the run. @returns bytes written
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
    const wanted = geometry.grainsFor(offset + length) - geometry.grainOf(offset);
    return reclaimingWhenFull(this.parts, this.inOneTable(geometry.grainOf(offset), wanted), (most) =>
      this.attempt(source, sourceOffset, length, offset, overZeros, most),
    );
  }

  /** The same in at most `most` new grains; when it throws the lock is held and nothing is linked that was not before. */
  private attempt(
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: GuestOffset,
    overZeros: boolean,
    most: number,
  ): number {
    const { cow, disk, file, flush, geometry, lock, pending } = this.parts;
    const { grainBytes } = geometry;
    const first = geometry.grainOf(offset);
    const { host, count } = this.allocate(first, most);
    const start = geometry.startOf(first);
    const part = Math.min(offset + length, start + count * grainBytes) - offset;
    let linked = 0;
    try {
      lock.unlock();
      const overParent = !overZeros && !readsAsZeros(this.parts.backing, start, count * grainBytes);
      if (overParent) {
        cow.writeAround(source, sourceOffset, part, offset, start, count * grainBytes, host);
        if (!pending.hasRoom(count)) flush.linkEarly();
      } else {
        failpoint('data-write');
        file.write(source, sourceOffset, part, after(host, offset - start));
      }
      lock.lock();
      if (overParent) {
        this.hold(first, host, count);
        linked = count;
      }
      while (linked < count) linked += this.link(first, host, linked, count);
    } catch (error) {
      if (!lock.held) lock.lock();
      this.giveBack(host, linked, count);
      disk.addAllocated(linked);
      throw error;
    }
    disk.addAllocated(count);
    return part;
  }

  /** The mark is set and the table is there: what takes a sync comes before grains are taken. The lock may be released meanwhile. */
  private allocate(first: GuestCluster, most: number) {
    const { allocator, grainTables, unclean } = this.parts;
    unclean.set();
    grainTables.ensure(first);
    return allocator.allocate(most);
  }

  private link(first: GuestCluster, host: HostOffset, linked: number, count: number): number {
    const { geometry, linker } = this.parts;
    return linker.link(after(first, linked), after(host, linked * geometry.grainBytes), count - linked);
  }

  private giveBack(host: HostOffset, linked: number, count: number): void {
    const { allocator, geometry } = this.parts;
    allocator.release(after(host, linked * geometry.grainBytes), count - linked);
  }

  /** Grains from `first` on that one table maps and one write may allocate. */
  private inOneTable(first: GuestCluster, count: number): number {
    const { geometry } = this.parts;
    return Math.min(count, MAX_RUN_CLUSTERS, geometry.tableEntries - geometry.tableIndexOf(first));
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
    for (let i = 0; i < count; i++) pending.add(after(first, i), after(host, i * geometry.grainBytes), now);
  }

  /** Links grains that read as zeros to a run that reads as zeros; leaves data, here or below, as it is. */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, backing, geometry, lock, mapper, reservations } = this.parts;
    const first = geometry.grainOf(offset);
    return reservations.exclusively(first, geometry.grainsFor(offset + length), () => {
      // the disk may have become smaller while this waited
      access.assertInside(offset, length);
      const { status, length: part } = mapper.map(offset, length);
      if (status === 'data') return part;
      const count = geometry.grainsFor(offset + part) - first;
      // the grains stay reserved, so they stay what they are (R3)
      lock.unlock();
      const isZero = status === 'zero' || readsAsZeros(backing, geometry.startOf(first), count * geometry.grainBytes);
      lock.lock();
      if (!isZero) return part;
      return Math.min(part, geometry.startOf(after(first, this.linkZeros(first, count))) - offset);
    });
  }

  /**
   * Gives grains that are reserved exclusively new ones that read as zeros; the lock is held, and may be released meanwhile.
   * @returns how many; at least one
   */
  linkZeros(first: GuestCluster, count: number, takesSpace = true): number {
    return reclaimingWhenFull(this.parts, this.inOneTable(first, count), (most) =>
      this.attemptZeros(first, most, takesSpace),
    );
  }

  private attemptZeros(first: GuestCluster, most: number, takesSpace: boolean): number {
    const { disk, file, geometry, lock } = this.parts;
    const { host, count } = this.allocate(first, most);
    let linked = 0;
    try {
      if (takesSpace) {
        failpoint('preallocate');
        file.allocateRange(host, count * geometry.grainBytes);
      }
      while (linked < count) linked += this.link(first, host, linked, count);
    } finally {
      if (!lock.held) lock.lock();
      disk.addAllocated(linked);
      this.giveBack(host, linked, count);
    }
    return count;
  }
}
