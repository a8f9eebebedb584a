// Copy-on-read for all threads of a disk: clusters that a guest reads from the backing file are copied up first, and the
// read then finds them in the image. Invariant: no read fails because of it. A copy that fails stops it for the life of the
// disk, with one warning. If the backing file cannot be read, the read itself says so.

import type { GuestOffset } from '../bytes/offsets.ts';
import { describeError, ImgfuseError } from '../errors/index.ts';
import { imageChain, type WritableImage } from '../format/image-format.ts';

const ON = 0;
const STOPPED = 1;

/** One word, ON or STOPPED. */
export type CopyOnReadState = Int32Array<SharedArrayBuffer>;

export function createCopyOnReadState(): CopyOnReadState {
  return new Int32Array(new SharedArrayBuffer(4));
}

export class CopyOnRead {
  readonly state: CopyOnReadState;
  private readonly image: WritableImage;
  private readonly below: readonly string[];
  private readonly log: (sentence: string) => void;

  constructor(image: WritableImage, state: CopyOnReadState, log: (sentence: string) => void) {
    this.image = image;
    this.state = state;
    this.log = log;
    this.below = imageChain(image)
      .slice(1)
      .map(({ file }) => file.path);
  }

  get isStopped(): boolean {
    return Atomics.load(this.state, 0) === STOPPED;
  }

  /** Called before a range is read. */
  copy(offset: GuestOffset, length: number): void {
    if (this.isStopped) return;
    try {
      this.image.copyUp(offset, length);
    } catch (error) {
      const { path } = error instanceof ImgfuseError ? error.context : { path: undefined };
      if (path === undefined || !this.below.includes(path)) this.stop(error);
    }
  }

  private stop(error: unknown): void {
    if (Atomics.compareExchange(this.state, 0, ON, STOPPED) !== ON) return;
    this.log(
      `${this.image.file.path}: copy_on_read stops until the next mount, reads go on from the backing file: ${describeError(error)}`,
    );
  }
}
