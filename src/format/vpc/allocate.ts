// New blocks and freed blocks. A new block always reads as zeros: it lies behind everything the file held, where the file is made
// longer in large steps, or it is a freed one whose hole is durable (free-clusters.ts). The footer stands at the end of the file at
// any time, so making it longer is a step of its own:
//
//   length, footer at the new end -> fdatasync -> what lay behind the last block is punched, the old footer with it -> fdatasync
//
// A crash on the way leaves the old end or the new one; at worst an end without a footer, which has its copy at offset 0. The second
// part is not needed where the old footer lies in the padding between two blocks. Used under the metadata lock, but for that step.

import { type HostOffset, hostCluster, hostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { isHostFull } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import { MAX_FILE_BYTES, tooLong } from '../mapped/space/room-end.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import { FOOTER_BYTES } from './header/footer.ts';
import type { VpcNumbers } from './state.ts';

/** The file grows by a quarter of what it has, at least and at most by this much; the rest is cut at a clean close. */
const LEAST_EXTEND_BYTES = 64 * 1024 * 1024;
const MOST_EXTEND_BYTES = 1024 * 1024 * 1024;

export class Allocator {
  private readonly file: HostFile;
  private readonly geometry: Geometry;
  private readonly lock: Mutex;
  private readonly numbers: VpcNumbers;
  private readonly free: FreeClusters;
  private readonly tracker: WriteTracker;
  private readonly footer: Uint8Array;

  /** @param footer the one that all threads share */
  constructor(
    file: HostFile,
    geometry: Geometry,
    lock: Mutex,
    numbers: VpcNumbers,
    free: FreeClusters,
    tracker: WriteTracker,
    footer: SharedArrayBuffer,
  ) {
    this.file = file;
    this.geometry = geometry;
    this.lock = lock;
    this.numbers = numbers;
    this.free = free;
    this.tracker = tracker;
    this.footer = new Uint8Array(footer);
  }

  /** A block that reads as zeros; the lock may be released meanwhile. Throws no-space or limit, and nothing has changed then. */
  allocate(): HostOffset {
    failpoint('cluster-allocate');
    while (!this.hasRoom()) {
      this.lock.unlock();
      try {
        this.tracker.betweenFlushes(() => this.extend(this.geometry.blockBytes));
      } finally {
        this.lock.lock();
      }
    }
    const run = this.free.take(1, true);
    return run === null ? this.append(this.geometry.blockBytes) : this.geometry.offsetOf(run.start);
  }

  /** Space behind all blocks that reads as zeros, for a table; without the lock. @returns its offset */
  allocateBytes(bytes: number): HostOffset {
    for (;;) {
      const found = this.lock.run(() => (this.hasRoomFor(bytes) ? this.append(bytes) : null));
      if (found !== null) return found;
      this.tracker.betweenFlushes(() => this.extend(bytes));
    }
  }

  /** The place behind everything in use, where there is room for it. */
  private append(bytes: number): HostOffset {
    const host = this.geometry.nextOnGrid(this.numbers.fileEnd);
    this.numbers.advanceFileEnd(host + bytes);
    return host;
  }

  /** A block whose entry is gone, or which was never linked. It waits for two flushes (R5), unless it lies off the grid. */
  release(host: HostOffset): void {
    if (!this.geometry.isOnGrid(host)) return;
    try {
      this.free.markFreed(this.geometry.placeOf(host), 1);
    } catch (error) {
      this.tracker.fail(error);
      throw error;
    }
  }

  /** Blocks that can be used without a longer file. */
  private hasRoom(): boolean {
    return this.free.freeCount > 0 || this.hasRoomFor(this.geometry.blockBytes);
  }

  private hasRoomFor(bytes: number): boolean {
    return this.geometry.nextOnGrid(this.numbers.fileEnd) + bytes <= this.numbers.roomEnd;
  }

  /**
   * Makes the file longer, for `bytes` bytes at least. Near the limit of a file's size the step does not fit where a block
   * does, so it is halved until it fits. No flush runs meanwhile, so no other thread does this.
   */
  private extend(bytes: number): void {
    const { file, geometry, lock, numbers, tracker } = this;
    const { isNeeded, length, room, start, end, footer } = lock.run(() => ({
      isNeeded: !this.hasRoomFor(bytes) && (bytes !== geometry.blockBytes || this.free.freeCount === 0),
      length: numbers.fileLength,
      room: numbers.roomEnd,
      end: numbers.fileEnd,
      start: geometry.nextOnGrid(numbers.fileEnd),
      footer: this.footer.slice(),
    }));
    if (!isNeeded) return;
    const longer = this.makeLonger(start, bytes, end, length, footer);
    tracker.sync();
    // the room that there was reads as zeros already, and others take blocks of it meanwhile
    const oldStart = hostOffset(Math.max(start, room));
    const oldEnd = Math.min(length, longer - FOOTER_BYTES);
    if (oldStart < oldEnd) {
      file.punchHole(oldStart, oldEnd - oldStart);
      tracker.sync();
    }
    lock.run(() => numbers.noteExtended(longer));
  }

  /** @returns the new length */
  private makeLonger(start: number, bytes: number, end: number, length: number, footer: Uint8Array): number {
    const { file, geometry } = this;
    if (start + bytes > MAX_FILE_BYTES) throw tooLong(file.path);
    const step = Math.min(MOST_EXTEND_BYTES, Math.max(LEAST_EXTEND_BYTES, end / 4), MAX_FILE_BYTES - start);
    for (let more = Math.max(0, Math.floor((step - bytes) / geometry.stride)); ; more = Math.floor(more / 2)) {
      const used =
        more === 0
          ? start + bytes
          : geometry.nextOnGrid(start + bytes) + (more - 1) * geometry.stride + geometry.blockBytes;
      const longer = Math.max(geometry.lengthFor(used), length);
      try {
        if (longer > length) file.truncate(longer);
        failpoint('header-update');
        file.write(footer, 0, FOOTER_BYTES, hostOffset(longer - FOOTER_BYTES));
        return longer;
      } catch (error) {
        this.restoreLength(length);
        if (!isHostFull(error) || more === 0) throw error;
      }
    }
  }

  /** The old footer was not touched, and is the end of the file again. */
  private restoreLength(length: number): void {
    try {
      if (this.file.size() !== length) this.file.truncate(length);
    } catch (error) {
      this.tracker.fail(error);
      throw error;
    }
  }

  /**
   * Gives free blocks at the end back, and cuts the file to what is in use: the footer behind the last block -> fdatasync -> cut ->
   * fdatasync. If the host has no space for the footer there, the cut comes first, and the old footer makes room for it: a crash in
   * between leaves an end without a footer, which has its copy at offset 0. Nothing else is going on, and everything is flushed.
   */
  trim(): void {
    const { file, geometry, lock, numbers, tracker } = this;
    while (lock.run(() => this.lowerEnd())) lock.giveWay();
    const { wanted, length } = lock.run(() => ({
      wanted: geometry.lengthFor(numbers.fileEnd),
      length: numbers.fileLength,
    }));
    // what another program left behind its last block is not worth two fdatasyncs
    const wasExtended = lock.run(() => numbers.roomEnd > 0);
    if (wanted >= length || (!wasExtended && length - wanted < geometry.blockBytes)) return;
    const isThere = this.hasSpaceForFooter(wanted);
    if (isThere) tracker.sync();
    file.truncate(wanted);
    lock.run(() => numbers.noteCut(wanted));
    if (!isThere) this.writeFooter(wanted);
    tracker.sync();
  }

  /** Writes the footer before `end`, unless the host is full. */
  private hasSpaceForFooter(end: number): boolean {
    try {
      this.writeFooter(end);
      return true;
    } catch (error) {
      if (isHostFull(error)) return false;
      throw error;
    }
  }

  private writeFooter(end: number): void {
    const at = hostOffset(end - FOOTER_BYTES);
    this.tracker.writeMetadata('header-update', () => this.file.write(this.footer.slice(), 0, FOOTER_BYTES, at));
  }

  /** @returns whether blocks were given back, so that there may be more */
  private lowerEnd(): boolean {
    const { free, geometry, numbers } = this;
    const before = numbers.fileEnd;
    const places = Math.ceil((before - geometry.offsetOf(hostCluster(0))) / geometry.stride);
    const left = free.cutTail(places);
    if (left >= places) return false;
    // behind what lies off the grid there are only blocks
    const { offGridEnd } = numbers;
    const isBlock = left > 0 && geometry.placeOf(hostOffset(offGridEnd - 1)) < left - 1;
    numbers.lowerFileEnd(isBlock ? geometry.offsetOf(hostCluster(left - 1)) + geometry.blockBytes : offGridEnd);
    return true;
  }
}
