// New clusters: counters first. A cluster is taken from what is free or from the end of the file, its counter is 1 before
// anything is written to it, and its link waits for the fdatasync that makes the counter durable; a crash in between
// leaves a leak. At the end of the file a few more are counted than are asked for, so that most requests write no counter.
// Refcount blocks and a larger refcount table are made on the way. Used under the metadata lock.

import { writeU64BE } from '../../bytes/endian.ts';
import { after, type GuestCluster, type HostCluster, type HostOffset, hostCluster } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError, isHostFull } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { NewCounters } from './counters/new-counters.ts';
import { NO_BLOCK, type Refcounts, writeCounter } from './counters/refcount.ts';
import type { UnreadFree } from './counters/unread-free.ts';
import { type Geometry, placeInDataFile, REFCOUNT_TABLE_ENTRY_BYTES } from './geometry.ts';
import { QCOW_MAX_REFTABLE_SIZE } from './header/header.ts';
import type { HeaderBits } from './header-bits.ts';
import type { MetadataClusters } from './metadata-clusters.ts';
import type { OverlapCheck } from './overlap.ts';
import type { Qcow2Numbers } from './state.ts';
import type { Tables } from './table.ts';

/** Counted ahead at the end of the file. A crash leaks them; close and an image without writers give them back. */
const AHEAD_BYTES = 4 * 1024 * 1024;

export interface Allocation {
  /** host offset of the first cluster */
  readonly offset: HostOffset;
  /** adjoining clusters */
  readonly count: number;
  /** they read as zeros, because nothing was ever there */
  readonly readsAsZeros: boolean;
}

export interface AllocatorParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly tables: Tables;
  readonly refcounts: Refcounts;
  readonly free: FreeClusters;
  readonly unread: UnreadFree;
  readonly tracker: WriteTracker;
  readonly numbers: Qcow2Numbers;
  readonly newCounters: NewCounters;
  readonly metadata: MetadataClusters;
  readonly headerBits: HeaderBits;
  readonly overlap: OverlapCheck;
}

export class Allocator {
  private readonly parts: AllocatorParts;

  constructor(parts: AllocatorParts) {
    this.parts = parts;
  }

  /** One to `count` adjoining clusters. Throws no-space or limit, and at worst a cluster has leaked then. */
  allocate(count: number): Allocation {
    failpoint('cluster-allocate');
    return this.unused(this.fromFree(count, false) ?? this.append(count, false));
  }

  /** Exactly `count` adjoining clusters. */
  allocateExactly(count: number): Allocation {
    failpoint('cluster-allocate');
    return this.unused(this.fromFree(count, true) ?? this.append(count, true));
  }

  private unused(allocation: Allocation): Allocation {
    this.parts.overlap.assertUnused(this.parts.geometry.clusterOf(allocation.offset), allocation.count);
    return allocation;
  }

  /** Clusters that were allocated and never linked: nothing refers to them, so they are free at once. */
  giveBack(offset: HostOffset, count: number): void {
    if (count === 0) return;
    const { geometry, metadata, refcounts, free, unread } = this.parts;
    const start = geometry.clusterOf(offset);
    unread.read(start, count);
    refcounts.setRun(start, count, 0);
    metadata.clear(start, count);
    free.markFree(start, count);
  }

  /** Clusters that are counted, and that nobody has asked for, are counted no longer. */
  giveBackAhead(): void {
    const { geometry, numbers, refcounts } = this.parts;
    const { start, end } = numbers.countedAhead;
    if (start === end) return;
    if (geometry.startOf(end) === numbers.fileEnd) {
      // the end of the file again, where new clusters read as zeros
      refcounts.setRun(start, end - start, 0);
      numbers.lowerFileEnd(geometry.startOf(start));
    } else this.giveBack(geometry.startOf(start), end - start);
    numbers.setCountedAhead({ start: end, end });
  }

