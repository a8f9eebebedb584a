// cBlocksAllocated, and the length of the file, which goes with it. Other programs take the count for the index of the next new
// block, so no entry may lead to a block that a durable count does not cover: after a crash they would give that block out
// twice. So blocks are reserved some at a time, before any of them is used:
//
//   reserve   the file grows by k blocks of zeros -> count + k -> fdatasync -> the blocks may be used
//   trim      count = blocks in use -> fdatasync -> the file is cut -> fdatasync
//
// One thread at a time does either, and no fdatasync runs under the metadata lock. A crash leaves a count that is too high and
// zeros at the end of the file, which the next read-write open takes back.

import { Mutex } from '../../concurrency/mutex.ts';
import { isHostFull } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import { ALLOCATED_AT, u32Field, writeHeaderFields } from './header.ts';
import { RESERVE_LOCK, type VdiNumbers } from './state.ts';

/**
 * Bytes of blocks that are reserved at once: what a crash leaves as leaks. Many, because a fdatasync waits for all data that is under
 * way; the first one of a session finds hardly any. Other programs go on from the count that a crash leaves, and must not reach cBlocks
 * soon: of the indices that were never used only one in UNUSED_PART is reserved, or so few that it hardly matters.
 */
const RESERVE_BYTES = 1024 * 1024 * 1024;
const UNUSED_PART = 8;
const FEW_BLOCKS = 16;
const FEW_BYTES = 16 * 1024 * 1024;

export interface AllocatedCountParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly words: Int32Array;
  readonly numbers: VdiNumbers;
  readonly free: FreeClusters;
  readonly tracker: WriteTracker;
  /** flushes until every freed block can be used again; without the metadata lock */
  readonly settle: () => void;
}

export class AllocatedCount {
  private readonly parts: AllocatedCountParts;
  private readonly reserving: Mutex;

  constructor(parts: AllocatedCountParts) {
    this.parts = parts;
    this.reserving = new Mutex(parts.words, RESERVE_LOCK, `the count of blocks of ${parts.file.path}`);
  }

  /**
   * At least one block can be taken when it returns. The lock is held, and may be released meanwhile.
   * @param wanted blocks that the caller could use @throws no-space, and nothing has changed
   */
  ensure(wanted: number): void {
    const { free, lock, numbers } = this.parts;
    while (free.freeCount === 0 && numbers.end >= numbers.reserved) {
      const isAllReserved = numbers.reserved >= numbers.blockCount;
      lock.unlock();
      try {
        // each index is in use or was freed: an entry has one block at most
        if (isAllReserved) this.parts.settle();
        else this.reserving.run(() => this.reserve(wanted));
      } finally {
        lock.lock();
      }
    }
  }

  private reserve(wanted: number): void {
    const { geometry, lock, numbers } = this.parts;
    const { isNeeded, most, reserved } = lock.run(() => ({
      isNeeded: this.parts.free.freeCount === 0 && numbers.end >= numbers.reserved,
      most: numbers.blockCount - numbers.reserved,
      reserved: numbers.reserved,
    }));
    if (!isNeeded || most === 0) return;
    const few = Math.max(FEW_BLOCKS, Math.floor(FEW_BYTES / geometry.stride));
    const many = Math.min(Math.floor(RESERVE_BYTES / geometry.stride), Math.floor(most / UNUSED_PART));
    const step = Math.max(few, many, wanted);
    for (let blocks = Math.min(step, most); ; blocks = Math.floor(blocks / 2)) {
      try {
        this.reserveKept(reserved + blocks);
        return;
      } catch (error) {
        // near the host's limit of a file's size the step does not fit where a block does
        if (!isHostFull(error) || blocks === 1) throw error;
      }
    }
  }

  /** Gives free blocks at the end back; count and file say what is in use then. The lock is not held. */
  trim(): void {
    this.reserving.run(() => this.trimKept());
  }

  /** The same inside whileKept(). */
  trimKept(): void {
    const { file, geometry, lock, numbers, tracker } = this.parts;
    while (lock.run(() => this.lowerEnd())) lock.giveWay();
    const length = lock.run(() => {
      const { dataOffset, end, reserved } = numbers;
      if (reserved === end) return null;
      // nobody uses more from now on
      numbers.noteReserved(end);
      this.write(end);
      return geometry.hostStartOf(end, dataOffset);
    });
    if (length === null) return;
    tracker.sync();
    file.truncate(length);
    tracker.sync();
  }

  /** Makes the file long enough for `blocks` blocks, and counts them, durably; inside whileKept(). */
  reserveKept(blocks: number): void {
    const { file, geometry, lock, numbers, tracker } = this.parts;
    file.truncate(lock.run(() => geometry.hostStartOf(blocks, numbers.dataOffset)));
    lock.run(() => this.write(blocks));
    tracker.sync();
    lock.run(() => numbers.noteReserved(blocks));
  }

  /** Blocks are reserved that nobody uses. The lock is held. */
  get hasSpare(): boolean {
    return this.parts.numbers.reserved > this.parts.numbers.end;
  }

  /** Runs `action` while nobody changes count or length; without the lock. */
  whileKept<T>(action: () => T): T {
    return this.reserving.run(action);
  }

  abandon(thread: number): void {
    this.reserving.abandon(thread);
  }

  /** @returns whether blocks were given back, so that there may be more */
  private lowerEnd(): boolean {
    const { free, numbers } = this.parts;
    const before = numbers.end;
    numbers.lowerEnd(free.cutTail(before));
    return numbers.end < before;
  }

  private write(blocks: number): void {
    const { file, tracker } = this.parts;
    tracker.writeMetadata('header-update', () => writeHeaderFields(file, [u32Field(ALLOCATED_AT, blocks)]));
  }
}
