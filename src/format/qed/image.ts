// An open QED image: read, write, discard, resize, flush, close, and in them the order of the durability steps.
//
//   allocating write   dirty bit (durable) -> guest bytes into clusters that read as zeros -> L2 entries -> (new L2) L1 entry
//   the same over backing data (R6)   ... guest bytes -> [held back: fdatasync] -> L2 entries
//   discard            dirty bit (durable) -> L2 entries -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//
// The metadata lock is held while tables are looked at or changed and never while guest data moves (R1); each piece of a
// request holds a reservation of its guest clusters (R3).

import { type GuestOffset, guestOffset, hex, hostOffset } from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import { EXCLUSIVE, Reservations, SHARED } from '../../concurrency/reservations.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { readBackingData } from '../backing.ts';
import { CopyUp } from '../copy-up.ts';
import { FreeClusters } from '../free-clusters.ts';
import type { Extent, ExtentStatus, Image, ImageDetails, SharedImage } from '../image-format.ts';
import { PendingLinks } from '../pending-links.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Allocator } from './allocate.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { type CompactParts, fillGaps, giveAwayRest, giveFreeClustersAway, removeEmptyTables } from './compact.ts';
import { Deallocator, type DeallocatorParts } from './deallocate.ts';
import { DirtyBit } from './dirty-bit.ts';
import { Flush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { describeHeader } from './header.ts';
import { Linker } from './link.ts';
import { Mapper, type Run } from './mapping.ts';
import { resize } from './resize.ts';
import { ALLOCATED_CLUSTERS, IMAGE_SIZE, METADATA_LOCK, type QedState } from './state.ts';
import { Tables } from './table.ts';

/** Links are held back for at most this long (plus one turn of the maintenance thread): the window of R9. */
const HOLD_BACK_MS = 500;
/** The dirty bit is cleared after this long without an allocation. */
const IDLE_MS = 5000;

export class QedImage implements Image {
  readonly format = 'qed';
  readonly file: HostFile;
  readonly backing: Image | null;
  readonly dataFile = null;
  readonly readOnly: boolean;
  readonly clusterSize: number;
  private readonly state: QedState;
  private readonly log: (sentence: string) => void;
  private readonly numbers: Float64Array;
  private readonly lock: Mutex;
  private readonly reservations: Reservations;
  private readonly pending: PendingLinks;
  private readonly free: FreeClusters;
  private readonly tracker: WriteTracker;
  private readonly dirtyBit: DirtyBit;
  private readonly mapper: Mapper;
  private readonly allocator: Allocator;
  private readonly linker: Linker;
  private readonly flushing: Flush;
  private readonly allocating: AllocatingWrite;
  private readonly deallocator: Deallocator;
  private readonly copier: CopyUp | null;
  private readonly parts: Omit<DeallocatorParts, 'write'>;

  /** @param slot this thread's reservation slot @param log takes one sentence a call */
  constructor(file: HostFile, state: QedState, slot: number, backing: Image | null, log: (sentence: string) => void) {
    const { header } = state;
    this.file = file;
    this.backing = backing;
    this.readOnly = file.readOnly;
    this.clusterSize = header.clusterSize;
    this.state = state;
    this.log = log;
    const geometry = new Geometry(header.clusterSize, header.tableSizeClusters);
    const words = new Int32Array(state.words);
    const numbers = new Float64Array(state.numbers);
    this.numbers = numbers;
    this.lock = new Mutex(words, METADATA_LOCK);
    this.reservations = new Reservations(state.reservations, this.lock, slot);
    this.pending = new PendingLinks(state.pending);
    this.free = new FreeClusters(state.free);
    this.tracker = new WriteTracker(state.tracker, file, log);
    this.dirtyBit = new DirtyBit(file, header, words, numbers, this.tracker);
    const tables = new Tables(file, new TableCache(state.cache), geometry);
    this.mapper = new Mapper(file.path, header, geometry, tables, this.pending, numbers);
    this.allocator = new Allocator(file, geometry, numbers, this.free);
    this.linker = new Linker(header.l1TableOffset, geometry, tables, this.mapper, this.allocator, this.tracker);
    this.flushing = new Flush(
      file,
      geometry,
      this.lock,
      this.tracker,
      this.pending,
      this.linker,
      this.free,
      numbers,
      log,
    );
    this.parts = {
      file,
      backing,
      geometry,
      lock: this.lock,
      reservations: this.reservations,
      pending: this.pending,
      mapper: this.mapper,
      linker: this.linker,
      allocator: this.allocator,
      dirtyBit: this.dirtyBit,
      numbers,
    };
    this.allocating = new AllocatingWrite({ ...this.parts, flush: this.flushing });
    this.deallocator = new Deallocator({ ...this.parts, write: this.write.bind(this) });
    this.copier =
      backing &&
      new CopyUp({
        ...{ backing, lock: this.lock, reservations: this.reservations, mapper: this.mapper, tracker: this.tracker },
        ...{ clusterSize: this.clusterSize, deallocator: this.deallocator },
        virtualSize: () => numbers[IMAGE_SIZE]!,
        write: (source, at, length, offset) => this.allocating.write(source, at, length, offset, false),
      });
  }

  virtualSize(): number {
    return this.lock.run(() => this.numbers[IMAGE_SIZE]!);
  }

  allocatedBytes(): number {
    return this.lock.run(() => this.numbers[ALLOCATED_CLUSTERS]!) * this.clusterSize;
  }

  failure(): string | null {
    return this.tracker.failure();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    let at: number = offset;
    const end = offset + length;
    this.lock.lock();
    try {
      this.assertInside(offset, length);
      // a read-only image has no writers, so nothing to wait for
      if (!this.readOnly) this.reserve(offset, length, SHARED);
      while (at < end) {
        const run = this.mapper.map(at, end - at);
        const { status, hostOffset: host, length: part } = run;
        this.lock.unlock();
        this.readRun(status, host, target, targetOffset + (at - offset), part, at);
        this.lock.lock();
        at += part;
      }
    } finally {
      if (!this.lock.held) this.lock.lock();
      if (!this.readOnly) this.reservations.release();
      this.lock.unlock();
    }
  }

  private readRun(
    status: ExtentStatus,
    host: number,
    target: Uint8Array,
    targetOffset: number,
    length: number,
    offset: number,
  ): void {
    if (status === 'data') {
      reach('data-read');
      const got = this.file.read(target, targetOffset, length, hostOffset(host));
      if (got < length) throw this.beyondFile(host);
    } else if (status === 'unallocated' && this.backing !== null) {
      readBackingData(this.backing, target, targetOffset, length, guestOffset(offset));
    } else {
      target.fill(0, targetOffset, targetOffset + length);
    }
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.assertWritable();
    this.noting(() => {
      for (let done = 0; done < length; ) {
        done += this.writePiece(source, sourceOffset + done, length - done, offset + done);
      }
    });
  }

  /** Writes the first run of one status. @returns bytes written */
  private writePiece(source: Uint8Array, sourceOffset: number, length: number, offset: number): number {
    this.lock.lock();
    try {
      const run = this.reserveRun(offset, length);
      if (run === null) return 0;
      const { status, hostOffset: host, length: part } = run;
      if (status !== 'data') return this.allocating.write(source, sourceOffset, part, offset, status === 'zero');
      this.lock.unlock();
      reach('data-write');
      this.file.write(source, sourceOffset, part, hostOffset(host));
      return part;
    } finally {
      if (!this.lock.held) this.lock.lock();
      this.reservations.release();
      this.lock.unlock();
    }
  }

  /**
   * Maps the range and reserves its first run: shared where it has data, else exclusively. After a wait what was mapped is
   * void (R2), so it is mapped again with the reservation kept: giving it up and asking again would let two waiters wait for
   * each other for ever. @returns null when a shared reservation turns out not to be enough; the caller tries again
   */
  private reserveRun(offset: number, length: number): Run | null {
    this.assertInside(offset, length);
    const run = this.mapper.map(offset, length);
    const mode = run.status === 'data' ? SHARED : EXCLUSIVE;
    const part = run.length;
    if (this.reserve(offset, part, mode)) return run;
    this.assertInside(offset, length);
    const again = this.mapper.map(offset, part);
    return mode === EXCLUSIVE || again.status === 'data' ? again : null;
  }

  map(offset: GuestOffset, length: number): Extent {
    return this.lock.run(() => {
      const run = this.mapper.map(offset, length);
      return {
        start: offset,
        length: run.length,
        status: run.status,
        ...(run.status === 'data' ? { hostOffset: run.hostOffset } : {}),
      };
    });
  }

  discard(offset: GuestOffset, length: number): void {
    this.writeZeroes(offset, length);
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.assertWritable();
    const size = this.virtualSize();
    if (offset + length > size) throw this.outside(offset, length);
    this.noting(() => this.deallocator.zero(offset, length, size));
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.assertWritable();
    if (offset + length > this.virtualSize()) throw this.outside(offset, length);
    this.noting(() => {
      for (let at: number = offset; at < offset + length; ) at += this.allocating.preallocate(at, offset + length - at);
    });
  }

  copyUp(offset: number, length: number): void {
    this.assertWritable();
    this.copier?.run(offset, length);
  }

  resize(size: number): void {
    this.assertWritable();
    resize(
      {
        ...this.parts,
        path: this.file.path,
        deallocator: this.deallocator,
        tracker: this.tracker,
        flush: this.flushing,
      },
      size,
    );
  }

  flush(): void {
    if (!this.readOnly) this.flushing.run();
  }

  maintain(nowMs: number): void {
    if (this.readOnly || this.failure() !== null) return;
    const { overdue, idle } = this.lock.run(() => ({
      overdue: this.pending.oldestMs() <= nowMs - HOLD_BACK_MS,
      idle: this.dirtyBit.isSet && this.dirtyBit.idleMs(nowMs) >= IDLE_MS,
    }));
    if (idle) this.makeClean();
    else if (overdue) this.flushing.linkEarly();
  }

  makeClean(): void {
    if (this.readOnly) return;
    this.flush();
    if (!this.dirtyBit.isSet) return;
    if (this.lock.run(() => this.free.unusedCount) > 0) {
      this.flushing.runUntilSettled();
      this.withAllReserved(giveFreeClustersAway);
      this.flush();
    }
    // short: everything big is durable already; what allocates meanwhile waits for the lock and sets the bit again
    this.lock.run(() => {
      if (this.reservations.othersExclusive() || !this.pending.isEmpty || this.free.unusedCount > 0) return;
      this.allocator.trim();
      this.dirtyBit.clear();
    });
  }

  close(): void {
    if (this.readOnly) return;
    this.makeClean();
    if (this.lock.run(() => this.free.unusedCount) > 0) this.compact();
    this.flush();
    if (!this.dirtyBit.isSet) return;
    throw new ImgfuseError('io', `${this.file.path} stays marked as not clean; imgfuse check repairs it`, {
      path: this.file.path,
    });
  }

  /** The rest of a clean close: no cluster stays without an owner, which to other programs would be a leak. */
  private compact(): void {
    this.withAllReserved(removeEmptyTables);
    this.flushing.runUntilSettled();
    this.withAllReserved(fillGaps);
    this.flushing.runUntilSettled();
    const leaked = this.withAllReserved(giveAwayRest);
    if (leaked > 0) this.log(`${this.file.path}: ${leaked} free clusters found no owner and stay as leaks`);
    this.lock.run(() => {
      this.allocator.trim();
      this.dirtyBit.clear();
    });
  }

  /** Runs `action` under the lock with the dirty bit set, when no request is in flight. */
  private withAllReserved<T>(action: (parts: CompactParts) => T): T {
    const { free, tracker } = this;
    return this.reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
      try {
        this.dirtyBit.set();
        return action({ ...this.parts, free, hasBacking: this.backing !== null, tracker });
      } finally {
        tracker.noteWrite();
      }
    });
  }

  details(): ImageDetails {
    return describeHeader(this.state.header, this.virtualSize(), this.dirtyBit.isSet);
  }

  share(): SharedImage {
    return {
      format: this.format,
      file: this.file.share(),
      state: this.state,
      backing: this.backing?.share() ?? null,
    };
  }

  private reserve(offset: number, length: number, mode: typeof SHARED | typeof EXCLUSIVE): boolean {
    return this.reservations.acquireBytes(offset, length, this.clusterSize, mode);
  }

  /** Runs a change; what it did before it failed waits for the next flush all the same. */
  private noting(change: () => void): void {
    try {
      change();
    } finally {
      this.tracker.noteWrite();
    }
  }

  private assertWritable(): void {
    if (this.readOnly)
      throw new ImgfuseError('read-only', `${this.file.path} is open read-only`, { path: this.file.path });
    this.tracker.assertWritable();
  }

  private assertInside(offset: number, length: number): void {
    if (offset + length > this.numbers[IMAGE_SIZE]!) throw this.outside(offset, length);
  }

  private outside(offset: number, length: number): ImgfuseError {
    return new ImgfuseError(
      'limit',
      `offset ${hex(offset + length)} is beyond the end of the disk in ${this.file.path}`,
      {
        path: this.file.path,
        offset,
      },
    );
  }

  private beyondFile(host: number): ImgfuseError {
    return new ImgfuseError('corrupt', `${this.file.path}: the cluster at offset ${hex(host)} ends beyond the file`, {
      path: this.file.path,
      offset: host,
    });
  }
}
