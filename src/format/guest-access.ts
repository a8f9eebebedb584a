// What a request of the guest may do at all: change an image that is open for writing and has not failed, and touch bytes
// inside the virtual disk. Looks at the virtual size as it is now, so where a format has a metadata lock it is held.

import { hex } from '../bytes/offsets.ts';
import type { Mutex } from '../concurrency/mutex.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import type { WriteTracker } from './write-tracker.ts';

export class GuestAccess {
  private readonly file: HostFile;
  private readonly tracker: WriteTracker;
  private readonly numbers: Float64Array;
  private readonly sizeIndex: number;

  /** @param numbers shared by the threads of the image; the virtual size is number `sizeIndex` */
  constructor(file: HostFile, tracker: WriteTracker, numbers: Float64Array, sizeIndex: number) {
    this.file = file;
    this.tracker = tracker;
    this.numbers = numbers;
    this.sizeIndex = sizeIndex;
  }

  get virtualSize(): number {
    return this.numbers[this.sizeIndex]!;
  }

  /**
   * For a caller without the lock. Nothing resizes a read-only image, and its lock may be held for long: by another thread,
   * while a table comes over a network.
   */
  virtualSizeOutside(lock: Mutex): number {
    return this.numberOutside(lock, this.sizeIndex);
  }

  /** Number `index` of the image, for a caller without the lock; see virtualSizeOutside. */
  numberOutside(lock: Mutex, index: number): number {
    return this.file.readOnly ? this.numbers[index]! : lock.run(() => this.numbers[index]!);
  }

  assertWritable(): void {
    if (this.file.readOnly)
      throw new ImgfuseError('read-only', `${this.file.path} is open read-only`, { path: this.file.path });
    this.tracker.assertWritable();
  }

  /** @param size the virtual size, for a caller that needs the same one afterwards */
  assertInside(offset: number, length: number, size = this.virtualSize): void {
    if (offset + length <= size) return;
    const { path } = this.file;
    throw new ImgfuseError('limit', `offset ${hex(offset + length)} is beyond the end of the disk in ${path}`, {
      path,
      offset,
    });
  }
}
