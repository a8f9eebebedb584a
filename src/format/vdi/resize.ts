// Changing the virtual size. A grown part reads as zeros, whatever the last block or the parent hold there; a smaller size is
// durable before anything behind it is given up, so a crash leaves leaks and never a cut-off block. A disk that needs more
// entries than its map has gets them in the room up to block 0, or a new map (move-map.ts).

import { guestCluster, MAX_VIRTUAL_SIZE, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import { growOverBacking } from '../mapped/backing.ts';
import type { Collaborators } from './collaborators.ts';
import { DISK_SIZE_AT, u64Field, VDI_IMAGE_BLOCK_ZERO, writeHeaderFields } from './header.ts';
import { growMap } from './move-map.ts';

export type ResizeParts = Collaborators;

/** Sets the virtual size to `size` bytes, rounded up to 512. Throws limit when no map can have so many blocks. */
export function resize(parts: ResizeParts, size: number): void {
  const padded = roundUp(size, SECTOR_BYTES);
  checkLimit(parts, padded);
  const old = parts.disk.virtualSizeOutsideLock();
  if (padded > old) grow(parts, old, padded);
  else if (padded < old) shrink(parts, old, padded);
}

function checkLimit({ file: { path }, geometry }: ResizeParts, size: number): void {
  const most = Math.min(geometry.clusterSize * VDI_IMAGE_BLOCK_ZERO, MAX_VIRTUAL_SIZE);
  if (size <= most) return;
  throw new ImgfuseError(
    'limit',
    `${path} cannot have ${size} bytes: blocks of ${geometry.clusterSize} bytes reach ${most} bytes`,
    { path },
  );
}

function grow(parts: ResizeParts, old: number, size: number): void {
  const { deallocator, flush, geometry, lock, numbers } = parts;
  deallocator.zeroBehindEnd(old);
  const blocks = geometry.clustersFor(size);
  // a shrink that was cut short, by a crash or a full host, has left blocks behind the end
  const present = lock.run(() => numbers.blockCount);
  deallocator.cutOff(guestCluster(geometry.clustersFor(old)), Math.min(present, blocks));
  if (blocks > present) growMap(parts, blocks);
  growOverBacking(parts, geometry.clusterSize, old, size, () => setSize(parts, size));
  flush.run();
}

function shrink(parts: ResizeParts, old: number, size: number): void {
  const { deallocator, flush, geometry, tracker } = parts;
  setSize(parts, size);
  flush.run();
  deallocator.zeroBehindEnd(size);
  deallocator.cutOff(guestCluster(geometry.clustersFor(size)), geometry.clustersFor(old));
  tracker.noteWrite();
  flush.run();
}

function setSize({ disk, file, lock, modifyUuid, reservations, tracker }: ResizeParts, size: number): void {
  // before all blocks are reserved, because it may wait for the disk
  lock.run(() => modifyUuid.change());
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    tracker.writeMetadata('header-update', () => writeHeaderFields(file, [u64Field(DISK_SIZE_AT, size)]));
    disk.setVirtualSize(size);
  });
  tracker.noteWrite();
}
