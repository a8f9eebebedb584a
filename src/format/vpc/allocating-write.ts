// Writes where the image has no data yet. A new block reads as zeros. Without a parent it gets a full bitmap, and only that and the
// guest's bytes are written, without the lock, and the link follows: whichever is durable first, the guest finds old zeros or new
// data. Over the parent's data its bitmap has no bits, so it shows the parent whenever the link is durable; the bits of the sectors
// that were written are held back until a fdatasync has made these durable: a crash must not show zeros where the parent had older
// data (R6). Sectors that are missing in a block that is here get theirs in the same way.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  type HostOffset,
  roundDown,
  roundUp,
  SECTOR_BYTES,
} from '../../bytes/offsets.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import { readsAsZeros } from '../mapped/backing.ts';
import type { CowBuffer } from '../mapped/cow-buffer.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/space/full-host.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { Bitmaps } from './bitmaps.ts';
import type { Flush } from './flush.ts';
import { fullBitmap } from './full-bitmaps.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import { type Mapper, NO_BLOCK, type Run } from './mapping.ts';

/** Sectors [first, end) of a block. */
interface Sectors {
  readonly first: number;
  readonly end: number;
}

export interface AllocatingWriteParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly access: GuestAccess;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly bitmaps: Bitmaps;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly tracker: WriteTracker;
  readonly flush: Flush;
  readonly disk: Pick<DiskNumbers, 'addAllocated'>;
  readonly reusable: FullHostParts['reusable'];
  readonly cow: CowBuffer;
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;
  /** a full bitmap, and one without bits */
  private readonly ones: Uint8Array;
  private readonly none: Uint8Array;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
    this.ones = fullBitmap(parts.geometry.blockSize);
    this.none = new Uint8Array(this.ones.length);
  }

  /**
   * Writes into the first block of a run, which is not here, or into its sectors that are not; it is reserved exclusively, and the
   * lock is held, then and now. @returns bytes written
   */
  writeNewClusters(source: Uint8Array, sourceOffset: number, run: Run, offset: GuestOffset): number {
    const { geometry, lock } = this.parts;
    const block = geometry.blockOf(offset);
    const length = Math.min(run.length, geometry.startOf(block) + geometry.blockSize - offset);
    const present = run.status === 'unallocated' ? run.block : NO_BLOCK;
    if (present === NO_BLOCK) {
      reclaimingWhenFull(this.parts, 1, () => this.writeNewBlock(source, sourceOffset, length, offset));
      return length;
    }
    const sectors = this.sectorsOf(block, present, offset, length);
    lock.unlock();
    this.writeSectors(source, sourceOffset, length, offset, present, sectors);
    lock.lock();
    this.hold(block, present, sectors);
    return length;
  }

  /** When it throws the lock is held and nothing is linked that was not before. */
  private writeNewBlock(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    const { allocator, backing, bitmaps, file, geometry, linker, lock } = this.parts;
    const block = geometry.blockOf(offset);
    const start = geometry.startOf(block);
    const host = allocator.allocate();
    try {
      const sectors = this.sectorsOf(block, NO_BLOCK, offset, length);
      lock.unlock();
      const isOverZeros = readsAsZeros(backing, start, geometry.blockSize);
      // a flush has no room to find, because a bitmap without bits is written too
      this.writeBitmap(host, isOverZeros ? this.ones : this.none);
      if (isOverZeros) {
        failpoint('data-write');
        file.write(source, sourceOffset, length, after(host, geometry.bitmapBytes + offset - start));
      } else this.writeSectors(source, sourceOffset, length, offset, host, sectors);
      lock.lock();
      bitmaps.rewritten(host);
      // the bits come first: they are held back, and without an entry nobody asks for them
      if (!isOverZeros) this.hold(block, host, sectors);
      linker.link(block, host, isOverZeros);
    } catch (error) {
      if (!lock.held) lock.lock();
      bitmaps.drop(block);
      allocator.release(host);
      throw error;
    }
    this.parts.disk.addAllocated(1);
  }

  /** What a write takes of a block: bits of whole bytes, as far as these are clear. @param host NO_BLOCK for a new block */
  private sectorsOf(block: GuestCluster, host: HostOffset, offset: GuestOffset, length: number): Sectors {
    const { bitmaps, geometry } = this.parts;
    const inBlock = offset - geometry.startOf(block);
    const isClear = (sector: number): boolean => host === NO_BLOCK || !bitmaps.isHere(block, host, sector);
    let first = Math.floor(inBlock / SECTOR_BYTES);
    let end = Math.ceil((inBlock + length) / SECTOR_BYTES);
    const [low, high] = [roundDown(first, 8), Math.min(geometry.sectorsPerBlock, roundUp(end, 8))];
    while (first > low && isClear(first - 1)) first--;
    while (end < high && isClear(end)) end++;
    return { first, end };
  }

  /** The guest's bytes, and around them what their sectors had before; without the lock. */
  private writeSectors(
    source: Uint8Array,
    sourceOffset: number,
    length: number,
    offset: GuestOffset,
    host: HostOffset,
    { first, end }: Sectors,
  ): void {
    const { cow, geometry } = this.parts;
    const start = after(geometry.startOf(geometry.blockOf(offset)), first * SECTOR_BYTES);
    const place = after(host, geometry.bitmapBytes + first * SECTOR_BYTES);
    cow.writeAround(source, sourceOffset, length, offset, start, (end - first) * SECTOR_BYTES, place);
  }

  private writeBitmap(host: HostOffset, bits: Uint8Array): void {
    failpoint('data-write');
    this.parts.file.write(bits, 0, bits.length, host);
  }

  /**
   * Sectors of a block, which are written, are here once that is durable. The block is reserved exclusively; the lock is held, and
   * released where bits that wait have to make room first.
   */
  hold(block: GuestCluster, host: HostOffset, { first, end }: Sectors): void {
    const { bitmaps, flush, lock } = this.parts;
    while (!bitmaps.hasRoom()) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
    bitmaps.set(block, host, first, end, steadyMs());
  }

  /** Gives the blocks of a range that read as zeros a place in the file; leaves data, here or below, as it is. */
  preallocateFirst(offset: GuestOffset, length: number): number {
    const { access, backing, geometry, lock, mapper, reservations } = this.parts;
    const block = geometry.blockOf(offset);
    const start = geometry.startOf(block);
    return reservations.exclusively(block, block + 1, () => {
      // the disk may have become smaller while this waited
      access.assertInside(offset, length);
      const part = Math.min(length, geometry.blockSize - (offset - start));
      if (mapper.lookup(block) !== NO_BLOCK) return part;
      // the block stays reserved, so it stays what it is (R3)
      lock.unlock();
      const isZero = readsAsZeros(backing, start, geometry.blockSize);
      lock.lock();
      if (isZero) this.linkZeros(block, true);
      return part;
    });
  }

  /**
   * A block that is not here reads as zeros from now on, whatever the parent has; it is reserved exclusively and the lock is held.
   * No fdatasync comes between bitmap and link: without its bits the block shows what it showed before.
   */
  linkZeros(block: GuestCluster, takesSpace: boolean): void {
    reclaimingWhenFull(this.parts, 1, () => {
      const { allocator, bitmaps, disk, file, geometry, linker, lock } = this.parts;
      const host = allocator.allocate();
      try {
        lock.unlock();
        this.writeBitmap(host, this.ones);
        if (takesSpace) {
          failpoint('preallocate');
          file.allocateRange(host, geometry.blockBytes);
        }
        lock.lock();
        bitmaps.rewritten(host);
        linker.link(block, host, true);
      } catch (error) {
        if (!lock.held) lock.lock();
        allocator.release(host);
        throw error;
      }
      disk.addAllocated(1);
    });
  }
}
