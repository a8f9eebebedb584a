// Ranges that shall read as zeros: discard, write zeroes, and what lies beyond the end of a smaller disk. Whole clusters
// become "unallocated", or "zero" if a backing file would show through; version 2 has no zero clusters, so the zeros are
// written. Parts of clusters are zeroed in place, or written if the cluster is shared, compressed or encrypted;
// with extended L2 entries whole subclusters are marked instead.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  guestOffset,
  type HostOffset,
  roundUp,
} from '../../bytes/offsets.ts';
import type { GuestData } from '../../codec/guest-data.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import { assert } from '../../errors/index.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from '../mapped/backing.ts';
import { NOT_PENDING, type PendingLinks } from '../mapped/pending-links.ts';
import type { ReservedRuns } from '../mapped/runs/reserved-runs.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/space/full-host.ts';
import { ZeroInPlace } from '../mapped/zero-in-place.ts';
import { zeroRange } from '../mapped/zero-range.ts';
import type { Flush } from './flush.ts';
import { type Geometry, placeInDataFile } from './geometry.ts';
import type { HeaderBits } from './header-bits.ts';
import type { Linker } from './link.ts';
import { type Mapper, NO_HOST, type Run } from './mapping.ts';
import type { Qcow2RunWriter } from './run-writer.ts';
import { SUBCLUSTERS_PER_CLUSTER, UNALLOCATED_BITMAP } from './subcluster.ts';

