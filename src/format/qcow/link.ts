// Changes of L1 and L2 entries. Tables are made before anything links into them, in three steps, so that an L1 entry never leads
// to what is not durable: places are taken, a fdatasync makes them zeros in a file that is long enough, then the L1 entries are
// written. Used under the metadata lock.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import type { PendingLink, PendingLinks } from '../mapped/pending-links.ts';
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
  readonly tables: Tables;
  readonly tracker: WriteTracker;
}

/** L2 tables that no L1 entry leads to yet, by their L1 index. */
export type NewTables = Map<number, HostOffset>;

export class Linker {
  private readonly parts: LinkerParts;

  constructor(parts: LinkerParts) {
    this.parts = parts;
  }

  /** Clusters from this one on that one store can change: they share a slice of one L2 table. */
  span(cluster: GuestCluster): number {
    return this.parts.tables.span(cluster);
  }

  /** L1 indices of the first `count` waiting links whose L2 table does not exist. */
  missingTables(count: number): readonly number[] {
    const { geometry, mapper, pending } = this.parts;
    const indices = new Set<number>();
    for (const cluster of pending.indicesOfFirst(count)) indices.add(geometry.l1IndexOf(cluster as GuestCluster));
    return [...indices].filter((l1Index) => mapper.l2Table(l1Index) === 0);
  }

  /** Takes a place that reads as zeros, but that is not durable yet. Throws no-space, limit. */
  takeTable(): HostOffset {
    return this.parts.allocator.allocateTable();
  }

  /** The place is durable: an L1 entry leads to it from now on. */
  showTable(l1Index: number, table: HostOffset): void {
    const { tables, tracker } = this.parts;
    tables.forget(table);
    tracker.writeMetadata('l1-update', () => tables.storeL1(l1Index, table));
  }

  /** Gives up a table that no L1 entry leads to. */
  dropTable(table: HostOffset): void {
    const { allocator, geometry } = this.parts;
    allocator.release(table, geometry.tableSizeClusters);
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
