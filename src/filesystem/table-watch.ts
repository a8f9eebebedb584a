// Whether the partition table may have changed since it was read. The reading tells which byte ranges of the disk it looked at; a
// change in one of them makes the table stale, and so does any change while it is being read.
// Invariant: noteChange() follows the change of bytes. So a reading that began after it has seen the new bytes, and one that began
// before it is stale.

import { Mutex } from '../concurrency/mutex.ts';

/** Words. */
const STATE = 0;
/** changes noticed so far, and how many of them the last reading has seen */
const CHANGES = 1;
const SEEN = 2;
/** which reading the ranges are of */
const EDITION = 3;
/** how many ranges there are */
const COUNT = 4;
/** of the mutex of the thread that reads the table */
const MUTEX = 5;
const WORDS = 6;

/** Values of STATE: nobody has asked for the table yet, it is being read, it was read. */
const UNREAD = 0;
const BEING_READ = 1;
const READ = 2;

/** A reading that looks at more ranges watches the whole disk. */
const MAX_RANGES = 1024;

/** Bytes [start, end) of the disk. */
export interface WatchedRange {
  readonly start: number;
  readonly end: number;
}

export function createTableWatchState(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * 4 + 2 * MAX_RANGES * 8);
}

export class TableWatch {
  private readonly words: Int32Array;
  /** start and end of each range */
  private readonly shared: Float64Array;
  /** this thread's copy, of the edition that it has seen last */
  private ranges: Float64Array = new Float64Array(0);
  private edition = 0;
  private readonly mutex: Mutex;

  constructor(state: SharedArrayBuffer) {
    this.words = new Int32Array(state, 0, WORDS);
    this.mutex = new Mutex(this.words, MUTEX, 'the partitions of the mount');
    this.shared = new Float64Array(state, WORDS * 4, 2 * MAX_RANGES);
  }

  /** The table was not read yet, or may have changed since. */
  get isStale(): boolean {
    const { words } = this;
    return Atomics.load(words, STATE) !== READ || Atomics.load(words, CHANGES) !== Atomics.load(words, SEEN);
  }

  /** How often the table was read. */
  get readings(): number {
    return Atomics.load(this.words, EDITION);
  }

  /** Bytes [start, end) of the disk have changed. */
  noteChange(start: number, end: number): void {
    const state = Atomics.load(this.words, STATE);
    if (state === UNREAD) return;
    if (state === BEING_READ || this.isWatched(start, end)) Atomics.add(this.words, CHANGES, 1);
  }

  /** Anything may have changed: the size of the disk, or the disk itself. */
  noteEverything(): void {
    Atomics.add(this.words, CHANGES, 1);
  }

  /**
   * Reads the table if it is stale, unless another thread has done it meanwhile.
   * @param read reads it and shows the partitions @returns the ranges that it looked at; null: the table stays stale
   */
  refresh(read: () => readonly WatchedRange[] | null): void {
    if (!this.isStale) return;
    this.mutex.run(() => {
      if (!this.isStale) return;
      Atomics.store(this.words, STATE, BEING_READ);
      const seen = Atomics.load(this.words, CHANGES);
      let looked: readonly WatchedRange[] | null = null;
      try {
        looked = read();
      } finally {
        if (looked !== null) this.publish(looked, seen);
        Atomics.store(this.words, STATE, this.readings > 0 ? READ : UNREAD);
      }
    });
  }

  /** That thread has died. @param thread its `threadId` */
  abandon(thread: number): void {
    this.mutex.abandon(thread);
  }

  private publish(looked: readonly WatchedRange[], seen: number): void {
    const { words, shared } = this;
    const ranges = looked.length > MAX_RANGES ? [{ start: 0, end: Infinity }] : looked;
    for (const [index, { start, end }] of ranges.entries()) shared.set([start, end], 2 * index);
    Atomics.store(words, COUNT, ranges.length);
    Atomics.store(words, SEEN, seen);
    Atomics.add(words, EDITION, 1);
  }

  private isWatched(start: number, end: number): boolean {
    if (Atomics.load(this.words, EDITION) !== this.edition && !this.copyRanges()) return true;
    const { ranges } = this;
    for (let index = 0; index < ranges.length; index += 2) {
      if (start < ranges[index + 1]! && ranges[index]! < end) return true;
    }
    return false;
  }

  /** @returns false if another reading began or ended meanwhile, so that the copy may be mixed */
  private copyRanges(): boolean {
    const { words } = this;
    const edition = Atomics.load(words, EDITION);
    const copy = this.shared.slice(0, 2 * Atomics.load(words, COUNT));
    if (Atomics.load(words, STATE) === BEING_READ || Atomics.load(words, EDITION) !== edition) return false;
    this.ranges = copy;
    this.edition = edition;
    return true;
  }
}
