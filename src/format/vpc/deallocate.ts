// Ranges that shall read as zeros, and blocks given up: discard, write zeroes, and what lies behind the end of a smaller disk. Without
// a parent a whole block loses its entry and is freed, if it lies on the grid of this image; else its data is punched where it is. Over
// a parent an unused entry would show the parent, so zeros are data: a block of zeros with a full bitmap.

import { after, type GuestCluster, type GuestOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from '../mapped/backing.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { ReservedRuns, RunWriter } from '../mapped/runs/reserved-runs.ts';
import { ZeroInPlace } from '../mapped/zero-in-place.ts';
import { changeEachSlice, changeFirstSlice, zeroRange } from '../mapped/zero-range.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { AllocatingWrite } from './allocating-write.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import { type Mapper, NO_BLOCK, type Run } from './mapping.ts';
import type { XenBatmap } from './xen-batmap.ts';

export interface DeallocatorParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly allocating: AllocatingWrite;
  readonly tracker: WriteTracker;
  readonly batmap: XenBatmap;
  readonly disk: Pick<DiskNumbers, 'removeAllocated'>;
  readonly runs: ReservedRuns<Run>;
  readonly writer: RunWriter<Run>;
}

export class Deallocator {
  private readonly parts: DeallocatorParts;
  private readonly inPlace: ZeroInPlace<Run>;

  constructor(parts: DeallocatorParts) {
    this.parts = parts;
    this.inPlace = new ZeroInPlace({ clusterSize: parts.geometry.blockSize, ...parts });
  }

  /** [offset, offset + length) reads as zeros afterwards. @param diskEnd virtual size: its last block counts as whole */
  zero(offset: GuestOffset, length: number, diskEnd: number): void {
    zeroRange(offset, length, this.parts.geometry.blockSize, diskEnd, {
      part: (start, end) => this.inPlace.zero(start, end),
      clusters: (first, count) => this.zeroBlocks(first, count),
    });
  }

  /** Blocks [first, end) read from the parent again. */
  uncover(first: GuestCluster, end: GuestCluster): void {
    this.cutOff(first, end);
  }

  /** Blocks [first, end) lose their entries, as those behind the end of the disk do. */
  cutOff(first: GuestCluster, end: GuestCluster): void {
    changeEachSlice(this.parts, first, end, (block, count) => this.unlink(block, count, true));
  }

  /**
   * Entries of blocks [first, end) behind the end of the disk, some of which are strays, say from now on that nothing is there. What they
   * lead to is not freed, because a block of the disk may lie there; the next open for writing finds what is unused.
   */
  forget(first: GuestCluster, end: GuestCluster): void {
    const { batmap, linker, mapper } = this.parts;
    changeEachSlice(this.parts, first, end, (block, count) => {
      const isSet = Array.from({ length: count }, (_, i) => mapper.isEntrySet(after(block, i))).includes(true);
      if (!isSet) return;
      if (batmap.clear(block, count)) this.syncReserved();
      linker.unlink(block, count);
    });
  }

  /** The rest of the block that a disk of `size` bytes ends in: in place, where it has data. */
  zeroBehindEnd(size: number): void {
    this.inPlace.zeroBehindEnd(size);
  }

  /** Whole blocks, the first of `count`. @returns blocks done */
  private zeroBlocks(first: GuestCluster, count: number): number {
    return this.parts.backing === null
      ? changeFirstSlice(this.parts, first, count, (part) => this.unlink(first, part, false))
      : changeFirstSlice(this.parts, first, 1, () => this.zeroOverBacking(first));
  }

  /** A block that is reserved exclusively, whatever the parent has there; the lock is held, and may be released meanwhile. */
  private zeroOverBacking(block: GuestCluster): void {
    const { allocating, backing, file, geometry, lock, mapper } = this.parts;
    const start = geometry.startOf(block);
    const host = mapper.lookup(block);
    if (host === NO_BLOCK) {
      lock.unlock();
      const isZero = readsAsZeros(backing, start, geometry.blockSize);
      lock.lock();
      if (!isZero) allocating.linkZeros(block, false);
      return;
    }
    lock.unlock();
    failpoint('discard');
    file.punchHole(after(host, geometry.bitmapBytes), geometry.blockSize);
    lock.lock();
    // without its bit a sector shows the parent
    if (!mapper.isFull(block, host)) allocating.hold(block, host, { first: 0, end: geometry.sectorsPerBlock });
  }

  /** Blocks that are reserved exclusively become zeros over a parent; the lock is held. @returns blocks done */
  zeroReserved(first: GuestCluster): number {
    const { allocating, mapper } = this.parts;
    if (mapper.lookup(first) !== NO_BLOCK) return 0;
    allocating.linkZeros(first, false);
    return 1;
  }

  /**
   * Blocks of one slice lose their entries, and are freed. @param always false: a block off the grid keeps its place, which could
   * not be used again, and is punched there
   */
  private unlink(first: GuestCluster, count: number, always: boolean): void {
    const { allocator, batmap, disk, file, geometry, linker, lock, mapper } = this.parts;
    for (let i = 0; i < count; ) {
      let run = 0;
      const freed = [];
      while (i + run < count) {
        const host = mapper.lookup(after(first, i + run));
        if (host === NO_BLOCK || !(always || geometry.isOnGrid(host))) break;
        freed.push(host);
        run++;
      }
      if (run > 0) {
        failpoint('discard');
        const start = after(first, i);
        if (batmap.clear(start, run)) this.syncReserved();
        linker.unlink(start, run);
        for (const host of freed) allocator.release(host);
        disk.removeAllocated(freed.length);
        i += run;
        continue;
      }
      const host = mapper.lookup(after(first, i));
      if (host !== NO_BLOCK) {
        // the blocks stay reserved, so they stay where they are
        lock.unlock();
        failpoint('discard');
        file.punchHole(after(host, geometry.bitmapBytes), geometry.blockSize);
        lock.lock();
      }
      i++;
    }
  }

  /** fdatasync without the lock, which is held before and after. What was looked up of blocks that are reserved stays true (R3). */
  private syncReserved(): void {
    const { lock, tracker } = this.parts;
    lock.unlock();
    try {
      tracker.sync();
    } finally {
      lock.lock();
    }
  }
}
