// Writes what an overlay has into an image below it, and empties the overlay. Order of durability:
//
//   1 the base grows to the size of the overlay   what it gains reads as zeros, and so it did through the overlay
//   2 data and zeros of the overlay go to the base, at places that only the overlay is asked for while it has them
//   3 the base is flushed
//   4 if the image above the base knows it by an identity that this has changed, it gets the new one
//   5 clusters of the overlay become unallocated, in any order: the base says the same
//
// Invariant: after a crash at any point the overlay over its base reads as before, and doing it again completes it.

import { guestOffset } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import { type Image, imageChain, type ReadableImage, type WritableImage } from '../../format/image-format.ts';

/** Data goes over in pieces of this. */
const COPY_BYTES = 2 * 1024 * 1024;
/** Zeros that are only marked take no time; where they are written they do. */
const DISCARD_BYTES = 1024 * 1024 * 1024;
/** Many tables of most images, so that a format can give up whole ones. */
const EMPTY_BYTES = 64 * 1024 * 1024 * 1024;
/** Share of the work that copying is, for the progress. */
const COPY_SHARE = 0.95;

export interface CommitResult {
  /** bytes of the disk that were written to the base, as data and as zeros */
  readonly dataBytes: number;
  readonly zeroBytes: number;
  /** size of the base before it grew; absent: it did not */
  readonly grownFrom?: number;
}

/**
 * @param depth how far the base, which is open for writing, is below `top` @param isKept the overlay stays as it is
 * @yields the fraction that is done, 0 to 1; whoever stops there leaves images that can be flushed, closed, and committed again
 */
export function* commitImages(top: Image, depth: number, isKept: boolean): Generator<number, CommitResult, void> {
  const base = imageChain(top)[depth] as WritableImage;
  assert(!base.readOnly, 'a base that is committed to is open for writing');
  const size = top.virtualSize();
  const before = base.virtualSize();
  if (size > before) base.resize(size);
  let dataBytes = 0;
  let zeroBytes = 0;
  const copying = new Copying(top, base);
  for (const { start, end, isData } of rangesAbove(top, depth, 0, size)) {
    // what the base gained reads as zeros already
    const last = isData ? end : Math.min(end, before);
    for (let at = start; at < last; ) {
      at += isData ? copying.copy(at, last) : copying.zero(at, last);
      yield (at / size) * COPY_SHARE;
    }
    if (isData) dataBytes += end - start;
    else zeroBytes += end - start;
  }
  base.flush();
  adoptParent(imageChain(top)[depth - 1] as Image, base);
  if (!isKept) yield* empty(top as WritableImage);
  return { dataBytes, zeroBytes, ...(size > before ? { grownFrom: before } : {}) };
}

/** Images between the two are read-only, and stay as they are. */
function adoptParent(image: Image, base: WritableImage): void {
  if (image.readOnly) return;
  const { identity } = base.details();
  const known = image.details().backing?.identity;
  if (identity !== undefined && known !== undefined && identity !== known.values[0]) image.adoptParent?.(identity);
}

function* empty(overlay: WritableImage): Generator<number, void, void> {
  const size = overlay.virtualSize();
  for (let at = 0; at < size; at += EMPTY_BYTES) {
    const length = Math.min(EMPTY_BYTES, size - at);
    overlay.deallocate!(guestOffset(at), length);
    yield COPY_SHARE + ((at + length) / size) * (1 - COPY_SHARE);
  }
  overlay.flush();
}

class Copying {
  private readonly source: ReadableImage;
  private readonly base: WritableImage;
  private readonly buffer = new Uint8Array(COPY_BYTES);
  private readonly zeroStep: number;

  constructor(source: ReadableImage, base: WritableImage) {
    this.source = source;
    this.base = base;
    this.zeroStep = base.canDiscard() ? DISCARD_BYTES : COPY_BYTES;
  }

  /** @returns bytes that were copied */
  copy(at: number, end: number): number {
    const length = Math.min(COPY_BYTES, end - at);
    this.source.read(this.buffer, 0, length, guestOffset(at));
    this.base.write(this.buffer, 0, length, guestOffset(at));
    return length;
  }

  /** @returns bytes that read as zeros now */
  zero(at: number, end: number): number {
    const length = Math.min(this.zeroStep, end - at);
    this.base.discard(guestOffset(at), length);
    return length;
  }
}

interface Range {
  readonly start: number;
  readonly end: number;
  readonly isData: boolean;
}

/** The ranges that the `depth` upper images of a chain decide. */
export function* rangesAbove(image: ReadableImage, depth: number, offset: number, end: number): Generator<Range, void> {
  for (let at = offset; at < end; ) {
    const { status, length } = image.mapContent(guestOffset(at), end - at);
    const next = at + length;
    if (status !== 'unallocated') {
      yield { start: at, end: next, isData: status === 'data' };
    } else if (depth > 1) {
      const { backing } = image;
      const covered = Math.max(at, Math.min(next, backing?.virtualSize() ?? 0));
      if (backing !== null) yield* rangesAbove(backing, depth - 1, at, covered);
      // beyond the end of an image in between the disk reads as zeros, whatever the base has there
      if (covered < next) yield { start: covered, end: next, isData: false };
    }
    at = next;
  }
}
