// Guards an image that was guessed to be raw: refuses a change after which the next open would recognize another format,
// because that open would trust metadata that the guest wrote. Invariant: both ends of the file are examined as they would be
// after the change, before the file is touched.

import { hostOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { type HostFile, readPadded } from '../../host/host-file.ts';
import { END_BYTES, FileEnds } from '../file-ends.ts';

/** A change of the range [offset, offset + length). */
interface Change {
  readonly offset: number;
  readonly length: number;
  /** the new bytes, from `sourceOffset` on; null for zeros */
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

  /**
   * Checks a change of the range [offset, offset + length).
   * @param size virtual size in bytes @param source the new bytes, or null for zeros
   * @throws ImgfuseError permission if the file would look like another format
   */
  assertStaysRaw(size: number, offset: number, length: number, source: Uint8Array | null, sourceOffset = 0): void {
    if (offset >= END_BYTES && offset + length <= size - END_BYTES) return;
    this.assertRaw(size, { offset, length, source, sourceOffset });
  }

  /** Checks a change of the virtual size, which moves the end. @throws ImgfuseError permission */
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
      `${path} was guessed to be a raw image, and this change by the guest would make it look like ${name} at the next open; ` +
        'mount the image with --format raw if the guest may do that',
      { path, offset: change?.offset ?? size },
    );
  }

  /** The bytes of one end of the file, from `start` on, as they would be after the change. */
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
