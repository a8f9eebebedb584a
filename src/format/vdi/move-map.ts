// A map with more entries. If there is room up to block 0, the new entries are written there. Else the first m blocks make room,
// and the map takes their place, so that it stays before all blocks (N are in use):
//
//   N + m blocks counted, with zeros at the end of the file (durable)
//   the first m blocks copied to the end (durable) -> their entries lead there (durable)
//   the new map, with indices that are m lower, written where block 0 was (durable)
//   one write of sector 0: offBlocks, offData, cBlocks and cBlocksAllocated (durable)
//
// A crash before the last line leaves the old map, whose entries are true at any moment, and a count that is too high. The copies need
// m indices that are not in use. If there are fewer, as in a static image, blocks that lie in holes are given up for that.

import { after, type GuestCluster, guestCluster, hostOffset } from '../../bytes/offsets.ts';
import { assert, ImgfuseError } from '../../errors/index.ts';
import { copyBytes } from '../mapped/space/copy-bytes.ts';
import type { Collaborators } from './collaborators.ts';
import { moveIntoGaps } from './compact.ts';
import { ENTRY_BYTES } from './geometry.ts';
import {
  ALLOCATED_AT,
  BLOCK_COUNT_AT,
  OFF_BLOCKS_AT,
  OFF_DATA_AT,
  u32Field,
  VDI_IMAGE_BLOCK_FREE,
  VDI_IMAGE_BLOCK_ZERO,
  writeHeaderFields,
} from './header.ts';

const CHUNK_ENTRIES = 16 * 1024;

/** The map has `blocks` entries afterwards, the new ones free. Throws limit or no-space; the disk is as it was then. */
export function growMap(parts: Collaborators, blocks: number): void {
  const { lock, modifyUuid, numbers, reservations } = parts;
  lock.run(() => modifyUuid.change());
  const room = lock.run(() => Math.floor((numbers.dataOffset - numbers.mapOffset) / ENTRY_BYTES));
  if (room > lock.run(() => numbers.blockCount)) growInPlace(parts, Math.min(room, blocks));
  if (room >= blocks) return;
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    // everything is reserved, so no request runs; a fdatasync needs the lock for nothing
    lock.unlock();
    try {
      parts.allocatedCount.whileKept(() => moveMap(parts, blocks));
    } finally {
      lock.lock();
    }
  });
}

/** The entries are durable before the header counts them. */
function growInPlace(parts: Collaborators, blocks: number): void {
  const { blockMap, file, lock, numbers, tracker } = parts;
  const { blockCount, mapOffset } = lock.run(() => ({ blockCount: numbers.blockCount, mapOffset: numbers.mapOffset }));
  const start = mapOffset + blockCount * ENTRY_BYTES;
  const length = (blocks - blockCount) * ENTRY_BYTES;
  const free = new Uint8Array(Math.min(length, CHUNK_ENTRIES * ENTRY_BYTES)).fill(0xff);
  for (let done = 0; done < length; done += free.length) {
    file.write(free, 0, Math.min(free.length, length - done), hostOffset(start + done));
  }
  tracker.sync();
  lock.run(() => {
    forget(parts, start, length);
    const change = [u32Field(BLOCK_COUNT_AT, blocks)];
    tracker.writeMetadata('header-update', () => writeHeaderFields(file, change));
    numbers.noteLayout(mapOffset, numbers.dataOffset, blocks);
    assert(blockMap.load(guestCluster(blocks - 1)) === VDI_IMAGE_BLOCK_FREE, 'a new entry of the map is free');
  });
  tracker.sync();
}

/** Without the lock, and with all blocks reserved: nothing but this changes the image. */
function moveMap(parts: Collaborators, blocks: number): void {
  const { allocatedCount, file, geometry, lock, numbers, tracker } = parts;
  const moved = Math.ceil((blocks * ENTRY_BYTES) / geometry.stride);
  const { dataOffset, blockCount } = lock.run(() => ({
    dataOffset: numbers.dataOffset,
    blockCount: numbers.blockCount,
  }));
  const newDataOffset = dataOffset + moved * geometry.stride;
  if (newDataOffset > 0xffffffff)
    throw noRoom(
      parts,
      blocks,
      `it would move the first block beyond 4 GiB, where offData does not reach; it has ${blockCount} blocks now`,
    );
  makeDense(parts, blocks);
  const missing = lock.run(() => moved + numbers.end) - blockCount;
  if (missing > 0 && lock.run(() => numbers.end) > 0) {
    giveUpHoles(parts, missing, blocks);
    makeDense(parts, blocks);
  }
  const used = lock.run(() => numbers.end);
  const copies = Math.min(moved, used);
  const first = Math.max(moved, used);
  if (copies > 0) moveFirstBlocks(parts, copies, first);
  else allocatedCount.reserveKept(used);
  writeMovedMap(parts, blocks, moved, dataOffset);
  tracker.sync();
  lock.run(() => {
    const layout = [u32Field(OFF_BLOCKS_AT, dataOffset), u32Field(OFF_DATA_AT, newDataOffset)];
    const counts = [u32Field(BLOCK_COUNT_AT, blocks), u32Field(ALLOCATED_AT, used)];
    tracker.writeMetadata('header-update', () => writeHeaderFields(file, [...layout, ...counts]));
    forget(parts, numbers.mapOffset, blockCount * ENTRY_BYTES);
    forget(parts, dataOffset, blocks * ENTRY_BYTES);
    numbers.noteLayout(dataOffset, newDataOffset, blocks);
    numbers.lowerEnd(used);
    numbers.noteReserved(used);
  });
  tracker.sync();
  if (copies === 0) file.truncate(Math.max(file.size(), geometry.hostStartOf(0, newDataOffset)));
}

