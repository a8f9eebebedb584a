// Changing the size of a disk. What a grown disk shows reads as zeros before the size item says the new size, and a smaller size is
// durable before anything behind it is given up: a crash leaves unused space and never a block of the disk that is cut off. All of it
// goes through the log.

import { writeU64LE } from '../../bytes/endian.ts';
import { guestCluster, roundUp } from '../../bytes/offsets.ts';
import { ERRNO, ImgfuseError } from '../../errors/index.ts';
import { growOverBacking } from '../mapped/backing.ts';
import type { Collaborators } from './collaborators.ts';
import { Geometry } from './geometry.ts';
import { MAX_DISK_BYTES } from './header/metadata.ts';
import { makeRoomInBat } from './move-bat.ts';

export type ResizeParts = Omit<Collaborators, 'imageMap' | 'runs'>;

/** Sets the virtual size to `size` bytes, rounded up to whole sectors. Throws limit for what no VHDX can have. */
export function resize(parts: ResizeParts, size: number): void {
  const padded = roundUp(size, parts.state.disk.sectorBytes);
  checkLimit(parts, padded);
  const old = parts.disk.virtualSizeOutsideLock();
  if (padded > old) grow(parts, old, padded);
  else shrink(parts, old, padded);
}

function blocksFor({ geometry }: ResizeParts, size: number): number {
  return Math.ceil(size / geometry.blockBytes);
}

function checkLimit({ file: { path } }: ResizeParts, size: number): void {
  if (size === 0) {
    const context = { path, errno: ERRNO.EINVAL };
    throw new ImgfuseError('limit', `${path} cannot have 0 bytes: QEMU opens no VHDX without a sector`, context);
  }
  if (size > MAX_DISK_BYTES) {
    throw new ImgfuseError('limit', `${path} cannot have ${size} bytes: a VHDX reaches ${MAX_DISK_BYTES}`, { path });
  }
}

function grow(parts: ResizeParts, old: number, size: number): void {
  const { allocating, deallocator, flush, geometry, linker, lock, state, tracker } = parts;
  const [oldBlocks, blocks] = [blocksFor(parts, old), blocksFor(parts, size)];
  makeRoomInBat(parts, new Geometry({ ...state.disk, virtualSize: size }).entryCount);
  deallocator.zeroBehindEnd(old);
  // entries behind the end of the disk may be anything
  deallocator.forget(guestCluster(oldBlocks), blocks);
  lock.run(() => linker.forgetBitmaps(geometry.bitmapsFor(oldBlocks), geometry.bitmapsFor(blocks)));
  growOverBacking(parts, geometry.blockBytes, old, size, () => setSize(parts, size));
  if (state.disk.isFixed) {
    for (let block = oldBlocks; block < blocks; block++) {
      allocating.preallocateFirst(geometry.startOf(guestCluster(block)), 1, false);
    }
  }
  tracker.noteWrite();
  flush.run();
}

/** Also goes on with one that has failed behind the end of the disk. */
function shrink(parts: ResizeParts, old: number, size: number): void {
  const { deallocator, flush, lock, numbers, tracker } = parts;
  const left = Math.max(
    blocksFor(parts, old),
    lock.run(() => numbers.cutBlocks),
  );
  if (size === old && left === blocksFor(parts, old)) return;
  lock.run(() => numbers.noteCutBlocks(left));
  if (size < old) setSize(parts, size);
  tracker.noteWrite();
  flush.run();
  deallocator.zeroBehindEnd(size);
  deallocator.cutOff(guestCluster(blocksFor(parts, size)), left);
  lock.run(() => numbers.noteCutBlocks(0));
  tracker.noteWrite();
  flush.run();
}

function setSize({ disk, linker, lock, reservations, session, state }: ResizeParts, size: number): void {
  // before all blocks are reserved, because it may wait for the disk
  lock.run(() => session.startLog());
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    const bytes = new Uint8Array(8);
    writeU64LE(new DataView(bytes.buffer), 0, size);
    linker.commit(() => [{ offset: state.disk.sizeAt, bytes }]);
    disk.setVirtualSize(size);
  });
}
