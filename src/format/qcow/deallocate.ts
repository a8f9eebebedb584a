// Ranges that shall read as zeros, and clusters given up. Whole clusters lose their entries and are freed where nothing shows
// through then; the format has no entry that says "zeros", so over backing data, as in parts of clusters, zeros are data: holes
// in the place of data, or written. Large ranges go slice by slice, so that other requests are served in between.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  type HostOffset,
  remainder,
} from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from '../mapped/backing.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { ReservedRuns, RunWriter } from '../mapped/runs/reserved-runs.ts';
import { eachAdjoining } from '../mapped/space/adjoining.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import { ZeroInPlace } from '../mapped/zero-in-place.ts';
import { changeEachSlice, changeFirstSlice, zeroRange } from '../mapped/zero-range.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { Mapper, Run } from './mapping.ts';

export interface DeallocatorParts {
  readonly backing: ReadableImage | null;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly tracker: WriteTracker;
  readonly disk: Pick<DiskNumbers, 'removeAllocated'>;
  readonly runs: ReservedRuns<Run>;
  readonly writer: RunWriter<Run>;
}

export class Deallocator {
  private readonly parts: DeallocatorParts;
  private readonly inPlace: ZeroInPlace<Run>;

  constructor(parts: DeallocatorParts) {
    this.parts = parts;
    this.inPlace = new ZeroInPlace({ clusterSize: parts.geometry.clusterSize, ...parts });
  }

  /** [offset, offset + length) reads as zeros afterwards. @param diskEnd virtual size: its last cluster counts as whole */
  zero(offset: GuestOffset, length: number, diskEnd: number): void {
    zeroRange(offset, length, this.parts.geometry.clusterSize, diskEnd, {
      part: (start, end) => this.inPlace.zero(start, end),
      clusters: (first, count) => this.zeroClusters(first, count, diskEnd),
    });
  }

  /** Guest clusters [first, end) read from the backing file again. */
  uncover(first: GuestCluster, end: GuestCluster): void {
    changeEachSlice(this.parts, first, end, (cluster, count) => this.unlink(cluster, count));
  }

  /** An entry cannot say "zeros": the caller writes them. */
  zeroReserved(): number {
    return 0;
  }

  /** @returns clusters done */
  private zeroClusters(first: GuestCluster, count: number, diskEnd: number): number {
    const { backing, geometry, lock, mapper, pending } = this.parts;
    const { clusterSize, l2Entries } = geometry;
    const start = geometry.startOf(first);
    const toNextTable = Math.min(count, l2Entries - geometry.l2IndexOf(first));
    const isBare = lock.run(() => mapper.l2Table(geometry.l1IndexOf(first)) === 0 && pending.isEmpty);
    if (isBare && readsAsZeros(backing, start, toNextTable * clusterSize)) return toNextTable;
    const part = Math.min(
      count,
      lock.run(() => this.parts.linker.span(first)),
    );
    if (readsAsZeros(backing, start, part * clusterSize)) {
      return changeFirstSlice(this.parts, first, part, (clusters) => this.unlink(first, clusters));
    }
    this.inPlace.zero(start, Math.min(diskEnd, start + part * clusterSize));
    return part;
  }

  /** Clusters within one slice, which are reserved exclusively, become unallocated, and what they had is freed. */
  private unlink(first: GuestCluster, count: number): void {
    const { allocator, disk, geometry, linker, mapper, pending, tracker } = this.parts;
    const { clusterSize } = geometry;
    const hosts: HostOffset[] = [];
    let removed = 0;
    for (let i = 0; i < count; i++) {
      const cluster = guestCluster(first + i);
      const host = mapper.dataOf(cluster);
      // the place of compressed data may be shared: the next read-write open finds what is free
      if (host !== null && remainder(host, clusterSize) === 0) hosts.push(host);
      if (host !== null || mapper.isAllocated(cluster)) removed++;
    }
    if (removed === 0) return;
    failpoint('discard');
    tracker.assertWritable();
    linker.clear(first, count);
    for (let i = 0; i < count; i++) pending.drop(after(first, i));
    eachAdjoining(hosts, clusterSize, (host, adjoining) => allocator.release(host, adjoining));
    disk.removeAllocated(removed);
  }
}
