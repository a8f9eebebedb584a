// Writes into clusters that cannot be written in place: unallocated, zero, compressed, or shared with a snapshot. New
// clusters get the guest's bytes and, around them, what the guest read there before (copy-on-write); their links wait for
// the fdatasync that makes counters and data durable (flush.ts), so a crash shows the old content or the new one. With
// subclusters only those that are touched get content, and a cluster that is ours gets it where it is.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  type HostOffset,
  roundDown,
  roundUp,
  SECTOR_BYTES,
} from '../../bytes/offsets.ts';
import type { GuestData } from '../../codec/guest-data.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { GuestAccess } from '../guest-access.ts';
import type { CowBuffer } from '../mapped/cow-buffer.ts';
import type { ImageMap } from '../mapped/image-map.ts';
import { MAX_RUN_CLUSTERS } from '../mapped/mapped-state.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/space/full-host.ts';
import type { Allocation, ClusterSource } from './allocate.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { HeaderBits } from './header-bits.ts';
import type { Linker } from './link.ts';
import { type Mapper, NO_HOST, type Run } from './mapping.ts';
import type { OverlapCheck } from './overlap.ts';
import {
  SUBCLUSTERS_PER_CLUSTER,
  type SubclusterRun,
  subclusterRuns,
  subclustersTouched,
  withSubclusters,
} from './subcluster.ts';

const ZERO_SECTOR = new Uint8Array(SECTOR_BYTES); // a crash keeps or loses it as a whole

export interface AllocatingWriteParts {
  readonly access: GuestAccess;
  readonly clusters: ClusterSource;
  readonly cow: CowBuffer;
  readonly data: GuestData;
  readonly flush: Flush;
  readonly geometry: Geometry;
  readonly headerBits: HeaderBits;
  readonly imageMap: ImageMap;
  readonly linker: Linker;
  readonly lock: Mutex;
  readonly mapper: Mapper;
  readonly overlap: OverlapCheck;
  readonly reservations: Reservations;
  readonly reusable: FullHostParts['reusable'];
}

/** Bytes of the guest. */
interface GuestBytes {
  readonly source: Uint8Array;
  readonly sourceOffset: number;
  readonly offset: GuestOffset;
  readonly length: number;
}

