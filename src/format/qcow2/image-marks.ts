// The dirty and the corrupt bit of an open image (R7). With lazy refcounts the dirty bit is set and durable before the first
// counter changes and cleared only when everything is settled and durable; the corrupt bit is durable before the error that
// says why is thrown, and the image takes no change after it. Used under the metadata lock.

import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { WriteTracker } from '../write-tracker.ts';
import {
  type FeatureWords,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
  withBits,
  withoutBits,
  writeIncompatibleFeatures,
} from './header.ts';
import { MARKS } from './state.ts';

export interface ImageMarksParts {
  readonly file: HostFile;
  readonly header: { readonly version: 2 | 3; readonly incompatible: FeatureWords; readonly lazyRefcounts: boolean };
  /** the shared words of the image */
  readonly words: Int32Array;
  readonly tracker: WriteTracker;
  readonly log: (sentence: string) => void;
}

export class ImageMarks {
  private readonly parts: ImageMarksParts;

  constructor(parts: ImageMarksParts) {
    this.parts = parts;
  }

  get isDirty(): boolean {
    return (Atomics.load(this.parts.words, MARKS) & QCOW2_INCOMPAT_DIRTY) !== 0;
  }

  get isCorrupt(): boolean {
    return (Atomics.load(this.parts.words, MARKS) & QCOW2_INCOMPAT_CORRUPT) !== 0;
  }

  /** Called before every change of a counter or of the structures that hold them. */
  beforeCounters(): void {
    const { header, tracker } = this.parts;
    if (!header.lazyRefcounts || this.isDirty) return;
    tracker.writeMetadata('header-update', () => this.write(this.bits() | QCOW2_INCOMPAT_DIRTY));
    tracker.sync();
    this.remember(this.bits() | QCOW2_INCOMPAT_DIRTY);
  }

  /** Every counter is true and nothing waits: makes it durable, then clears the bit. A crash leaves it set or the image clean. */
  clearDirty(): void {
    const { tracker } = this.parts;
    if (!this.isDirty) return;
    tracker.assertWritable();
    tracker.sync();
    tracker.writeMetadata('header-update', () => this.write(this.bits() & ~QCOW2_INCOMPAT_DIRTY));
    tracker.sync();
    this.remember(this.bits() & ~QCOW2_INCOMPAT_DIRTY);
  }

  /**
   * The image says something that cannot be true any more, although all of it was true when it was opened. It is marked
   * corrupt where its version has the bit, and read-only from now on. @returns the error for the request that found it
   */
  damaged(sentence: string, offset: number): ImgfuseError {
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
    return Atomics.load(this.parts.words, MARKS);
  }

  private remember(bits: number): void {
    Atomics.store(this.parts.words, MARKS, bits);
  }

  private write(bits: number): void {
    const { file, header } = this.parts;
    const others = withoutBits(header.incompatible, QCOW2_INCOMPAT_DIRTY | QCOW2_INCOMPAT_CORRUPT);
    writeIncompatibleFeatures(file, header, withBits(others, bits));
  }
}
