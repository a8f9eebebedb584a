// Changes of grain tables, in both copies: linking grains, and replacing links by "unallocated" or "zeros". Used under the metadata
// lock, with the unclean mark set; the tables of grains that are linked exist already (grain-tables.ts).

import { after, type GuestCluster, type HostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { assert } from '../../../errors/index.ts';
import type { PendingLink, PendingLinks } from '../../mapped/pending-links.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import type { SecondTables } from './second-tables.ts';
import type { Tables } from './table.ts';

export class Linker {
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly mapper: Mapper;
  private readonly tracker: WriteTracker;
  private readonly pending: PendingLinks;
  private readonly second: SecondTables;

  constructor(
    geometry: Geometry,
    tables: Tables,
    mapper: Mapper,
    tracker: WriteTracker,
    pending: PendingLinks,
    second: SecondTables,
  ) {
    this.geometry = geometry;
    this.tables = tables;
    this.mapper = mapper;
    this.tracker = tracker;
    this.pending = pending;
    this.second = second;
  }

  /** Grains from `grain` on that one store of each copy can change. */
  span(grain: GuestCluster): number {
    const { geometry, mapper, tables } = this;
    const directoryIndex = geometry.directoryIndexOf(grain);
    const index = geometry.tableIndexOf(grain);
    const inTable = geometry.tableEntries - index;
    const table = mapper.table(directoryIndex);
    if (table === 0) return inTable;
    const redundant = mapper.redundantTable(directoryIndex);
    const inSecond = redundant === 0 ? inTable : tables.entriesInSlice(redundant, index);
    return Math.min(inTable, inSecond, tables.entriesInSlice(table, index));
  }

  /** Links adjoining grains of the disk to adjoining grains of the file. @returns how many; less than `count` at the end of a slice */
  link(grain: GuestCluster, host: HostOffset, count: number): number {
    const part = Math.min(count, this.span(grain));
    const index = this.geometry.tableIndexOf(grain);
    const step = this.geometry.grainBytes / SECTOR_BYTES;
    this.inBoth(grain, (table) => this.tables.store(table, index, part, host / SECTOR_BYTES, step));
    return part;
  }

  /** Links grains of one slice that waited among the first `count` entries. */
  linkSlice(links: readonly PendingLink[], count: number): void {
    const { guestCluster: first } = links[0]!;
    const index = this.geometry.tableIndexOf(first);
    this.inBoth(first, (table) => this.tables.storeLinks(table, index, links));
    for (const { guestCluster } of links) this.pending.drop(guestCluster, count);
  }

  /** Sets `count` entries of one table to UNALLOCATED or ZEROS. */
  replace(grain: GuestCluster, count: number, entry: number): void {
    for (let done = 0; done < count; ) {
      const start = after(grain, done);
      const part = Math.min(count - done, this.span(start));
      const index = this.geometry.tableIndexOf(start);
      this.inBoth(start, (table) => this.tables.store(table, index, part, entry, 0));
      done += part;
    }
  }

  private inBoth(grain: GuestCluster, store: (table: HostOffset) => void): void {
    const { mapper, second, tracker } = this;
    const directoryIndex = this.geometry.directoryIndexOf(grain);
    const table = mapper.table(directoryIndex);
    const redundant = mapper.redundantTable(directoryIndex);
    assert(table !== 0, 'the table of a grain that is linked exists');
    tracker.writeMetadata('l2-update', () => store(table));
    if (redundant !== 0) second.follow('l2-update', () => store(redundant));
  }
}
