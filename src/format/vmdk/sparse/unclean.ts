// The mark of an extent that is not closed clean (R7): set and durable before the first change, cleared only after a flush that
// succeeded; dirty-mark.ts has the order. It covers the guest's bytes as well, because what they replace may be what another program
// compares the extent with. Used under the metadata lock.

import { hostOffset } from '../../../bytes/offsets.ts';
import { steadyMs } from '../../../concurrency/clock.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { DirtyMark } from '../../mapped/dirty-mark.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { TableLayout } from './layout.ts';
import { type SparseNumbers, UNCLEAN, UNCLEAN_MARK } from './state.ts';

export class Unclean {
  private readonly words: Int32Array;
  private readonly lock: Mutex;
  private readonly numbers: Pick<SparseNumbers, 'lastChangeMs' | 'noteChange'>;
  private readonly mark: DirtyMark;

  constructor(
    file: HostFile,
    { uncleanAt }: Pick<TableLayout, 'uncleanAt'>,
    lock: Mutex,
    words: Int32Array,
    numbers: Pick<SparseNumbers, 'lastChangeMs' | 'noteChange'>,
    tracker: WriteTracker,
  ) {
    this.words = words;
    this.lock = lock;
    this.numbers = numbers;
    this.mark = new DirtyMark({
      lock,
      tracker,
      words,
      firstWord: UNCLEAN_MARK,
      path: file.path,
      isSet: () => this.isSet,
      remember: (isSet) => Atomics.store(words, UNCLEAN, isSet ? 1 : 0),
      write: (isSet) =>
        tracker.writeMetadata('header-update', () =>
          file.write(Uint8Array.of(isSet ? 1 : 0), 0, 1, hostOffset(uncleanAt)),
        ),
    });
  }

  get isSet(): boolean {
    return Atomics.load(this.words, UNCLEAN) === 1;
  }

  /** Nothing was changed for this many ms. */
  idleMs(nowMs: number): number {
    return nowMs - this.numbers.lastChangeMs;
  }

  /** Called before every change: DirtyMark.set(). @returns whether the lock was released */
  set(): boolean {
    this.numbers.noteChange(steadyMs());
    return this.mark.set();
  }

  /** As PlainRunWriter calls it. */
  change(): void {
    this.set();
  }

  /** Without the lock. */
  setOutsideLock(): void {
    this.lock.run(() => this.set());
  }

  /** Without the lock: DirtyMark.clear(). */
  clear(isQuiet: () => boolean): void {
    this.mark.clear(isQuiet);
  }

  abandon(thread: number): void {
    this.mark.abandon(thread);
  }
}
