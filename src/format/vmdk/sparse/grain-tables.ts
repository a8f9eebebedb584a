// Grain tables that come into being: where a directory entry is 0, the first write into what it maps needs a table, in both copies. It
// takes grains that read as zeros durably, so it says "unallocated" everywhere, before the directories lead to it. A crash on the way
// leaves a table that nothing refers to, or one in one directory only, which the next open copies.

import { type GuestCluster, type HostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import type { SecondTables } from './second-tables.ts';
import type { SparseNumbers } from './state.ts';
import type { Tables } from './table.ts';

export interface GrainTablesParts {
  readonly geometry: Geometry;
  readonly tables: Tables;
  readonly mapper: Mapper;
  readonly allocator: Allocator;
  readonly numbers: Pick<SparseNumbers, 'directoryOffset' | 'redundantOffset'>;
  readonly tracker: WriteTracker;
  readonly second: SecondTables;
}

export class GrainTables {
  private readonly parts: GrainTablesParts;

  constructor(parts: GrainTablesParts) {
    this.parts = parts;
  }

  /**
   * The table of a grain exists when it returns. The lock is held, and may be released meanwhile; the grain is reserved exclusively.
   * @throws no-space, and nothing has changed
   */
  ensure(grain: GuestCluster): void {
    const { allocator, geometry, mapper, numbers, second, tables, tracker } = this.parts;
    const directoryIndex = geometry.directoryIndexOf(grain);
    if (mapper.table(directoryIndex) !== 0) return;
    const { redundantOffset } = numbers;
    const bytes = geometry.tableBytes * (redundantOffset === 0 ? 1 : 2);
    const place = allocator.allocateBytes(bytes);
    try {
      // another request may have made it while the lock was released
      if (mapper.table(directoryIndex) !== 0) {
        this.giveBack(place, bytes);
        return;
      }
      tables.forget(place, bytes);
      const refer = (directory: HostOffset, at: number) =>
        tables.store(directory, directoryIndex, 1, at / SECTOR_BYTES, 0);
      tracker.writeMetadata('l1-update', () => refer(numbers.directoryOffset, place));
      if (redundantOffset === 0) return;
      second.follow('l1-update', () => refer(redundantOffset, place + geometry.tableBytes));
    } catch (error) {
      this.giveBack(place, bytes);
      throw error;
    }
  }

  private giveBack(place: HostOffset, bytes: number): void {
    const { allocator, geometry } = this.parts;
    allocator.release(place, Math.ceil(bytes / geometry.grainBytes));
  }
}
