// The field of the header that says that a program has the image open for writing (R7): set and durable before the first change,
// cleared only after a flush that succeeded; dirty-mark.ts has the order. A program that finds it set repairs the image. Used under the
// metadata lock.

import { steadyMs } from '../../../concurrency/clock.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { DirtyMark } from '../../mapped/dirty-mark.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import { writeInUse } from '../header.ts';
import { IN_USE, IN_USE_MARK, type PlainNumbers } from './state.ts';

export class InUse {
  private readonly words: Int32Array;
  private readonly numbers: Pick<PlainNumbers, 'lastChangeMs' | 'noteChange'>;
  private readonly mark: DirtyMark;

  constructor(
    file: HostFile,
    lock: Mutex,
    words: Int32Array,
    numbers: Pick<PlainNumbers, 'lastChangeMs' | 'noteChange'>,
    tracker: WriteTracker,
  ) {
    this.words = words;
    this.numbers = numbers;
    this.mark = new DirtyMark({
      lock,
      tracker,
      words,
      firstWord: IN_USE_MARK,
      path: file.path,
      isSet: () => this.isSet,
      remember: (isSet) => Atomics.store(words, IN_USE, isSet ? 1 : 0),
      write: (isSet) => tracker.writeMetadata('header-update', () => writeInUse(file, isSet)),
    });
  }

  get isSet(): boolean {
    return Atomics.load(this.words, IN_USE) === 1;
  }

  /** The image was not changed for this many ms of wall-clock time. */
  idleMs(nowMs: number): number {
    return nowMs - this.numbers.lastChangeMs;
  }

  /** Called before every change: DirtyMark.set(). The lock is held, and may be released meanwhile. */
  change(): void {
    this.numbers.noteChange(steadyMs());
    this.mark.set();
  }

  /** Without the lock: DirtyMark.clear(). */
  clear(isQuiet: () => boolean): void {
    this.mark.clear(isQuiet);
  }

  abandon(thread: number): void {
    this.mark.abandon(thread);
  }
}
