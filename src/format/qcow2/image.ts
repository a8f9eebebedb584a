// An open qcow2 image: read, write, discard, flush, close. Order of the durability steps of a write that allocates:
//
//   counters of new clusters -> data, with copy-on-write around it -> fdatasync -> L1 entries of new L2 tables, L2 entries
//   -> fdatasync -> counters of what was replaced -> punch -> free for reuse (R5)
//
// so that a crash leaves leaks and nothing else. The metadata lock is held while tables are looked at or changed and never
// while guest data moves (R1); each piece of a request holds a reservation of its guest clusters (R3): reserved-runs.ts.

import { type GuestOffset, guestOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import type { HostFile } from '../../host/host-file.ts';
import { mapsAsZeros, readBackingData } from '../backing.ts';
import { CopyUp } from '../copy-up.ts';
import { HostHoles } from '../host-holes.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type ReadableImage,
  type SharedImage,
  type StatusRun,
  shareImage,
  type WritableImage,
} from '../image-format.ts';
import { ReservedRuns } from '../reserved-runs.ts';
import { RangeReader } from '../run-reader.ts';
import { extentOf, StatusScan, statusOf } from '../status-scan.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { dataFileClusters, imageClusters } from './cluster-source.ts';
import { type Collaborators, connect } from './collaborators.ts';
import { CompressedReader } from './compressed.ts';
import { Deallocator } from './deallocate.ts';
import { describeOpenImage } from './header/describe.ts';
import type { DataRun, Run } from './mapping.ts';
import { resize } from './resize.ts';
import { Qcow2ScannedTables } from './scanned-tables.ts';
import type { Qcow2State } from './state.ts';

const ZERO_SECTOR = new Uint8Array(SECTOR_BYTES); // a crash keeps or loses it as a whole

/** What an image has beside its own file. */
export interface Qcow2Files {
  readonly backing: ReadableImage | null;
  /** the file that holds the guest's data where the image file does not */
  readonly dataFile: HostFile | null;
}

export class Qcow2Image implements WritableImage {
  readonly format = 'qcow2';
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly backing: ReadableImage | null;
  private readonly dataFile: HostFile | null;
  readonly readOnly: boolean;
  readonly clusterSize: number;
  private readonly state: Qcow2State;
  private readonly parts: Collaborators;
  private readonly compressed: CompressedReader;
  private readonly runs: ReservedRuns<Run>;
  private readonly allocating: AllocatingWrite;
  private readonly deallocator: Deallocator;
  private readonly scan: StatusScan;
  private readonly copier: CopyUp<Run> | null;

  /** @param slot this thread's reservation slot @param log takes one sentence a call */
  constructor(
    file: HostFile,
    state: Qcow2State,
    slot: number,
    { backing, dataFile }: Qcow2Files,
    log: (sentence: string) => void,
  ) {
    const { header } = state;
    const { dataFileRaw, hasDataFile, version } = header;
    const { readOnly } = file;
    this.parts = connect(file, dataFile, state, slot, log);
    const { access, allocator, data, flush, geometry, linker, lock, mapper, headerBits, overlap } = this.parts;
    const { pending, reservations, reusable, tracker } = this.parts;
    const { clusterSize } = geometry;
    this.file = file;
    this.files = dataFile === null ? onlyFile(file) : [...onlyFile(file), { role: 'data', file: dataFile }];
    this.backing = backing;
    this.dataFile = dataFile;
    this.readOnly = readOnly;
    this.clusterSize = clusterSize;
    this.state = state;
    this.compressed = new CompressedReader(file, header.compressionType, header.clusterBits);
    const ranges = new RangeReader(lock, mapper, { readRun: this.readRun.bind(this) });
    this.runs = new ReservedRuns({
      ...{ readOnly, access, clusterSize, lock, reservations, mapper, ranges },
      writer: {
        isInPlace: (run, offset) => isInPlace(run) && data.isWhole(offset, run.length),
        writeRun: this.writeRun.bind(this),
      },
    });
    this.allocating = new AllocatingWrite({
      ...{ data, geometry, lock, linker, flush, headerBits, overlap, reusable },
      clusters: dataFile === null ? imageClusters(allocator) : dataFileClusters(geometry),
      ranges,
      readsAsZeros: this.readsAsZeros.bind(this),
    });
    const { slices } = this.parts.tables;
    this.scan = new StatusScan(
      new Qcow2ScannedTables({ version, hasDataFile, geometry, slices, pending, mapper }),
      data.isEncrypted ? null : new HostHoles(dataFile ?? file),
      backing !== null,
    );
    const deallocator = new Deallocator({
      ...{
        data,
        hasDataFile,
        version,
        backing,
        geometry,
        lock,
        reservations,
        pending,
        mapper,
        linker,
        flush,
        overlap,
        headerBits,
        reusable,
      },
      isRaw: dataFileRaw && !data.isEncrypted,
      runs: this.runs,
    });
    this.deallocator = deallocator;
    this.copier =
      backing &&
      new CopyUp({
        ...{ backing, access, clusterSize, deallocator, lock, reservations, mapper, tracker },
        allocating: this.allocating,
      });
  }

