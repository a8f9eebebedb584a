// The bitmaps of partially present blocks, one for each chunk: which sectors of these blocks are here. A bit goes into the log only
// when the data of its sector is durable, because the parent's older data would not be seen any more (R6). So new bits wait for the
// next flush, in memory that all threads share: 32 of them at a time, as the waiting links of formats with subclusters have them. A
// look at a bitmap finds them there first. Used under the metadata lock; what is found is for use at once (R2).
//
//   set -> [count -> fdatasync] -> an entry of the log with the words among these -> dropped
//
// A word that gets bits during the fdatasync waits twice: the later one has the bits of the earlier one, too.

import { after, type GuestCluster, type GuestOffset, type HostOffset } from '../../bytes/offsets.ts';
import { NOT_PENDING, type PendingLinks } from '../mapped/pending-links.ts';
import type { Bat } from './bat.ts';
import { type Geometry, WORD_SECTORS } from './geometry.ts';

export const WORD_BYTES = 4;
const ALL = 0xffffffff;

export class Bitmaps {
  /** by the number of the word, counted over the whole disk */
  readonly waiting: PendingLinks<number>;
  private readonly bat: Pick<Bat, 'slices'>;
  private readonly geometry: Geometry;

  constructor(bat: Pick<Bat, 'slices'>, geometry: Geometry, waiting: PendingLinks<number>) {
    this.bat = bat;
    this.geometry = geometry;
    this.waiting = waiting;
  }

  /** Number of the sector of the disk that a byte is in. */
  sectorOf(offset: GuestOffset): number {
    return Math.floor(offset / this.geometry.sectorBytes);
  }

  /**
   * The first sector from `sector` on whose bit is not `isSet`, `end` at most; both in one chunk. @param bitmap where its bitmap is
   */
  endOf(bitmap: HostOffset, sector: number, end: number, isSet: boolean): number {
    return this.search(sector, end, isSet, (word) => this.wordAt(bitmap, word));
  }

  /** The same without the bits that wait. */
  endOfStored(bitmap: HostOffset, sector: number, end: number, isSet: boolean): number {
    return this.search(sector, end, isSet, (word) => this.storedAt(bitmap, word));
  }

  /** There is room for the bits of so many adjoining sectors. */
  hasRoom(sectors: number): boolean {
    return this.waiting.hasRoom(Math.ceil(sectors / WORD_SECTORS) + 1);
  }

  /** Sectors [first, end) of a chunk are here once a flush has made their data durable. There is room. */
  set(bitmap: HostOffset, first: number, end: number, nowMs: number): void {
    for (let at = first; at < end; ) {
      const word = Math.floor(at / WORD_SECTORS);
      const next = Math.min(end, (word + 1) * WORD_SECTORS);
      const bits = maskOf(at % WORD_SECTORS, next - at);
      const value = (this.wordAt(bitmap, word) | bits) >>> 0;
      this.waiting.add(word, this.placeOf(bitmap, word), nowMs, value);
      at = next;
    }
  }

  /** A block is not here any more. */
  drop(block: GuestCluster): void {
    if (this.waiting.isEmpty) return;
    const { blockBytes, sectorBytes } = this.geometry;
    const words = blockBytes / sectorBytes / WORD_SECTORS;
    for (let word = block * words; word < (block + 1) * words; word++) this.waiting.drop(word);
  }

  /** The block whose sectors a word has. */
  blockOf(word: number): GuestCluster {
    const { geometry } = this;
    return geometry.blockOf((word * WORD_SECTORS * geometry.sectorBytes) as GuestOffset);
  }

  placeOf(bitmap: HostOffset, word: number): HostOffset {
    return after(bitmap, (word % this.geometry.bitmapWords) * WORD_BYTES);
  }

  private search(sector: number, end: number, isSet: boolean, wordOf: (word: number) => number): number {
    for (let at = sector; at < end; ) {
      const word = wordOf(Math.floor(at / WORD_SECTORS));
      const others = (isSet ? ~word : word) >>> (at % WORD_SECTORS);
      if (others !== 0) return Math.min(end, at + trailingZeros(others));
      at += WORD_SECTORS - (at % WORD_SECTORS);
    }
    return end;
  }

  private wordAt(bitmap: HostOffset, word: number): number {
    const { waiting } = this;
    return waiting.find(word) === NOT_PENDING ? this.storedAt(bitmap, word) : waiting.allocated;
  }

  private storedAt(bitmap: HostOffset, word: number): number {
    const { slices } = this.bat;
    return slices.view.getUint32(slices.load(this.placeOf(bitmap, word)), true);
  }
}

/** `count` bits from bit `first` on. */
function maskOf(first: number, count: number): number {
  return count === WORD_SECTORS ? ALL : ((2 ** count - 1) << first) >>> 0;
}

function trailingZeros(bits: number): number {
  return 31 - Math.clz32(bits & -bits);
}
