// What a clean close does with free blocks: the indices in use are 0 to N - 1 then, because other programs take the number of
// blocks in use for the next index. The last blocks move into the gaps:
//
//   copied -> fdatasync -> entries -> [the old places are freed: two flushes] -> count and length (allocated-count.ts)
//
// A crash on the way leaves an entry that leads to one of two equal copies. Under the metadata lock, with all blocks reserved.

import { after, type GuestCluster, guestCluster, type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import { VDI_IMAGE_BLOCK_ZERO } from './header.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { VdiNumbers } from './state.ts';

const COPY_BYTES = 1024 * 1024;

export interface CompactParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly free: FreeClusters;
  readonly tracker: WriteTracker;
  readonly numbers: VdiNumbers;
}

/** Moves blocks from the end of the file into FREE ones, which are durable holes. Throws no-space, and nothing has moved. */
export function moveIntoGaps(parts: CompactParts): void {
  const { allocator, file, free, geometry, linker, numbers, tracker } = parts;
  if (free.freeCount === 0) return;
  const { dataOffset } = numbers;
  const moves = blocksFrom(parts, numbers.end - free.freeCount).map(({ block, index }) => {
    const run = free.take(1, true)!;
    return { block, from: index, to: run.start };
  });
  try {
    for (const { from, to } of moves) {
      copyBytes(file, geometry.hostStartOf(from, dataOffset), geometry.hostStartOf(to, dataOffset), geometry.stride);
    }
    tracker.sync();
  } catch (error) {
    for (const { to } of moves) allocator.release(to, 1);
    throw error;
  }
  for (const { block, from, to } of moves) {
    linker.link(block, to, 1);
    allocator.release(from, 1);
  }
}

/** Guest blocks that lie in host blocks from `start` on. */
function blocksFrom({ mapper, numbers }: CompactParts, start: number): { block: GuestCluster; index: number }[] {
  const found: { block: GuestCluster; index: number }[] = [];
  for (let block = guestCluster(0); block < numbers.blockCount; block = after(block, 1)) {
    const index = mapper.lookup(block);
    if (index < VDI_IMAGE_BLOCK_ZERO && index >= start) found.push({ block, index });
  }
  return found;
}

/** Copies bytes of the file to a place that reads as zeros, so that holes stay holes. */
export function copyBytes(file: HostFile, from: HostOffset, to: HostOffset, length: number): void {
  const end = from + length;
  const buffer = new Uint8Array(Math.min(length, COPY_BYTES));
  for (let at = file.seekData(from); at < end; at = file.seekData(hostOffset(at))) {
    const dataEnd = Math.min(end, file.seekHole(hostOffset(at)));
    // the end of the file counts as data
    if (dataEnd <= at) return;
    while (at < dataEnd) {
      const part = file.read(buffer, 0, Math.min(buffer.length, dataEnd - at), hostOffset(at));
      if (part === 0) return;
      file.write(buffer, 0, part, after(to, at - from));
      at += part;
    }
  }
}
