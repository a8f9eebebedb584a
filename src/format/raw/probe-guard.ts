// Keeps a raw image that was guessed a raw image: a change after which the next opening would take it for another format is
// refused, because that opening would follow what the guest wrote there. Invariant: both ends are looked at as they would be
// after the change, before the file is touched.

import { hostOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { type HostFile, readPadded } from '../../host/host-file.ts';
import { END_BYTES, FileEnds } from '../file-ends.ts';

/** A change of the range [offset, offset + length): the bytes of `source` from `sourceOffset` on, or zeros. */
interface Change {
  readonly offset: number;
  readonly length: number;
  readonly source: Uint8Array | null;
  readonly sourceOffset: number;
}

export class ProbeGuard {
  private readonly file: HostFile;
  private readonly recognizedName: (ends: FileEnds) => string | null;

  constructor(file: HostFile, recognizedName: (ends: FileEnds) => string | null) {
    this.file = file;
    this.recognizedName = recognizedName;
  }

  /** @param size of the disk @throws ImgfuseError permission */
  assertStaysRaw(size: number, offset: number, length: number, source: Uint8Array | null, sourceOffset = 0): void {
    if (offset >= END_BYTES && offset + length <= size - END_BYTES) return;
    this.assertRaw(size, { offset, length, source, sourceOffset });
  }

  /** The same for a change of the size: other bytes become the last ones. */
  assertStaysRawAt(size: number): void {
    this.assertRaw(size, null);
  }

  private assertRaw(size: number, change: Change | null): void {
    const tailOffset = Math.max(0, size - END_BYTES);
    const ends = new FileEnds(this.bytesAfter(0, size, change), size, () => this.bytesAfter(tailOffset, size, change));
    const name = this.recognizedName(ends);
    if (name === null) return;
    const { path } = this.file;
    throw new ImgfuseError(
      'permission',
      `${path} was taken for a raw image by guessing, and what the guest does now would make it ${name} at the next ` +
        'opening; mount it with --format raw if that is intended',
      { path, offset: change?.offset ?? size },
    );
  }

  /** One end of the file from `start` on, as it is after the change. */
  private bytesAfter(start: number, size: number, change: Change | null): Uint8Array {
    const bytes = new Uint8Array(Math.min(size, END_BYTES));
    readPadded(this.file, bytes, 0, bytes.length, hostOffset(start));
    if (change === null) return bytes;
    const { offset, length, source, sourceOffset } = change;
    const first = Math.max(offset, start);
    const end = Math.min(offset + length, start + bytes.length);
    if (first >= end) return bytes;
    if (source === null) bytes.fill(0, first - start, end - start);
    else bytes.set(source.subarray(sourceOffset + first - offset, sourceOffset + end - offset), first - start);
    return bytes;
  }
}
