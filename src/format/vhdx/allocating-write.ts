// Writes where the image has no data yet. A new block reads as zeros, so where zeros were read before only the guest's bytes are
// transferred, without the lock, and its link follows. A block that another program has unmapped may have kept a place, of which
// nobody knows what it holds: it gets a new one, and the old one is freed.
//
// Over the parent's data a block is linked without bits first, and shows the parent. The bits of the sectors that were written are held back
// until a fdatasync has made these durable: a crash must not show zeros, or what lay there, in place of the parent's data (R6). A
// sector that is written in part gets the rest from the parent.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestOffset,
  type HostOffset,
  roundDown,
  roundUp,
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
import type { UnallocatedRun, ZeroRun } from '../mapped/runs/run-mapper.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import { type FullHostParts, reclaimingWhenFull } from '../mapped/space/full-host.ts';
import { PAYLOAD_BLOCK_FULLY_PRESENT, PAYLOAD_BLOCK_NOT_PRESENT } from './bat.ts';
import type { Bitmaps } from './bitmaps.ts';
import type { Flush } from './flush.ts';
import type { Geometry } from './geometry.ts';
import { MIB } from './header/fields.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { Session } from './session.ts';

/** Smaller sectors come over in groups of so many bytes: a page of the host, and whole bytes of a bitmap. */
const PAGE_BYTES = 4096;

/** Sectors [first, end) of the disk. */
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
  readonly session: Session;
  readonly disk: Pick<DiskNumbers, 'addAllocated' | 'virtualSizeOutsideLock'>;
  readonly flush: Flush;
  readonly reusable: FullHostParts['reusable'];
  readonly cow: CowBuffer;
}

export class AllocatingWrite {
  private readonly parts: AllocatingWriteParts;

  constructor(parts: AllocatingWriteParts) {
    this.parts = parts;
  }

  /**
   * Writes into the first block of a run without data, or into its sectors that are not here; it is reserved exclusively, the lock is held,
   * then and now. @returns bytes written
   */
  writeNewClusters(
    source: Uint8Array,
    sourceOffset: number,
    run: ZeroRun | UnallocatedRun,
    offset: GuestOffset,
  ): number {
    const { backing, file, geometry } = this.parts;
    const block = geometry.blockOf(offset);
    const inBlock = offset - geometry.startOf(block);
    const part = Math.min(run.length, geometry.blockBytes - inBlock);
    if (run.status === 'unallocated' && backing !== null && !this.isOverZeros(block)) {
      this.writeOverParent(source, sourceOffset, part, offset);
      return part;
    }
    this.link(block, (host) => {
      failpoint('data-write');
      file.write(source, sourceOffset, part, after(host, inBlock));
    });
    return part;
  }

  /**
   * Gives the first block of a range a place that reads as zeros, if it has none and reads as zeros. @param takesSpace the host reserves
   * its space @returns bytes done
   */
  preallocateFirst(offset: GuestOffset, length: number, takesSpace: boolean): number {
    const { access, geometry, mapper, reservations } = this.parts;
    const block = geometry.blockOf(offset);
    return reservations.exclusively(block, after(block, 1), () => {
      const part = Math.min(length, geometry.startOf(block) + geometry.blockBytes - offset);
      // the disk may have become smaller while this waited
      access.assertInside(offset, part);
      const { status } = mapper.map(offset, part);
      if (status === 'zero' || (status === 'unallocated' && this.isOverZeros(block))) this.linkZeros(block, takesSpace);
      return part;
    });
  }

  /**
   * A block without data, nothing of which the guest has to keep; it is reserved exclusively, so that it stays so while the lock is
   * released. A block that has a place is left as it is.
   */
  private isOverZeros(block: GuestCluster): boolean {
    const { backing, geometry, lock, mapper } = this.parts;
    if (mapper.stateOf(block) !== PAYLOAD_BLOCK_NOT_PRESENT) return false;
    if (backing === null) return true;
    lock.unlock();
    const isZero = readsAsZeros(backing, geometry.startOf(block), geometry.blockBytes);
    lock.lock();
    return isZero;
  }

  /** A block that is reserved exclusively; the lock is held. */
  private linkZeros(block: GuestCluster, takesSpace: boolean): void {
    const { file, geometry } = this.parts;
    this.link(block, (host) => {
      if (!takesSpace) return;
      failpoint('preallocate');
      file.allocateRange(host, geometry.blockBytes);
    });
  }

