// Ranges that shall read as zeros, and blocks given up: discard, write zeroes, and what lies behind the end of a smaller disk. Whole
// blocks lose their place, which is freed; parts of blocks, and all blocks of a fixed image, are zeroed where they are. Over a parent a
// block that is given up is "zero" and never "not present", which would show the parent. Large ranges go sector by sector of the BAT, so
// that other requests are served in between.

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { ReadableImage } from '../image-format.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { ReservedRuns, RunWriter } from '../mapped/runs/reserved-runs.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import { ZeroInPlace } from '../mapped/zero-in-place.ts';
import { changeEachSlice, changeFirstSlice, zeroRange } from '../mapped/zero-range.ts';
import { PAYLOAD_BLOCK_NOT_PRESENT, PAYLOAD_BLOCK_PARTIALLY_PRESENT, PAYLOAD_BLOCK_ZERO } from './bat.ts';
import type { Bitmaps } from './bitmaps.ts';
import type { Geometry } from './geometry.ts';
import { MIB } from './header/fields.ts';
import type { Linker } from './link.ts';
import type { Mapper, Run } from './mapping.ts';

export interface DeallocatorParts {
  /** its blocks keep their places */
  readonly isFixed: boolean;
  readonly backing: ReadableImage | null;
  readonly bitmaps: Bitmaps;
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
    this.inPlace = new ZeroInPlace({ clusterSize: parts.geometry.blockBytes, ...parts });
  }

  /** [offset, offset + length) reads as zeros afterwards. @param diskEnd virtual size: its last block counts as whole */
  zero(offset: GuestOffset, length: number, diskEnd: number): void {
    if (this.parts.isFixed) {
      this.inPlace.zero(offset, offset + length);
      return;
    }
    zeroRange(offset, length, this.parts.geometry.blockBytes, diskEnd, {
      part: (start, end) => this.inPlace.zero(start, end),
      clusters: (first, count) =>
        changeFirstSlice(this.parts, first, count, (part) => this.unlink(first, part, PAYLOAD_BLOCK_ZERO)),
    });
  }

  /**
   * Whole blocks that are reserved exclusively read as zeros from now on; the lock is held, and may be released meanwhile.
   * @returns blocks done: none if the first one has a place
   */
  zeroReserved(first: GuestCluster, count: number): number {
    const { linker, mapper } = this.parts;
    const part = Math.min(count, linker.span(first));
    const blocks = blocksFrom(first, part);
    const others = blocks.findIndex((block) => mapper.stateOf(block) !== PAYLOAD_BLOCK_NOT_PRESENT);
    const done = others < 0 ? part : others;
    if (done > 0) this.unlink(first, done, PAYLOAD_BLOCK_ZERO);
    return done;
  }

  /** Blocks [first, end), which are behind the end of the disk, are not there any more. */
  cutOff(first: GuestCluster, end: number): void {
    const { geometry } = this.parts;
    changeEachSlice(this.parts, first, end, (start, count) => this.unlink(start, count, PAYLOAD_BLOCK_NOT_PRESENT));
    for (let chunk = geometry.chunksFor(first); chunk < geometry.chunksFor(end); chunk++) this.removeBitmap(chunk);
  }

  /** Blocks [first, end) show the parent again, which has the same bytes. */
  uncover(first: GuestCluster, end: number): void {
    const { geometry } = this.parts;
    changeEachSlice(this.parts, first, end, (start, count) =>
      this.unlink(start, count, PAYLOAD_BLOCK_NOT_PRESENT, false),
    );
    for (let chunk = geometry.chunkOf(first); chunk < geometry.chunksFor(end); chunk++) this.removeBitmap(chunk);
  }

  /** The bitmap of a chunk without a partially present block is given up. */
  private removeBitmap(chunk: number): void {
    const { allocator, geometry, linker, mapper, reservations } = this.parts;
    if (!mapper.hasParent) return;
    const first = geometry.firstBlockOf(chunk);
    const end = geometry.firstBlockOf(chunk + 1);
    reservations.exclusively(first, end, () => {
      const isUnused = (): boolean => {
        for (let block = first; block < end; block = after(block, 1)) {
          if (mapper.stateOf(block) === PAYLOAD_BLOCK_PARTIALLY_PRESENT) return false;
        }
        return true;
      };
      const place = linker.removeBitmap(chunk, isUnused);
      if (place !== null) allocator.release(place, 1);
    });
  }

  /** Entries of blocks [first, end) that were behind the end of the disk may say anything: from now on that nothing is there. */
  forget(first: GuestCluster, end: number): void {
    const { linker, mapper } = this.parts;
    changeEachSlice(this.parts, first, end, (start, count) => {
      const changed = blocksFrom(start, count).filter((block) => mapper.stateOf(block) !== PAYLOAD_BLOCK_NOT_PRESENT);
      if (changed.length > 0) linker.setEach(changed, PAYLOAD_BLOCK_NOT_PRESENT);
    });
  }

  /** The rest of the block that a disk of `size` bytes ends in: in place, where it has data. */
  zeroBehindEnd(size: number): void {
    this.inPlace.zeroBehindEnd(size);
  }

  /**
   * Blocks get the state "zero" or "not present", and lose their places, which are freed; writes nothing if that changes nothing.
   * @param isSeen the guest may see a difference
   */
  private unlink(first: GuestCluster, count: number, to: number, isSeen = true): void {
    const { allocator, bitmaps, disk, geometry, linker, mapper } = this.parts;
    // most of a large range
    if (mapper.areSettled(first, count, to)) return;
    const changed: GuestCluster[] = [];
    const places: HostOffset[] = [];
    let withData = 0;
    for (const block of blocksFrom(first, count)) {
      const { hasData, place, state } = mapper.lookup(block);
      // without a parent "zero" and "not present" read the same
      const isOther =
        to === PAYLOAD_BLOCK_ZERO ? mapper.hasParent && state === PAYLOAD_BLOCK_NOT_PRESENT : state !== to;
      if (place !== null || isOther) changed.push(block);
      if (place !== null) places.push(place);
      if (hasData) withData++;
    }
    if (changed.length === 0) return;
    failpoint('discard');
    // the blocks are reserved, and stay what they are while the lock is released
    linker.setEach(changed, to, { isSeen });
    for (const block of changed) bitmaps.drop(block);
    for (const place of places) allocator.release(place, geometry.blockBytes / MIB);
    disk.removeAllocated(withData);
  }
}

function blocksFrom(first: GuestCluster, count: number): GuestCluster[] {
  return Array.from({ length: count }, (_, i) => after(first, i));
}
