// Changes of L2 entries: linking data clusters, and replacing links by "unallocated" or "zero". A missing L2 table is
// allocated and filled before the L1 entry that shows it, so a crash in between leaves a leak and never a wrong entry: the
// new table reads as zeros until its entries arrive. Used under the metadata lock, with the dirty bit already set.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import type { PendingLink, PendingLinks } from '../mapped/pending-links.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import type { QedNumbers } from './state.ts';
import type { Tables } from './table.ts';

export class Linker {
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly mapper: Mapper;
  private readonly allocator: Allocator;
  private readonly tracker: WriteTracker;
  private readonly pending: PendingLinks;
  private readonly l1Table: HostOffset;
  private readonly numbers: Pick<QedNumbers, 'noteZeroEntries'>;

  constructor(
    l1Table: HostOffset,
    geometry: Geometry,
    tables: Tables,
    mapper: Mapper,
    allocator: Allocator,
    tracker: WriteTracker,
    pending: PendingLinks,
    numbers: Pick<QedNumbers, 'noteZeroEntries'>,
  ) {
    this.l1Table = l1Table;
    this.geometry = geometry;
    this.tables = tables;
    this.mapper = mapper;
    this.allocator = allocator;
    this.tracker = tracker;
    this.pending = pending;
    this.numbers = numbers;
  }

  /** Clusters from `guestCluster` on that one store can change: they share a slice of one L2 table. */
  span(guestCluster: GuestCluster): number {
    return this.tables.entriesInSlice(this.geometry.l2IndexOf(guestCluster));
  }

  /** Links adjoining guest clusters to adjoining host clusters. @returns how many; less than `count` at the end of a slice */
  link(guestCluster: GuestCluster, host: HostOffset, count: number): number {
    const part = Math.min(count, this.span(guestCluster));
    this.storeEntries(guestCluster, part, host, this.geometry.clusterSize);
    return part;
  }

  /** Links clusters of one slice that waited among the first `count` entries. */
  linkSlice(links: readonly PendingLink[], count: number): void {
    const { guestCluster: first } = links[0]!;
    const index = this.geometry.l2IndexOf(first);
    this.storeIn(this.geometry.l1IndexOf(first), (table) => this.tables.storeLinks(table, index, links));
    for (const { guestCluster } of links) this.pending.drop(guestCluster, count);
  }

  /** Sets `count` entries, which lie in one slice, to the same value (0 or 1). */
  replace(guestCluster: GuestCluster, count: number, entry: number): void {
    this.storeEntries(guestCluster, count, entry, 0);
  }

  /** Removes a whole L2 table: its L1 entry becomes 0. The caller has dealt with what the table referred to. */
  removeTable(l1Index: number): void {
    const table = this.mapper.l2Table(l1Index);
    assert(table !== 0, 'an L2 table that is removed exists');
    this.tracker.writeMetadata('l1-update', () => this.tables.store(this.l1Table, l1Index, 1, 0, 0));
    this.tables.forget(table);
    this.allocator.release(table, this.geometry.tableSizeClusters);
  }

  /** Makes an L1 entry refer to a copy of its table, which is durable, and frees the old one. */
  moveTable(l1Index: number, copy: HostOffset): void {
    const table = this.mapper.l2Table(l1Index);
    this.tracker.writeMetadata('l1-update', () => this.tables.store(this.l1Table, l1Index, 1, copy, 0));
    this.tables.forget(table);
    this.allocator.release(table, this.geometry.tableSizeClusters);
  }

  private storeEntries(guestCluster: GuestCluster, count: number, first: number, step: number): void {
    const index = this.geometry.l2IndexOf(guestCluster);
    this.storeIn(this.geometry.l1IndexOf(guestCluster), (table) => this.tables.store(table, index, count, first, step));
  }

  /** Changes an L2 table by one store, and makes it first if there is none. */
  private storeIn(l1Index: number, store: (table: HostOffset) => void): void {
    const table = this.mapper.l2Table(l1Index);
    if (table !== 0) return this.tracker.writeMetadata('l2-update', () => store(table));
    const created = this.allocator.allocateTable();
    this.numbers.noteZeroEntries();
    try {
      this.tracker.writeMetadata('l2-update', () => store(created));
      this.tracker.writeMetadata('l1-update', () => this.tables.store(this.l1Table, l1Index, 1, created, 0));
    } catch (error) {
      this.tables.forget(created);
      this.allocator.release(created, this.geometry.tableSizeClusters);
      throw error;
    }
  }
}
