// An open QED image: read, write, discard, resize, flush, close, and in them the order of the durability steps.
//
//   allocating write   dirty bit (durable) -> guest bytes into clusters that read as zeros -> L2 entries -> (new L2) L1 entry
//   the same over backing data (R6)   ... guest bytes -> [held back: fdatasync] -> L2 entries
//   discard            dirty bit (durable) -> L2 entries -> fdatasync -> punch -> fdatasync -> free for reuse (R5)
//
// The metadata lock is held while tables are looked at or changed and never while guest data moves (R1); each piece of a
// request holds a reservation of its guest clusters (R3): reserved-runs.ts.

import { type GuestOffset, guestOffset, hex, hostOffset } from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import { ImgfuseError, isHostFull } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { readBackingData } from '../backing.ts';
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
import { extentOf, StatusScan, statusOf } from '../status-scan.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { type Collaborators, connect } from './collaborators.ts';
import { type CompactParts, giveAwayRest, giveFreeClustersAway, moveIntoGaps, removeEmptyTables } from './compact.ts';
import { Deallocator } from './deallocate.ts';
import { describeHeader } from './header.ts';
import type { Run } from './mapping.ts';
import { resize } from './resize.ts';
import { QedScannedTables } from './scanned-tables.ts';
import type { QedState } from './state.ts';

/** Links are held back for at most this long (plus one turn of the maintenance thread): the window of R9. */
const HOLD_BACK_MS = 500;
/** The dirty bit is cleared after this long without an allocation. */
const IDLE_MS = 5000;

export class QedImage implements WritableImage {
  readonly format = 'qed';
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly backing: ReadableImage | null;
  readonly readOnly: boolean;
  readonly clusterSize: number;
  private readonly state: QedState;
  private readonly log: (sentence: string) => void;
  private readonly parts: Collaborators;
  private readonly runs: ReservedRuns<Run>;
  private readonly allocating: AllocatingWrite;
  private readonly deallocator: Deallocator;
  private readonly scan: StatusScan;
  private readonly copier: CopyUp | null;

