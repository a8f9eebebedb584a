// How the block allocation table is laid out. A chunk is what one bitmap of 1 MiB has bits for; its payload blocks are as many as the
// chunk ratio says, and the entry of its bitmap follows theirs, also in an image without a parent:
//
//   payload 0 ... payload R-1 | bitmap of chunk 0 | payload R ... payload 2R-1 | bitmap of chunk 1 | ...

import { type GuestCluster, type GuestOffset, guestCluster, guestOffset } from '../../bytes/offsets.ts';
import { MIB } from './header/fields.ts';
import type { DiskFacts } from './header/metadata.ts';

export const ENTRY_BYTES = 8;
/** Sectors of a word of a bitmap, little-endian; the lowest bit is the first. */
export const WORD_SECTORS = 32;
export const BITMAP_BYTES = MIB;
const BITS_OF_BITMAP = 8 * BITMAP_BYTES;
const WORDS_OF_BITMAP = BITS_OF_BITMAP / WORD_SECTORS;

/** What the layout follows from. */
export type GeometryFacts = Pick<DiskFacts, 'blockBytes' | 'sectorBytes' | 'virtualSize'> & {
  /** null: none */
  readonly parent: unknown;
};

export class Geometry {
  readonly blockBytes: number;
  /** the unit of a bitmap's bits */
  readonly sectorBytes: number;
  /** payload blocks of a chunk, a power of two */
  readonly chunkRatio: number;
  /** payload blocks of the disk, the last one perhaps in part */
  readonly blockCount: number;
  /** words of 32 bits of a bitmap */
  readonly bitmapWords = WORDS_OF_BITMAP;
  /** entries that the disk needs */
  readonly entryCount: number;
  private readonly hasParent: boolean;

  constructor({ blockBytes, parent, sectorBytes, virtualSize }: GeometryFacts) {
    this.blockBytes = blockBytes;
    this.sectorBytes = sectorBytes;
    this.chunkRatio = (BITS_OF_BITMAP * sectorBytes) / blockBytes;
    this.blockCount = Math.ceil(virtualSize / blockBytes);
    this.hasParent = parent !== null;
    const bitmaps = this.bitmapsFor(this.blockCount);
    this.entryCount = this.hasParent ? bitmaps * (this.chunkRatio + 1) : this.blockCount + bitmaps;
  }

  /** Entries of bitmaps in a table for so many blocks. */
  bitmapsFor(blocks: number): number {
    const chunks = this.chunksFor(blocks);
    // without a parent the table may end with its last payload entry
    return this.hasParent ? chunks : Math.max(0, chunks - 1);
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

  /** Chunks that so many blocks take. */
  chunksFor(blocks: number): number {
    return Math.ceil(blocks / this.chunkRatio);
  }

  /** The first block of a chunk. */
  firstBlockOf(chunk: number): GuestCluster {
    return guestCluster(chunk * this.chunkRatio);
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

  /** Where in the bitmap of its chunk the bits of a block begin. */
  bitsAt(block: GuestCluster): number {
    return (block % this.chunkRatio) * this.bitsBytes;
  }

  /** Bytes of a bitmap that the bits of a block take. */
  get bitsBytes(): number {
    return this.blockBytes / this.sectorBytes / 8;
  }
}
