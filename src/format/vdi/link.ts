// Changes of entries of the map: linking blocks, and replacing links by "free" or "discarded". Used under the metadata lock,
// with a new uuidModify in place, and for blocks that the durable cBlocksAllocated covers.

import type { GuestCluster } from '../../bytes/offsets.ts';
import type { PendingLink, PendingLinks } from '../mapped/pending-links.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { VdiNumbers } from './state.ts';
import type { BlockMap } from './table.ts';

export interface LinkerParts {
  readonly blockMap: BlockMap;
  readonly geometry: Geometry;
  readonly numbers: Pick<VdiNumbers, 'blockCount' | 'dataOffset'>;
  readonly pending: PendingLinks;
  readonly tracker: WriteTracker;
}

export class Linker {
  private readonly parts: LinkerParts;

  constructor(parts: LinkerParts) {
    this.parts = parts;
  }

  /** Blocks from `block` on that one store can change: their entries share a slice of the map. */
  span(block: GuestCluster): number {
    const { blockMap, numbers } = this.parts;
    return Math.min(blockMap.entriesInSlice(block), numbers.blockCount - block);
  }

  /** Links guest blocks to host blocks in a row. @returns how many; less than `count` at the end of a slice */
  link(block: GuestCluster, index: number, count: number): number {
    const { blockMap, tracker } = this.parts;
    const part = Math.min(count, this.span(block));
    tracker.writeMetadata('l2-update', () => blockMap.store(block, part, index, 1));
    return part;
  }

  /** Links blocks of one slice that waited among the first `count` entries. */
  linkSlice(links: readonly PendingLink[], count: number): void {
    const { blockMap, geometry, numbers, pending, tracker } = this.parts;
    const entries = links.map(({ guestCluster, hostOffset }) => ({
      block: guestCluster,
      index: geometry.indexOf(hostOffset, numbers.dataOffset),
    }));
    tracker.writeMetadata('l2-update', () => blockMap.storeEach(entries));
    for (const { guestCluster } of links) pending.drop(guestCluster, count);
  }

  /** Sets `count` entries, which lie in one slice, to "free" or "discarded". */
  replace(block: GuestCluster, count: number, entry: number): void {
    const { blockMap, tracker } = this.parts;
    tracker.writeMetadata('l2-update', () => blockMap.store(block, count, entry, 0));
  }
}
