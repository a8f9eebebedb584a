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
} from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { type FullHostParts, reclaimingWhenFull } from '../full-host.ts';
import { MAX_RUN_CLUSTERS } from '../mapped-state.ts';
import type { RangeReader } from '../run-reader.ts';
import type { ClusterSource } from './cluster-source.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { GuestData } from './guest-data.ts';
import type { HeaderBits } from './header-bits.ts';
import type { Linker } from './link.ts';
import { NO_HOST, type Run } from './mapping.ts';
import type { OverlapCheck } from './overlap.ts';
import { SUBCLUSTERS_PER_CLUSTER, subclusterRuns, subclustersTouched, withSubclusters } from './subcluster.ts';

const BOUNCE_BYTES = 1024 * 1024;

export interface AllocatingWriteParts {
  readonly data: GuestData;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly linker: Linker;
  readonly clusters: ClusterSource;
  readonly flush: Flush;
  readonly headerBits: HeaderBits;
  readonly overlap: OverlapCheck;
  readonly ranges: RangeReader<Run>;
  /** The range is known to read as zeros, here and below; without the lock. */
  readonly readsAsZeros: (offset: GuestOffset, length: number) => boolean;
  readonly reusable: FullHostParts['reusable'];
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;
  private bounceBuffer: Uint8Array | null = null;

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
      this.attempt(source, sourceOffset, kept, offset, most),
    );
  }

  /** The same in at most `most` new clusters; when it throws the lock is held and nothing has changed for the guest. */
  private attempt(source: Uint8Array, sourceOffset: number, run: Run, offset: GuestOffset, most: number): number {
    const { clusters, data, geometry, linker, lock, headerBits } = this.parts;
    const { clusterSize, subclusterSize } = geometry;
    headerBits.beforeChange();
    const first = geometry.clusterOf(offset);
    const start = geometry.startOf(first);
    const ours = ownCluster(run);
    const isCopy = geometry.extendedL2 && hasOldContent(run);
    const kept = isCopy && ours === null ? this.keptRuns(first, offset, run.length) : [];
    const {
      offset: host,
      count,
      readsAsZeros,
    } = ours === null ? clusters.allocate(first, isCopy ? 1 : most) : { offset: ours, count: 1, readsAsZeros: false };
    if (ours !== null) this.parts.overlap.assertData(host, clusterSize);
    const end = after(offset, Math.min(run.length, start + count * clusterSize - offset));
    const [headStart, tailEnd] = [roundDown(offset, subclusterSize), roundUp(end, subclusterSize)];
    try {
      lock.unlock();
      for (const { first: index, count: subclusters } of kept) {
        const inCluster = index * subclusterSize;
        this.fill(after(start, inCluster), subclusters * subclusterSize, after(host, inCluster), readsAsZeros);
      }
      // units that the guest writes a part of are filled whole first
      const head = roundUp(offset, data.unit);
      const tail = after(head, Math.max(0, roundDown(end, data.unit) - head));
      this.fill(headStart, head - headStart, after(host, headStart - start), readsAsZeros);
      this.fill(tail, tailEnd - tail, after(host, tail - start), readsAsZeros);
      reach('data-write');
      data.write(source, sourceOffset, end - offset, after(host, offset - start), offset);
      lock.lock();
      this.makeRoom(first, count);
      linker.hold(offset, end - offset, host, ours === null ? count : 0, steadyMs());
    } catch (error) {
      if (!lock.held) lock.lock();
      if (ours === null) clusters.giveBack(host, count);
      throw error;
    }
    return end - offset;
  }

  /** Subclusters of a cluster that have data and that a write of its bytes from `offset` on leaves alone. */
  private keptRuns(cluster: GuestCluster, offset: GuestOffset, length: number): { first: number; count: number }[] {
    const { geometry, linker } = this.parts;
    const inCluster = geometry.inCluster(offset);
    const inside = Math.min(length, geometry.clusterSize - inCluster);
    const touched = subclustersTouched(inCluster, inside, geometry.clusterSize);
    const bitmap = linker.subclustersOf(cluster);
    const rest = withSubclusters(bitmap, touched.first, touched.count, 'unallocated');
    return subclusterRuns(rest, 0, SUBCLUSTERS_PER_CLUSTER).filter(({ status }) => status === 'data');
  }

  /** What the guest does not write in the new clusters: old content, or zeros where there may be something else. */
  private fill(offset: GuestOffset, length: number, host: HostOffset, isFresh: boolean): void {
    if (length === 0) return;
    const { data } = this.parts;
    if (this.parts.readsAsZeros(offset, length)) {
      data.zero(length, host, offset, isFresh);
      return;
    }
    this.bounceBuffer ??= new Uint8Array(BOUNCE_BYTES);
    for (let done = 0; done < length; ) {
      const part = Math.min(BOUNCE_BYTES, length - done);
      reach('cow-read');
      this.parts.ranges.readReserved(this.bounceBuffer, 0, part, after(offset, done));
      reach('cow-write');
      data.write(this.bounceBuffer, 0, part, after(host, done), after(offset, done));
      done += part;
    }
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
