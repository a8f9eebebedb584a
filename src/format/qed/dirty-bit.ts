// The NEED_CHECK bit (R7): set and durable before the first change of metadata, cleared only after a flush that succeeded;
// dirty-mark.ts has the order. Used under the metadata lock.

import { steadyMs } from '../../concurrency/clock.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import { DirtyMark } from '../mapped/dirty-mark.ts';
import type { WriteTracker } from '../write-tracker.ts';
import { FEATURES_OFFSET, QED_F_NEED_CHECK, type QedHeader, writeHeaderField } from './header.ts';
import { DIRTY, DIRTY_MARK, type QedNumbers } from './state.ts';

export class DirtyBit {
  private readonly file: HostFile;
  private readonly words: Int32Array;
  private readonly numbers: Pick<QedNumbers, 'lastChangeMs' | 'noteChange'>;
  private readonly tracker: WriteTracker;
  private readonly mark: DirtyMark;

  constructor(
    file: HostFile,
    header: QedHeader,
    lock: Mutex,
    words: Int32Array,
    numbers: Pick<QedNumbers, 'lastChangeMs' | 'noteChange'>,
    tracker: WriteTracker,
  ) {
    this.file = file;
    this.words = words;
    this.numbers = numbers;
    this.tracker = tracker;
    const clean = header.features & ~QED_F_NEED_CHECK;
    this.mark = new DirtyMark({
      lock,
      tracker,
      words,
      firstWord: DIRTY_MARK,
      path: file.path,
      isSet: () => this.isSet,
      remember: (isSet) => Atomics.store(words, DIRTY, isSet ? 1 : 0),
      write: (isSet) => this.writeField(FEATURES_OFFSET, isSet ? clean | QED_F_NEED_CHECK : clean),
    });
  }

  get isSet(): boolean {
    return Atomics.load(this.words, DIRTY) === 1;
  }

  /** The metadata was not changed for this many ms of wall-clock time. */
  idleMs(nowMs: number): number {
    return nowMs - this.numbers.lastChangeMs;
  }

  /** Called before every change of metadata: DirtyMark.set(). @returns whether the lock was released */
  set(): boolean {
    this.numbers.noteChange(steadyMs());
    return this.mark.set();
  }

  /** Without the lock: DirtyMark.clear(). */
  clear(isQuiet: () => boolean): void {
    this.mark.clear(isQuiet);
  }

  abandon(thread: number): void {
    this.mark.abandon(thread);
  }

  /** Writes one header field; the image has failed when that fails (R8), unless the host was full. */
  writeField(offset: number, value: number): void {
    this.tracker.writeMetadata('header-update', () => writeHeaderField(this.file, offset, value));
  }
}
