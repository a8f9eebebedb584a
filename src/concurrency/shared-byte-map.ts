// A byte for each of up to 2^30 numbers, in memory that all threads share and that grows with what the map holds: a stretch of
// equal bytes takes nothing, wherever it lies. The numbers of a cluster map are far apart (a table every 512 MiB of an image) or
// in long runs (a discard), and neither may cost a byte for each cluster.
//
//   top[index >> 12] -> node[(index >> 6) & 63] -> leaf[index & 63]     An entry <= 0 stands for equal bytes of the value -entry.
//
// Invariant: one thread at a time uses a map (callers hold a lock), and units that were never in use are zeros.

import { assert } from '../errors/index.ts';

export const MAX_BYTE_MAP = 2 ** 30;

const LEAF_BITS = 6;
const NODE_BITS = 12;
const FANOUT = 64;
const LEAF_SIZE = 2 ** LEAF_BITS;
const NODE_SIZE = 2 ** NODE_BITS;
/** Memory is handed out in units: a leaf is one, a node is four. */
const UNIT_BYTES = 64;
const UNIT_WORDS = UNIT_BYTES / 4;
const NODE_UNITS = (FANOUT * 4) / UNIT_BYTES;
const FIRST_UNITS = 64;
const TOP_STEP = 1024;

/** Words of the first unit: units in use, then the heads of the lists of leaves and nodes that were given back (0: none). */
const USED_UNITS = 0;
const FREE_LEAF = 1;
const FREE_NODE = 2;

export interface SharedByteMapState {
  /** numbers from here on have no byte */
  readonly capacity: number;
  readonly top: SharedArrayBuffer;
  readonly units: SharedArrayBuffer;
}

/** @param capacity up to MAX_BYTE_MAP; address space is reserved for that many bytes, and memory taken as they are set */
export function createSharedByteMap(capacity: number): SharedByteMapState {
  assert(capacity >= 0 && capacity <= MAX_BYTE_MAP, `a map of ${capacity} bytes`);
  const nodes = Math.ceil(capacity / NODE_SIZE);
  const maxUnits = 1 + nodes * (NODE_UNITS + FANOUT);
  const units = new SharedArrayBuffer(Math.min(FIRST_UNITS, maxUnits) * UNIT_BYTES, {
    maxByteLength: maxUnits * UNIT_BYTES,
  });
  new Int32Array(units)[USED_UNITS] = 1;
  return { capacity, top: new SharedArrayBuffer(0, { maxByteLength: nodes * 4 }), units };
}

export class SharedByteMap {
  readonly capacity: number;
  private readonly topBuffer: SharedArrayBuffer;
  private readonly unitBuffer: SharedArrayBuffer;
  private readonly top: Int32Array;
  private readonly words: Int32Array;
  private readonly bytes: Uint8Array;

  constructor({ capacity, top, units }: SharedByteMapState) {
    this.capacity = capacity;
    this.topBuffer = top;
    this.unitBuffer = units;
    this.top = new Int32Array(top);
    this.words = new Int32Array(units);
    this.bytes = new Uint8Array(units);
  }

  /** 0 for a number beyond the capacity. */
  get(index: number): number {
    const node = this.top[index >>> NODE_BITS] ?? 0;
    if (node <= 0) return 0 - node;
    const leaf = this.words[node * UNIT_WORDS + ((index >>> LEAF_BITS) & (FANOUT - 1))]!;
    if (leaf <= 0) return 0 - leaf;
    return this.bytes[leaf * UNIT_BYTES + (index & (LEAF_SIZE - 1))]!;
  }

  /** Sets the bytes of [start, end), which lies below the capacity. @param value 0 to 127 */
  fill(start: number, end: number, value: number): void {
    assert(start >= 0 && end <= this.capacity, `bytes ${start} to ${end} of a map with a capacity of ${this.capacity}`);
    for (let at = start; at < end; ) {
      const place = at >>> NODE_BITS;
      const next = Math.min(end, (place + 1) * NODE_SIZE);
      if (place >= this.top.length && value !== 0) this.growTop(place + 1);
      if (place < this.top.length) this.fillTop(place, at % NODE_SIZE, next - place * NODE_SIZE, value);
      at = next;
    }
  }

  /** fill() of one byte, for many that are far apart: whether it makes a stretch of equal bytes is not looked at. */
  set(index: number, value: number): void {
    assert(index >= 0 && index < this.capacity, `byte ${index} of a map with a capacity of ${this.capacity}`);
    const place = index >>> NODE_BITS;
    if (place >= this.top.length) this.growTop(place + 1);
    let node = this.top[place]!;
    if (node === -value) return;
    if (node <= 0) {
      node = this.newNode(node);
      this.top[place] = node;
    }
    const word = node * UNIT_WORDS + ((index >>> LEAF_BITS) & (FANOUT - 1));
    let leaf = this.words[word]!;
    if (leaf === -value) return;
    if (leaf <= 0) {
      leaf = this.newLeaf(-leaf);
      this.words[word] = leaf;
    }
    this.bytes[leaf * UNIT_BYTES + (index & (LEAF_SIZE - 1))] = value;
  }