/** The indices in use are 0 to N - 1, and the file ends after them. */
function makeDense(parts: Collaborators, blocks: number): void {
  const { allocatedCount, flush, free, lock, tracker } = parts;
  tracker.noteWrite();
  flush.runUntilSettled();
  if (lock.run(() => free.freeCount) > 0) {
    lock.run(() => moveIntoGaps(parts));
    tracker.noteWrite();
    flush.runUntilSettled();
  }
  allocatedCount.trimKept();
  if (lock.run(() => free.unusedCount) > 0) throw noRoom(parts, blocks, 'the host has not freed blocks yet; try again');
}

/** Blocks that lie in holes of the file lose their index, as by a discard: the guest reads zeros there before and after. */
function giveUpHoles(parts: Collaborators, count: number, blocks: number): void {
  const { deallocator, geometry, lock } = parts;
  const holes = lock.run(() => blocksInHoles(parts, count));
  if (holes.length < count) {
    const what = `all of its blocks are in use, and ${count} of ${geometry.clusterSize} bytes must be empty for that`;
    throw noRoom(
      parts,
      blocks,
      `${what}: free space in the guest, let it run fstrim, and try again, or copy the disk into a larger image`,
    );
  }
  lock.run(() => {
    for (const block of holes) deallocator.zeroReserved(block, 1);
  });
}

/** @returns at most `most` guest blocks; the end of the file is no hole */
function blocksInHoles({ file, geometry, mapper, numbers }: Collaborators, most: number): GuestCluster[] {
  const found: GuestCluster[] = [];
  for (let block = guestCluster(0); block < numbers.blockCount && found.length < most; block = after(block, 1)) {
    const index = mapper.lookup(block);
    if (index >= VDI_IMAGE_BLOCK_ZERO) continue;
    const start = geometry.hostStartOf(index, numbers.dataOffset);
    if (file.seekData(start) >= start + geometry.stride) found.push(block);
  }
  return found;
}

/** Host blocks [0, copies) are at `first` and after it, for the map as well. */
function moveFirstBlocks(parts: Collaborators, copies: number, first: number): void {
  const { allocatedCount, file, geometry, linker, lock, mapper, numbers, tracker } = parts;
  const dataOffset = lock.run(() => numbers.dataOffset);
  allocatedCount.reserveKept(first + copies);
  for (let i = 0; i < copies; i++) {
    copyBytes(file, geometry.hostStartOf(i, dataOffset), geometry.hostStartOf(first + i, dataOffset), geometry.stride);
  }
  tracker.sync();
  lock.run(() => {
    numbers.advanceEnd(first + copies);
    for (let block = guestCluster(0); block < numbers.blockCount; block = after(block, 1)) {
      const index = mapper.lookup(block);
      if (index < copies) linker.link(block, first + index, 1);
    }
  });
  tracker.sync();
}

/** The entries with indices that are `moved` lower, and free ones after them, at `offset`. */
function writeMovedMap(
  { file, lock, mapper, numbers }: Collaborators,
  blocks: number,
  moved: number,
  offset: number,
): void {
  const chunk = new Uint8Array(CHUNK_ENTRIES * ENTRY_BYTES);
  const words = new DataView(chunk.buffer);
  for (let start: GuestCluster = guestCluster(0); start < blocks; start = after(start, CHUNK_ENTRIES)) {
    const count = Math.min(CHUNK_ENTRIES, blocks - start);
    lock.run(() => {
      for (let i = 0; i < count; i++) {
        const entry = start + i < numbers.blockCount ? mapper.lookup(after(start, i)) : VDI_IMAGE_BLOCK_FREE;
        words.setUint32(i * ENTRY_BYTES, entry < VDI_IMAGE_BLOCK_ZERO ? entry - moved : entry, true);
      }
    });
    file.write(chunk, 0, count * ENTRY_BYTES, hostOffset(offset + start * ENTRY_BYTES));
  }
}

/** Forgets the cached slices of a range, in which it may begin and end in the middle. The lock is held. */
function forget({ blockMap: { slices } }: Collaborators, offset: number, length: number): void {
  const start = offset - (offset % slices.sliceBytes);
  slices.forget(start, offset + length - start);
}

function noRoom({ file: { path } }: Collaborators, blocks: number, why: string): ImgfuseError {
  return new ImgfuseError('limit', `${path} cannot get a map of ${blocks} blocks: ${why}`, { path });
}