  /** @param slot this thread's reservation slot @param log takes one sentence a call */
  constructor(
    file: HostFile,
    state: QedState,
    slot: number,
    backing: ReadableImage | null,
    log: (sentence: string) => void,
  ) {
    const { header } = state;
    const { clusterSize } = header;
    const { readOnly } = file;
    this.file = file;
    this.files = onlyFile(file);
    this.backing = backing;
    this.readOnly = readOnly;
    this.clusterSize = clusterSize;
    this.state = state;
    this.log = log;
    this.parts = connect(file, backing, state, slot, log);
    const { access, lock, mapper, reservations, tracker } = this.parts;
    this.runs = new ReservedRuns({
      ...{ readOnly, access, clusterSize, lock, reservations, mapper },
      mayShare: ({ status }) => status === 'data',
      readRun: this.readRun.bind(this),
      writeRun: this.writeRun.bind(this),
    });
    this.allocating = new AllocatingWrite(this.parts);
    const { geometry, pending, tables } = this.parts;
    this.scan = new StatusScan(
      new QedScannedTables(geometry, tables.slices, pending, mapper),
      new HostHoles(file),
      backing !== null,
    );
    this.deallocator = new Deallocator({ ...this.parts, write: this.write.bind(this) });
    this.copier =
      backing &&
      new CopyUp({
        ...{ backing, access, clusterSize, deallocator: this.deallocator, lock, reservations, mapper, tracker },
        write: (source, at, length, offset) => this.allocating.write(source, at, length, offset, false),
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
    this.runs.read(target, targetOffset, length, offset);
  }

  private readRun(run: Run, target: Uint8Array, targetOffset: number, offset: number): void {
    const { status, hostOffset: host, length } = run;
    if (status === 'data') {
      reach('data-read');
      const got = this.file.read(target, targetOffset, length, hostOffset(host));
      if (got === length) return;
      // the last cluster of a truncated copy; an image that is written to always has whole clusters
      if (!this.readOnly) throw this.beyondFile(host);
      target.fill(0, targetOffset + got, targetOffset + length);
    } else if (status === 'unallocated' && this.backing !== null) {
      readBackingData(this.backing, target, targetOffset, length, guestOffset(offset));
    } else {
      target.fill(0, targetOffset, targetOffset + length);
    }
  }

  write(source: Uint8Array, sourceOffset: number, length: number, offset: GuestOffset): void {
    this.parts.access.assertWritable();
    this.changing(() => this.runs.write(source, sourceOffset, length, offset));
  }

  /** Under the lock, which is released while data moves. @returns bytes written */
  private writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: number): number {
    const { status, hostOffset: host, length: part } = run;
    if (status !== 'data') return this.allocating.write(source, sourceOffset, part, offset, status === 'zero');
    this.parts.lock.unlock();
    reach('data-write');
    this.file.write(source, sourceOffset, part, hostOffset(host));
    return part;
  }

  map(offset: GuestOffset, length: number): Extent {
    return this.parts.lock.run(() => extentOf(offset, this.scan.scan(offset, length, 'extent'), true));
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.parts.lock.run(() => statusOf(this.scan.scan(offset, length, 'status')));
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.parts.lock.run(() => statusOf(this.scan.scan(offset, length, 'content')));
  }

  /** Clusters lose their links, whatever the host can. */
  canDiscard(): boolean {
    return !this.readOnly;
  }

  discard(offset: GuestOffset, length: number): void {
    this.writeZeroes(offset, length);
  }

  writeZeroes(offset: GuestOffset, length: number): void {
    this.parts.access.assertWritable();
    const size = this.virtualSize();
    this.parts.access.assertInside(offset, length, size);
    this.changing(() => this.deallocator.zero(offset, length, size));
  }

  preallocate(offset: GuestOffset, length: number): void {
    this.parts.access.assertWritable();
    this.parts.access.assertInside(offset, length, this.virtualSize());
    this.changing(() => {
      for (let at: number = offset; at < offset + length; ) at += this.allocating.preallocate(at, offset + length - at);
    });
  }

  copyUp(offset: number, length: number): void {
    this.parts.access.assertWritable();
    const { copier } = this;
    if (copier !== null) this.takingBackWhenFull(() => copier.run(offset, length));
  }

  resize(size: number): void {
    this.parts.access.assertWritable();
    this.takingBackWhenFull(() => resize({ ...this.parts, path: this.file.path, deallocator: this.deallocator }, size));
  }

  private changing(change: () => void): void {
    this.parts.tracker.noting(() => this.takingBackWhenFull(change));
  }

  /**
   * Runs a change of the guest's. Where the host lets the file grow no further, clusters that an idle image has given away are
   * taken back, and all of the change is done once more, which does no harm to what was done before.
   */
  private takingBackWhenFull(change: () => void): void {
    const { flush, free, lock, tracker } = this.parts;
    try {
      change();
    } catch (error) {
      if (!isHostFull(error) || lock.run(() => free.givenCount) === 0) throw error;
      this.deallocator.takeBackGiven();
      tracker.noteWrite();
      flush.runUntilSettled();
      change();
    }
  }

  flush(): void {
    if (!this.readOnly) this.parts.flush.run();
  }

  maintain(nowMs: number): void {
    if (this.readOnly || this.failure() !== null) return;
    const { overdue, idle } = this.parts.lock.run(() => ({
      overdue: this.parts.pending.oldestMs() <= nowMs - HOLD_BACK_MS,
      idle: this.parts.dirtyBit.isSet && this.parts.dirtyBit.idleMs(nowMs) >= IDLE_MS,
    }));
    if (idle) this.makeClean();
    else if (overdue) this.parts.flush.linkEarly();
  }

  makeClean(): void {
    if (this.readOnly) return;
    this.flush();
    if (!this.parts.dirtyBit.isSet) return;
    if (this.parts.lock.run(() => this.parts.free.unusedCount) > 0) {
      this.parts.flush.runUntilSettled();
      giveFreeClustersAway(this.parts);
      this.flush();
    }
    const { allocator, dirtyBit, free, pending, reservations } = this.parts;
    dirtyBit.clear(() => {
      if (reservations.othersExclusive() || !pending.isEmpty || free.unusedCount > 0) return false;
      allocator.trim();
      return true;
    });
  }

  close(): void {
    if (this.readOnly) return;
    this.makeClean();
    if (this.parts.lock.run(() => this.parts.free.unusedCount) > 0) this.compact();
    this.flush();
    if (!this.parts.dirtyBit.isSet) return;
    throw new ImgfuseError('io', `${this.file.path} stays marked as not clean; imgfuse check repairs it`, {
      path: this.file.path,
    });
  }

  /** The rest of a clean close: no cluster stays without an owner, which to other programs would be a leak. */
  private compact(): void {
    this.withAllReserved(removeEmptyTables);
    this.parts.flush.runUntilSettled();
    giveFreeClustersAway(this.parts);
    this.withAllReserved(moveIntoGaps);
    this.parts.flush.runUntilSettled();
    const leaked = this.withAllReserved(giveAwayRest);
    if (leaked > 0) this.log(`${this.file.path}: ${leaked} free clusters found no owner and stay as leaks`);
    this.parts.dirtyBit.clear(() => {
      this.parts.allocator.trim();
      return true;
    });
  }

  /** Runs `action` under the lock with the dirty bit set, when no request is in flight. */
  private withAllReserved<T>(action: (parts: CompactParts) => T): T {
    const { dirtyBit, reservations, tracker } = this.parts;
    return reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
      try {
        dirtyBit.set();
        return action(this.parts);
      } finally {
        tracker.noteWrite();
      }
    });
  }

  abandon(thread: number, slot: number): void {
    const { dirtyBit, lock, reservations, tracker } = this.parts;
    lock.abandon(thread);
    dirtyBit.abandon(thread);
    tracker.abandon(thread);
    reservations.abandon(slot);
  }

  details(): ImageDetails {
    return describeHeader(this.state.header, this.virtualSize(), this.parts.dirtyBit.isSet);
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }

  private beyondFile(host: number): ImgfuseError {
    return new ImgfuseError('corrupt', `${this.file.path}: the cluster at offset ${hex(host)} ends beyond the file`, {
      path: this.file.path,
      offset: host,
    });
  }
}
