// Changes of entries of the block allocation table: linking blocks, and giving them up. Used under the metadata lock.

import { after, type GuestCluster, type HostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Bitmaps } from './bitmaps.ts';
import type { Mapper } from './mapping.ts';
import { type Tables, UNUSED_ENTRY } from './table.ts';

export class Linker {
  private readonly tables: Tables;
  private readonly mapper: Mapper;
  private readonly tracker: WriteTracker;
  private readonly bitmaps: Pick<Bitmaps, 'drop'>;

  constructor(tables: Tables, mapper: Mapper, tracker: WriteTracker, bitmaps: Pick<Bitmaps, 'drop'>) {
    this.tables = tables;
    this.mapper = mapper;
    this.tracker = tracker;
    this.bitmaps = bitmaps;
  }

  /** Blocks from this one on that one store can change. */
  span(block: GuestCluster): number {
    return this.tables.span(block);
  }

  /** @param isFull its bitmap has all bits; else it has none yet */
  link(block: GuestCluster, host: HostOffset, isFull: boolean): void {
    this.tracker.writeMetadata('l2-update', () => this.tables.store(block, 1, host / SECTOR_BYTES));
    if (isFull) this.mapper.noteFull(block, true);
  }

  /** Blocks of one slice are not in the file any more. */
  unlink(block: GuestCluster, count: number): void {
    this.tracker.writeMetadata('l2-update', () => this.tables.store(block, count, UNUSED_ENTRY));
    for (let i = 0; i < count; i++) {
      this.bitmaps.drop(after(block, i));
      this.mapper.noteFull(after(block, i), false);
    }
  }
}
