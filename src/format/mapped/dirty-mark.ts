// The bit of a header that says that the metadata may be inconsistent (NEED_CHECK of QED, dirty of qcow2), for all threads of an
// image (R7): durable before the first change of metadata, cleared only when all changes are durable. The header is written
// under the metadata lock and every fdatasync runs without it: a request that needs the bit waits in `changing` for whoever
// sets or clears it, and all other requests go on.
//
//   set     header (lock) -> fdatasync -> the bit counts as set (lock) -> the change
//   clear   nothing on its way, epoch noted (lock) -> fdatasync -> the same epoch: the bit counts as clear, header (lock) -> fdatasync
//
// A crash at any of these lines leaves the bit set, or an image whose metadata is durable and true: from the moment that the bit
// counts as clear every change sets it first, and waits for that until the fdatasync after the clear is done.

import { Mutex } from '../../concurrency/mutex.ts';
import type { WriteTracker } from '../write-tracker.ts';

export interface DirtyMarkParts {
  /** the metadata lock */
  readonly lock: Mutex;
  readonly tracker: WriteTracker;
  /** shared by the threads of the image */
  readonly words: Int32Array;
  /** of the two words that are the mark's own */
  readonly firstWord: number;
  /** the file, for messages */
  readonly path: string;
  /** the bit counts as set: it is durable. All three are called under the lock. */
  readonly isSet: () => boolean;
  readonly remember: (isSet: boolean) => void;
  readonly write: (isSet: boolean) => void;
}

export class DirtyMark {
  private readonly parts: DirtyMarkParts;
  private readonly changing: Mutex;
  private readonly epochWord: number;

  constructor(parts: DirtyMarkParts) {
    this.parts = parts;
    this.changing = new Mutex(parts.words, parts.firstWord, parts.path);
    this.epochWord = parts.firstWord + 1;
  }

  /**
   * Called before every change of metadata, in the same hold of the lock or under an exclusive reservation that lasts until the
   * change is made. The lock is held, and may be released meanwhile. @returns whether it was: what was looked up is void then (R2)
   * @throws ImgfuseError read-only once the image has failed
   */
  set(): boolean {
    const { isSet, lock, tracker } = this.parts;
    let wasReleased = false;
    for (;;) {
      tracker.assertWritable();
      this.noteChange();
      if (isSet()) return wasReleased;
      wasReleased = true;
      lock.unlock();
      try {
        this.changing.run(() => this.setDurably());
      } finally {
        lock.lock();
      }
    }
  }

  /** Metadata changes, and the bit is set already: a clear that is under way must not go on. The lock is held. */
  noteChange(): void {
    Atomics.add(this.parts.words, this.epochWord, 1);
  }

  private setDurably(): void {
    const { isSet, lock, remember, tracker, write } = this.parts;
    const isNeeded = lock.run(() => {
      if (isSet()) return false;
      write(true);
      return true;
    });
    if (!isNeeded) return;
    tracker.sync();
    lock.run(() => remember(true));
  }

  /**
   * Clears the bit if nothing changes metadata meanwhile; the lock is not held. A flush that fails leaves it set.
   * @param isQuiet no request is about to change metadata, and nothing waits for a later flush; asked twice under the lock
   */
  clear(isQuiet: () => boolean): void {
    this.changing.run(() => {
      const { isSet, lock, remember, tracker, words, write } = this.parts;
      const epoch = lock.run(() => (isSet() && isQuiet() ? Atomics.load(words, this.epochWord) : null));
      if (epoch === null) return;
      tracker.sync();
      const isCleared = lock.run(() => {
        if (Atomics.load(words, this.epochWord) !== epoch || !isQuiet()) return false;
        write(false);
        remember(false);
        return true;
      });
      if (!isCleared) return;
      try {
        tracker.sync();
      } catch (error) {
        lock.run(() => remember(true));
        throw error;
      }
    });
  }

  /** That thread has died: whoever waits for what it was about to do gets an error. */
  abandon(thread: number): void {
    this.changing.abandon(thread);
  }
}
