// Changes of L1 and L2 entries. A table is made before anything links into it, in three steps, so that an L1 entry never leads to what
// is not durable: a write takes its place, a fdatasync makes it zeros in a file that is long enough, then the L1 entry is written. In
// between it waits in `pendingTables`, and only memory knows it. Used under the metadata lock.

import type { GuestCluster } from '../../bytes/offsets.ts';
import { NOT_PENDING, type PendingLink, type PendingLinks } from '../mapped/pending-links.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import type { Tables } from './table.ts';

export interface LinkerParts {
  readonly allocator: Allocator;
  readonly geometry: Geometry;
  readonly mapper: Mapper;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks<number>;
  readonly tables: Tables;
  readonly tracker: WriteTracker;
}

export class Linker {
  private readonly parts: LinkerParts;

  constructor(parts: LinkerParts) {
    this.parts = parts;
  }

  /** Clusters from this one on that one store can change: they share a slice of one L2 table. */
  span(cluster: GuestCluster): number {
    return this.parts.tables.span(cluster);
  }

  /**
   * Takes a place for the L2 table of an L1 entry unless there is a table, or one that waits. There is room in `pendingTables`.
   * @returns whether a place was taken @throws no-space, limit
   */
  holdTable(l1Index: number, nowMs: number): boolean {
    const { allocator, mapper, pendingTables } = this.parts;
    if (mapper.l2Table(l1Index) !== 0 || pendingTables.find(l1Index) !== NOT_PENDING) return false;
    pendingTables.add(l1Index, allocator.allocateTable(), nowMs);
    return true;
  }

  /** Gives back the place of a table that was taken in this hold of the lock. */
  dropTable(l1Index: number): void {
    const { allocator, geometry, pendingTables } = this.parts;
    allocator.giveBack(pendingTables.drop(l1Index), geometry.tableSizeClusters);
  }

  /** Writes the L1 entries of the first `count` waiting tables, whose places are durable. A table that nothing is linked to stays empty. */
  linkTables(count: number): void {
    const { pendingTables, tables, tracker } = this.parts;
    for (const { guestCluster: l1Index, hostOffset: table } of pendingTables.first(count)) {
      tables.forget(table);
      tracker.writeMetadata('l1-update', () => tables.storeL1(l1Index, table));
      pendingTables.drop(l1Index, count);
    }
    pendingTables.removeFirst(count);
  }

  /** Links clusters of one slice that waited among the first `count` entries; their table exists. */
  linkSlice(links: readonly PendingLink[], count: number): void {
    const { geometry, mapper, pending, tables, tracker } = this.parts;
    const { guestCluster } = links[0]!;
    const table = mapper.l2Table(geometry.l1IndexOf(guestCluster));
    tracker.writeMetadata('l2-update', () => tables.storeLinks(table, geometry.l2IndexOf(guestCluster), links));
    for (const link of links) pending.drop(link.guestCluster, count);
  }

  /** `count` clusters of one slice become unallocated. */
  clear(first: GuestCluster, count: number): void {
    const { geometry, mapper, tables, tracker } = this.parts;
    const table = mapper.l2Table(geometry.l1IndexOf(first));
    if (table === 0) return;
    tracker.writeMetadata('l2-update', () => tables.clear(table, geometry.l2IndexOf(first), count));
  }
}
