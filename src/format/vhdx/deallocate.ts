// Ranges that shall read as zeros, and blocks given up: discard, write zeroes, and what lies behind the end of a smaller disk. Whole
// blocks lose their place, which is freed; parts of blocks, and all blocks of a fixed image, are zeroed where they are. Large ranges
// go sector by sector of the BAT, so that other requests are served in between.

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { ReservedRuns, RunWriter } from '../mapped/reserved-runs.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import { ZeroInPlace } from '../mapped/zero-in-place.ts';
import { zeroRange } from '../mapped/zero-range.ts';
import { PAYLOAD_BLOCK_NOT_PRESENT, PAYLOAD_BLOCK_ZERO } from './bat.ts';
import type { Geometry } from './geometry.ts';
import { MIB } from './header/fields.ts';
import type { Linker } from './link.ts';
import type { Mapper, Run } from './mapping.ts';

export interface DeallocatorParts {
  /** its blocks keep their places */
  readonly isFixed: boolean;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly disk: Pick<DiskNumbers, 'removeAllocated'>;
  readonly runs: ReservedRuns<Run>;
  readonly writer: RunWriter<Run>;
}

export class Deallocator {
  private readonly parts: DeallocatorParts;
  private readonly inPlace: ZeroInPlace<Run>;

  constructor(parts: DeallocatorParts) {
    this.parts = parts;
    this.inPlace = new ZeroInPlace({ ...parts, backing: null, clusterSize: parts.geometry.blockBytes });
  }

  /** [offset, offset + length) reads as zeros afterwards. @param diskEnd virtual size: its last block counts as whole */
  zero(offset: GuestOffset, length: number, diskEnd: number): void {
    if (this.parts.isFixed) {
      this.inPlace.zero(offset, offset + length);
      return;
    }
    zeroRange(offset, length, this.parts.geometry.blockBytes, diskEnd, {
      part: (start, end) => this.inPlace.zero(start, end),
      clusters: (first, count) => this.exclusively(first, count, (part) => this.unlink(first, part, false)),
    });
  }

  /** Blocks [first, end), which are behind the end of the disk, are not there any more. */
  cutOff(first: GuestCluster, end: number): void {
    this.forEachSector(first, end, (start, count) => this.unlink(start, count, true));
  }

  /** Entries of [first, end) that were behind the end of the disk at the open may say anything: from now on that nothing is there. */
  forget(first: GuestCluster, end: number): void {
    const { linker, mapper } = this.parts;
    this.forEachSector(first, end, (start, count) => {
      const changed = blocksFrom(start, count).filter((block) => mapper.stateOf(block) !== PAYLOAD_BLOCK_NOT_PRESENT);
      if (changed.length > 0) linker.setEach(changed, PAYLOAD_BLOCK_NOT_PRESENT);
    });
  }

  private forEachSector(first: GuestCluster, end: number, action: (first: GuestCluster, count: number) => void): void {
    for (let block = first; block < end; ) {
      const start = block;
      const done = this.exclusively(start, end - start, (count) => action(start, count));
      block = after(start, done);
    }
  }

  /** The rest of the block that a disk of `size` bytes ends in: in place, if it has data. */
  zeroBehindEnd(size: number): void {
    this.inPlace.zeroBehindEnd(size);
  }

  /** Runs `action` with the blocks of one sector of the BAT reserved exclusively, under the lock. @returns blocks done */
  private exclusively(first: GuestCluster, count: number, action: (count: number) => void): number {
    const { linker, lock, reservations } = this.parts;
    const part = lock.run(() => Math.min(count, linker.span(first)));
    reservations.exclusively(first, first + part, () => action(part));
    lock.giveWay();
    return part;
  }

  /** Blocks lose their places, and those are freed. @param isCut the entry of each becomes "not present", whatever it says */
  private unlink(first: GuestCluster, count: number, isCut: boolean): void {
    const { allocator, disk, geometry, linker, mapper } = this.parts;
    const changed: GuestCluster[] = [];
    const places: HostOffset[] = [];
    let withData = 0;
    for (const block of blocksFrom(first, count)) {
      const { hasData, place, state } = mapper.lookup(block);
      if (place !== null || (isCut && state !== PAYLOAD_BLOCK_NOT_PRESENT)) changed.push(block);
      if (place !== null) places.push(place);
      if (hasData) withData++;
    }
    if (changed.length === 0) return;
    failpoint('discard');
    // the blocks are reserved, and stay what they are while the lock is released
    linker.setEach(changed, isCut ? PAYLOAD_BLOCK_NOT_PRESENT : PAYLOAD_BLOCK_ZERO);
    for (const place of places) allocator.release(place, geometry.blockBytes / MIB);
    disk.removeAllocated(withData);
  }
}

function blocksFrom(first: GuestCluster, count: number): GuestCluster[] {
  return Array.from({ length: count }, (_, i) => after(first, i));
}
