// WriteTracker: which host writes are not yet known to be on stable storage, for all threads of an image. It lets a flush
// with nothing to do cost nothing, lets one fdatasync serve every flush that waits for it, and turns the image read-only
// after an error that leaves the disk unknown (R8, and a failed fdatasync). Invariant: FLUSHED never passes a change that
// was not complete when the fdatasync of its flush began.

import { bytesOfName, nameOfBytes } from '../bytes/names.ts';
import { type Failpoint, failpoint } from '../concurrency/failpoints.ts';
import { Mutex } from '../concurrency/mutex.ts';
import { describeError, ImgfuseError, isHostFull } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';

const WRITTEN = 0;
const FLUSHED = 1;
const FLUSH_LOCK = 2;
const FAILED = 3;
const WORDS = 4;
/** Values of FAILED: the first failure claims it, stores its sentence, and makes it public. */
const NOT_FAILED = 0;
const PUBLISHED = 1;
const CLAIMED = 2;
/** How long a sentence that is being stored is waited for: storing it takes microseconds, unless its thread dies. */
const SENTENCE_MS = 1000;
/** Room for the sentence that says why an image turned read-only. */
const FAILURE_BYTES = 1024;

export function createWriteTrackerState(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * 4 + FAILURE_BYTES);
}

export class WriteTracker {
  private readonly words: Int32Array;
  private readonly text: Uint8Array;
  private readonly file: HostFile;
  private readonly dataFile: HostFile | null;
  private readonly log: (sentence: string) => void;
  private readonly flushLock: Mutex;

  /** @param dataFile of images whose guest data lies apart: made durable before what refers to it */
  constructor(
    state: SharedArrayBuffer,
    file: HostFile,
    log: (sentence: string) => void,
    dataFile: HostFile | null = null,
  ) {
    this.words = new Int32Array(state, 0, WORDS);
    this.text = new Uint8Array(state, WORDS * 4);
    this.file = file;
    this.dataFile = dataFile;
    this.log = log;
    this.flushLock = new Mutex(this.words, FLUSH_LOCK, file.path);
  }

  /** A change is complete, what it put off for the next flush included; called before its request is answered. */
  noteWrite(): void {
    Atomics.add(this.words, WRITTEN, 1);
  }

  /** Nothing has been changed since the image was opened. */
  get isUntouched(): boolean {
    return Atomics.load(this.words, WRITTEN) === 0;
  }

  /** Throws the error every change gets once the image has failed. */
  assertWritable(): void {
    if (Atomics.load(this.words, FAILED) === NOT_FAILED) return;
    throw new ImgfuseError('read-only', `${this.file.path} was turned read-only: ${this.failure()}`, {
      path: this.file.path,
    });
  }

  /** The sentence of the first failure, or null. */
  failure(): string | null {
    if (Atomics.load(this.words, FAILED) === NOT_FAILED) return null;
    Atomics.wait(this.words, FAILED, CLAIMED, SENTENCE_MS);
    if (Atomics.load(this.words, FAILED) !== PUBLISHED) return 'a thread died while it was saying why';
    return nameOfBytes(this.text.slice(0, this.text.indexOf(0)));
  }

  /** Turns the image read-only for the rest of the mount. Only the first failure is kept. */
  fail(error: unknown): void {
    if (Atomics.compareExchange(this.words, FAILED, NOT_FAILED, CLAIMED) !== NOT_FAILED) return;
    const sentence = describeError(error);
    this.text.set(bytesOfName(sentence).subarray(0, FAILURE_BYTES - 1));
    Atomics.store(this.words, FAILED, PUBLISHED);
    Atomics.notify(this.words, FAILED);
    this.log(`${this.file.path} is read-only from now on: ${sentence}`);
  }

  /**
   * Runs a write of metadata that lies within one page. When it fails the disk is unknown and the image has failed (R8),
   * except where the host is full: nothing of the page was written then, and it works again once there is space.
   */
  writeMetadata(step: Failpoint, write: () => void): void {
    try {
      failpoint(step);
      write();
    } catch (error) {
      const untouched = error instanceof ImgfuseError && isHostFull(error) && !error.context.transferred;
      if (!untouched) this.fail(error);
      throw error;
    }
  }

  /** fdatasync. When it fails the image has failed, because nobody knows what the host dropped. */
  sync(): void {
    this.assertTrusted();
    try {
      failpoint('flush');
      this.dataFile?.sync();
      this.file.sync();
    } catch (error) {
      this.fail(error);
      throw error;
    }
  }

  /**
   * The flush of an image: `prepare` (what must reach the file first), fdatasync, `settle` (what had to wait for it).
   * One thread at a time; skipped when a flush that began after this call made everything durable already.
   */
  flush(prepare: () => void, settle: () => void): void {
    this.assertTrusted();
    const wanted = Atomics.load(this.words, WRITTEN);
    if (Atomics.load(this.words, FLUSHED) === wanted) return;
    this.flushLock.run(() => {
      // the counters may wrap, so the difference decides
      if (((Atomics.load(this.words, FLUSHED) - wanted) | 0) >= 0) return;
      // before `prepare`: what other threads complete during its fdatasync may be put off again, and is not covered
      const written = Atomics.load(this.words, WRITTEN);
      prepare();
      this.sync();
      Atomics.store(this.words, FLUSHED, written);
      settle();
    });
  }

  /** Runs `action` while no flush runs. */
  betweenFlushes<T>(action: () => T): T {
    return this.flushLock.run(action);
  }

  /** That thread has died; a flush that it was in the middle of is nobody's. @param thread its `threadId` */
  abandon(thread: number): void {
    this.flushLock.abandon(thread);
  }

  /** A flush after a failure must not claim success. */
  private assertTrusted(): void {
    const failure = this.failure();
    if (failure !== null) {
      throw new ImgfuseError('io', `${this.file.path} cannot be flushed any more: ${failure}`, {
        path: this.file.path,
      });
    }
  }
}