  /** The first number of [start, end) with this value, or -1. */
  find(value: number, start: number, end: number): number {
    return this.search(value, true, start, end);
  }

  /** The first number of [start, end) with another value, or -1. */
  findOther(value: number, start: number, end: number): number {
    return this.search(value, false, start, end);
  }

  private search(value: number, isWanted: boolean, start: number, end: number): number {
    for (let at = start; at < end; ) {
      const node = this.top[at >>> NODE_BITS] ?? 0;
      if (node <= 0) {
        if ((-node === value) === isWanted) return at;
        at = ((at >>> NODE_BITS) + 1) * NODE_SIZE;
        continue;
      }
      const leaf = this.words[node * UNIT_WORDS + ((at >>> LEAF_BITS) & (FANOUT - 1))]!;
      const next = ((at >>> LEAF_BITS) + 1) * LEAF_SIZE;
      if (leaf <= 0) {
        if ((-leaf === value) === isWanted) return at;
        at = next;
        continue;
      }
      const first = leaf * UNIT_BYTES - (at - (at % LEAF_SIZE));
      for (const stop = Math.min(next, end); at < stop; at++) {
        if ((this.bytes[first + at] === value) === isWanted) return at;
      }
    }
    return -1;
  }

  /** Sets bytes [start, end) of what entry `place` of the top stands for. */
  private fillTop(place: number, start: number, end: number, value: number): void {
    const entry = this.top[place]!;
    if (entry === -value) return;
    if (end - start === NODE_SIZE) {
      if (entry > 0) this.giveBackNode(entry);
      this.top[place] = -value;
      return;
    }
    const node = entry > 0 ? entry : this.newNode(entry);
    this.top[place] = node;
    for (let at = start; at < end; ) {
      const next = Math.min(end, at - (at % LEAF_SIZE) + LEAF_SIZE);
      this.fillEntry(node * UNIT_WORDS + (at >>> LEAF_BITS), at % LEAF_SIZE, next - at, value);
      at = next;
    }
    // neighbours are mostly filled one after the other, so that one of the ends tells
    const first = node * UNIT_WORDS;
    if (this.words[first] !== -value) return;
    for (let word = first + FANOUT - 1; word > first; word--) if (this.words[word] !== -value) return;
    this.top[place] = -value;
    this.giveBack(FREE_NODE, node);
  }

  /** Sets `count` bytes from `start` on of what the word of a node stands for. */
  private fillEntry(word: number, start: number, count: number, value: number): void {
    const entry = this.words[word]!;
    if (entry === -value) return;
    if (count === LEAF_SIZE) {
      if (entry > 0) this.giveBack(FREE_LEAF, entry);
      this.words[word] = -value;
      return;
    }
    const leaf = entry > 0 ? entry : this.newLeaf(-entry);
    this.words[word] = leaf;
    const first = leaf * UNIT_BYTES;
    this.bytes.fill(value, first + start, first + start + count);
    for (let byte = first + LEAF_SIZE - 1; byte >= first; byte--) if (this.bytes[byte] !== value) return;
    this.words[word] = -value;
    this.giveBack(FREE_LEAF, leaf);
  }

  /** A node whose entries are all `entry`. */
  private newNode(entry: number): number {
    const isFresh = this.words[FREE_NODE] === 0;
    const node = this.take(FREE_NODE, NODE_UNITS);
    if (entry === 0 && isFresh) return node;
    this.words.fill(entry, node * UNIT_WORDS, node * UNIT_WORDS + FANOUT);
    return node;
  }

  private newLeaf(value: number): number {
    const isFresh = this.words[FREE_LEAF] === 0;
    const leaf = this.take(FREE_LEAF, 1);
    if (value === 0 && isFresh) return leaf;
    this.bytes.fill(value, leaf * UNIT_BYTES, (leaf + 1) * UNIT_BYTES);
    return leaf;
  }

  private giveBackNode(node: number): void {
    for (let word = node * UNIT_WORDS; word < node * UNIT_WORDS + FANOUT; word++) {
      if (this.words[word]! > 0) this.giveBack(FREE_LEAF, this.words[word]!);
    }
    this.giveBack(FREE_NODE, node);
  }

  private take(list: typeof FREE_LEAF | typeof FREE_NODE, count: number): number {
    const known = this.words[list]!;
    if (known !== 0) {
      this.words[list] = this.words[known * UNIT_WORDS]!;
      return known;
    }
    const unit = this.words[USED_UNITS]!;
    const needed = (unit + count) * UNIT_BYTES;
    if (needed > this.unitBuffer.byteLength) {
      this.unitBuffer.grow(Math.min(this.unitBuffer.maxByteLength, Math.max(needed, 2 * this.unitBuffer.byteLength)));
    }
    this.words[USED_UNITS] = unit + count;
    return unit;
  }

  private giveBack(list: typeof FREE_LEAF | typeof FREE_NODE, unit: number): void {
    this.words[unit * UNIT_WORDS] = this.words[list]!;
    this.words[list] = unit;
  }

  private growTop(entries: number): void {
    const { maxByteLength } = this.topBuffer;
    this.topBuffer.grow(Math.min(maxByteLength, Math.ceil(entries / TOP_STEP) * TOP_STEP * 4));
  }
}