  /** What a killed process had counted ahead lies behind the end of its file, where no check looks. */
  private giveBackBehindEnd(): void {
    const { geometry, numbers, refcounts } = this.parts;
    const first = geometry.clusterOf(numbers.fileEnd);
    let count = 0;
    while (refcounts.get(after(first, count)) !== 0) count++;
    if (count > 0) refcounts.setRun(first, count, 0);
  }

  /** Ends the file with the last cluster in use; a device keeps its length. @returns whether the file has another length now */
  trim(): boolean {
    const { file, geometry, numbers } = this.parts;
    this.giveBackBehindEnd();
    this.giveBackAhead();
    if (file.isDevice) return false;
    const end = geometry.startOf(this.cutTail(geometry.clusterOf(numbers.fileEnd)));
    numbers.lowerFileEnd(end);
    const length = file.size();
    if (length === end || (length < end && !this.complete(end))) return false;
    if (length > end) file.truncate(end);
    numbers.noteCut(end);
    return true;
  }

  /**
   * Other readers take a file that ends within its last cluster for one that was cut (7-Zip). One that nothing has changed stays as it
   * was found. @returns false if it stays as it is, which is an image as well: also if the host lets it grow no further
   */
  private complete(end: HostOffset): boolean {
    if (this.parts.tracker.isUntouched) return false;
    try {
      this.parts.file.truncate(end);
      return true;
    } catch (error) {
      if (isHostFull(error)) return false;
      throw error;
    }
  }

  /** Forgets free clusters at the end of a file of `clusters` clusters. @returns the clusters that are left */
  private cutTail(clusters: HostCluster): HostCluster {
    const { free, unread } = this.parts;
    for (let end = clusters; ; ) {
      if (end > 0) unread.read(hostCluster(end - 1), 1);
      const left = free.cutTail(end);
      if (left === end) return end;
      end = left;
    }
  }

  private fromFree(count: number, exactly: boolean): Allocation | null {
    const { free, geometry, refcounts, unread } = this.parts;
    let run = free.take(count, exactly);
    if (run === null && unread.readNext()) run = free.take(count, exactly);
    if (run === null) return null;
    try {
      refcounts.setRun(run.start, run.end - run.start, 1);
    } catch (error) {
      free.markFree(run.start, run.end - run.start);
      throw error;
    }
    return { offset: geometry.startOf(run.start), count: run.end - run.start, readsAsZeros: false };
  }

  private append(count: number, exactly: boolean): Allocation {
    const { geometry, numbers, refcounts } = this.parts;
    for (;;) {
      if (!exactly || count === 1) this.countAhead(count);
      const { start, end } = numbers.countedAhead;
      const counted = Math.min(count, end - start);
      if (counted > 0 && (!exactly || counted === count)) {
        numbers.setCountedAhead({ start: after(start, counted), end });
        return this.fresh(start, counted);
      }
      const offset = numbers.fileEnd;
      const first = geometry.clusterOf(offset);
      const room = geometry.refcountsPerBlock - (first % geometry.refcountsPerBlock);
      if (exactly && count > room) {
        this.ensureBlocks(first, count);
        if (numbers.fileEnd !== offset) continue;
      } else if (refcounts.blockOf(first) === NO_BLOCK) {
        this.addBlock();
        continue;
      }
      if (!exactly) continue;
      refcounts.setRun(first, count, 1);
      numbers.advanceFileEnd(geometry.startOf(after(first, count)));
      return this.fresh(first, count);
    }
  }

  /** Clusters behind all that the file has held: they read as zeros, unless one of them was about to be written before. */
  private fresh(start: HostCluster, count: number): Allocation {
    const { geometry, numbers } = this.parts;
    const offset = geometry.startOf(start);
    return { offset, count, readsAsZeros: offset >= numbers.neverUsed };
  }