  virtualSize(): number {
    return this.parts.numbers.virtualSizeOutsideLock();
  }

  allocatedBytes(): number {
    return this.parts.numbers.allocatedClustersOutsideLock() * this.clusterSize;
  }

  failure(): string | null {
    return this.parts.tracker.failure();
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    this.runs.readReserving(target, targetOffset, length, offset);
  }

  private readRun(run: Run, target: Uint8Array, targetOffset: number, offset: number): void {
    const { length } = run;
    if (run.status === 'data') {
      reach('data-read');
      this.parts.data.read(target, targetOffset, length, run.hostOffset, guestOffset(offset));
    } else if (run.status === 'compressed') {
      const cluster = this.compressed.read(run.high, run.low, offset);
      const inCluster = offset % this.clusterSize;
      target.set(cluster.subarray(inCluster, inCluster + length), targetOffset);
    } else if (run.status === 'unallocated' && this.backing !== null) {
      readBackingData(this.backing, target, targetOffset, length, guestOffset(offset));
    } else {
      target.fill(0, targetOffset, targetOffset + length);
    }
  }

  /** Known to read as zeros, from metadata alone; for a range that this thread has reserved. */
  private readsAsZeros(offset: number, length: number): boolean {
    return mapsAsZeros(this, offset, length);
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.parts.access.assertWritable();
    this.parts.tracker.noting(() => this.runs.writeReserving(source, sourceOffset, length, offset));
  }

