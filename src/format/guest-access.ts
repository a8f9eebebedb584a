// What a request of the guest may do at all: change an image that is open for writing and has not failed, and touch bytes
// inside the virtual disk. Looks at the virtual size as it is now, so where a format has a metadata lock it is held.

import { type GuestOffset, hex } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import type { WriteTracker } from './write-tracker.ts';

/** Bytes of the disk as it is now. Where the format has a metadata lock, it is held. */
export interface SharedSize {
  readonly virtualSize: number;
}

export class GuestAccess {
  private readonly file: HostFile;
  private readonly tracker: WriteTracker;
  private readonly size: SharedSize;

  constructor(file: HostFile, tracker: WriteTracker, size: SharedSize) {
    this.file = file;
    this.tracker = tracker;
    this.size = size;
  }

  get virtualSize(): number {
    return this.size.virtualSize;
  }

  assertWritable(): void {
    if (this.file.readOnly)
      throw new ImgfuseError('read-only', `${this.file.path} is open read-only`, { path: this.file.path });
    this.tracker.assertWritable();
  }

  /** @param size the virtual size, for a caller that needs the same one afterwards */
  assertInside(offset: GuestOffset, length: number, size = this.virtualSize): void {
    if (offset + length <= size) return;
    const { path } = this.file;
    throw new ImgfuseError('limit', `offset ${hex(offset + length)} is beyond the end of the disk in ${path}`, {
      path,
      offset,
    });
  }
}
