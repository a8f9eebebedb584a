// What an opening with O_TRUNC promises although the disk keeps its size: the bytes that the opener skips read as zeros, as
// in a file that was cut to nothing. A mark stands where that file would end. A change through such a handle beyond the mark
// zeroes the gap before it, except for bytes that other handles have written beyond the mark since the opening.
// Invariant: while such a handle is open, each change of bytes is announced under the mutex before it happens, and gaps are
// zeroed under the mutex. So zeros never overwrite bytes that were written later, in whatever order threads work.

import { Mutex } from '../concurrency/mutex.ts';

/** Words. */
const MUTEX = 0;
/** handles open now that were opened with O_TRUNC */
const HANDLES = 1;
const WORDS = 2;

/** Numbers: the mark, how many extents there are, then start and end of each, in order; none touches another. */
const MARK = 0;
const COUNT = 1;
const EXTENTS = 2;
/** How many extents the state of a file has room for. */
export const DISK_EXTENTS = 1024;
export const PARTITION_EXTENTS = 128;

/** The largest piece that is zeroed before the mark moves on. */
const STEP = 1024 * 1024 * 1024;

export type Zero = (start: number, length: number) => void;

/** The states of so many files. */
export interface TruncationStates {
  readonly bytes: SharedArrayBuffer;
  readonly extents: number;
}

export function createTruncationStates(files: number, extents: number): TruncationStates {
  return { bytes: new SharedArrayBuffer(files * stateBytes(extents)), extents };
}

function stateBytes(extents: number): number {
  return WORDS * 4 + (EXTENTS + 2 * extents) * 8;
}

export class Truncation {
  private readonly words: Int32Array;
  private readonly numbers: Float64Array;
  private readonly mutex: Mutex;
  private readonly maxExtents: number;

  /** @param index of the file among those of the states */
  constructor({ bytes, extents }: TruncationStates, index = 0) {
    const start = index * stateBytes(extents);
    this.maxExtents = extents;
    this.words = new Int32Array(bytes, start, WORDS);
    this.numbers = new Float64Array(bytes, start + WORDS * 4, EXTENTS + 2 * extents);
    this.mutex = new Mutex(this.words, MUTEX, 'what handles opened with O_TRUNC have skipped');
  }

  /** That thread has died: threads that wait for what it held get an error. @param thread its `threadId` */
  abandon(thread: number): void {
    this.mutex.abandon(thread);
  }

  /** Whether a handle that was opened with O_TRUNC is open. */
  get isActive(): boolean {
    return Atomics.load(this.words, HANDLES) > 0;
  }

  /** The file is opened with O_TRUNC: the one that other such handles may be writing starts anew, too. */
  open(): void {
    this.mutex.run(() => {
      this.forget();
      Atomics.add(this.words, HANDLES, 1);
    });
  }

  /** After the last one the mark is gone: bytes beyond it stay as they are. */
  release(): void {
    this.mutex.run(() => {
      if (Atomics.sub(this.words, HANDLES, 1) === 1) this.forget();
    });
  }

  /**
   * A handle that was opened with O_TRUNC is about to change [start, end): what it has skipped before `start` becomes zeros.
   * If `zero` throws, the mark stands at the last byte that was zeroed.
   */
  extend(start: number, end: number, zero: Zero): void {
    this.mutex.run(() => {
      for (let index = 0; index < this.count && this.startOf(index) < start; index++) {
        this.zeroUpTo(this.startOf(index), zero);
        this.mark = Math.max(this.mark, Math.min(this.endOf(index), start));
      }
      this.zeroUpTo(start, zero);
      this.mark = Math.max(this.mark, end);
      this.dropBelow(this.mark);
    });
  }

  /** The file of the handles that were opened with O_TRUNC ends at `end` from now on: they cut it there. */
  cut(end: number): void {
    this.mutex.run(() => {
      this.mark = Math.min(this.mark, end);
    });
  }

  /** Another handle is about to change [start, end). */
  note(start: number, end: number): void {
    if (!this.isActive) return;
    this.mutex.run(() => {
      const from = Math.max(start, this.mark);
      if (from < end) this.insert(from, end);
    });
  }

  private zeroUpTo(end: number, zero: Zero): void {
    while (this.mark < end) {
      const length = Math.min(STEP, end - this.mark);
      zero(this.mark, length);
      this.mark = this.mark + length;
    }
  }

  /** Adds an extent, together with those that it touches. */
  private insert(start: number, end: number): void {
    const count = this.count;
    let first = 0;
    while (first < count && this.endOf(first) < start) first++;
    let next = first;
    while (next < count && this.startOf(next) <= end) next++;
    const low = next > first ? Math.min(start, this.startOf(first)) : start;
    const high = next > first ? Math.max(end, this.endOf(next - 1)) : end;
    if (next === first && count === this.maxExtents) {
      this.mergeNearest();
      return this.insert(start, end);
    }
    this.moveExtents(next, first + 1);
    this.setStart(first, low);
    this.setEnd(first, high);
    this.count = count + 1 - (next - first);
  }

  /** There is no room: the two nearest extents become one. The gap between them keeps its old bytes; no byte is lost. */
  private mergeNearest(): void {
    const count = this.count;
    let nearest = 0;
    const distance = (index: number) => this.startOf(index + 1) - this.endOf(index);
    for (let index = 1; index < count - 1; index++) if (distance(index) < distance(nearest)) nearest = index;
    this.setEnd(nearest, this.endOf(nearest + 1));
    this.moveExtents(nearest + 2, nearest + 1);
    this.count = count - 1;
  }

  private dropBelow(mark: number): void {
    const count = this.count;
    let gone = 0;
    while (gone < count && this.endOf(gone) <= mark) gone++;
    this.moveExtents(gone, 0);
    this.count = count - gone;
    if (count > gone) this.setStart(0, Math.max(mark, this.startOf(0)));
  }

  private get mark(): number {
    return this.numbers[MARK]!;
  }

  private set mark(mark: number) {
    this.numbers[MARK] = mark;
  }

  private get count(): number {
    return this.numbers[COUNT]!;
  }

  private set count(count: number) {
    this.numbers[COUNT] = count;
  }

  private setStart(index: number, start: number): void {
    this.numbers[EXTENTS + 2 * index] = start;
  }

  private setEnd(index: number, end: number): void {
    this.numbers[EXTENTS + 2 * index + 1] = end;
  }

  /** The extents from number `from` on get the numbers from `to` on; `count` is still the old one. */
  private moveExtents(from: number, to: number): void {
    this.numbers.copyWithin(EXTENTS + 2 * to, EXTENTS + 2 * from, EXTENTS + 2 * this.count);
  }

  private startOf(index: number): number {
    return this.numbers[EXTENTS + 2 * index]!;
  }

  private endOf(index: number): number {
    return this.numbers[EXTENTS + 2 * index + 1]!;
  }

  private forget(): void {
    this.mark = 0;
    this.count = 0;
  }
}