  private link(block: GuestCluster, fill: (host: HostOffset) => void): void {
    reclaimingWhenFull(this.parts, 1, () => this.attempt(block, fill));
  }

  /** When it throws the lock is held and nothing is linked. @param fill called without the lock */
  private attempt(block: GuestCluster, fill: (host: HostOffset) => void): void {
    const { allocator, disk, geometry, linker, lock, mapper, session } = this.parts;
    const blockUnits = geometry.blockBytes / MIB;
    // in the same hold as the allocation: while the headers name the log nobody cuts the file
    session.startLog();
    const host = allocator.allocateTable();
    const kept = mapper.keptPlace(block);
    try {
      lock.unlock();
      fill(host);
      lock.lock();
      linker.set(block, PAYLOAD_BLOCK_FULLY_PRESENT, host);
    } catch (error) {
      if (!lock.held) lock.lock();
      allocator.release(host, blockUnits);
      throw error;
    }
    disk.addAllocated(1);
    if (kept !== null) allocator.release(kept, blockUnits);
  }

  /** Sectors that only the parent has. */
  private writeOverParent(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    const { cow, geometry, lock, mapper } = this.parts;
    const { sectorBytes } = geometry;
    const block = geometry.blockOf(offset);
    if (mapper.stateOf(block) === PAYLOAD_BLOCK_NOT_PRESENT)
      reclaimingWhenFull(this.parts, 1, () => this.linkPartial(block));
    const place = mapper.lookup(block).place!;
    const { first, end } = this.sectorsOf(block, offset, length);
    const start = guestOffset(first * sectorBytes);
    lock.unlock();
    cow.writeAround(
      source,
      sourceOffset,
      length,
      offset,
      start,
      (end - first) * sectorBytes,
      after(place, start - geometry.startOf(block)),
    );
    lock.lock();
    this.hold(block, { first, end });
  }

  /** A block that has no entry shows the parent from a place of its own; reserved exclusively, the lock is held. */
  private linkPartial(block: GuestCluster): void {
    const { allocator, disk, geometry, linker, mapper, session } = this.parts;
    session.startLog();
    const host = allocator.allocateTable();
    let spare: HostOffset | null = null;
    let isUsed = false;
    try {
      if (!mapper.hasBitmap(block)) spare = allocator.allocate(1).offset;
      isUsed = linker.setPartial(block, host, spare);
    } catch (error) {
      allocator.release(host, geometry.blockBytes / MIB);
      if (spare !== null) allocator.release(spare, 1);
      throw error;
    }
    // another block of the chunk was faster
    if (spare !== null && !isUsed) allocator.release(spare, 1);
    disk.addAllocated(1);
  }

  /** What a write takes of a block: sectors of whole pages, as far as they are not here and lie on the disk. */
  private sectorsOf(block: GuestCluster, offset: GuestOffset, length: number): Sectors {
    const { bitmaps, disk, geometry, mapper } = this.parts;
    const { sectorBytes } = geometry;
    const bitmap = mapper.bitmapOf(block);
    const isClear = (sector: number): boolean => bitmaps.endOf(bitmap, sector, sector + 1, true) === sector;
    let first = bitmaps.sectorOf(offset);
    let end = Math.ceil((offset + length) / sectorBytes);
    const page = Math.max(1, PAGE_BYTES / sectorBytes);
    const low = roundDown(first, page);
    const high = Math.max(end, Math.min(roundUp(end, page), disk.virtualSizeOutsideLock() / sectorBytes));
    while (first > low && isClear(first - 1)) first--;
    while (end < high && isClear(end)) end++;
    return { first, end };
  }

  /**
   * Sectors of a partially present block, which are written, are here once that is durable. The block is reserved exclusively; the lock is
   * held, and released where bits that wait have to make room first.
   */
  private hold(block: GuestCluster, { first, end }: Sectors): void {
    const { bitmaps, flush, lock, mapper } = this.parts;
    while (!bitmaps.hasRoom(end - first)) {
      lock.unlock();
      flush.linkEarly();
      lock.lock();
    }
    bitmaps.set(mapper.bitmapOf(block), first, end, steadyMs());
  }
}
