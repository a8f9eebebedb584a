// Who has which file of the tree open. Two files can show the same bytes, and the kernel keeps the pages of each by itself, so
// an opening that could make them disagree is refused or goes without pages.
// Invariants: while a file is open for writing, no file that overlaps it is open for writing, or is read through pages of the
// kernel. Pages are kept from one opening to the next only if no overlapping file was open for writing since they were filled.

import { Mutex } from '../concurrency/mutex.ts';
import type { OpenFiles } from './open-files.ts';
import type { RecordTable } from './records.ts';

/** How the kernel treats the pages of a file that is opened: `bypass` reads past them and fills none. */
export type Pages = 'keep' | 'drop' | 'bypass';

/** An opening that was refused: the file that stands in the way. */
export interface Conflict {
  /** its record */
  readonly record: number;
  readonly isWriter: boolean;
  /** of the process that opened it; 0: not known */
  readonly pid: number;
}

export interface Claim {
  /** for release() */
  readonly handle: number;
  readonly pages: Pages;
}

/** What a handle may do; the two lowest bits of its number. */
export const HANDLE = { read: 1, write: 2, truncate: 3 } as const;
export type HandleKind = (typeof HANDLE)[keyof typeof HANDLE];

const KIND_MASK = 3;
/** the handle reads past the pages of the kernel, because the bytes are being written under another name */
const BYPASS = 4;
const SLOT_SHIFT = 8;

/** Words. */
const MUTEX = 0;
const RELEASES = 1;
const WAITING = 2;
/** threads that serve the tree */
const THREADS = 3;
/** handles that read beside a writer of the same bytes */
const BYPASSES = 4;
const WORDS = 6;

/** How long an opening waits for a file that has just been closed: the kernel tells us of a close a little later. */
const RELEASE_WAIT_MS = 250;

export function createHandleWords(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * 4);
}

export function canWrite(handle: number): boolean {
  const kind = handle & KIND_MASK;
  return kind === HANDLE.write || kind === HANDLE.truncate;
}

export function isTruncating(handle: number): boolean {
  return (handle & KIND_MASK) === HANDLE.truncate;
}

export class Handles {
  private readonly words: Int32Array;
  private readonly mutex: Mutex;
  private readonly records: RecordTable;
  private readonly files: OpenFiles;
  private readonly mayBypass: boolean;

  /** @param mayBypass whether the transport can let a handle read past the pages */
  constructor(words: SharedArrayBuffer, records: RecordTable, files: OpenFiles, mayBypass: boolean) {
    this.words = new Int32Array(words);
    this.mutex = new Mutex(this.words, MUTEX, 'which files of the mount are open');
    this.records = records;
    this.files = files;
    this.mayBypass = mayBypass;
  }

  /** This thread serves the tree from now on. */
  addThread(): void {
    Atomics.add(this.words, THREADS, 1);
  }

  /** That thread has died. @param thread its `threadId` */
  abandon(thread: number): void {
    this.mutex.abandon(thread);
  }

  /** Somebody reads bytes past the pages while they are written under another name; a mapping may have filled pages all the same. */
  get areReadersBeside(): boolean {
    return Atomics.load(this.words, BYPASSES) > 0;
  }

  /**
   * Opens a file, or says what stands in the way. A file that has just been closed does not: its release is waited for, by as many
   * threads as leave one to serve it.
   */
  open(record: number, kind: HandleKind, pid: number): Claim | Conflict {
    const end = performance.now() + RELEASE_WAIT_MS;
    for (;;) {
      const releases = Atomics.load(this.words, RELEASES);
      const answer = this.mutex.run(() => this.claim(record, kind, pid));
      if ('handle' in answer || !this.waitForRelease(releases, end - performance.now())) return answer;
    }
  }

  release(record: number, handle: number): void {
    this.mutex.run(() => {
      const { records } = this;
      const writes = canWrite(handle);
      const bypasses = (handle & BYPASS) !== 0;
      records.add(record, writes ? 'writers' : bypasses ? 'bypassers' : 'readers', -1);
      if (bypasses) Atomics.sub(this.words, BYPASSES, 1);
      // the kernel has dropped the older pages by now, at the latest
      const opened = this.files.remove(handle >>> SLOT_SHIFT);
      if (opened !== null && !bypasses) records.noteFresh(record, opened.changes);
      if (writes) records.forOverlapping(record, (other) => records.noteChanged(other, record));
    });
    Atomics.add(this.words, RELEASES, 1);
    if (Atomics.load(this.words, WAITING) > 0) Atomics.notify(this.words, RELEASES);
  }

  /** Runs `change`, which gives records to other files, unless one of `records` is open. @returns whether it ran */
  whileClosed(records: Iterable<number>, change: () => void): boolean {
    return this.mutex.run(() => {
      for (const record of records) if (this.isOpen(record)) return false;
      change();
      return true;
    });
  }

  private claim(record: number, kind: HandleKind, pid: number): Claim | Conflict {
    const { records, words } = this;
    const writes = kind !== HANDLE.read;
    const conflict = this.conflictOf(record, writes);
    const bypasses = conflict !== null && !writes && this.mayBypass;
    if (conflict !== null && !bypasses) return conflict;
    records.add(record, writes ? 'writers' : bypasses ? 'bypassers' : 'readers', 1);
    if (writes) records.forOverlapping(record, (other) => records.noteChanged(other, record));
    if (bypasses) Atomics.add(words, BYPASSES, 1);
    const slot = this.files.add({ record, writes, bypasses, pid, changes: records.count(record, 'changes') });
    const pages = bypasses ? 'bypass' : records.isFresh(record) ? 'keep' : 'drop';
    return { handle: kind | (bypasses ? BYPASS : 0) | (slot << SLOT_SHIFT), pages };
  }

  /** What is open and overlaps the file. A reader minds writers only, and one that bypasses pages is nobody's business. */
  private conflictOf(record: number, writes: boolean): Conflict | null {
    const { records } = this;
    let found: Conflict | null = null;
    records.forOverlapping(record, (other) => {
      const isWriter = records.count(other, 'writers') > 0;
      if (found !== null || !(isWriter || (writes && records.count(other, 'readers') > 0))) return;
      found = { record: other, isWriter, pid: this.files.holder(other, isWriter) };
    });
    return found;
  }

  private isOpen(record: number): boolean {
    return (['writers', 'readers', 'bypassers'] as const).some((who) => this.records.count(record, who) > 0);
  }

  /** @returns false if there is nothing to wait for any more, or nobody who could serve the release */
  private waitForRelease(releases: number, milliseconds: number): boolean {
    const { words } = this;
    if (milliseconds <= 0) return false;
    const waiting = Atomics.add(words, WAITING, 1) + 1;
    const mayWait = waiting < Atomics.load(words, THREADS);
    const ended = mayWait && Atomics.wait(words, RELEASES, releases, milliseconds) !== 'timed-out';
    Atomics.sub(words, WAITING, 1);
    return ended;
  }
}
