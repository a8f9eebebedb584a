// Ranges that shall read as zeros, and clusters given up: discard, write zeroes, and what lies behind the end of a smaller
// disk. Whole clusters lose their link (entry 0, or 1 where a backing file would show through) and are freed; parts of
// clusters are zeroed in place. Large ranges go slice by slice, so that other requests are served in between.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  type HostOffset,
  hostOffset,
  roundUp,
} from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from '../mapped/backing.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import { NOT_PENDING, type PendingLinks } from '../mapped/pending-links.ts';
import type { ReservedRuns, RunWriter } from '../mapped/runs/reserved-runs.ts';
import { eachAdjoining } from '../mapped/space/adjoining.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/space/full-host.ts';
import { ZeroInPlace } from '../mapped/zero-in-place.ts';
import { zeroRange } from '../mapped/zero-range.ts';
import type { DirtyBit } from './dirty-bit.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { Mapper, Run } from './mapping.ts';
import type { QedNumbers } from './state.ts';
import { UNALLOCATED_ENTRY, ZERO_ENTRY } from './table.ts';

/** The collaborators of a Deallocator, by name. */
export interface DeallocatorParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly dirtyBit: DirtyBit;
  readonly free: FreeClusters;
  readonly flush: FullHostParts['flush'];
  readonly reusable: FullHostParts['reusable'];
  readonly disk: Pick<DiskNumbers, 'removeAllocated' | 'virtualSizeOutsideLock'>;
  readonly numbers: Pick<QedNumbers, 'noteZeroEntries'>;
  /** for zeros over backing data */
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
      clusters: (first, count) => this.zeroClusters(first, count),
    });
  }

  /**
   * Guest clusters from `first` on, up to `end` and to the end of the table that maps it, are behind the end of the disk:
   * their entries become "unallocated", and tables that map nothing else are given up.
   */
  cutOff(first: GuestCluster, end: GuestCluster): void {
    this.giveUp(first, roundUp(end, this.parts.geometry.tableEntries));
  }

  /**
   * Guest clusters [first, end) read from the backing file again: their entries become "unallocated", and tables that map nothing
   * else are given up.
   */
  uncover(first: GuestCluster, end: GuestCluster): void {
    const { disk, geometry } = this.parts;
    const isToTheEnd = end === geometry.clustersFor(disk.virtualSizeOutsideLock());
    this.giveUp(first, isToTheEnd ? roundUp(end, geometry.tableEntries) : end);
  }

  private giveUp(first: GuestCluster, last: number): void {
    const { geometry, lock, linker, mapper, dirtyBit, pending, reservations } = this.parts;
    const { tableEntries } = geometry;
    for (let cluster = first; cluster < last; ) {
      const start = cluster;
      const done = this.exclusively(start, last - start, (table, count) => {
        if (table === 0 && pending.isEmpty) return tableEntries - geometry.l2IndexOf(start);
        this.unlink(start, count, table, UNALLOCATED_ENTRY);
        return count;
      });
      cluster = after(start, done);
    }
    for (let l1Index = Math.ceil(first / tableEntries); (l1Index + 1) * tableEntries <= last; l1Index++) {
      reservations.exclusively(l1Index * tableEntries, (l1Index + 1) * tableEntries, () => {
        // another request may have linked a cluster meanwhile
        if (!this.mapsNothing(l1Index)) return;
        dirtyBit.set();
        if (mapper.l2Table(l1Index) !== 0) linker.removeTable(l1Index);
      });
      lock.giveWay();
    }
  }

  private mapsNothing(l1Index: number): boolean {
    const { geometry, mapper, pending } = this.parts;
    const table = mapper.l2Table(l1Index);
    for (let i = 0; table !== 0 && i < geometry.tableEntries; i++) {
      const cluster = guestCluster(l1Index * geometry.tableEntries + i);
      if (mapper.lookup(cluster, table) !== UNALLOCATED_ENTRY || pending.find(cluster) !== NOT_PENDING) return false;
    }
    return table !== 0;
  }

  /**
   * Clusters that were free, were given to guest clusters that read as zeros (compact.ts) and still hold nothing are freed, and
   * can be used after two flushes like all others (R5). For a host that lets the file grow no further.
   */
  takeBackGiven(): void {
    const { disk, free, geometry } = this.parts;
    const end = geometry.clustersFor(disk.virtualSizeOutsideLock());
    for (let cluster = guestCluster(0); cluster < end; ) {
      const start = cluster;
      const done = this.exclusively(start, end - start, (table, count) => {
        if (free.givenCount === 0) return end - start;
        if (table === 0) return geometry.tableEntries - geometry.l2IndexOf(start);
        for (let i = 0; i < count; i++) this.takeBack(after(start, i));
        return count;
      });
      cluster = after(start, done);
    }
  }

  /** A guest cluster that is reserved exclusively, so that nobody is about to write into it. */
  private takeBack(cluster: GuestCluster): void {
    const { backing, file, free, geometry, mapper, pending } = this.parts;
    const table = mapper.l2Table(geometry.l1IndexOf(cluster));
    const entry = mapper.lookup(cluster, table);
    if (entry <= ZERO_ENTRY || pending.find(cluster) !== NOT_PENDING) return;
    const host = hostOffset(entry);
    const given = geometry.clusterOf(host);
    if (!free.isGiven(given)) return;
    if (file.seekData(host) < host + geometry.clusterSize) free.keepGiven(given);
    else this.unlink(cluster, 1, table, backing === null ? UNALLOCATED_ENTRY : ZERO_ENTRY);
  }

  /** The rest of the cluster that a disk of `size` bytes ends in: in place, if it has data. */
  zeroBehindEnd(size: number): void {
    this.inPlace.zeroBehindEnd(size);
  }

  /** Whole clusters within one slice of one L2 table, or all up to the next table. @returns clusters done */
  private zeroClusters(first: GuestCluster, count: number): number {
    const { backing, geometry, lock, mapper, pending } = this.parts;
    const { clusterSize, tableEntries } = geometry;
    const toNextTable = Math.min(count, tableEntries - geometry.l2IndexOf(first));
    // the backing file may have to wait for its own tables, and it never changes: it is asked without the lock
    const isBare = lock.run(() => mapper.l2Table(geometry.l1IndexOf(first)) === 0 && pending.isEmpty);
    if (isBare && readsAsZeros(backing, geometry.startOf(first), toNextTable * clusterSize)) return toNextTable;
    return this.exclusively(first, count, (table, part) => {
      this.unlink(first, part, table, backing === null ? UNALLOCATED_ENTRY : ZERO_ENTRY);
      return part;
    });
  }

  /**
   * Whole clusters that are reserved exclusively read as zeros from now on; the lock is held, and may be released meanwhile.
   * @returns clusters done
   */
  zeroReserved(first: GuestCluster, count: number): number {
    const part = Math.min(count, this.parts.linker.span(first));
    return this.withTable(first, (table) => {
      this.unlink(first, part, table, ZERO_ENTRY);
      return part;
    });
  }

  /** Runs `action` with the clusters of one slice from `first` on reserved exclusively, under the lock. */
  private exclusively(
    first: GuestCluster,
    count: number,
    action: (l2Table: HostOffset, count: number) => number,
  ): number {
    const { linker, lock, reservations } = this.parts;
    const part = Math.min(count, linker.span(first));
    const done = reservations.exclusively(first, first + part, () =>
      this.withTable(first, (table) => action(table, part)),
    );
    lock.giveWay();
    return done;
  }

  /** The L2 table of a cluster, looked up again where a new one did not fit and clusters were reclaimed for it. */
  private withTable(first: GuestCluster, action: (l2Table: HostOffset) => number): number {
    const { geometry, mapper } = this.parts;
    return reclaimingWhenFull(this.parts, 1, () => action(mapper.l2Table(geometry.l1IndexOf(first))));
  }

  /** Sets entries to `entry` and frees the clusters they referred to; writes nothing where nothing changes. */
  private unlink(first: GuestCluster, count: number, table: HostOffset, entry: number): void {
    const { allocator, dirtyBit, disk, geometry, linker, mapper, numbers, pending } = this.parts;
    const hosts: HostOffset[] = [];
    let changes = false;
    for (let i = 0; i < count; i++) {
      const present = mapper.lookup(after(first, i), table);
      if (present !== entry) changes = true;
      if (present > ZERO_ENTRY) hosts.push(hostOffset(present));
    }
    if (!changes) return;
    failpoint('discard');
    // the clusters are reserved, and stay what they are; their table may come into being while the lock is released
    if (dirtyBit.set()) table = mapper.l2Table(geometry.l1IndexOf(first));
    if (table !== 0 || entry !== UNALLOCATED_ENTRY) linker.replace(first, count, entry);
    for (let i = 0; i < count; i++) pending.drop(after(first, i));
    eachAdjoining(hosts, geometry.clusterSize, (host, adjoining) => allocator.release(host, adjoining));
    disk.removeAllocated(hosts.length);
    numbers.noteZeroEntries();
  }
}
