// SnapshotDisk: the disk of an internal snapshot as a plain array of bytes, read through the backing chain of its image. It never
// changes, and it ends with the disk that it comes from, which owns the files.

import type { GuestOffset } from '../bytes/offsets.ts';
import type { SnapshotImage } from '../format/image-format.ts';
import { chainOccupiedBytes, chainSeek } from './chain.ts';

export class SnapshotDisk {
  private readonly image: SnapshotImage;
  private readonly requestBegins: () => void;

  /** @param requestBegins called before each read of the files */
  constructor(image: SnapshotImage, requestBegins: () => void) {
    this.image = image;
    this.requestBegins = requestBegins;
  }

  /** Virtual size in bytes. */
  size(): number {
    return this.image.virtualSize();
  }

  /** As VirtualDisk.occupiedBytes(). */
  occupiedBytes(): number {
    return chainOccupiedBytes(this.image);
  }

  /** @returns bytes read: fewer than `length` only at the end of the disk */
  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): number {
    const count = Math.max(0, Math.min(length, this.size() - offset));
    if (count === 0) return 0;
    this.requestBegins();
    this.image.read(target, targetOffset, count, offset);
    return count;
  }

  /** As VirtualDisk.seek(). */
  seek(offset: number, wantsData: boolean): number {
    this.requestBegins();
    return chainSeek(this.image, offset, wantsData);
  }
}
