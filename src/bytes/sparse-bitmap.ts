// A set of numbers as a bitmap in pages of 256 bits. A page without a set bit takes no memory, and neither does a page whose
// bits are all set. The pages are small, because a hostile image can make each of its 8-byte entries touch a new page.
// Numbers that fit into the directory are found without a hash; NumberIndex finds the others.

import { countBelow, NumberIndex } from './number-index.ts';

export const PAGE_BITS = 256;
const PAGE_WORDS = PAGE_BITS / 32;
/** What the directory says of a page: no bit is set, or all bits are, or else the row that holds its bits. */
const EMPTY = 0;
const FULL = 1;
const FIRST_ROW = 2;
/** rows in one allocation, as a power of two */
const CHUNK_SHIFT = 10;
const CHUNK_ROWS = 2 ** CHUNK_SHIFT;
/** Largest directory, for 2^30 bits: 16 MiB, of which only what is touched becomes resident. */
const MAX_DIRECTORY_PAGES = 2 ** 22;

/** A word whose bits are all clear or all set. */
type UniformWord = 0 | -1;

export class SparseBitmap {
  private readonly directory: Uint32Array;
  /** the pages beyond the directory; `farEntries` says of each place what a directory would */
  private readonly farPages = new NumberIndex();
  private farEntries = new Uint32Array(16);
  /** numbers of the far pages, ascending; null after one was added */
  private farSorted: Float64Array | null = null;
  private readonly chunks: Int32Array[] = [];
  private rows = FIRST_ROW;
  /** the row to use next, whose first word names its successor; 0: none was freed */
  private freeRow = 0;
  private bits = 0;

  /** @param expected numbers below it are found fastest; higher ones may be added as well */
  constructor(expected = 0) {
    this.directory = new Uint32Array(Math.min(Math.ceil(expected / PAGE_BITS), MAX_DIRECTORY_PAGES));
  }

  /** Number of bits that are set. */
  get count(): number {
    return this.bits;
  }

  /** Bytes of the pages that are neither empty nor full, with those that were. */
  get rowBytes(): number {
    return this.rows * PAGE_WORDS * 4;
  }

  has(bit: number): boolean {
    const page = Math.floor(bit / PAGE_BITS);
    const entry = this.entryOf(page);
    if (entry <= FULL) return entry === FULL;
    const inPage = bit - page * PAGE_BITS;
    return ((this.chunkOf(entry)[wordOf(entry) + (inPage >>> 5)]! >>> (inPage & 31)) & 1) !== 0;
  }

  /** Sets a bit. @returns false if it was set already */
  add(bit: number): boolean {
    const page = Math.floor(bit / PAGE_BITS);
    let entry = this.entryOf(page);
    if (entry === FULL) return false;
    if (entry === EMPTY) entry = this.makeRow(page, 0);
    const chunk = this.chunkOf(entry);
    const inPage = bit - page * PAGE_BITS;
    const at = wordOf(entry) + (inPage >>> 5);
    const before = chunk[at]!;
    const after = before | (1 << (inPage & 31));
    if (after === before) return false;
    chunk[at] = after;
    this.bits++;
    if (after === -1) this.collapse(page, entry, -1);
    return true;
  }

  /** Sets the bits [first, first + count). */
  addRun(first: number, count: number): void {
    this.setRun(first, count, -1);
  }

  /** Clears the bits [first, first + count). */
  removeRun(first: number, count: number): void {
    this.setRun(first, count, 0);
  }

  /** Whether one of the bits [first, first + count) is set. */
  hasAny(first: number, count: number): boolean {
    return !this.isUniform(first, count, 0);
  }

  /** Whether all of the bits [first, first + count) are set. */
  hasAll(first: number, count: number): boolean {
    return this.isUniform(first, count, -1);
  }

  /** The first page from `page` on that has a set bit; infinite if none follows. */
  nextPage(page: number): number {
    const { directory } = this;
    for (let at = page; at < directory.length; at++) if (directory[at] !== EMPTY) return at;
    const sorted = this.sortedFar();
    for (let place = countBelow(sorted, page); place < sorted.length; place++)
      if (this.farEntry(sorted[place]!) !== EMPTY) return sorted[place]!;
    return Number.POSITIVE_INFINITY;
  }

  /** End (exclusive) of the last set bit in [start, end); `start` if there is none. */
  endOfLast(start: number, end: number): number {
    const { directory } = this;
    const sorted = this.sortedFar();
    const startPage = Math.floor(start / PAGE_BITS);
    const endPage = Math.ceil(end / PAGE_BITS);
    for (let place = countBelow(sorted, endPage) - 1; place >= 0 && sorted[place]! >= startPage; place--) {
      const last = this.lastInPage(sorted[place]!, start, end);
      if (last >= 0) return last + 1;
    }
    for (let page = Math.min(endPage, directory.length) - 1; page >= startPage; page--) {
      const last = directory[page] === EMPTY ? -1 : this.lastInPage(page, start, end);
      if (last >= 0) return last + 1;
    }
    return start;
  }

  /** Runs [start, end) of bits below `limit` that are not set, in order. */
  *gaps(limit: number): Generator<{ start: number; end: number }> {
    let start = 0;
    const endPage = Math.ceil(limit / PAGE_BITS);
    for (let page = this.nextPage(0); page < endPage; page = this.nextPage(page + 1)) {
      const first = page * PAGE_BITS;
      const isFull = this.entryOf(page) === FULL;
      const end = Math.min(limit, first + PAGE_BITS);
      for (let bit = first; bit < end; bit++) {
        if (!isFull && !this.has(bit)) continue;
        if (bit > start) yield { start, end: bit };
        start = isFull ? end : bit + 1;
        if (isFull) break;
      }
    }
    if (limit > start) yield { start, end: limit };
  }

