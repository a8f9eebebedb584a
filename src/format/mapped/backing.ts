// Reading the image below: a backing file may be shorter than its overlay, and what lies behind its end reads as zeros.

import { after, type GuestOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { ReadableImage } from '../image-format.ts';

/** What says which ranges of an image read as zeros, and what lies below it. */
type Mapped = Pick<ReadableImage, 'backing' | 'mapStatus'>;

/** Reads `length` bytes of `backing` at `offset`; zeros behind its end. */
export function readBackingData(
  backing: ReadableImage,
  target: Uint8Array,
  targetOffset: number,
  length: number,
  offset: GuestOffset,
): void {
  const inside = Math.max(0, Math.min(length, backing.virtualSize() - offset));
  if (inside > 0) {
    failpoint('backing-read');
    backing.read(target, targetOffset, inside, offset);
  }
  if (inside < length) target.fill(0, targetOffset + inside, targetOffset + length);
}

/**
 * True when the chain below is known to read as zeros in the range from its metadata alone; false when data may be there.
 * No lock of the image above is held: tables of the chain may have to come over a network.
 */
export function readsAsZeros(backing: ReadableImage | null, offset: GuestOffset, length: number): boolean {
  return backing === null || mapsAsZeros(backing, offset, Math.min(length, backing.virtualSize() - offset));
}

/** The same for an image and the chain below it, in a range that the image maps: up to the end of its last cluster. */
export function mapsAsZeros(image: Mapped, offset: GuestOffset, length: number): boolean {
  const end = offset + length;
  for (let at = offset; at < end; ) {
    const { status, length: part } = image.mapStatus(at, end - at);
    if (status === 'data' || (status === 'unallocated' && !readsAsZeros(image.backing, at, part))) return false;
    at = after(at, part);
  }
  return true;
}
