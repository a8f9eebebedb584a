// What the headers say while an image is written to, in two steps, each durable before what it announces:
//
//   announce   before the first change: new FileWriteGuid, by which a parser knows that the file is another one, and, unless nobody
//              can see the change, new DataWriteGuid, by which a child knows its parent
//   log        before the first change of metadata: an empty log entry with a new LogGuid -> S -> the headers name it -> S
//   clear      nothing that the log holds is missing in its place, durably: LogGuid null -> S -> the rest of the file is cut -> S
//
// (S is a fdatasync.) The headers are written without the metadata lock; a request that needs a step waits for whoever makes it. From
// the moment that `clear` begins every change of metadata waits for it, and begins a new log. A crash leaves the old headers, and
// then nothing was changed that they do not allow, or the new ones.

import { hostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import { ERRNO, errnoOf } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { NULL_UUID, newUuid, uuidBytes } from '../guid.ts';
import type { WriteTracker } from '../write-tracker.ts';
import { readHeaders } from './header/header.ts';
import { type HeaderChange, updateHeaders } from './header/update.ts';
import type { LogWriter } from './log/writer.ts';
import { ANNOUNCED, HEADERS_LOCK, LOGGING, type VhdxNumbers, type VhdxState } from './state.ts';

/** What is announced: the new FileWriteGuid, and the new DataWriteGuid as well. */
const FILE_WRITE = 1;
const DATA_WRITE = 2;

export interface SessionParts {
  readonly file: HostFile;
  /** the metadata lock */
  readonly lock: Mutex;
  readonly words: Int32Array;
  readonly numbers: VhdxNumbers;
  readonly tracker: WriteTracker;
  readonly logWriter: LogWriter;
  readonly state: Pick<VhdxState, 'dataWriteGuid' | 'fileWriteGuid' | 'logGuid' | 'logLength' | 'logOffset'>;
}

export class Session {
  private readonly parts: SessionParts;
  private readonly changing: Mutex;

  constructor(parts: SessionParts) {
    this.parts = parts;
    this.changing = new Mutex(parts.words, HEADERS_LOCK, `the headers of ${parts.file.path}`);
  }

  /** The image has its new FileWriteGuid. */
  get isChanged(): boolean {
    return this.announced >= FILE_WRITE;
  }

  /** The image has both of its new GUIDs. */
  get isAnnounced(): boolean {
    return this.announced >= DATA_WRITE;
  }

  private get announced(): number {
    return Atomics.load(this.parts.words, ANNOUNCED);
  }

  /** The headers name the log. */
  get isLogging(): boolean {
    return Atomics.load(this.parts.words, LOGGING) === 1;
  }

  /**
   * Called before guest data changes in its place, under a reservation that lasts until it is made. The lock is held, and may be
   * released meanwhile. @throws ImgfuseError read-only once the image has failed
   */
  change(): void {
    this.until(
      () => this.isAnnounced,
      () => this.announce(DATA_WRITE),
    );
  }

  /**
   * Called before a change of metadata, in the same hold of the lock. @param isSeen the guest may see it, here or through a child
   * @returns whether the lock was released meanwhile (R2)
   */
  startLog(isSeen = true): boolean {
    const least = isSeen ? DATA_WRITE : FILE_WRITE;
    return this.until(
      () => this.isLogging && this.announced >= least,
      () => {
        this.announce(least);
        this.beginLog();
      },
    );
  }

  /**
   * The log is not needed any more, if `isQuiet` says so under the lock: everything that it holds is durable in its place. Without the
   * lock. @param settle called if the image has changed and the headers do not name the log, before it can begin again
   */
  clear(isQuiet: () => boolean, settle: () => void): void {
    this.changing.run(() => {
      if (this.isLogging && !this.endLog(isQuiet)) return;
      if (this.isChanged) settle();
    });
  }

  private endLog(isQuiet: () => boolean): boolean {
    const { file, lock, words } = this.parts;
    const isEnded = lock.run(() => {
      if (!isQuiet()) return false;
      Atomics.store(words, LOGGING, 0);
      return true;
    });
    if (!isEnded) return false;
    try {
      this.update({ logGuid: NULL_UUID });
    } finally {
      // on a full host the headers may name the log still, which is as it was
      if (readHeaders(file).current.logGuid !== null) Atomics.store(words, LOGGING, 1);
    }
    return true;
  }

  abandon(thread: number): void {
    this.changing.abandon(thread);
  }

  private until(isReached: () => boolean, step: () => void): boolean {
    const { lock, tracker } = this.parts;
    let wasReleased = false;
    for (;;) {
      tracker.assertWritable();
      if (isReached()) return wasReleased;
      wasReleased = true;
      lock.unlock();
      try {
        this.changing.run(step);
      } finally {
        lock.lock();
      }
    }
  }

  private announce(least: number): void {
    if (this.announced >= least) return;
    const { dataWriteGuid, fileWriteGuid } = this.parts.state;
    this.update(least === DATA_WRITE ? { dataWriteGuid, fileWriteGuid } : { fileWriteGuid });
    Atomics.store(this.parts.words, ANNOUNCED, least);
  }

  private beginLog(): void {
    if (this.isLogging) return;
    const { file, lock, logWriter, numbers, state, tracker, words } = this.parts;
    this.reserveLog();
    // what another program left behind the last block need not be zeros, and an entry must not speak of a longer file
    const { end, length } = lock.run(() => ({ end: numbers.fileEnd, length: numbers.fileLength }));
    if (length !== end) file.truncate(end);
    const logGuid = newUuid();
    const moment = lock.run(() => {
      if (length !== end) numbers.noteCut(end);
      new Uint8Array(state.logGuid).set(uuidBytes(logGuid));
      logWriter.writeEmpty();
      return logWriter.moment();
    });
    tracker.sync();
    this.update({ logGuid });
    lock.run(() => {
      logWriter.noteDurable(moment);
      Atomics.store(words, LOGGING, 1);
    });
  }

  /** A log that lies in holes could find no space in the middle of an entry. Where the host cannot reserve any, it is used as it is. */
  private reserveLog(): void {
    const { file, state } = this.parts;
    failpoint('preallocate');
    try {
      file.allocateRange(hostOffset(state.logOffset), state.logLength);
    } catch (error) {
      if (errnoOf(error) !== ERRNO.EOPNOTSUPP) throw error;
    }
  }

  /** After a failure that leaves the image writable both headers are whole, and the next change begins with the newer one. */
  private update(change: HeaderChange): void {
    const { file, tracker } = this.parts;
    updateHeaders(file, readHeaders(file).current, change, {
      write: (action) => tracker.writeMetadata('header-update', action),
      sync: () => tracker.sync(),
    });
  }
}
