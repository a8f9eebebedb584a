// Makes the content of an image independent of which of two images lies below it: where they differ, the image gets what the old
// one shows. After that either of them may be named as its backing file.
// Invariant: at every moment the image over its old backing file reads as before.

import { type GuestOffset, guestOffset } from '../../bytes/offsets.ts';
import { imageChain, type ReadableImage, type WritableImage } from '../../format/image-format.ts';
import { isSameFile } from '../../host/file-identity.ts';
import { chainDataRun } from '../chain.ts';
import { rangesAbove } from './commit.ts';

/** Content is compared in pieces of this. */
const PIECE_BYTES = 2 * 1024 * 1024;
/** Content that differs is copied in pieces of at most this, if clusters are larger. */
const STEP_BYTES = 64 * 1024;

export interface CopyResult {
  /** bytes of the disk that the image got, as data and as zeros */
  readonly dataBytes: number;
  readonly zeroBytes: number;
}

/**
 * @param below the image that is to lie below; null: none
 * @yields the fraction that is done, 0 to 1; whoever stops there leaves an image that is over its old backing file what it was
 */
export function* copyDifferences(
  image: WritableImage,
  below: ReadableImage | null,
): Generator<number, CopyResult, void> {
  const copier = new DifferenceCopier(image, below);
  const size = image.virtualSize();
  for (let at = 0; at < size; ) {
    const { status, length } = image.mapStatus(guestOffset(at), size - at);
    if (status === 'unallocated') {
      for (const { start, end } of differing(image.backing, below, at, at + length)) {
        for (let from = start; from < end; ) {
          from += copier.copy(from, end);
          yield from / size;
        }
      }
    }
    at += length;
    yield at / size;
  }
  return copier.result;
}

/** The parts of a range in which the two may differ: what both get from the same image is the same. */
function* differing(
  old: ReadableImage | null,
  below: ReadableImage | null,
  start: number,
  end: number,
): Generator<{ readonly start: number; readonly end: number }, void> {
  const shared = old === null || below === null ? -1 : imageChain(old).findIndex((each) => isSameImage(each, below));
  if (old === null || shared < 0) return yield { start, end };
  const covered = Math.max(start, Math.min(end, old.virtualSize()));
  if (shared > 0) yield* rangesAbove(old, shared, start, covered);
  if (covered < end) yield { start: covered, end };
}

function isSameImage(one: ReadableImage, other: ReadableImage): boolean {
  return one.format === other.format && isSameFile(one.file.identity(), other.file.identity());
}

class DifferenceCopier {
  private readonly image: WritableImage;
  private readonly below: ReadableImage | null;
  private readonly old = Buffer.alloc(PIECE_BYTES);
  private readonly other = Buffer.alloc(PIECE_BYTES);
  private readonly zeros = Buffer.alloc(PIECE_BYTES);
  private readonly step: number;
  private dataBytes = 0;
  private zeroBytes = 0;

  constructor(image: WritableImage, below: ReadableImage | null) {
    this.image = image;
    this.below = below;
    this.step = Math.min(PIECE_BYTES, Math.max(STEP_BYTES, image.clusterSize));
  }

  get result(): CopyResult {
    return { dataBytes: this.dataBytes, zeroBytes: this.zeroBytes };
  }

  /** Copies what differs in the first bytes of a range that the image does not have. @returns how many bytes are done */
  copy(start: number, end: number): number {
    const old = dataRun(this.image.backing, start, end - start);
    const other = dataRun(this.below, start, end - start);
    const same = Math.min(old.length, other.length);
    if (!old.isData && !other.isData) return same;
    // whole steps, counted from the beginning of the disk
    const length = Math.min(end, start - (start % PIECE_BYTES) + PIECE_BYTES) - start;
    readWhole(this.image.backing, this.old, length, guestOffset(start));
    readWhole(this.below, this.other, length, guestOffset(start));
    for (let at = 0; at < length; ) {
      const part = Math.min(length - at, this.step - ((start + at) % this.step));
      this.copyPart(start + at, at, part);
      at += part;
    }
    return length;
  }

  private copyPart(offset: number, at: number, length: number): void {
    const bytes = this.old.subarray(at, at + length);
    if (bytes.equals(this.other.subarray(at, at + length))) return;
    if (bytes.equals(this.zeros.subarray(0, length))) this.zeroBytes += length;
    else this.dataBytes += length;
    // the clusters become the image's own, zeros as zero clusters
    this.image.copyUp(guestOffset(offset), length);
    this.writeRest(bytes, offset);
  }

  /**
   * What the image does not have yet, although it reads right: zeros beyond the end of the old backing file, or where the format has
   * no zero clusters. They become data, because nothing else outlasts another backing file.
   */
  private writeRest(bytes: Uint8Array, offset: number): void {
    for (let done = 0; done < bytes.length; ) {
      const { status, length } = this.image.mapStatus(guestOffset(offset + done), bytes.length - done);
      if (status === 'unallocated') this.image.write(bytes, done, length, guestOffset(offset + done));
      done += length;
    }
  }
}

/** Whether an image shows data, or zeros, and how far that is sure. */
function dataRun(
  image: ReadableImage | null,
  offset: number,
  length: number,
): { readonly isData: boolean; readonly length: number } {
  const inside = image === null ? 0 : image.virtualSize() - offset;
  if (image === null || inside <= 0) return { isData: false, length };
  return chainDataRun(image, offset, Math.min(length, inside));
}

/** Beyond the end of an image there are zeros. */
function readWhole(image: ReadableImage | null, target: Uint8Array, length: number, offset: GuestOffset): void {
  const inside = image === null ? 0 : Math.max(0, Math.min(length, image.virtualSize() - offset));
  if (inside > 0) image!.read(target, 0, inside, offset);
  target.fill(0, inside, length);
}
