// uuidModify: a child knows the state of its parent by it. It gets a new value once in each session of writing, durable before
// the first byte of the guest's and before the first change of the map; an image that is only read keeps it. Used under the
// metadata lock.

import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import { uuidBytes } from '../guid.ts';
import { DirtyMark } from '../mapped/dirty-mark.ts';
import type { WriteTracker } from '../write-tracker.ts';
import { UUID_MODIFY_AT, writeHeaderFields } from './header.ts';
import { MODIFIED, MODIFY_MARK } from './state.ts';

export class ModifyUuid {
  private readonly words: Int32Array;
  private readonly mark: DirtyMark;

  /** @param next the value of this session */
  constructor(file: HostFile, next: string, lock: Mutex, words: Int32Array, tracker: WriteTracker) {
    this.words = words;
    const change = { at: UUID_MODIFY_AT, bytes: uuidBytes(next) };
    this.mark = new DirtyMark({
      lock,
      tracker,
      words,
      firstWord: MODIFY_MARK,
      path: file.path,
      isSet: () => this.isChanged,
      remember: (isSet) => Atomics.store(words, MODIFIED, isSet ? 1 : 0),
      write: () => tracker.writeMetadata('header-update', () => writeHeaderFields(file, [change])),
    });
  }

  get isChanged(): boolean {
    return Atomics.load(this.words, MODIFIED) === 1;
  }

  /**
   * Called before every change, in the same hold of the lock or under a reservation that lasts until the change is made. The lock
   * is held, and may be released meanwhile. @throws ImgfuseError read-only once the image has failed
   */
  change(): void {
    this.mark.set();
  }

  abandon(thread: number): void {
    this.mark.abandon(thread);
  }
}
