// An open qcow2 image: read, write, discard, flush, close. Order of the durability steps of a write that allocates:
//
//   counters of new clusters -> data, with copy-on-write around it -> fdatasync -> L1 entries of new L2 tables, L2 entries
//   -> fdatasync -> counters of what was replaced -> punch -> free for reuse (R5)
//
// so that a crash leaves leaks and nothing else. The metadata lock is held while tables are looked at or changed and never
// while guest data moves (R1); each piece of a request holds a reservation of its guest clusters (R3).

import { type GuestOffset, guestOffset, hex } from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import { EXCLUSIVE, Reservations, SHARED } from '../../concurrency/reservations.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { readBackingData, readsAsZeros } from '../backing.ts';
import { CopyUp } from '../copy-up.ts';
import { FreeClusters } from '../free-clusters.ts';
import type { Extent, Image, ImageDetails, SharedImage } from '../image-format.ts';
import { PendingLinks } from '../pending-links.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Allocator } from './allocate.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { CompressedReader } from './compressed.ts';
import { dataFileClusters, imageClusters } from './data-clusters.ts';
import { Deallocator } from './deallocate.ts';
import { Flush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { GuestData } from './guest-data.ts';
import { ImageMarks } from './image-marks.ts';
import { Linker } from './link.ts';
import { Mapper, type Run } from './mapping.ts';
import { MetadataClusters } from './metadata-clusters.ts';
import { OverlapCheck } from './overlap.ts';
import { Refcounts } from './refcount.ts';
import { Releases } from './releases.ts';
import { resize } from './resize.ts';
import { ALLOCATED_CLUSTERS, METADATA_LOCK, type Qcow2State, VIRTUAL_SIZE } from './state.ts';
import { Tables } from './table.ts';

/** Links are held back for at most this long (plus one turn of the maintenance thread): the window of R9. */
const HOLD_BACK_MS = 500;
const ZERO_SECTOR = new Uint8Array(512); // a crash keeps or loses it as a whole

export class Qcow2Image implements Image {
  readonly format = 'qcow2';
  readonly file: HostFile;
  readonly backing: Image | null;
  readonly dataFile: HostFile | null;
  readonly readOnly: boolean;
  readonly clusterSize: number;
  private readonly state: Qcow2State;
  private readonly geometry: Geometry;
  private readonly data: GuestData;
  private readonly numbers: Float64Array;
  private readonly lock: Mutex;
  private readonly reservations: Reservations;
  private readonly pending: PendingLinks;
  private readonly pendingTables: PendingLinks;
  private readonly releases: Releases;
  private readonly tracker: WriteTracker;
  private readonly marks: ImageMarks;
  private readonly metadata: MetadataClusters;
  private readonly overlap: OverlapCheck;
  private readonly mapper: Mapper;
  private readonly allocator: Allocator;
  private readonly flushing: Flush;
  private readonly allocating: AllocatingWrite;
  private readonly deallocator: Deallocator;
  private readonly copier: CopyUp | null;
  private readonly tables: Tables;
  private readonly compressed: CompressedReader;

  /** @param slot this thread's reservation slot @param log takes one sentence a call */
  constructor(
    file: HostFile,
    state: Qcow2State,
    slot: number,
    { backing, dataFile }: { readonly backing: Image | null; readonly dataFile: HostFile | null },
    log: (sentence: string) => void,
  ) {
    const { header } = state;
    this.file = file;
    this.backing = backing;
    this.dataFile = dataFile;
    this.readOnly = file.readOnly;
    this.state = state;
    const geometry = new Geometry(header.clusterBits, header.refcountOrder, header.extendedL2);
    this.geometry = geometry;
    const data = new GuestData(dataFile ?? file, state.volumeKey);
    this.data = data;
    this.clusterSize = geometry.clusterSize;
    const words = new Int32Array(state.words);
    const numbers = new Float64Array(state.numbers);
    this.numbers = numbers;
    const lock = new Mutex(words, METADATA_LOCK);
    this.lock = lock;
    const reservations = new Reservations(state.reservations, lock, slot);
    this.reservations = reservations;
    const pending = new PendingLinks(state.pending);
    this.pending = pending;
    const pendingTables = new PendingLinks(state.pendingTables);
    this.pendingTables = pendingTables;
    const releases = new Releases(state.releases);
    this.releases = releases;
    const free = new FreeClusters(state.free);
    const tracker = new WriteTracker(state.tracker, file, log, dataFile);
    this.tracker = tracker;
    const tables = new Tables(file, new TableCache(state.cache), tracker);
    this.tables = tables;
    const marks = new ImageMarks({ file, header, words, tracker, log });
    this.marks = marks;
    const metadata = new MetadataClusters(state.metadata);
    this.metadata = metadata;
    const overlap = new OverlapCheck(geometry, metadata, marks, dataFile !== null);
    this.overlap = overlap;
    const refcounts = new Refcounts({ geometry, tables, numbers, marks, overlap });
    const { version, hasDataFile } = header;
    const mapper = new Mapper({
      ...{ path: file.path, version, hasDataFile, geometry, tables, pending, pendingTables, numbers, marks },
    });
    this.mapper = mapper;
    const allocator = new Allocator({
      ...{ file, geometry, tables, refcounts, free, releases, tracker, numbers, metadata, marks, overlap },
    });
    this.allocator = allocator;
    const linker = new Linker({
      ...{ file, clusterBits: header.clusterBits, geometry, tables, mapper, allocator, pending, pendingTables },
      ...{ releases, numbers, metadata, overlap, hasDataFile },
    });
    const flush = new Flush({
      ...{ file, geometry, lock, tracker, pending, pendingTables, releases, refcounts, linker, free, metadata, log },
    });
    this.flushing = flush;
    this.allocating = new AllocatingWrite({
      ...{ data, geometry, lock, linker, flush, overlap },
      clusters: dataFile === null ? imageClusters(allocator) : dataFileClusters(geometry.clusterSize),
      readReserved: this.readReserved.bind(this),
      readsAsZeros: this.readsAsZeros.bind(this),
    });
    this.deallocator = new Deallocator({
      isRaw: header.dataFileRaw && !data.isEncrypted,
      ...{ data, hasDataFile, version, backing, geometry, lock, reservations, pending },
      ...{ mapper, linker, flush, overlap },
      write: this.write.bind(this),
    });
    this.copier =
      backing &&
      new CopyUp({
        ...{ backing, lock, reservations, mapper, tracker },
        ...{ clusterSize: this.clusterSize, deallocator: this.deallocator },
        virtualSize: () => numbers[VIRTUAL_SIZE]!,
        write: (source, at, length, offset) => this.allocating.write(source, at, mapper.map(offset, length), offset),
      });
    this.compressed = new CompressedReader(file, header.compressionType, header.clusterBits);
  }

  virtualSize(): number {
    return this.lock.run(() => this.numbers[VIRTUAL_SIZE]!);
  }

  allocatedBytes(): number {
    return this.lock.run(() => this.numbers[ALLOCATED_CLUSTERS]!) * this.clusterSize;
  }

  failure(): string | null {
    return this.tracker.failure();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    this.lock.lock();
    try {
      this.assertInside(offset, length);
      // a read-only image has no writers, so nothing to wait for
      if (!this.readOnly) this.reserve(offset, length, SHARED);
      this.readLocked(target, targetOffset, length, offset);
    } finally {
      if (!this.readOnly) this.reservations.release();
      this.lock.unlock();
    }
  }

  /** The lock is held, is released while data moves, and is held again on return, also when it throws. */
  private readLocked(target: Uint8Array, targetOffset: number, length: number, offset: number): void {
    try {
      for (let done = 0; done < length; ) {
        const { status, hostOffset: host, length: part, high, low } = this.mapper.map(offset + done, length - done);
        this.lock.unlock();
        this.readRun(status, host, high, low, target, targetOffset + done, part, offset + done);
        this.lock.lock();
        done += part;
      }
    } finally {
      if (!this.lock.held) this.lock.lock();
    }
  }

  /** For a request that holds its reservation, and not the lock. */
  private readReserved(target: Uint8Array, targetOffset: number, length: number, offset: number): void {
    this.lock.run(() => this.readLocked(target, targetOffset, length, offset));
  }

  private readRun(
    status: Run['status'],
    host: number,
    high: number,
    low: number,
    target: Uint8Array,
    targetOffset: number,
    length: number,
    offset: number,
  ): void {
    if (status === 'data') {
      reach('data-read');
      this.data.read(target, targetOffset, length, host, offset);
    } else if (status === 'compressed') {
      const cluster = this.compressed.read(high, low, offset);
      const inCluster = offset % this.clusterSize;
      target.set(cluster.subarray(inCluster, inCluster + length), targetOffset);
    } else if (status === 'unallocated' && this.backing !== null) {
      readBackingData(this.backing, target, targetOffset, length, guestOffset(offset));
    } else {
      target.fill(0, targetOffset, targetOffset + length);
    }
  }

  /** Known to read as zeros, from metadata alone; for a range that this thread has reserved. */
  private readsAsZeros(offset: number, length: number): boolean {
    for (let done = 0; done < length; ) {
      const { status, length: part } = this.map(guestOffset(offset + done), length - done);
      if (status === 'data') return false;
      if (status === 'unallocated' && this.backing !== null && !readsAsZeros(this.backing, offset + done, part))
        return false;
      done += part;
    }
    return true;
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
      const { length: part, hostOffset: host } = run;
      if (!isInPlace(run)) return this.allocating.write(source, sourceOffset, run, offset);
      this.overlap.assertData(host, part);
      this.lock.unlock();
      reach('data-write');
      this.data.write(source, sourceOffset, part, host, offset);
      return part;
    } finally {
      if (!this.lock.held) this.lock.lock();
      this.reservations.release();
      this.lock.unlock();
    }
  }

  /**
   * Maps the range and reserves its first run: shared where whole units are written in place, else exclusively. After a wait what was
   * mapped is void (R2), so it is mapped again with the reservation kept: giving it up and asking again would let two waiters
   * wait for each other for ever. @returns null when a shared reservation turns out not to be enough; the caller tries again
   */
  private reserveRun(offset: number, length: number): Run | null {
    this.assertInside(offset, length);
    const run = this.mapper.map(offset, length);
    const mode = isInPlace(run) && this.data.isWhole(offset, run.length) ? SHARED : EXCLUSIVE;
    const part = run.length;
    if (this.reserve(offset, part, mode)) return run;
    this.assertInside(offset, length);
    const again = this.mapper.map(offset, part);
    return mode === EXCLUSIVE || isInPlace(again) ? again : null;
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
    const { clusterSize } = this;
    for (let at: number = offset; at < offset + length; ) {
      const { status, length: part } = this.map(guestOffset(at), offset + length - at);
      const first = at - (at % clusterSize);
      const inside = Math.min(first + clusterSize, this.virtualSize()) - first;
      if (status === 'data' || !this.readsAsZeros(first, inside)) {
        // a subcluster with data has a whole cluster behind it
        at = status === 'data' ? Math.max(at + part, first + clusterSize) : Math.min(at + part, first + clusterSize);
        continue;
      }
      const sector = at - (at % ZERO_SECTOR.length);
      this.write(ZERO_SECTOR, 0, Math.min(ZERO_SECTOR.length, first + inside - sector), guestOffset(sector));
      at = first + clusterSize;
    }
    this.tracker.noteWrite();
  }

  copyUp(offset: number, length: number): void {
    this.assertWritable();
    this.copier?.run(offset, length);
  }

  resize(size: number): void {
    this.assertWritable();
    const { file, backing, dataFile, geometry, lock, reservations, tables, allocator, deallocator } = this;
    const { releases, tracker, numbers } = this;
    const { cryptMethod, snapshotCount, version } = this.state.header;
    resize(
      {
        ...{ file, backing, dataFile, geometry, lock, reservations, tables, allocator, deallocator, releases, tracker },
        ...{ numbers, flush: this.flushing, metadata: this.metadata, cryptMethod, snapshotCount, version },
      },
      size,
    );
  }

  flush(): void {
    if (!this.readOnly) this.flushing.run();
  }

  map(offset: GuestOffset, length: number): Extent {
    return this.lock.run(() => {
      const { status, hostOffset: host, length: part } = this.mapper.map(offset, length);
      if (status === 'compressed') return { start: offset, length: part, status: 'data' as const };
      return {
        start: offset,
        length: part,
        status,
        ...(status === 'data' && !this.data.isEncrypted ? { hostOffset: host } : {}),
      };
    });
  }

  maintain(nowMs: number): void {
    if (this.readOnly || this.failure() !== null) return;
    const overdue = this.lock.run(
      () => Math.min(this.pending.oldestMs(), this.pendingTables.oldestMs()) <= nowMs - HOLD_BACK_MS,
    );
    if (overdue) this.flushing.linkEarly();
  }

  makeClean(): void {
    if (this.readOnly) return;
    if (!this.marks.isDirty) this.flush();
    else this.settle();
  }

  /** Carries everything out and clears the dirty bit, unless a request is on its way that will change counters. */
  private settle(): void {
    this.flushing.runUntilSettled();
    this.lock.run(() => {
      if (this.reservations.othersExclusive() || this.flushing.waitsLocked()) return;
      this.marks.clearDirty();
    });
  }

  close(): void {
    if (this.readOnly) return;
    this.flushing.runUntilSettled();
    if (this.lock.run(() => this.allocator.trim())) this.tracker.noteWrite();
    this.flush();
    this.lock.run(() => this.marks.clearDirty());
  }

  details(): ImageDetails {
    const { backingName, backingFormat, specific } = this.state.header;
    const { lazyRefcounts } = this.state.header;
    const current = 'corrupt' in specific ? { 'lazy-refcounts': lazyRefcounts, corrupt: this.marks.isCorrupt } : {};
    return {
      format: 'qcow2',
      virtualSize: this.virtualSize(),
      clusterSize: this.clusterSize,
      dirty: this.marks.isDirty,
      ...(backingName === null
        ? {}
        : { backing: { name: backingName, ...(backingFormat === null ? {} : { format: backingFormat }) } }),
      specific: { ...specific, ...current },
    };
  }

  share(): SharedImage {
    return {
      format: this.format,
      file: this.file.share(),
      state: this.state,
      backing: this.backing?.share() ?? null,
      dataFile: this.dataFile?.share() ?? null,
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
    if (offset + length > this.numbers[VIRTUAL_SIZE]!) throw this.outside(offset, length);
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
}

function isInPlace(run: Run): boolean {
  return run.status === 'data' && run.copied;
}
