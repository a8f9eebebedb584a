// Ranges that shall read as zeros, and blocks given up: discard, write zeroes, and what lies behind the end of a smaller
// disk. Whole blocks lose their link and are freed; parts of blocks, and all blocks of a static image, are zeroed in place. Large
// ranges go slice by slice, so that other requests are served in between.

import { after, type GuestCluster, type GuestOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { ReadableImage } from '../image-format.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { ReservedRuns, RunWriter } from '../mapped/runs/reserved-runs.ts';
import { eachAdjoining } from '../mapped/space/adjoining.ts';
import { ZeroInPlace } from '../mapped/zero-in-place.ts';
import { changeEachSlice, changeFirstSlice, zeroRange } from '../mapped/zero-range.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import { VDI_IMAGE_BLOCK_FREE, VDI_IMAGE_BLOCK_ZERO } from './header.ts';
import type { Linker } from './link.ts';
import type { Mapper, Run } from './mapping.ts';
import type { ModifyUuid } from './modify-uuid.ts';

export interface DeallocatorParts {
  /** its blocks keep their places */
  readonly isStatic: boolean;
  readonly backing: ReadableImage | null;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly modifyUuid: ModifyUuid;
  readonly disk: Pick<DiskNumbers, 'removeAllocated'>;
  /** for zeros over a parent's data */
  readonly runs: ReservedRuns<Run>;
  readonly writer: RunWriter<Run>;
}

export class Deallocator {
  private readonly parts: DeallocatorParts;
  private readonly inPlace: ZeroInPlace<Run>;

  constructor(parts: DeallocatorParts) {
    this.parts = parts;
    this.inPlace = new ZeroInPlace({ clusterSize: parts.geometry.clusterSize, ...parts });
  }

  /** [offset, offset + length) reads as zeros afterwards. @param diskEnd virtual size: its last block counts as whole */
  zero(offset: GuestOffset, length: number, diskEnd: number): void {
    if (this.parts.isStatic) {
      this.inPlace.zero(offset, offset + length);
      return;
    }
    zeroRange(offset, length, this.parts.geometry.clusterSize, diskEnd, {
      part: (start, end) => this.inPlace.zero(start, end),
      clusters: (first, count) =>
        changeFirstSlice(this.parts, first, count, (part) => this.unlink(first, part, VDI_IMAGE_BLOCK_ZERO)),
    });
  }

  /** Guest blocks [first, end), which are behind the end of the disk, become free. */
  cutOff(first: GuestCluster, end: number): void {
    this.free(first, end, true);
  }

  /**
   * Guest blocks [first, end) become free, so that the parent shows through, which has the same bytes: children of this image find it
   * as they left it, and uuidModify stays.
   */
  uncover(first: GuestCluster, end: number): void {
    this.free(first, end, false);
  }

  private free(first: GuestCluster, end: number, isSeen: boolean): void {
    changeEachSlice(this.parts, first, end, (start, count) => this.unlink(start, count, VDI_IMAGE_BLOCK_FREE, isSeen));
  }

  /** The rest of the block that a disk of `size` bytes ends in: in place, if it has data. */
  zeroBehindEnd(size: number): void {
    this.inPlace.zeroBehindEnd(size);
  }

  /**
   * Whole blocks that are reserved exclusively read as zeros from now on; the lock is held, and may be released meanwhile.
   * @returns blocks done
   */
  zeroReserved(first: GuestCluster, count: number): number {
    const part = Math.min(count, this.parts.linker.span(first));
    this.unlink(first, part, VDI_IMAGE_BLOCK_ZERO);
    return part;
  }

  /**
   * Sets entries to `entry` and frees the blocks they led to; writes nothing if that changes nothing. @param isSeen the guest may see a
   * difference
   */
  private unlink(first: GuestCluster, count: number, entry: number, isSeen = true): void {
    const { allocator, backing, disk, linker, mapper, modifyUuid, pending } = this.parts;
    const indices: number[] = [];
    let changes = false;
    for (let i = 0; i < count; i++) {
      const present = mapper.lookup(after(first, i));
      if (present < VDI_IMAGE_BLOCK_ZERO) indices.push(present);
      // without a parent "free" and "discarded" are the same
      if (present < VDI_IMAGE_BLOCK_ZERO || (present !== entry && backing !== null)) changes = true;
    }
    if (!changes) return;
    failpoint('discard');
    // the blocks are reserved, and stay what they are while the lock is released
    if (isSeen) modifyUuid.change();
    linker.replace(first, count, entry);
    for (let i = 0; i < count; i++) pending.drop(after(first, i));
    eachAdjoining(indices, 1, (index, adjoining) => allocator.release(index, adjoining));
    disk.removeAllocated(indices.length);
  }
}