  /** Under the lock, which is released while data moves. @returns bytes written */
  private writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: number): number {
    if (!isInPlace(run)) return this.allocating.writeNewClusters(source, sourceOffset, run, guestOffset(offset));
    const { hostOffset: host, length: part } = run;
    this.parts.overlap.assertData(host, part);
    this.parts.lock.unlock();
    reach('data-write');
    this.parts.data.write(source, sourceOffset, part, host, guestOffset(offset));
    return part;
  }

  /**
   * Clusters lose their links, whatever the host can. But version 2 has no zero clusters: over a backing file its zeros are
   * written, into new clusters as well. And clusters keep their places in a data file, which must punch them.
   */
  canDiscard(): boolean {
    const isWritten = this.state.header.version === 2 && this.backing !== null;
    return !this.readOnly && !isWritten && (this.dataFile?.punchesHoles() ?? true);
  }

  discard(offset: GuestOffset, length: number): void {
    this.writeZeroes(offset, length);
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.parts.access.assertWritable();
    const size = this.virtualSize();
    this.parts.access.assertInside(offset, length, size);
    this.parts.tracker.noting(() => this.deallocator.zero(offset, length, size));
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.parts.access.assertWritable();
    this.parts.access.assertInside(offset, length, this.virtualSize());
    this.parts.tracker.noting(() => {
      for (let at: number = offset; at < offset + length; ) at += this.preallocateFirst(at, offset + length - at);
    });
  }

  /**
   * Gives the cluster at `offset` a place, by a sector of zeros, where it has no data and reads as zeros. Nobody else can write
   * to the cluster meanwhile, or the zeros could come last. @returns bytes that need no more
   */
  private preallocateFirst(offset: number, length: number): number {
    const { clusterSize } = this;
    const { access, lock, mapper, reservations } = this.parts;
    const first = offset - (offset % clusterSize);
    return reservations.exclusively(first / clusterSize, first / clusterSize + 1, () => {
      const { status, length: part } = mapper.map(guestOffset(offset), length);
      const end = first + clusterSize - offset;
      // a subcluster with data has a whole cluster behind it
      if (status === 'data' || status === 'compressed') return Math.max(part, end);
      const inside = Math.min(clusterSize, access.virtualSize - first);
      lock.unlock();
      const isZero = this.readsAsZeros(first, inside);
      reach('preallocate');
      lock.lock();
      if (!isZero) return Math.min(part, end);
      const sector = offset - (offset % ZERO_SECTOR.length);
      const bytes = Math.min(ZERO_SECTOR.length, first + inside - sector);
      access.assertInside(sector, bytes);
      this.allocating.writeNewClusters(ZERO_SECTOR, 0, mapper.map(guestOffset(sector), bytes), guestOffset(sector));
      return end;
    });
  }

  copyUp(offset: GuestOffset, length: number): void {
    this.parts.access.assertWritable();
    this.copier?.run(offset, length);
  }

  resize(size: number): void {
    this.parts.access.assertWritable();
    const { file, backing, dataFile, deallocator } = this;
    const { cryptMethod, snapshotCount, version } = this.state.header;
    resize({ ...this.parts, file, backing, dataFile, deallocator, cryptMethod, snapshotCount, version }, size);
  }

  flush(): void {
    if (!this.readOnly) this.parts.flush.run();
  }

  map(offset: GuestOffset, length: number): Extent {
    const extent = this.parts.lock.run(() =>
      extentOf(offset, this.scan.scan(offset, length, 'extent'), !this.parts.data.isEncrypted),
    );
    return this.dataFile === null || extent.status !== 'data' ? extent : { ...extent, holder: this.dataFile };
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.parts.lock.run(() => statusOf(this.scan.scan(offset, length, 'status')));
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.parts.lock.run(() => statusOf(this.scan.scan(offset, length, 'content')));
  }

  maintain(nowMs: number): void {
    if (this.readOnly || this.failure() !== null) return;
    const overdue = this.parts.lock.run(
      () => this.parts.pending.isOverdue(nowMs) || this.parts.pendingTables.isOverdue(nowMs),
    );
    if (overdue) this.parts.flush.linkEarly();
  }

  makeClean(): void {
    if (this.readOnly) return;
    if (!this.parts.headerBits.isDirty) this.flush();
    else this.settle();
  }

  /** Carries everything out and clears the dirty bit, unless a request is on its way that will change counters. */
  private settle(): void {
    this.parts.flush.runUntilSettled();
    const { flush, headerBits, reservations } = this.parts;
    headerBits.clearDirty(() => !reservations.othersExclusive() && !flush.waitsLocked());
  }

  close(): void {
    if (this.readOnly) return;
    this.parts.flush.runUntilSettled();
    if (this.parts.lock.run(() => this.parts.allocator.trim())) this.parts.tracker.noteWrite();
    this.flush();
    this.parts.headerBits.clearDirty(() => true);
  }

  abandon(thread: number, slot: number): void {
    const { lock, headerBits, reservations, tracker } = this.parts;
    lock.abandon(thread);
    headerBits.abandon(thread);
    tracker.abandon(thread);
    reservations.abandon(slot);
  }

  details(): ImageDetails {
    const { isCorrupt, isDirty } = this.parts.headerBits;
    return describeOpenImage(this.state.header, {
      ...{ virtualSize: this.virtualSize(), clusterSize: this.clusterSize, isDirty, isCorrupt },
    });
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}

function isInPlace(run: Run): run is DataRun {
  return run.status === 'data' && run.copied;
}
