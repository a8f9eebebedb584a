// Changes of entries of the block allocation table: linking blocks, and giving them up. Used under the metadata lock.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import { SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { PendingLink, PendingLinks } from '../mapped/pending-links.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Mapper } from './mapping.ts';
import { type Tables, UNUSED_ENTRY } from './table.ts';

export class Linker {
  private readonly tables: Tables;
  private readonly mapper: Mapper;
  private readonly tracker: WriteTracker;
  private readonly pending: PendingLinks;

  constructor(tables: Tables, mapper: Mapper, tracker: WriteTracker, pending: PendingLinks) {
    this.tables = tables;
    this.mapper = mapper;
    this.tracker = tracker;
    this.pending = pending;
  }

  /** Blocks from this one on that one store can change. */
  span(block: GuestCluster): number {
    return this.tables.span(block);
  }

  /** Links a block whose bitmap is full. */
  link(block: GuestCluster, host: HostOffset): void {
    this.tracker.writeMetadata('l2-update', () => this.tables.store(block, 1, host / SECTOR_BYTES));
    this.mapper.noteFull(block, true);
  }

  /** Links blocks of one slice that waited among the first `count` entries. */
  linkSlice(links: readonly PendingLink[], count: number): void {
    this.tracker.writeMetadata('l2-update', () => this.tables.storeLinks(links));
    for (const { guestCluster } of links) {
      this.pending.drop(guestCluster, count);
      this.mapper.noteFull(guestCluster, true);
    }
  }

  /** Blocks of one slice are not in the file any more. */
  unlink(block: GuestCluster, count: number): void {
    this.tracker.writeMetadata('l2-update', () => this.tables.store(block, count, UNUSED_ENTRY));
    for (let i = 0; i < count; i++) this.mapper.noteFull((block + i) as GuestCluster, false);
  }
}
