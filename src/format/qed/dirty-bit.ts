// The NEED_CHECK bit (R7): set and durable before the first change of metadata, cleared only after a flush that succeeded.
// Used under the metadata lock.

import { steadyMs } from '../../concurrency/clock.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { WriteTracker } from '../write-tracker.ts';
import { FEATURES_OFFSET, QED_F_NEED_CHECK, type QedHeader, writeHeaderField } from './header.ts';
import { DIRTY, LAST_CHANGE_MS } from './state.ts';

export class DirtyBit {
  private readonly file: HostFile;
  private readonly cleanFeatures: number;
  private readonly words: Int32Array;
  private readonly numbers: Float64Array;
  private readonly tracker: WriteTracker;

  constructor(file: HostFile, header: QedHeader, words: Int32Array, numbers: Float64Array, tracker: WriteTracker) {
    this.file = file;
    this.cleanFeatures = header.features & ~QED_F_NEED_CHECK;
    this.words = words;
    this.numbers = numbers;
    this.tracker = tracker;
  }

  get isSet(): boolean {
    return Atomics.load(this.words, DIRTY) === 1;
  }

  /** The metadata was not changed for this many ms of wall-clock time. */
  idleMs(nowMs: number): number {
    return nowMs - this.numbers[LAST_CHANGE_MS]!;
  }

  /** Called before every change of metadata. Throws read-only once the image has failed. */
  set(): void {
    this.tracker.assertWritable();
    this.numbers[LAST_CHANGE_MS] = steadyMs();
    if (this.isSet) return;
    this.writeField(FEATURES_OFFSET, this.cleanFeatures | QED_F_NEED_CHECK);
    this.tracker.sync();
    Atomics.store(this.words, DIRTY, 1);
  }

  /** Makes everything written so far durable, then clears the bit; a crash at any line leaves it set or the image clean. */
  clear(): void {
    this.tracker.sync();
    this.writeField(FEATURES_OFFSET, this.cleanFeatures);
    this.tracker.sync();
    Atomics.store(this.words, DIRTY, 0);
  }

  /** Writes one header field; the image has failed when that fails (R8), unless the host was full. */
  writeField(offset: number, value: number): void {
    this.tracker.writeMetadata('header-update', () => writeHeaderField(this.file, offset, value));
  }
}
