// What a clean close does with free blocks: the indices in use are 0 to N - 1 then, because other programs take the number of
// blocks in use for the next index. The last blocks move into the gaps:
//
//   copied -> fdatasync -> entries -> [the old places are freed: two flushes] -> count and length (allocated-count.ts)
//
// A crash on the way leaves an entry that leads to one of two equal copies. Under the metadata lock, with all blocks reserved.

import { after, type GuestCluster, guestCluster } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import { eachAdjoiningInOrder } from '../mapped/space/adjoining.ts';
import { copyBytes } from '../mapped/space/copy-bytes.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import { VDI_IMAGE_BLOCK_ZERO } from './header.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { VdiNumbers } from './state.ts';

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

/** Moves blocks from the end of the file into FREE ones, which are durable holes. Throws no-space; what has not moved stays. */
export function moveIntoGaps(parts: CompactParts): void {
  const { allocator, file, free, geometry, linker, numbers, tracker } = parts;
  if (free.freeCount === 0) return;
  const { dataOffset } = numbers;
  const moves: { readonly block: GuestCluster; readonly from: number; readonly to: number }[] = [];
  for (const { block, index } of blocksFrom(parts, numbers.end - free.freeCount)) {
    const gap = free.take(1, true);
    // two entries lead to one block, and no walk has found it
    if (gap === null) break;
    moves.push({ block, from: index, to: gap.start });
  }
  const release = (indices: readonly number[]): void =>
    eachAdjoiningInOrder(indices, 1, (index, count) => allocator.release(index, count));
  try {
    for (const { from, to } of moves) {
      copyBytes(file, geometry.hostStartOf(from, dataOffset), geometry.hostStartOf(to, dataOffset), geometry.stride);
    }
    tracker.sync();
  } catch (error) {
    release(moves.map(({ to }) => to));
    throw error;
  }
  let linked = 0;
  try {
    for (; linked < moves.length; linked++) linker.link(moves[linked]!.block, moves[linked]!.to, 1);
  } finally {
    // a full host may stop it on the way
    release(moves.map(({ from, to }, i) => (i < linked ? from : to)));
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
