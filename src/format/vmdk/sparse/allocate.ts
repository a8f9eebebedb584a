// New grains and freed grains. A new grain always reads as zeros: it lies behind everything the file held, where the file is made
// longer in large steps, or it is a freed one whose hole is durable (free-clusters.ts). So an allocating write transfers the guest's
// bytes only. Other programs append at the end of the file, or at the sector that the header of a COWD extent names, so no entry may
// lead beyond either of them, also after a crash:
//
//   the file grows by zeros, the header of a COWD extent says so -> fdatasync -> the grains may be used
//
// Used under the metadata lock, which is released while the file grows.

import { type HostOffset, hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import { Mutex } from '../../../concurrency/mutex.ts';
import { isHostFull } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { type FreeClusters, RUNS_LOOKED_AT } from '../../mapped/free-clusters.ts';
import type { Allocation } from '../../mapped/space/cluster-allocator.ts';
import { MAX_FILE_BYTES, tooLong } from '../../mapped/space/room-end.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { TableLayout } from './layout.ts';
import { GROW_LOCK, type SparseNumbers } from './state.ts';

/** The file grows by a quarter of what it has, at least and at most by this much; the rest is cut at a clean close. */
const LEAST_EXTEND_BYTES = 16 * 1024 * 1024;
const MOST_EXTEND_BYTES = 1024 * 1024 * 1024;

export interface AllocatorParts {
  readonly file: HostFile;
  readonly layout: Pick<TableLayout, 'freeSectorAt' | 'leastBytes'>;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly words: Int32Array;
  readonly numbers: SparseNumbers;
  readonly free: FreeClusters;
  readonly tracker: WriteTracker;
}

export class Allocator {
  private readonly parts: AllocatorParts;
  private readonly growing: Mutex;

  constructor(parts: AllocatorParts) {
    this.parts = parts;
    this.growing = new Mutex(parts.words, GROW_LOCK, `the length of ${parts.file.path}`);
  }

  /** One to `count` adjoining grains; the lock may be released meanwhile. Throws no-space or limit, and nothing has changed then. */
  allocate(count: number): Allocation {
    failpoint('cluster-allocate');
    const { free, geometry, numbers } = this.parts;
    const { grainBytes } = geometry;
    for (;;) {
      const run = free.take(count, false);
      if (run !== null) return { offset: geometry.offsetOf(run.start), count: run.end - run.start };
      const offset = geometry.nextOnGrid(numbers.fileEnd);
      const got = Math.min(count, Math.floor((numbers.roomEnd - offset) / grainBytes));
      if (got > 0) {
        numbers.advanceFileEnd(offset + got * grainBytes);
        return { offset, count: got };
      }
      this.makeRoom(grainBytes, count * grainBytes);
    }
  }

  /** Adjoining grains for `bytes` bytes of tables, which read as zeros; the lock may be released meanwhile. */
  allocateBytes(bytes: number): HostOffset {
    failpoint('cluster-allocate');
    const { free, geometry, numbers } = this.parts;
    const grains = Math.ceil(bytes / geometry.grainBytes);
    const whole = grains * geometry.grainBytes;
    for (;;) {
      const near = free.take(grains, true, RUNS_LOOKED_AT);
      if (near !== null) return geometry.offsetOf(near.start);
      const host = geometry.nextOnGrid(numbers.fileEnd);
      if (host + whole <= numbers.roomEnd) {
        numbers.advanceFileEnd(host + whole);
        return host;
      }
      try {
        this.makeRoom(whole, whole);
      } catch (error) {
        const far = isHostFull(error) ? free.take(grains, true) : null;
        if (far === null) throw error;
        return geometry.offsetOf(far.start);
      }
    }
  }

  /**
   * Grains whose last reference is gone, or which were never linked. They wait for two flushes (R5), unless they lie off the grid.
   * A grain that is not in use turns the extent read-only: another entry may still refer to it.
   */
  release(host: HostOffset, count: number): void {
    const { free, geometry, tracker } = this.parts;
    if (count === 0 || !geometry.isOnGrid(host)) return;
    try {
      free.markFreed(geometry.placeOf(host), count);
    } catch (error) {
      tracker.fail(error);
      throw error;
    }
  }

  /** Gives free grains at the end back, and cuts the file to what is in use; the lock is held. The caller makes it durable. */
  trim(): void {
    const { file, layout, numbers } = this.parts;
    const { fileEnd, fileLength } = numbers;
    if (fileLength > fileEnd) {
      file.truncate(fileEnd);
      numbers.noteCut(fileEnd);
    }
    if (layout.freeSectorAt !== null) this.writeFreeSector(layout.freeSectorAt, numbers.fileLength);
  }

  /** Forgets free grains at the end, in short holds of the lock, which is not held. */
  lowerEnd(): void {
    const { lock } = this.parts;
    while (lock.run(() => this.lowerOnce())) lock.giveWay();
  }

  abandon(thread: number): void {
    this.growing.abandon(thread);
  }

  /** @returns whether grains were given back, so that there may be more */
  private lowerOnce(): boolean {
    const { free, geometry, layout, numbers } = this.parts;
    const before = numbers.fileEnd;
    // what was there when the extent was opened need not end on the grid, and its header may call grains a part of what precedes them
    const least = geometry.nextOnGrid(layout.leastBytes);
    if (before <= Math.max(geometry.phase, least) || !geometry.isOnGrid(before)) return false;
    const end = hostOffset(Math.max(least, geometry.offsetOf(free.cutTail(geometry.placeOf(before)))));
    numbers.lowerFileEnd(end);
    return end < before;
  }

  /** The file has room for `least` bytes more when it returns; the lock is held, and released meanwhile. */
  private makeRoom(least: number, wanted: number): void {
    const { lock } = this.parts;
    lock.unlock();
    try {
      this.growing.run(() => this.grow(least, wanted));
    } finally {
      lock.lock();
    }
  }

  /** Makes the file longer, durably, unless another thread has done that; without the lock. */
  private grow(least: number, wanted: number): void {
    const { file, geometry, layout, lock, numbers, tracker } = this.parts;
    const { end, length, room } = lock.run(() => ({
      end: numbers.fileEnd,
      length: numbers.fileLength,
      room: numbers.roomEnd,
    }));
    const start = geometry.nextOnGrid(end);
    if (start + least <= room) return;
    if (room === 0 && length > end) {
      // what another program left behind its last grain may be anything, and what led there may be gone only in memory (R5)
      tracker.sync();
      file.truncate(end);
      lock.run(() => numbers.noteCut(end));
    }
    const longer = this.makeLonger(start, least, wanted);
    if (layout.freeSectorAt !== null) {
      const at = layout.freeSectorAt;
      lock.run(() => this.writeFreeSector(at, longer));
    }
    tracker.sync();
    lock.run(() => numbers.noteExtended(longer));
  }

  /**
   * Near the host's limit of a file's size the step does not fit where a grain does, so it is halved until it fits.
   * @returns the new length
   */
  private makeLonger(start: number, least: number, wanted: number): number {
    const { file } = this.parts;
    const step = Math.min(MOST_EXTEND_BYTES, Math.max(LEAST_EXTEND_BYTES, roundUp(start / 4, SECTOR_BYTES)));
    for (let bytes = Math.max(step, wanted); ; bytes = Math.max(least, roundUp(bytes / 2, SECTOR_BYTES))) {
      try {
        if (start + bytes > MAX_FILE_BYTES) throw tooLong(file.path);
        file.truncate(start + bytes);
        return start + bytes;
      } catch (error) {
        if (!isHostFull(error) || bytes === least) throw error;
      }
    }
  }

  private writeFreeSector(at: number, length: number): void {
    const { file, tracker } = this.parts;
    const bytes = new Uint8Array(4);
    new DataView(bytes.buffer).setUint32(0, Math.ceil(length / SECTOR_BYTES), true);
    tracker.writeMetadata('header-update', () => file.write(bytes, 0, bytes.length, hostOffset(at)));
  }
}
