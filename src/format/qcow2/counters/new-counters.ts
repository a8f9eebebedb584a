// Refcount blocks, and a refcount table that has moved, that the file does not show yet. Memory uses them at once; the file shows
// them once they are durable, and no request waits for that: a round of the flush does it, before it links anything that they
// count. A crash before leaves clusters that nothing refers to and nothing counts.
//
//   request   block written, counting itself or counted by another         what is there of it is behind all that is used
//   round S   the block is durable (the fdatasync that the round begins with)
//         header -> refcount table, if that has moved; S
//             refcount table -> block; S                                   the clusters it counts leak
//             L1 and L2 entries                                            (flush.ts)

import type { HostOffset } from '../../../bytes/offsets.ts';
import { steadyMs } from '../../../concurrency/clock.ts';
import { assert } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { LINKS_PER_HOLD } from '../../mapped/link-pieces.ts';
import type { PendingLinks } from '../../mapped/pending-links.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import { type Geometry, REFCOUNT_TABLE_ENTRY_BYTES } from '../geometry.ts';
import { writeRefcountTableFields } from '../header/header.ts';
import type { Qcow2Numbers } from '../state.ts';
import type { Tables } from '../table.ts';
import type { DeferredDecrements } from './deferred-decrements.ts';

const NO_FLAGS = { high: 0, low: 0 } as const;

/** What a round shows: what waited when it began. */
export interface Unshown {
  readonly blocks: number;
  /** the refcount table in use, if the header shows another */
  readonly table: HostOffset | null;
}

export interface NewCountersParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly tables: Tables;
  readonly tracker: WriteTracker;
  readonly decrements: DeferredDecrements;
  /** number of the refcount table's entry -> the block */
  readonly newBlocks: PendingLinks<number>;
  readonly numbers: Qcow2Numbers;
}

export class NewCounters {
  private readonly parts: NewCountersParts;

  constructor(parts: NewCountersParts) {
    this.parts = parts;
  }

  /** The lock is held. */
  get isEmpty(): boolean {
    return this.parts.newBlocks.isEmpty && this.parts.numbers.isRefcountTableShown;
  }

  /**
   * A block is in use from now on; its content is written. The lock is held. There is room for it: a round shows all that wait,
   * between two rounds there are so many links at most that the smallest blocks, which count 64 clusters, are fewer, and an L1
   * table of 32 MiB in the smallest clusters needs 1024.
   */
  addBlock(index: number, host: HostOffset): void {
    const { newBlocks } = this.parts;
    assert(newBlocks.hasRoom(1), 'a round of the flush shows new refcount blocks before there are too many');
    newBlocks.add(index, host, steadyMs());
  }

  /** This refcount table is in use from now on; it is written, and so are the blocks that it adds. The lock is held. */
  moveTable(offset: HostOffset, entries: number): void {
    const { numbers } = this.parts;
    // one that the header never showed is no longer needed
    if (!numbers.isRefcountTableShown) this.release(numbers.refcountTableOffset, numbers.refcountTableEntries);
    numbers.moveRefcountTable(offset, entries);
  }

  /** What waits now; the lock is held. */
  unshown(): Unshown {
    const { newBlocks, numbers } = this.parts;
    return { blocks: newBlocks.count, table: numbers.isRefcountTableShown ? null : numbers.refcountTableOffset };
  }

  /**
   * Shows what waited before the last fdatasync, and makes that durable. Called by one thread at a time, without the lock.
   * @param hold runs a step under the lock
   */
  show({ blocks, table }: Unshown, hold: <T>(step: () => T) => T): void {
    const { newBlocks, numbers, tracker } = this.parts;
    if (blocks === 0 && table === null) return;
    let durable = table;
    for (let isDone = false; !isDone; ) {
      isDone = hold(() => {
        // it may have moved since, and then has to be durable before anything refers to it
        if (numbers.isRefcountTableShown) return this.showBlocks(blocks);
        if (numbers.refcountTableOffset === durable) this.showTable();
        durable = numbers.refcountTableOffset;
        return false;
      });
      tracker.sync();
    }
    hold(() => newBlocks.removeFirst(blocks));
  }

  private showTable(): void {
    const { file, geometry, numbers, tracker } = this.parts;
    const refcountTableOffset = numbers.refcountTableOffset;
    const refcountTableClusters = geometry.clustersFor(numbers.refcountTableEntries * REFCOUNT_TABLE_ENTRY_BYTES);
    tracker.writeMetadata('header-update', () =>
      writeRefcountTableFields(file, { refcountTableOffset, refcountTableClusters }),
    );
    const { offset, entries } = numbers.noteRefcountTableShown();
    this.release(offset, entries);
  }

  /** Some of the first `blocks`, counted by what the file shows or by themselves. @returns whether that was the rest */
  private showBlocks(blocks: number): boolean {
    const { geometry, newBlocks, numbers, tables } = this.parts;
    const waiting = newBlocks.first(blocks);
    const countedBy = (host: HostOffset): number => Math.floor(geometry.clusterOf(host) / geometry.refcountsPerBlock);
    const indices = new Set(waiting.map(({ guestCluster: index }) => index));
    const ready = waiting.filter(
      ({ guestCluster: index, hostOffset: host }) => countedBy(host) === index || !indices.has(countedBy(host)),
    );
    assert(waiting.length === 0 || ready.length > 0, 'a refcount block is counted by an earlier one');
    const next = ready.slice(0, LINKS_PER_HOLD);
    for (const { guestCluster: index, hostOffset: host } of next) {
      tables.storeEntry('refcount-update', { table: numbers.refcountTableOffset, index, flags: NO_FLAGS, host });
      // a later entry that fails must not hide that this one is in the file (R8)
      newBlocks.drop(index, blocks);
    }
    return next.length === waiting.length;
  }

  /** A refcount table is no longer shown, or never was. */
  private release(offset: HostOffset, entries: number): void {
    const { decrements, geometry } = this.parts;
    decrements.add(geometry.clusterOf(offset), geometry.clustersFor(entries * REFCOUNT_TABLE_ENTRY_BYTES));
  }
}
