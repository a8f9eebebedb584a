// The second copy of directory and tables. It is written after the first one, which reads follow. Where the host is full by then the
// change has been made all the same: the second copy falls behind, which is remembered, and catches up before the extent is marked
// clean. A crash leaves copies that differ in an extent that is not clean, and the next open makes them equal. Used under the metadata
// lock, but for catchUp().

import { type HostOffset, hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { Failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import { isHostFull } from '../../../errors/index.ts';
import type { DiskNumbers } from '../../mapped/disk-numbers.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import { SECOND_BEHIND, type SparseNumbers } from './state.ts';
import type { Tables } from './table.ts';

export interface SecondTablesParts {
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly words: Int32Array;
  readonly tables: Tables;
  readonly mapper: Mapper;
  readonly allocator: Allocator;
  readonly disk: Pick<DiskNumbers, 'virtualSizeOutsideLock'>;
  readonly numbers: Pick<SparseNumbers, 'directoryOffset' | 'redundantOffset'>;
  readonly tracker: WriteTracker;
}

export class SecondTables {
  private readonly parts: SecondTablesParts;

  constructor(parts: SecondTablesParts) {
    this.parts = parts;
  }

  get isBehind(): boolean {
    return Atomics.load(this.parts.words, SECOND_BEHIND) === 1;
  }

  /** Writes to the second copy what the first one has already. @throws what leaves the disk unknown */
  follow(step: Failpoint, write: () => void): void {
    const { tracker, words } = this.parts;
    try {
      tracker.writeMetadata(step, write);
    } catch (error) {
      if (!isHostFull(error) || tracker.failure() !== null) throw error;
      Atomics.store(words, SECOND_BEHIND, 1);
    }
  }

  /** Makes the copies equal, table by table; the lock is not held. @throws no-space, and they stay as they are */
  catchUp(): void {
    const { disk, geometry, lock, words } = this.parts;
    // what falls behind from now on is not done by this
    Atomics.store(words, SECOND_BEHIND, 0);
    try {
      const count = Math.ceil(disk.virtualSizeOutsideLock() / geometry.tableCoverage);
      for (let index = 0; index < count; index++) {
        lock.run(() => this.catchUpTable(index));
        lock.giveWay();
      }
    } catch (error) {
      Atomics.store(words, SECOND_BEHIND, 1);
      throw error;
    }
  }

  private catchUpTable(index: number): void {
    const { geometry, mapper, numbers, tables, tracker } = this.parts;
    const table = mapper.table(index);
    if (table === 0 || tables.load(numbers.redundantOffset, index) * SECTOR_BYTES === table) return;
    const second = mapper.redundantTable(index) || this.makeSecond(index);
    for (let at = 0; at < geometry.tableEntries; ) {
      const count = Math.min(
        geometry.tableEntries - at,
        tables.entriesInSlice(table, at),
        tables.entriesInSlice(second, at),
      );
      const start = at;
      if (!tables.isSame(table, second, start, count)) {
        tracker.writeMetadata('l2-update', () => tables.copy(table, second, start, count));
      }
      at += count;
    }
  }

  /** @returns the place of a second table, which the second directory refers to now */
  private makeSecond(index: number): HostOffset {
    const { allocator, geometry, numbers, tables, tracker } = this.parts;
    const place = allocator.allocateBytes(geometry.tableBytes);
    tables.forget(place, geometry.tableBytes);
    const entry = place / SECTOR_BYTES;
    tracker.writeMetadata('l1-update', () => tables.store(numbers.redundantOffset, index, 1, entry, 0));
    return hostOffset(place);
  }
}
