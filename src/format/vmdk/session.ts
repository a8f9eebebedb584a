// The first change of a session of writing: every extent with tables is marked as not closed clean, and the image gets a new CID, both
// durable, before a byte of the disk changes. So no child that was made on the old content is opened on a mixture, and no program
// takes an extent for closed while another one of the same disk changes. The CID changes once while the image is open; the marks,
// which an idle image has cleared, are set again.

import { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { WriteTracker } from '../write-tracker.ts';
import { type NewIdentity, withIdentity } from './descriptor/edit.ts';
import { type DescriptorPlace, replaceText } from './descriptor/place.ts';
import type { ExtentTable } from './extents.ts';

/** Int32 words of the state. */
const LOCK = 0;
const MARKED = 1;
const CHANGED = 2;
const WORDS = 3;

export function createSessionWords(): SharedArrayBuffer {
  return new SharedArrayBuffer(WORDS * 4);
}

export interface SessionParts {
  /** of the descriptor */
  readonly file: HostFile;
  readonly place: DescriptorPlace;
  readonly identity: NewIdentity;
  readonly tracker: WriteTracker;
  readonly extents: ExtentTable;
}

export class WritingSession {
  private readonly words: Int32Array;
  private readonly lock: Mutex;
  private readonly parts: SessionParts;

  constructor(words: SharedArrayBuffer, parts: SessionParts) {
    this.words = new Int32Array(words);
    this.lock = new Mutex(this.words, LOCK, `the descriptor of ${parts.file.path}`);
    this.parts = parts;
  }

  /** The CID has been changed. */
  get isChanged(): boolean {
    return Atomics.load(this.words, CHANGED) === 1;
  }

  /** What the descriptor says is not known any more. */
  get hasFailed(): boolean {
    return this.parts.tracker.failure() !== null;
  }

  /** Called before every change. @throws ImgfuseError read-only once the image has failed */
  begin(): void {
    this.parts.tracker.assertWritable();
    if (Atomics.load(this.words, MARKED) === 0) this.lock.run(() => this.mark());
  }

  private mark(): void {
    if (Atomics.load(this.words, MARKED) === 1) return;
    for (const { tables } of this.parts.extents.list) tables?.markUnclean();
    if (!this.isChanged) {
      this.rewrite((text) => withIdentity(text, this.parts.identity));
      Atomics.store(this.words, CHANGED, 1);
    }
    Atomics.store(this.words, MARKED, 1);
  }

  /** Changes the descriptor, durably. One thread at a time. */
  edit(change: (text: string) => string): void {
    this.lock.run(() => this.rewrite(change));
  }

  private rewrite(change: (text: string) => string): void {
    const { file, place, tracker } = this.parts;
    replaceText(file, place, change, {
      write: (action) => tracker.writeMetadata('header-update', action),
      sync: () => tracker.sync(),
    });
  }

  /** The extents are about to be marked as closed clean: the next change marks them again. */
  end(): void {
    Atomics.store(this.words, MARKED, 0);
  }

  abandon(thread: number): void {
    this.lock.abandon(thread);
  }
}
