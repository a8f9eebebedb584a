// Writes into blocks that have no data yet. A new block reads as zeros, so only the guest's bytes are transferred, without
// the lock, and the link follows. Over a parent's data the whole block is copied up, and its link is held back until a
// fdatasync has made it durable: a crash must not show zeros where the parent had older data (R6).

import { after, type GuestCluster, type GuestOffset } from '../../bytes/offsets.ts';
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
import { type FullHostParts, reclaimingWhenFull } from '../mapped/full-host.ts';
import { MAX_RUN_CLUSTERS } from '../mapped/mapped-state.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { UnallocatedRun, ZeroRun } from '../mapped/run-mapper.ts';
import type { Allocator } from './allocate.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { ModifyUuid } from './modify-uuid.ts';
import type { VdiNumbers } from './state.ts';

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
  readonly modifyUuid: ModifyUuid;
  readonly flush: Flush;
  readonly disk: Pick<DiskNumbers, 'addAllocated'>;
  readonly numbers: Pick<VdiNumbers, 'dataOffset'>;
  readonly reusable: FullHostParts['reusable'];
  readonly cow: CowBuffer;
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
  }

  /**
   * Writes into the blocks of a run, which have no data yet; they are reserved exclusively and the lock is held. May do only
   * the first blocks of the run. @returns bytes written
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

  /** The same in at most `most` new blocks; when it throws the lock is held and nothing is linked that was not before. */
  private attempt(
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: GuestOffset,
    overZeros: boolean,
    most: number,
  ): number {
    const { allocator, cow, disk, file, flush, geometry, linker, lock, modifyUuid, numbers, pending } = this.parts;
    const { clusterSize } = geometry;
    modifyUuid.change();
    const { index, count } = allocator.allocate(most);
    const host = geometry.hostDataOf(index, numbers.dataOffset);
    const first = geometry.clusterOf(offset);
    const start = geometry.startOf(first);
    const part = Math.min(offset + length, start + count * clusterSize) - offset;
    let linked = 0;
    try {
      lock.unlock();
      const overParent = !overZeros && !readsAsZeros(this.parts.backing, start, count * clusterSize);
      if (overParent) {
        cow.writeAround(source, sourceOffset, part, offset, start, count * clusterSize, host);
        if (!pending.hasRoom(count)) flush.linkEarly();
      } else {
        failpoint('data-write');
        file.write(source, sourceOffset, part, after(host, offset - start));
      }
      lock.lock();
      if (overParent) {
        this.hold(first, index, count);
        linked = count;
      }
      while (linked < count) linked += linker.link(after(first, linked), index + linked, count - linked);
    } catch (error) {
      if (!lock.held) lock.lock();
      allocator.release(index + linked, count - linked);
      disk.addAllocated(linked);
      throw error;
    }
    disk.addAllocated(count);
    return part;
  }

  /** Adds to the pending links; the list may have filled up again since room was made, so it is asked once more. */
  private hold(first: GuestCluster, index: number, count: number): void {
    const { flush, geometry, lock, numbers, pending } = this.parts;
    while (!pending.hasRoom(count)) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
    const now = steadyMs();
    for (let i = 0; i < count; i++) {
      pending.add(after(first, i), geometry.hostStartOf(index + i, numbers.dataOffset), now);
    }
  }

  /** Links blocks that read as zeros to a run that reads as zeros; leaves data, here or below, as it is. */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, backing, geometry, lock, mapper, reservations } = this.parts;
    const first = geometry.clusterOf(offset);
    return reservations.exclusively(first, geometry.clustersFor(offset + length), () => {
      // the disk may have become smaller while this waited
      access.assertInside(offset, length);
      const { status, length: part } = mapper.map(offset, length);
      if (status === 'data') return part;
      const count = geometry.clustersFor(offset + part) - first;
      // the blocks stay reserved, so they stay what they are (R3)
      lock.unlock();
      const isZero = status === 'zero' || readsAsZeros(backing, geometry.startOf(first), count * geometry.clusterSize);
      lock.lock();
      if (!isZero) return part;
      return Math.min(part, geometry.startOf(after(first, this.linkZeros(first, count))) - offset);
    });
  }

  /** Blocks that are reserved exclusively; the lock is held, and may be released meanwhile. @returns how many; at least one */
  private linkZeros(first: GuestCluster, count: number): number {
    return reclaimingWhenFull(this.parts, Math.min(count, MAX_RUN_CLUSTERS), (most) => this.attemptZeros(first, most));
  }

  private attemptZeros(first: GuestCluster, most: number): number {
    const { allocator, disk, file, geometry, linker, lock, modifyUuid, numbers } = this.parts;
    modifyUuid.change();
    const { index, count: got } = allocator.allocate(most);
    let linked = 0;
    try {
      file.allocateRange(geometry.hostDataOf(index, numbers.dataOffset), got * geometry.clusterSize);
      while (linked < got) linked += linker.link(after(first, linked), index + linked, got - linked);
    } finally {
      if (!lock.held) lock.lock();
      disk.addAllocated(linked);
      allocator.release(index + linked, got - linked);
    }
    return got;
  }
}
