// How the block allocation table is laid out. A chunk is what one bitmap of 1 MiB has bits for; its payload blocks are as many as the
// chunk ratio says, and the entry of its bitmap follows theirs, also in an image without a parent:
//
//   payload 0 ... payload R-1 | bitmap of chunk 0 | payload R ... payload 2R-1 | bitmap of chunk 1 | ...

import { type GuestCluster, type GuestOffset, guestCluster, guestOffset, roundDown } from '../../bytes/offsets.ts';
import { MIB } from './header/fields.ts';
import type { DiskFacts } from './header/metadata.ts';

export const ENTRY_BYTES = 8;
export const BITMAP_BYTES = MIB;
const BITS_OF_BITMAP = 8 * BITMAP_BYTES;

export class Geometry {
  readonly blockBytes: number;
  /** the unit of a bitmap's bits */
  readonly sectorBytes: number;
  /** payload blocks of a chunk, a power of two */
  readonly chunkRatio: number;
  /** payload blocks of the disk, the last one perhaps in part */
  readonly blockCount: number;
  /** entries that the disk needs */
  readonly entryCount: number;

  constructor({ blockBytes, parent, sectorBytes, virtualSize }: Omit<DiskFacts, 'isFixed' | 'sizeAt'>) {
    this.blockBytes = blockBytes;
    this.sectorBytes = sectorBytes;
    this.chunkRatio = (BITS_OF_BITMAP * sectorBytes) / blockBytes;
    this.blockCount = Math.ceil(virtualSize / blockBytes);
    const chunks = Math.ceil(this.blockCount / this.chunkRatio);
    // without a parent the table may end with its last payload entry
    const bitmaps = parent === null ? Math.max(0, chunks - 1) : chunks;
    this.entryCount = parent === null ? this.blockCount + bitmaps : chunks * (this.chunkRatio + 1);
  }

  blockOf(offset: GuestOffset): GuestCluster {
    return guestCluster(Math.floor(offset / this.blockBytes));
  }

  startOf(block: GuestCluster): GuestOffset {
    return guestOffset(block * this.blockBytes);
  }

  chunkOf(block: GuestCluster): number {
    return Math.floor(block / this.chunkRatio);
  }

  /** Index of the entry of a payload block. */
  entryOf(block: GuestCluster): number {
    return block + this.chunkOf(block);
  }

  /** Index of the entry of the bitmap of a chunk. */
  bitmapEntryOf(chunk: number): number {
    return (chunk + 1) * this.chunkRatio + chunk;
  }

  isBitmapEntry(index: number): boolean {
    return index % (this.chunkRatio + 1) === this.chunkRatio;
  }

  /** The payload block of an entry that is no bitmap's. */
  blockOfEntry(index: number): GuestCluster {
    return guestCluster(index - Math.floor(index / (this.chunkRatio + 1)));
  }

  /** Number of the bit for a sector in the bitmap of its chunk. */
  bitOf(offset: GuestOffset): number {
    const chunkBytes = this.chunkRatio * this.blockBytes;
    return Math.floor((offset - roundDown(offset, chunkBytes)) / this.sectorBytes);
  }
}