  /**
   * Counts clusters at the end of the file, if there are fewer than `count` ahead and a block counts the next ones: what is asked
   * for and some more. They follow those that are there, or there are none.
   */
  private countAhead(count: number): void {
    const { geometry, numbers, refcounts } = this.parts;
    const ahead = numbers.countedAhead;
    const first = geometry.clusterOf(numbers.fileEnd);
    const missing = count - (ahead.end - ahead.start);
    if (missing <= 0 || (ahead.end > ahead.start && ahead.end !== first)) return;
    if (refcounts.blockOf(first) === NO_BLOCK) return;
    const room = geometry.refcountsPerBlock - (first % geometry.refcountsPerBlock);
    const more = Math.min(room, missing + Math.floor(AHEAD_BYTES / geometry.clusterSize));
    refcounts.setRun(first, more, 1);
    const end = after(first, more);
    numbers.advanceFileEnd(geometry.startOf(end));
    numbers.setCountedAhead({ start: ahead.end > ahead.start ? ahead.start : first, end });
  }

  /** Blocks for a run longer than one block counts; each new block moves the end of the file. */
  private ensureBlocks(first: HostCluster, count: number): void {
    const { geometry, refcounts } = this.parts;
    const last = after(first, count - 1);
    for (let cluster = first; cluster <= last; cluster = after(cluster, geometry.refcountsPerBlock)) {
      const missing = [cluster, last].find((counted) => refcounts.blockOf(counted) === NO_BLOCK);
      if (missing === undefined) continue;
      this.addBlockFor(missing);
      return;
    }
  }

  /** Clusters below `end` are about to be written: if that fails, they may hold anything when guest data gets them. */
  private noLongerFresh(end: HostCluster): void {
    const { geometry, numbers } = this.parts;
    numbers.noteUsed(geometry.startOf(end));
  }

  private addBlock(): void {
    this.addBlockFor(this.parts.geometry.clusterOf(this.parts.numbers.fileEnd));
  }

  /** A new refcount block for `cluster`, placed at the end of the file. The table shows it when it is durable (new-counters.ts). */
  private addBlockFor(cluster: HostCluster): void {
    const { file, geometry, headerBits, metadata, newCounters, numbers, refcounts, tables } = this.parts;
    headerBits.beforeCounters();
    const { clusterSize, refcountsPerBlock, refcountBits } = geometry;
    const blockIndex = Math.floor(cluster / refcountsPerBlock);
    if (blockIndex >= numbers.refcountTableEntries) {
      this.growTable(blockIndex + 1);
      return;
    }
    const host = numbers.fileEnd;
    const own = geometry.clusterOf(host);
    const content = new Uint8Array(clusterSize);
    const countsItself = Math.floor(own / refcountsPerBlock) === blockIndex;
    if (countsItself) setCounter(content, own % refcountsPerBlock, refcountBits, 1);
    else if (refcounts.blockOf(own) === NO_BLOCK) {
      this.addBlockFor(own);
      return;
    }
    tables.slices.forget(host, clusterSize);
    this.noLongerFresh(after(own, 1));
    file.write(content, 0, clusterSize, host);
    if (!countsItself) refcounts.setRun(own, 1, 1);
    numbers.advanceFileEnd(after(host, clusterSize));
    newCounters.addBlock(blockIndex, host);
    metadata.mark('refcount block', own, 1);
  }

