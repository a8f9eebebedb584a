// New clusters and freed clusters of a format that appends to its file. A new cluster always reads as zeros: it is either behind everything the file held, where
// the file is extended ahead in large steps, or a freed one whose hole is durable (free-clusters.ts). So an allocating
// write transfers the guest's bytes only. Used under the metadata lock.

import { after, type HostCluster, type HostOffset, roundUp } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import { ImgfuseError, isHostFull } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import { type FreeClusters, RUNS_LOOKED_AT } from '../free-clusters.ts';
import type { FileEnd } from './file-end.ts';

/** The file grows by this much at a time; the rest is cut at a clean close and counts as leaked after a crash. */
const EXTEND_BYTES = 64 * 1024 * 1024;

export interface Allocation {
  /** host offset of the first cluster */
  readonly offset: HostOffset;
  /** adjoining clusters */
  readonly count: number;
}

/** What it wants of the format's sizes. */
export interface AllocatorGeometry {
  readonly clusterSize: number;
  /** clusters of an L2 table */
  readonly tableSizeClusters: number;
  clusterOf(offset: HostOffset): HostCluster;
  startOf(cluster: HostCluster): HostOffset;
}

export class Allocator {
  private readonly file: HostFile;
  private readonly geometry: AllocatorGeometry;
  private readonly numbers: FileEnd;
  private readonly free: FreeClusters;
  private readonly tracker: WriteTracker;

  constructor(
    file: HostFile,
    geometry: AllocatorGeometry,
    numbers: FileEnd,
    free: FreeClusters,
    tracker: WriteTracker,
  ) {
    this.file = file;
    this.geometry = geometry;
    this.numbers = numbers;
    this.free = free;
    this.tracker = tracker;
  }

  /** One to `count` adjoining clusters. Throws no-space or limit, and nothing has changed then. */
  allocate(count: number): Allocation {
    failpoint('cluster-allocate');
    return this.fromFree(count, false) ?? this.append(count, 1);
  }

  /** Exactly the adjoining clusters of one table, which reads as all entries unallocated. */
  allocateTable(): HostOffset {
    failpoint('cluster-allocate');
    const count = this.geometry.tableSizeClusters;
    const near = this.fromFree(count, true, RUNS_LOOKED_AT);
    if (near !== null) return near.offset;
    try {
      return this.append(count, count).offset;
    } catch (error) {
      const far = isHostFull(error) ? this.fromFree(count, true) : null;
      if (far === null) throw error;
      return far.offset;
    }
  }

  /**
   * Clusters whose last reference is gone, or which were never linked. They wait for two flushes (R5). A cluster that is not in
   * use turns the image read-only: another entry may still refer to it, and it must not be used again.
   */
  release(offset: HostOffset, count: number): void {
    try {
      this.free.markFreed(this.geometry.clusterOf(offset), count);
    } catch (error) {
      this.tracker.fail(error);
      throw error;
    }
  }

  /** Clusters that nobody has written to or linked since they were allocated: they still read as zeros. */
  giveBack(offset: HostOffset, count: number): void {
    const { free, geometry, numbers } = this;
    if (after(offset, count * geometry.clusterSize) === numbers.fileEnd) numbers.lowerFileEnd(offset);
    else free.markFree(geometry.clusterOf(offset), count);
  }

  /** Gives FREE clusters at the end back and sets the length of the file to what is in use. */
  trim(): void {
    const { numbers } = this;
    while (this.lowerEnd());
    const end = numbers.fileEnd;
    // a file that ends within its last cluster
    if (numbers.fileLength <= end) return;
    this.file.truncate(end);
    numbers.noteCut(end);
  }

  /** The same in short holds of the lock, which is not held. FREE clusters read as zeros, as those behind the end have to. */
  trimInPieces(lock: Mutex): void {
    while (lock.run(() => this.lowerEnd())) lock.giveWay();
    lock.run(() => this.trim());
  }

  /** @returns whether clusters were given back, so that there may be more */
  private lowerEnd(): boolean {
    const { free, geometry, numbers } = this;
    const before = numbers.fileEnd;
    const end = geometry.startOf(free.cutTail(geometry.clusterOf(before)));
    numbers.lowerFileEnd(end);
    return end < before;
  }

  private fromFree(count: number, exactly: boolean, mostRuns?: number): Allocation | null {
    const run = this.free.take(count, exactly, mostRuns);
    if (run === null) return null;
    return { offset: this.geometry.startOf(run.start), count: run.end - run.start };
  }

  /** `count` clusters behind the last one in use, or as many as the host lets the file grow by, but not fewer than `least`. */
  private append(count: number, least: number): Allocation {
    const { numbers, geometry } = this;
    const offset = numbers.fileEnd;
    const got = Math.min(count, this.extend(count, least));
    numbers.advanceFileEnd(after(offset, got * geometry.clusterSize));
    return { offset, count: got };
  }

  /**
   * Extends the file ahead for `count` clusters. Near the host's limit of a file's size the step does not fit where a cluster
   * does, so it is halved until it fits, down to `least` clusters. @returns clusters from `fileEnd` to the end of the file
   */
  private extend(count: number, least: number): number {
    const { file, numbers } = this;
    const { clusterSize } = this.geometry;
    const start = numbers.fileEnd;
    const there = Math.max(0, Math.floor((numbers.fileLength - start) / clusterSize));
    if (there >= count) return there;
    const step = roundUp(start + count * clusterSize, Math.max(EXTEND_BYTES, clusterSize)) - start;
    const smallest = Math.max(least, there + 1);
    for (let clusters = Math.floor(step / clusterSize); ; clusters = Math.max(smallest, Math.floor(clusters / 2))) {
      const length = start + clusters * clusterSize;
      try {
        file.truncate(length);
      } catch (error) {
        if (error instanceof ImgfuseError && clusters > smallest) continue;
        if (there >= least) return there;
        throw error;
      }
      numbers.noteExtended(length);
      return clusters;
    }
  }
}