export interface DeallocatorParts {
  readonly data: GuestData;
  readonly hasDataFile: boolean;
  /** the data file is the disk itself: what it maps is zeroed there, and stays mapped */
  readonly isRaw: boolean;
  readonly version: 2 | 3;
  readonly backing: ReadableImage | null;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly flush: Flush;
  readonly headerBits: HeaderBits;
  readonly reusable: FullHostParts['reusable'];
  /** for zeros that no metadata can express */
  readonly runs: ReservedRuns<Run>;
  readonly writer: Qcow2RunWriter;
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
      part: (start, end) => this.zeroPart(start, end),
      clusters: (first, count) => this.zeroClusters(first, count, diskEnd),
    });
  }

  /** Guest clusters [first, end) are beyond the end of the disk: nothing reads them any more. */
  cutOff(first: GuestCluster, end: GuestCluster): void {
    for (let cluster = first; cluster < end; ) {
      const start = cluster;
      const done = this.exclusively(start, end - start, (table, count) => {
        if (table === 0 && this.parts.pending.isEmpty) return this.toNextTable(start, end - start);
        this.parts.linker.replace(start, count, false, steadyMs());
        return count;
      });
      cluster = after(cluster, done);
    }
  }

  /**
   * Guest clusters [first, end) read from the backing file again. Their places in a data file are punched once that is durable: a
   * cluster that is still mapped after a crash has its data.
   */
  uncover(first: GuestCluster, end: GuestCluster): void {
    const { data, flush, geometry, hasDataFile, isRaw } = this.parts;
    assert(!isRaw, 'an image whose data file is the disk has no backing file');
    this.eachSlice(first, end, (start, table, count) => {
      if (table === 0 && this.parts.pending.isEmpty) return this.toNextTable(start, end - start);
      this.parts.linker.replace(start, count, false, steadyMs());
      return count;
    });
    if (!hasDataFile || data.isEncrypted) return;
    flush.linkEarly();
    flush.run();
    this.eachSlice(first, end, (start, _table, count) => {
      if (this.isUnallocated(start, count))
        this.punchDataFile(start, geometry.startOf(start), count * geometry.clusterSize);
      return count;
    });
  }

  /** Calls `action` with parts of [first, end) that are reserved exclusively, under the lock. @param action returns clusters done */
  private eachSlice(
    first: GuestCluster,
    end: GuestCluster,
    action: (start: GuestCluster, table: HostOffset, count: number) => number,
  ): void {
    for (let cluster = first; cluster < end; ) {
      const start = cluster;
      const nothing = { offset: this.parts.geometry.startOf(start), length: 0 };
      cluster = after(
        cluster,
        this.exclusively(start, end - start, (table, count) => action(start, table, count), nothing),
      );
    }
  }

  /** No cluster has data, a place or zeros of its own. */
  private isUnallocated(first: GuestCluster, count: number): boolean {
    const { geometry, mapper, pending } = this.parts;
    const table = mapper.l2Table(geometry.l1IndexOf(first));
    for (let i = 0; i < count; i++) {
      const cluster = after(first, i);
      const { host, status, subclusters } = mapper.lookup(cluster, table);
      const isBare = host === NO_HOST && status !== 'compressed' && subclusters.zero === UNALLOCATED_BITMAP.zero;
      if (!isBare || pending.find(cluster) !== NOT_PENDING) return false;
    }
    return true;
  }

  /** The rest of the cluster that a disk of `size` bytes ends in reads as zeros when the disk grows again. */
  zeroBehindEnd(size: number): void {
    const end = roundUp(size, this.parts.geometry.clusterSize);
    if (end > size) this.zeroPart(guestOffset(size), end);
  }

  private zeroClusters(first: GuestCluster, count: number, diskEnd: number): number {
    const { backing, geometry, isRaw, lock, mapper, pending, version } = this.parts;
    const { clusterSize } = geometry;
    const start = geometry.startOf(first);
    if (isRaw) {
      // an entry that changed beside it could be durable without it, and disk and file would differ after a crash
      this.inPlace.zero(start, Math.min(start + count * clusterSize, diskEnd));
      return count;
    }
    if (backing !== null && version === 2) {
      const part = Math.min(count, Math.max(1, Math.floor((16 * 1024 * 1024) / clusterSize)));
      this.zeroPart(start, Math.min(start + part * clusterSize, diskEnd));
      return part;
    }
    const toNextTable = this.toNextTable(first, count);
    // the backing file may have to wait for its own tables, and it never changes: it is asked without the lock
    const isBare = lock.run(() => mapper.l2Table(geometry.l1IndexOf(first)) === 0 && pending.isEmpty);
    if (isBare && readsAsZeros(backing, start, toNextTable * clusterSize)) return toNextTable;
    return this.exclusively(first, count, (_table, part) => {
      this.parts.linker.replace(first, part, backing !== null, steadyMs());
      return part;
    });
  }

  private toNextTable(first: GuestCluster, count: number): number {
    const { geometry } = this.parts;
    return Math.min(count, geometry.l2Entries - geometry.l2IndexOf(first));
  }

  /**
   * Runs `action` with the clusters of one slice from `first` on reserved exclusively, under the lock, with room to work.
   * @param zeroed what will read as zeros; absent: the clusters
   */
  private exclusively(
    first: GuestCluster,
    count: number,
    action: (l2Table: HostOffset, count: number) => number,
    zeroed?: { readonly offset: GuestOffset; readonly length: number },
  ): number {
    const { geometry, linker, lock, mapper, headerBits, reservations } = this.parts;
    const part = Math.min(count, linker.span(first));
    // first of all, because it may wait, and the room made before a wait may be gone after it
    const done = reservations.exclusively(first, first + part, () => {
      const { clusterSize } = geometry;
      if (zeroed === undefined) this.punchDataFile(first, geometry.startOf(first), part * clusterSize);
      else this.punchDataFile(first, zeroed.offset, zeroed.length);
      return reclaimingWhenFull(this.parts, 1, () => {
        headerBits.beforeChange();
        this.makeRoom(part);
        return action(mapper.l2Table(geometry.l1IndexOf(first)), part);
      });
    });
    lock.giveWay();
    return done;
  }

  /**
   * Places in a data file belong to their guest clusters for good, so they are punched at once and not after a flush. Before
   * the entries change: a crash in between leaves zeros where zeros were asked for. In an encrypted data file
   * a hole does not read as zeros, so the old data stays until it is written over.
   */
  private punchDataFile(first: GuestCluster, offset: GuestOffset, length: number): void {
    const { data, geometry, hasDataFile, lock, mapper, pending } = this.parts;
    if (length === 0) return;
    if (!hasDataFile || data.isEncrypted || (mapper.l2Table(geometry.l1IndexOf(first)) === 0 && pending.isEmpty))
      return;
    lock.unlock();
    data.punch(length, placeInDataFile(offset));
    lock.lock();
  }

  /**
   * Whole clusters that are reserved exclusively read as zeros from now on; the lock is held, and may be released meanwhile.
   * @returns clusters done; 0 in version 2, which has no zero clusters
   */
  zeroReserved(first: GuestCluster, count: number): number {
    const { geometry, linker, version } = this.parts;
    if (version === 2) return 0;
    const part = Math.min(count, linker.span(first));
    this.punchDataFile(first, geometry.startOf(first), part * geometry.clusterSize);
    return reclaimingWhenFull(this.parts, 1, () => {
      this.parts.headerBits.beforeChange();
      this.makeRoom(part);
      linker.replace(first, part, true, steadyMs());
      return part;
    });
  }

  /** For a change of so many entries of one table; the lock is held, and may be released meanwhile. */
  private makeRoom(entries: number): void {
    const { flush, linker, lock } = this.parts;
    // a compressed cluster releases two host clusters, a dropped link one more
    while (!linker.hasRoom(1, 1, entries * 3)) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
  }

  private zeroPart(start: GuestOffset, end: number): void {
    const { extendedL2, subclusterSize } = this.parts.geometry;
    if (!extendedL2 || this.parts.isRaw) {
      this.inPlace.zero(start, end);
      return;
    }
    zeroRange(start, end - start, subclusterSize, Number.POSITIVE_INFINITY, {
      part: (from, to) => this.inPlace.zero(from, to),
      clusters: (first, count) => this.zeroSubclusters(first, count),
    });
  }

  /** Subclusters [first, first + count) of the disk, or those in the cluster of the first. @returns how many */
  private zeroSubclusters(first: number, count: number): number {
    const { backing, geometry, linker, mapper } = this.parts;
    const cluster = guestCluster(Math.floor(first / SUBCLUSTERS_PER_CLUSTER));
    const index = first % SUBCLUSTERS_PER_CLUSTER;
    const part = Math.min(count, SUBCLUSTERS_PER_CLUSTER - index);
    const bytes = { offset: guestOffset(first * geometry.subclusterSize), length: part * geometry.subclusterSize };
    const replace = (table: HostOffset): number => {
      if (mapper.lookup(cluster, table).status === 'compressed') return 0;
      linker.replaceSubclusters(cluster, index, part, backing !== null, steadyMs());
      return part;
    };
    const marked = this.exclusively(cluster, 1, replace, bytes);
    if (marked === part) return part;
    this.inPlace.zero(bytes.offset, bytes.offset + bytes.length);
    return part;
  }
}