  /**
   * A refcount table of at least `entries` entries, after new blocks that count themselves, the table and what follows.
   * The header shows it when all of it is durable (new-counters.ts); then the old table is released.
   */
  private growTable(entries: number): void {
    const { file, geometry, metadata, newCounters, numbers, refcounts, tables, tracker } = this.parts;
    const { clusterSize, refcountsPerBlock, refcountBits } = geometry;
    const oldEntries = numbers.refcountTableEntries;
    const oldOffset = numbers.refcountTableOffset;
    const start = geometry.clusterOf(numbers.fileEnd);
    const firstBlock = Math.floor(start / refcountsPerBlock);
    // blocks for a long run may be there ahead of it
    let firstNew = firstBlock;
    while (refcounts.blockOf(hostCluster(firstNew * refcountsPerBlock)) !== NO_BLOCK) firstNew++;
    let blocks = 1;
    let tableClusters = 1;
    for (;;) {
      const end = start + blocks + tableClusters;
      const neededBlocks = Math.max(1, Math.ceil(end / refcountsPerBlock) - firstNew);
      const wanted = Math.max(entries, firstNew + neededBlocks, Math.ceil(oldEntries * 1.5));
      const neededClusters = Math.ceil((wanted * REFCOUNT_TABLE_ENTRY_BYTES) / clusterSize);
      if (neededBlocks <= blocks && neededClusters <= tableClusters) break;
      blocks = Math.max(blocks, neededBlocks);
      tableClusters = Math.max(tableClusters, neededClusters);
    }
    const tableBytes = tableClusters * clusterSize;
    if (tableBytes > QCOW_MAX_REFTABLE_SIZE) {
      throw new ImgfuseError(
        'limit',
        `${file.path} cannot grow: its refcount table would have ${tableBytes} bytes and 8 MiB are the limit`,
        { path: file.path },
      );
    }
    const table = new Uint8Array(tableBytes);
    file.read(table, 0, oldEntries * REFCOUNT_TABLE_ENTRY_BYTES, oldOffset);
    const view = new DataView(table.buffer);
    const tableStart = after(start, blocks);
    const tableOffset = geometry.startOf(tableStart);
    const end = after(tableStart, tableClusters);
    this.noLongerFresh(end);
    for (let block = 0; block < blocks; block++) {
      const content = new Uint8Array(clusterSize);
      const counted = (firstNew + block) * refcountsPerBlock;
      for (let cluster = Math.max(start, counted); cluster < Math.min(end, counted + refcountsPerBlock); cluster++) {
        setCounter(content, cluster - counted, refcountBits, 1);
      }
      const at = geometry.startOf(after(start, block));
      tables.slices.forget(at, clusterSize);
      file.write(content, 0, clusterSize, at);
      writeU64BE(view, (firstNew + block) * REFCOUNT_TABLE_ENTRY_BYTES, at);
    }
    if (firstNew > firstBlock) {
      const shared = Math.min(end, firstNew * refcountsPerBlock) - start;
      refcounts.setRun(start, shared, 1);
    }
    tables.slices.forget(tableOffset, tableBytes);
    file.write(table, 0, tableBytes, tableOffset);
    numbers.advanceFileEnd(geometry.startOf(end));
    metadata.mark('refcount block', start, blocks);
    metadata.mark('refcount table', tableStart, tableClusters);
    newCounters.moveTable(tableOffset, tableBytes / REFCOUNT_TABLE_ENTRY_BYTES);
    tracker.noteWrite();
  }
}

/** Where the clusters of new guest data come from. */
export interface ClusterSource {
  /** One to `count` adjoining clusters for guest clusters from `guestCluster` on. Under the metadata lock. */
  allocate(guestCluster: GuestCluster, count: number): Allocation;
  /** Clusters that were allocated and never linked. */
  giveBack(offset: HostOffset, count: number): void;
}

/** The image file, where each cluster is counted. */
export function imageClusters(allocator: Allocator): ClusterSource {
  return {
    allocate: (_, count) => allocator.allocate(count),
    giveBack: (offset, count) => allocator.giveBack(offset, count),
  };
}

/**
 * An external data file: every guest cluster has one place of its own, which nobody counts. It may hold anything, such as what the
 * guest discarded.
 */
export function dataFileClusters(geometry: Geometry): ClusterSource {
  return {
    allocate: (guestCluster, count) => ({
      offset: placeInDataFile(geometry.startOf(guestCluster)),
      count,
      readsAsZeros: false,
    }),
    giveBack: () => undefined,
  };
}

function setCounter(block: Uint8Array, index: number, bits: number, value: number): void {
  writeCounter(block, Math.floor((index * bits) / 8), index, bits, value);
}