/** Clusters that get data. */
interface Place extends Allocation {
  /** where the first of them begins on the disk */
  readonly start: GuestOffset;
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
  }

  /**
   * Writes into the clusters of a run, which are reserved exclusively. The lock is held, is released meanwhile and is held
   * again on return. May do only the first clusters. @returns bytes written
   */
  writeNewClusters(source: Uint8Array, sourceOffset: number, run: Run, offset: GuestOffset): number {
    const { geometry } = this.parts;
    const wanted = geometry.clustersFor(offset + run.length) - geometry.clusterOf(offset);
    // the mapper fills its runs anew whenever somebody looks something up
    const kept = { ...run };
    return reclaimingWhenFull(this.parts, Math.min(wanted, MAX_RUN_CLUSTERS), (most) =>
      this.attempt({ source, sourceOffset, offset, length: run.length }, kept, most),
    );
  }

  /**
   * Gives the cluster at `offset` a place, by a sector of zeros, if it has no data and reads as zeros. Nobody else can write to
   * the cluster meanwhile, or the zeros could come after a guest's bytes and hide them. @returns bytes that need no more
   */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, geometry, imageMap, lock, mapper, reservations } = this.parts;
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
      failpoint('preallocate');
      lock.lock();
      if (!isZero) return Math.min(part, rest);
      const sector = roundDown(offset, SECTOR_BYTES);
      const bytes = Math.min(SECTOR_BYTES, after(start, inside) - sector);
      access.assertInside(sector, bytes);
      this.writeNewClusters(ZERO_SECTOR, 0, mapper.map(sector, bytes), sector);
      return rest;
    });
  }

  /** The same in at most `most` new clusters; when it throws the lock is held and nothing has changed for the guest. */
  private attempt(bytes: GuestBytes, run: Run, most: number): number {
    const { clusters, geometry, headerBits, linker, lock } = this.parts;
    const { clusterSize } = geometry;
    const { offset } = bytes;
    headerBits.beforeChange();
    const first = geometry.clusterOf(offset);
    const start = geometry.startOf(first);
    const ours = ownCluster(run);
    const isCopy = geometry.extendedL2 && hasOldContent(run);
    const kept = isCopy && ours === null ? this.keptRuns(first, offset, run.length) : [];
    const place = { start, ...(ours === null ? clusters.allocate(first, isCopy ? 1 : most) : inPlace(ours)) };
    const { offset: host, count } = place;
    if (ours !== null) this.parts.overlap.assertData(host, clusterSize);
    const length = Math.min(run.length, start + count * clusterSize - offset);
    try {
      lock.unlock();
      this.writeData({ ...bytes, length }, place, kept);
      lock.lock();
      this.makeRoom(first, count);
      linker.hold(offset, length, host, ours === null ? count : 0, steadyMs());
    } catch (error) {
      if (!lock.held) lock.lock();
      if (ours === null) clusters.giveBack(host, count);
      throw error;
    }
    return length;
  }

  /** Subclusters of a cluster that have data and that a write of its bytes from `offset` on leaves alone. */
  private keptRuns(cluster: GuestCluster, offset: GuestOffset, length: number): SubclusterRun[] {
    const { geometry, linker } = this.parts;
    const inCluster = geometry.inCluster(offset);
    const inside = Math.min(length, geometry.clusterSize - inCluster);
    const touched = subclustersTouched(inCluster, inside, geometry.clusterSize);
    const bitmap = linker.subclustersOf(cluster);
    const rest = withSubclusters(bitmap, touched.first, touched.count, 'unallocated');
    return subclusterRuns(rest, 0, SUBCLUSTERS_PER_CLUSTER).filter(({ status }) => status === 'data');
  }

  /**
   * Writes the guest's bytes, in one host write with the old content that adjoins them. @param kept subclusters of the cluster
   * that are copied, too
   */
  private writeData({ source, sourceOffset, offset, length }: GuestBytes, place: Place, kept: SubclusterRun[]): void {
    const { cow, geometry } = this.parts;
    const { subclusterSize } = geometry;
    const end = after(offset, length);
    const headStart = roundDown(offset, subclusterSize);
    let from = this.isCopied(headStart, offset - headStart, place) ? headStart : offset;
    const tailEnd = roundUp(end, subclusterSize);
    // a file that ends inside a sector tears it when it loses its next growth
    const sectorEnd = place.readsAsZeros ? Math.min(roundUp(end, SECTOR_BYTES), tailEnd) : end;
    let to = this.isCopied(end, tailEnd - end, place) ? tailEnd : sectorEnd;
    for (const { first, count } of kept) {
      const keptStart = after(place.start, first * subclusterSize);
      const keptEnd = after(keptStart, count * subclusterSize);
      if (keptEnd === from) from = keptStart;
      else if (keptStart === to) to = keptEnd;
      else cow.copyOld(keptEnd - keptStart, keptStart, hostOf(keptStart, place));
    }
    cow.writeAround(source, sourceOffset, length, offset, from, to - from, hostOf(from, place));
  }

  /**
   * A part of a new cluster that the guest does not write must be written all the same: encrypted, a hole does not read as
   * zeros. What does not need it reads as zeros afterwards.
   */
  private isCopied(offset: GuestOffset, length: number, place: Place): boolean {
    const { data, imageMap } = this.parts;
    if (length === 0) return false;
    if (data.isEncrypted || !imageMap.readsAsZeros(offset, length)) return true;
    if (!place.readsAsZeros) data.zero(length, hostOf(offset, place));
    return false;
  }

  private makeRoom(firstCluster: GuestCluster, count: number): void {
    const { flush, linker, lock } = this.parts;
    while (!linker.hasRoom(count, linker.tablesTouched(firstCluster, count), 0)) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
  }
}

function hostOf(offset: GuestOffset, { offset: host, start }: Place): HostOffset {
  return after(host, offset - start);
}

/** A cluster that has data already. */
function inPlace(offset: HostOffset): Allocation {
  return { offset, count: 1, readsAsZeros: false };
}

/** The cluster of this layer alone that a run's subclusters without data get theirs in; null: a new one is needed. */
function ownCluster(run: Run): HostOffset | null {
  return (run.status === 'zero' || run.status === 'unallocated') && run.home !== NO_HOST && run.copied
    ? run.home
    : null;
}

/** The cluster of the run's first byte may have data in other subclusters, which a new cluster takes over. */
function hasOldContent(run: Run): boolean {
  return run.status === 'data' || run.status === 'compressed' || run.home !== NO_HOST;
}
