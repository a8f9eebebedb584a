// Who has which file of the tree open. Two files can show the same bytes, and the kernel keeps the pages of each by itself, so
// an opening that could make them disagree is refused or goes without pages.
// Invariants: while a file is open for writing, no file that overlaps it is open for writing, or is read through pages of the
// kernel. Pages are kept from one opening to the next only if no overlapping file was open for writing since they were filled.
// Pages of a file are never dropped while somebody may be writing through them: see KernelPages in fuse/filesystem.ts.

import { Mutex } from '../concurrency/mutex.ts';
import type { KernelPages, OpenedFile } from '../fuse/filesystem.ts';
import type { OpenFiles } from './open-files.ts';
import type { RecordTable } from './records.ts';

/** An opening that was refused: the file that stands in the way. */
export interface Conflict {
  /** its record */
  readonly record: number;
  readonly isWriter: boolean;
  /** of the process that opened it; 0: not known */
  readonly pid: number;
}

/** Every handle goes past the pages, or there is no kernel. */
export const NO_PAGES: KernelPages = {
  bypassedByDirect: true,
  drop: () => undefined,
  dropBeforeReply: () => undefined,
};

export interface Claim {
  /** for release() */
  readonly handle: number;
  readonly pages: OpenedFile['pages'];
}

/** What a handle may do; the two lowest bits of its number. */
export const HANDLE = { read: 1, write: 2, truncate: 3 } as const;
export type HandleKind = (typeof HANDLE)[keyof typeof HANDLE];

const KIND_MASK = 3;
/** the handle goes past the pages of the kernel, whatever it does but map the file */
const BYPASS = 4;
/** the bytes are being written under another name; such a handle reads */
const BESIDE = 8;
const SLOT_SHIFT = 8;

/** Words. */
const MUTEX = 0;
const RELEASES = 1;
const WAITING = 2;
/** threads that serve the tree */
const THREADS = 3;
/** handles that were opened to read beside a writer of the same bytes */
const READERS_BESIDE = 4;
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
  private readonly pages: KernelPages;

  constructor(words: SharedArrayBuffer, records: RecordTable, files: OpenFiles, pages: KernelPages) {
    this.words = new Int32Array(words);
    this.mutex = new Mutex(this.words, MUTEX, 'which files of the mount are open');
    this.records = records;
    this.files = files;
    this.pages = pages;
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
    return Atomics.load(this.words, READERS_BESIDE) > 0;
  }

  /**
   * Bytes of the file have changed otherwise than the kernel knows. @returns whether somebody uses pages of it, which must be dropped;
   * if not, what pages there are count as untrue: whoever opens the file goes past them, until nobody has it open
   */
  noteGap(record: number): boolean {
    return this.mutex.run(() => {
      const isUsed = this.records.count(record, 'paged') > 0;
      if (!isUsed) this.records.add(record, 'changes', 1);
      return isUsed;
    });
  }

  /** Somebody may have had pages filled, through another handle than this one, while it was writing past them. Takes no lock. */
  othersUsePages(record: number, handle: number): boolean {
    return this.records.count(record, 'paged') > ((handle & BYPASS) === 0 ? 1 : 0);
  }

  /** Bytes of any file may have changed, by another program: pages count as untrue, as after a gap. */
  noteForeignChanges(): void {
    this.mutex.run(() => {
      for (const record of this.records.all()) this.records.add(record, 'changes', 1);
    });
  }

  /**
   * Makes the kernel drop the pages of every file that is read beside a writer: mappings have filled them. None of these files is
   * written through pages, and until `drop` has ended none is opened for that.
   */
  async dropBeside(drop: (node: number) => Promise<void>): Promise<void> {
    const { mutex, records } = this;
    const beside = mutex.run(() => {
      const open = [...records.all()].filter((record) => records.count(record, 'beside') > 0);
      for (const record of open) records.add(record, 'dropping', 1);
      return open.map((record) => ({ record, node: records.node(record) }));
    });
    try {
      for (const { node } of beside) await drop(node);
    } finally {
      // a record may have another node by now, which has begun with a count of 0
      mutex.run(() => {
        for (const { record, node } of beside) if (records.node(record) === node) records.add(record, 'dropping', -1);
      });
    }
  }

  /**
   * Opens a file, or says what stands in the way. A file that has just been closed does not: its release is waited for, by as many
   * threads as leave one to serve it.
   * @param isDirect with O_DIRECT
   */
  open(record: number, kind: HandleKind, pid: number, isDirect = false): Claim | Conflict {
    const end = performance.now() + RELEASE_WAIT_MS;
    for (;;) {
      const releases = Atomics.load(this.words, RELEASES);
      const answer = this.mutex.run(() => this.claim(record, kind, pid, isDirect));
      if ('handle' in answer || !this.waitForRelease(releases, end - performance.now())) return answer;
    }
  }

  release(record: number, handle: number): void {
    this.mutex.run(() => {
      const { records } = this;
      const writes = canWrite(handle);
      this.count(record, handle, -1);
      // a write past the pages that is under way leaves old ones, which nobody drops any more: see RangeFile.write()
      const leavesPages = (handle & BYPASS) === 0 && records.count(record, 'paged') === 0;
      if (leavesPages && records.count(record, 'writers') > 0) records.add(record, 'changes', 1);
      this.files.remove(handle >>> SLOT_SHIFT);
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

  private claim(record: number, kind: HandleKind, pid: number, isDirect: boolean): Claim | Conflict {
    const { records } = this;
    const writes = kind !== HANDLE.read;
    const conflict = this.conflictOf(record, writes);
    if (conflict !== null && writes) return conflict;
    const isBeside = conflict !== null;
    this.renewPages(record, isBeside);
    const mustBypass = isBeside || !records.isFresh(record);
    const bypasses = mustBypass || (this.pages.bypassedByDirect && (isDirect || kind === HANDLE.truncate));
    const slot = this.files.add({ record, writes, isBeside, pid });
    const handle = kind | (bypasses ? BYPASS : 0) | (isBeside ? BESIDE : 0) | (slot << SLOT_SHIFT);
    this.count(record, handle, 1);
    if (writes) records.forOverlapping(record, (other) => records.noteChanged(other, record));
    return { handle, pages: mustBypass ? 'bypass' : 'keep' };
  }

  /**
   * Has untrue pages of a file dropped that nobody has open. While somebody has it open they stay, and whoever opens it goes past
   * them, until all have closed it: a write through pages may be under way.
   */
  private renewPages(record: number, isBeside: boolean): void {
    const { records } = this;
    if (this.isOpen(record)) return;
    if (isBeside || !records.isFresh(record)) this.pages.drop(records.node(record));
    // they are true from now on, unless somebody writes the bytes under another name; a drop that has not ended may come any time
    if (!isBeside && records.count(record, 'dropping') === 0) records.noteFresh(record);
  }

  private count(record: number, handle: number, change: 1 | -1): void {
    const { records } = this;
    const isBeside = (handle & BESIDE) !== 0;
    records.add(record, canWrite(handle) ? 'writers' : isBeside ? 'beside' : 'readers', change);
    if ((handle & BYPASS) === 0) records.add(record, 'paged', change);
    if (isBeside) Atomics.add(this.words, READERS_BESIDE, change);
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
    return (['writers', 'readers', 'beside'] as const).some((who) => this.records.count(record, who) > 0);
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