  private isUniform(first: number, count: number, word: UniformWord): boolean {
    const end = first + count;
    for (let at = first; at < end; ) {
      const page = Math.floor(at / PAGE_BITS);
      const from = at - page * PAGE_BITS;
      const to = Math.min(PAGE_BITS, from + end - at);
      const entry = this.entryOf(page);
      if (entry <= FULL ? entry !== uniformEntry(word) : !this.isRowUniform(entry, from, to, word)) return false;
      at += to - from;
    }
    return true;
  }

  private isRowUniform(entry: number, from: number, to: number, word: UniformWord): boolean {
    const chunk = this.chunkOf(entry);
    const row = wordOf(entry);
    for (let at = from; at < to; ) {
      const end = Math.min(to, (at | 31) + 1);
      if (((chunk[row + (at >>> 5)]! ^ word) & maskOf(at & 31, end - at)) !== 0) return false;
      at = end;
    }
    return true;
  }

  private setRun(first: number, count: number, word: UniformWord): void {
    const end = first + count;
    for (let at = first; at < end; ) {
      const page = Math.floor(at / PAGE_BITS);
      const from = at - page * PAGE_BITS;
      const to = Math.min(PAGE_BITS, from + end - at);
      this.setInPage(page, from, to, word);
      at += to - from;
    }
  }

  private setInPage(page: number, from: number, to: number, word: UniformWord): void {
    let entry = this.entryOf(page);
    const uniform = uniformEntry(word);
    if (entry === uniform) return;
    if (entry <= FULL) {
      if (to - from === PAGE_BITS) {
        this.bits += word === 0 ? -PAGE_BITS : PAGE_BITS;
        this.setEntry(page, uniform);
        return;
      }
      entry = this.makeRow(page, entry === FULL ? -1 : 0);
    }
    const chunk = this.chunkOf(entry);
    const row = wordOf(entry);
    for (let at = from; at < to; ) {
      const end = Math.min(to, (at | 31) + 1);
      const mask = maskOf(at & 31, end - at);
      const before = chunk[row + (at >>> 5)]!;
      const after = word === 0 ? before & ~mask : before | mask;
      this.bits += countOnes(after) - countOnes(before);
      chunk[row + (at >>> 5)] = after;
      at = end;
    }
    this.collapse(page, entry, word);
  }

  /** Frees the row of a page if all of its words are `word`. */
  private collapse(page: number, entry: number, word: UniformWord): void {
    const chunk = this.chunkOf(entry);
    const row = wordOf(entry);
    for (let at = row; at < row + PAGE_WORDS; at++) if (chunk[at] !== word) return;
    chunk[row] = this.freeRow;
    this.freeRow = entry;
    this.setEntry(page, uniformEntry(word));
  }

  /** Gives a page a row of such words. @returns the row */
  private makeRow(page: number, word: UniformWord): number {
    let entry = this.freeRow;
    if (entry === 0) {
      entry = this.rows++;
      if (entry >>> CHUNK_SHIFT === this.chunks.length) this.chunks.push(new Int32Array(CHUNK_ROWS * PAGE_WORDS));
    } else this.freeRow = this.chunkOf(entry)[wordOf(entry)]!;
    this.chunkOf(entry).fill(word, wordOf(entry), wordOf(entry) + PAGE_WORDS);
    this.setEntry(page, entry);
    return entry;
  }

  /** @returns -1 if no bit of the page in [start, end) is set */
  private lastInPage(page: number, start: number, end: number): number {
    const first = page * PAGE_BITS;
    for (let bit = Math.min(end, first + PAGE_BITS) - 1; bit >= Math.max(start, first); bit--)
      if (this.has(bit)) return bit;
    return -1;
  }

  private entryOf(page: number): number {
    return page < this.directory.length ? this.directory[page]! : this.farEntry(page);
  }

  private farEntry(page: number): number {
    const place = this.farPages.find(page);
    return place < 0 ? EMPTY : this.farEntries[place]!;
  }

  private setEntry(page: number, entry: number): void {
    if (page < this.directory.length) {
      this.directory[page] = entry;
      return;
    }
    const { size } = this.farPages;
    const place = this.farPages.add(page);
    if (place === size) this.farSorted = null;
    if (place === this.farEntries.length) {
      const longer = new Uint32Array(Math.ceil(place * 1.5));
      longer.set(this.farEntries);
      this.farEntries = longer;
    }
    this.farEntries[place] = entry;
  }

  private sortedFar(): Float64Array {
    this.farSorted ??= this.farPages.sorted();
    return this.farSorted;
  }

  private chunkOf(entry: number): Int32Array {
    return this.chunks[entry >>> CHUNK_SHIFT]!;
  }
}

/** Index of the first word of a row in its chunk. */
function wordOf(entry: number): number {
  return (entry & (CHUNK_ROWS - 1)) * PAGE_WORDS;
}

function uniformEntry(word: UniformWord): number {
  return word === 0 ? EMPTY : FULL;
}

/** A word with the bits [first, first + count) set; 1 <= count, first + count <= 32. */
function maskOf(first: number, count: number): number {
  return (-1 >>> (32 - count)) << first;
}

function countOnes(word: number): number {
  let bits = word - ((word >>> 1) & 0x55555555);
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333);
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24;
}
