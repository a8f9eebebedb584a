// Writes where the image has no data yet. A new block reads as zeros and gets a full bitmap, so without a parent only the guest's
// bytes and the bitmap are written, without the lock, and the link follows: whichever is durable first, the guest finds old zeros or
// new data. Over the parent's data the whole block is copied up, and its link is held back until a fdatasync has made it durable:
// a crash must not show zeros where the parent had older data (R6). A block of another program that is here in parts is completed
// first: what its bitmap lacks is filled in and made durable before the bitmap says so.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestOffset,
  type HostOffset,
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
import { type FullHostParts, reclaimingWhenFull } from '../mapped/full-host.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import { type Mapper, NO_BLOCK, type Run } from './mapping.ts';
import type { Tables } from './table.ts';

export interface AllocatingWriteParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly access: GuestAccess;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly pending: PendingLinks;
  readonly tables: Tables;
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
  /** a full bitmap */
  private readonly ones: Uint8Array;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
    const { bitmapBytes, sectorsPerBlock } = parts.geometry;
    this.ones = new Uint8Array(bitmapBytes);
    const whole = Math.floor(sectorsPerBlock / 8);
    this.ones.fill(0xff, 0, whole);
    if (sectorsPerBlock % 8 !== 0) this.ones[whole] = (0xff00 >>> (sectorsPerBlock % 8)) & 0xff;
  }

  /**
   * Writes into the first block of a run, which is not here, or into its sectors that are not; it is reserved exclusively, and the
   * lock is held, then and now. @returns bytes written
   */
  writeNewClusters(source: Uint8Array, sourceOffset: number, run: Run, offset: GuestOffset): number {
    const { geometry, lock, file } = this.parts;
    const block = geometry.blockOf(offset);
    const inBlock = offset - geometry.startOf(block);
    const length = Math.min(run.length, geometry.blockSize - inBlock);
    const present = run.status === 'unallocated' ? run.block : NO_BLOCK;
    if (present !== NO_BLOCK) {
      this.complete(block, present);
      lock.unlock();
      failpoint('data-write');
      file.write(source, sourceOffset, length, after(present, geometry.bitmapBytes + inBlock));
      lock.lock();
      return length;
    }
    reclaimingWhenFull(this.parts, 1, () => this.writeNewBlock(source, sourceOffset, length, offset));
    return length;
  }

  /** When it throws the lock is held and nothing is linked that was not before. */
  private writeNewBlock(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    const { allocator, backing, cow, file, geometry, linker, lock } = this.parts;
    const { bitmapBytes, blockSize } = geometry;
    const block = geometry.blockOf(offset);
    const start = geometry.startOf(block);
    const host = allocator.allocate();
    const data = after(host, bitmapBytes);
    try {
      lock.unlock();
      this.writeBitmap(host);
      const overBacking = !readsAsZeros(backing, start, blockSize);
      if (overBacking) {
        cow.writeAround(source, sourceOffset, length, offset, start, blockSize, data);
      } else {
        failpoint('data-write');
        file.write(source, sourceOffset, length, after(data, offset - start));
      }
      lock.lock();
      if (overBacking) this.hold(block, host);
      else linker.link(block, host);
    } catch (error) {
      if (!lock.held) lock.lock();
      allocator.release(host);
      throw error;
    }
    this.parts.disk.addAllocated(1);
  }

  private writeBitmap(host: HostOffset): void {
    failpoint('data-write');
    this.parts.file.write(this.ones, 0, this.ones.length, host);
  }

  /** Adds to the pending links; the list may have filled up again since room was made, so it is asked once more. */
  private hold(block: GuestCluster, host: HostOffset): void {
    const { flush, lock, pending } = this.parts;
    while (!pending.hasRoom(1)) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
    pending.add(block, host, steadyMs());
  }

  /**
   * Fills the sectors of a block that its bitmap lacks, and sets the bits once that is durable. The block is reserved exclusively;
   * the lock is held, is released meanwhile, and is held again.
   */
  complete(block: GuestCluster, host: HostOffset): void {
    const { cow, file, geometry, lock, mapper, tables, tracker } = this.parts;
    const { bitmapBytes, sectorsPerBlock } = geometry;
    if (mapper.isFull(block, host)) return;
    try {
      for (let sector = 0; sector < sectorsPerBlock; ) {
        const end = mapper.endOfBits(host, sector, sectorsPerBlock, true);
        const next = mapper.endOfBits(host, end, sectorsPerBlock, false);
        lock.unlock();
        const at = guestOffset(geometry.startOf(block) + end * SECTOR_BYTES);
        if (next > end) cow.copyOld((next - end) * SECTOR_BYTES, at, after(host, bitmapBytes + end * SECTOR_BYTES));
        lock.lock();
        sector = next;
      }
      lock.unlock();
      tracker.sync();
    } finally {
      if (!lock.held) lock.lock();
    }
    tracker.writeMetadata('l2-update', () => file.write(this.ones, 0, this.ones.length, host));
    tables.rewritten(host, bitmapBytes);
    mapper.noteFull(block, true);
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
      const { allocator, disk, file, geometry, linker, lock } = this.parts;
      const host = allocator.allocate();
      try {
        lock.unlock();
        this.writeBitmap(host);
        if (takesSpace) {
          failpoint('preallocate');
          file.allocateRange(host, geometry.blockBytes);
        }
        lock.lock();
        linker.link(block, host);
      } catch (error) {
        if (!lock.held) lock.lock();
        allocator.release(host);
        throw error;
      }
      disk.addAllocated(1);
    });
  }
}
