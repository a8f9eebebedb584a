// Looking at the files that an image consists of without opening it: each once, and one that cannot be opened is told. Files that
// cannot be opened for the same reason share a sentence, however many they are.

import { describeError, ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import type { OpenOptions } from './image-format.ts';

export class ExtentLooks<Facts> {
  private readonly openExtent: OpenOptions['openExtent'];
  private readonly seen = new Map<string, Facts | null>();
  /** by the sentence without the name of the file */
  private readonly failures = new Map<string, { readonly sentence: string; count: number }>();

  /** @param openExtent as in OpenOptions; absent: nothing is looked at */
  constructor(openExtent: OpenOptions['openExtent']) {
    this.openExtent = openExtent;
  }

  /** What the file says of itself; null if it is not looked at, or cannot be. */
  look(name: string, factsOf: (extent: HostFile) => Facts): Facts | null {
    if (!this.seen.has(name)) this.seen.set(name, this.lookAt(name, factsOf));
    return this.seen.get(name)!;
  }

  private lookAt(name: string, factsOf: (extent: HostFile) => Facts): Facts | null {
    if (this.openExtent === undefined) return null;
    try {
      return factsOf(this.openExtent(name, 'extent', 'read'));
    } catch (error) {
      if (!(error instanceof ImgfuseError)) throw error;
      this.note(name, describeError(error));
      return null;
    }
  }

  private note(name: string, sentence: string): void {
    const reason = sentence.replaceAll(name, '');
    const failure = this.failures.get(reason);
    if (failure === undefined) this.failures.set(reason, { sentence, count: 1 });
    else failure.count++;
  }

  /** @param path of the image */
  tell(path: string, log: (sentence: string) => void): void {
    for (const { sentence, count } of this.failures.values()) {
      const others = count === 2 ? 'one other extent' : `${count - 1} other extents`;
      log(count === 1 ? sentence : `${sentence}; so it is with ${others} of ${path}`);
    }
  }
}
