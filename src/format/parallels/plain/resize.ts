// Changing the virtual size. A grown part reads as zeros, whatever the last cluster holds there; a smaller size is durable before
// anything behind it is given up, so a crash leaves leaks and never a cut-off cluster.

import { guestCluster, MAX_VIRTUAL_SIZE, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { MAX_ENTRIES, mostSectors, type ParallelsHeader, sizeFields, writeHeaderFields } from '../header.ts';
import type { Collaborators } from './collaborators.ts';
import { growBat } from './grow-bat.ts';

/** Sets the virtual size to `size` bytes, rounded up to 512. Throws limit if no BAT can map it. */
export function resize(parts: Collaborators, header: ParallelsHeader, size: number): void {
  const padded = roundUp(size, SECTOR_BYTES);
  checkLimit(parts, header, padded);
  const old = parts.disk.virtualSizeOutsideLock();
  if (padded > old) grow(parts, old, padded);
  else if (padded < old) shrink(parts, old, padded);
}

function checkLimit({ file: { path }, geometry }: Collaborators, header: ParallelsHeader, size: number): void {
  const { clusterSize } = geometry;
  const most = Math.min(clusterSize * MAX_ENTRIES, mostSectors(header) * SECTOR_BYTES, MAX_VIRTUAL_SIZE);
  if (size <= most) return;
  const sentence = `${path} cannot have ${size} bytes: a disk of this kind with clusters of ${clusterSize} bytes has ${most} at most`;
  throw new ImgfuseError('limit', sentence, { path });
}

function grow(parts: Collaborators, old: number, size: number): void {
  const { deallocator, flush, geometry, lock, numbers, tracker } = parts;
  deallocator.zeroBehindEnd(old);
  const clusters = geometry.clustersFor(size);
  // a shrink that was cut short, by a crash or a full host, has left clusters behind the end
  const present = lock.run(() => numbers.batEntries);
  deallocator.cutOff(guestCluster(geometry.clustersFor(old)), Math.min(present, clusters));
  if (clusters > present) growBat(parts, clusters);
  tracker.noteWrite();
  flush.run();
  setSize(parts, size);
  flush.run();
}

function shrink(parts: Collaborators, old: number, size: number): void {
  const { deallocator, flush, geometry, tracker } = parts;
  setSize(parts, size);
  flush.run();
  deallocator.zeroBehindEnd(size);
  deallocator.cutOff(guestCluster(geometry.clustersFor(size)), geometry.clustersFor(old));
  tracker.noteWrite();
  flush.run();
}

function setSize({ disk, file, inUse, lock, reservations, tracker }: Collaborators, size: number): void {
  // before all clusters are reserved, because it may wait for the disk
  lock.run(() => inUse.change());
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    tracker.writeMetadata('header-update', () => writeHeaderFields(file, sizeFields(size)));
    disk.setVirtualSize(size);
  });
  tracker.noteWrite();
}
