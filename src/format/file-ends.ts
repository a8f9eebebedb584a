// The two ends of a file, by which one image format is told from another. The tail is read only when a probe asks for it,
// because a file may be far away. Whatever decides a format lies within END_BYTES of one of the ends.

import { hostOffset } from '../bytes/offsets.ts';
import type { HostFile } from '../host/host-file.ts';

/** Bytes of each end that a probe can see: two sectors. */
export const END_BYTES = 1024;

/** XML documents begin so: with a declaration, or behind a byte-order mark. */
export const XML_STARTS = ['<?xml', '\xef\xbb\xbf<'] as const;

/** Bytes that every file of some format has at one place. */
export interface Magic {
  /** offset in the file; a negative one counts from the end of the file */
  readonly at: number;
  /** the last offset where they may begin; absent: `at` */
  readonly upTo?: number;
  /** one character per byte (latin1) */
  readonly text: string;
  /** it is text, in which capitals do not matter */
  readonly ignoreCase?: boolean;
}

/** How the files of a format are told from all others. */
export interface Signature {
  /** a file with any of them is of the format; none: nothing tells its files */
  readonly magics: readonly Magic[];
  /** looks further at a file that has a magic; absent: the magic is enough */
  readonly confirms?: (ends: FileEnds) => boolean;
  /** a footer proves that the bytes at the head are a guest's, whatever they look like */
  readonly ownsHead?: (ends: FileEnds) => boolean;
}

/** Whether a file with these ends is of the format, by its magics at one of them. */
export function isSigned({ magics, confirms }: Signature, ends: FileEnds, end: 'head' | 'tail'): boolean {
  const isThere = magics.some((magic) => magic.at < 0 === (end === 'tail') && ends.has(magic));
  return isThere && (confirms?.(ends) ?? true);
}

export class FileEnds {
  /** the first bytes, END_BYTES unless the file is shorter */
  readonly head: Uint8Array;
  /** length of the file in bytes */
  readonly size: number;
  private readonly readTail: () => Uint8Array;
  private lastBytes: Uint8Array | undefined;

  constructor(head: Uint8Array, size: number, readTail: () => Uint8Array) {
    this.head = head;
    this.size = size;
    this.readTail = readTail;
  }

  /** The last bytes, END_BYTES unless the file is shorter. */
  get tail(): Uint8Array {
    this.lastBytes ??= this.readTail();
    return this.lastBytes;
  }

  has({ at, ignoreCase, text, upTo = at }: Magic): boolean {
    const end = at < 0 ? this.tail : this.head;
    const from = at < 0 ? end.length : 0;
    const first = Math.max(0, from + at);
    const found = Buffer.from(end.subarray(first, Math.max(first, from + upTo + text.length))).toString('latin1');
    return ignoreCase === true ? found.toLowerCase().includes(text.toLowerCase()) : found.includes(text);
  }
}

/** @throws ImgfuseError io */
export function endsOf(file: HostFile): FileEnds {
  const size = file.size();
  const read = (offset: number): Uint8Array => {
    const bytes = new Uint8Array(Math.min(size, END_BYTES));
    const count = file.read(bytes, 0, bytes.length, hostOffset(offset));
    return bytes.subarray(0, count);
  };
  return new FileEnds(read(0), size, () => read(Math.max(0, size - END_BYTES)));
}
