// The image below: reads of it, and the growth of a disk above it. A backing file may be shorter than its overlay, and what lies behind
// its end reads as zeros; it may be longer, and what the overlay did not show before does not show later.

import { after, type GuestOffset, guestOffset, roundUp } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { ReadableImage } from '../image-format.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { DiskNumbers } from './disk-numbers.ts';

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

export interface GrowthParts {
  readonly backing: ReadableImage | null;
  readonly deallocator: { zero(offset: GuestOffset, length: number, diskEnd: number): void };
  readonly disk: Pick<DiskNumbers, 'seeing'>;
  readonly flush: { run(): void };
  readonly tracker: Pick<WriteTracker, 'noteWrite'>;
}

/**
 * A disk of `old` bytes gets `size` bytes, of which the new ones read as zeros. The last cluster of the old disk does so already, as do
 * entries behind it. @param setSize stores the new size, in memory too; a flush makes it durable
 */
export function growOverBacking(
  { backing, deallocator, disk, flush, tracker }: GrowthParts,
  clusterSize: number,
  old: number,
  size: number,
  setSize: () => void,
): void {
  if (backing !== null && Math.min(size, backing.virtualSize()) > old) {
    const exposed = Math.min(size, roundUp(backing.virtualSize(), clusterSize));
    // before anybody sees the range
    disk.seeing(size, () => deallocator.zero(guestOffset(old), exposed - old, size));
  }
  tracker.noteWrite();
  flush.run();
  setSize();
}
