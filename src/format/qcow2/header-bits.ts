// The dirty and the corrupt bit of an open image (R7). With lazy refcounts the dirty bit is set and durable before the first
// counter changes and cleared only when everything is settled and durable; the corrupt bit is durable before the error that
// says why is thrown, and the image takes no change after it. Used under the metadata lock.

import type { HostOffset } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { DirtyMark } from '../mapped/dirty-mark.ts';
import type { WriteTracker } from '../write-tracker.ts';
import {
  type FeatureWords,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
  withBits,
  withoutBits,
  writeIncompatibleFeatures,
} from './header/header.ts';
import { DIRTY_MARK, HEADER_BITS } from './state.ts';

export interface HeaderBitsParts {
  readonly file: HostFile;
  readonly header: { readonly version: 2 | 3; readonly incompatible: FeatureWords; readonly lazyRefcounts: boolean };
  /** the metadata lock */
  readonly lock: Mutex;
  /** the shared words of the image */
  readonly words: Int32Array;
  readonly tracker: WriteTracker;
  readonly log: (sentence: string) => void;
}

export class HeaderBits {
  private readonly parts: HeaderBitsParts;
  private readonly mark: DirtyMark;

  constructor(parts: HeaderBitsParts) {
    this.parts = parts;
    const { file, lock, tracker, words } = parts;
    const withDirty = (isSet: boolean): number =>
      (this.bits() & ~QCOW2_INCOMPAT_DIRTY) | (isSet ? QCOW2_INCOMPAT_DIRTY : 0);
    this.mark = new DirtyMark({
      lock,
      tracker,
      words,
      firstWord: DIRTY_MARK,
      path: file.path,
      isSet: () => this.isDirty,
      remember: (isSet) => this.remember(withDirty(isSet)),
      write: (isSet) => tracker.writeMetadata('header-update', () => this.write(withDirty(isSet))),
    });
  }

  get isDirty(): boolean {
    return (Atomics.load(this.parts.words, HEADER_BITS) & QCOW2_INCOMPAT_DIRTY) !== 0;
  }

  get isCorrupt(): boolean {
    return (Atomics.load(this.parts.words, HEADER_BITS) & QCOW2_INCOMPAT_CORRUPT) !== 0;
  }

  /**
   * Called before a request changes counters, as DirtyMark.set() says: the lock is held, may be released, and what was looked up
   * is void then.
   */
  beforeChange(): void {
    if (this.parts.header.lazyRefcounts) this.mark.set();
  }

  /** Called before every change of a counter. A request has set the bit by then; any other change sets it here, under the lock. */
  beforeCounters(): void {
    const { header, tracker } = this.parts;
    if (!header.lazyRefcounts) return;
    this.mark.noteChange();
    if (this.isDirty) return;
    tracker.writeMetadata('header-update', () => this.write(this.bits() | QCOW2_INCOMPAT_DIRTY));
    tracker.sync();
    this.remember(this.bits() | QCOW2_INCOMPAT_DIRTY);
  }

  /** Without the lock: DirtyMark.clear(). @param isQuiet every counter is true and nothing waits */
  clearDirty(isQuiet: () => boolean): void {
    this.mark.clear(isQuiet);
  }

  abandon(thread: number): void {
    this.mark.abandon(thread);
  }

  /**
   * The image says something that cannot be true any more, although all of it was true when it was opened. It is marked
   * corrupt if its version has the bit, and read-only from now on. @returns the error for the request that found it
   */
  damaged(sentence: string, offset: HostOffset): ImgfuseError {
    const { file, header, tracker, log } = this.parts;
    const error = new ImgfuseError('corrupt', `${file.path}: ${sentence}`, { path: file.path, offset });
    if (file.readOnly || tracker.failure() !== null) return error;
    if (header.version === 3) {
      try {
        this.write(this.bits() | QCOW2_INCOMPAT_CORRUPT);
        file.sync();
        this.remember(this.bits() | QCOW2_INCOMPAT_CORRUPT);
      } catch (failure) {
        log(`${file.path} could not be marked corrupt: ${(failure as Error).message}`);
      }
    }
    tracker.fail(error);
    return error;
  }

  private bits(): number {
    return Atomics.load(this.parts.words, HEADER_BITS);
  }

  private remember(bits: number): void {
    Atomics.store(this.parts.words, HEADER_BITS, bits);
  }

  private write(bits: number): void {
    const { file, header } = this.parts;
    const others = withoutBits(header.incompatible, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    writeIncompatibleFeatures(file, header, withBits(others, bits));
  }
}
