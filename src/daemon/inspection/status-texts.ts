// The texts of status.json: each opening gets one, which stays as it is until the file is closed. The main thread makes them, because
// it alone knows the state of the mount, and it answers these requests itself: no thread that serves the disk waits for it,
// so it may ask programs that read the mount. Invariant: there are at most MAX_TEXTS of them.

import { ERRNO, ImgfuseError } from '../../errors/index.ts';
import type { LateFilesystem } from '../../fuse/index.ts';

const MAX_TEXTS = 256;
const EMFILE = 24;

export class StatusTexts implements LateFilesystem {
  private readonly make: () => Promise<unknown>;
  private readonly texts = new Map<number, Uint8Array | null>();
  private lastHandle = 0;

  /** @param make what the status is now */
  constructor(make: () => Promise<unknown>) {
    this.make = make;
  }

  async open(): Promise<number> {
    if (this.texts.size >= MAX_TEXTS) {
      throw new ImgfuseError('busy', `status.json is open ${MAX_TEXTS} times already`, { errno: EMFILE });
    }
    const handle = ++this.lastHandle;
    this.texts.set(handle, null);
    try {
      this.texts.set(handle, Buffer.from(`${JSON.stringify(await this.make(), null, 2)}\n`));
    } catch (error) {
      this.texts.delete(handle);
      throw error;
    }
    return handle;
  }

  read(handle: number, offset: number, length: number): Uint8Array {
    const text = this.texts.get(handle);
    if (text === undefined || text === null) throw new ImgfuseError('usage', 'no such handle', { errno: ERRNO.EBADF });
    // an offset that is no safe integer lies beyond the end
    return Number.isNaN(offset) ? new Uint8Array(0) : text.subarray(offset, offset + length);
  }

  release(handle: number): void {
    this.texts.delete(handle);
  }
}
