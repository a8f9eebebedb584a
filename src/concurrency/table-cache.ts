// TableCache: slices of metadata tables in shared memory, under one byte budget, found by their host offset. It is a clean
// cache: a change of a table is written to the image file first and to the slice afterwards (R8), so any slice may be evicted
// at any time. All of it is used under the metadata lock, and no slot number outlives a release of that lock (R2).

import { assert } from '../errors/index.ts';

/** Largest slice: 512 entries of a QED table. */
export const MAX_SLICE_BYTES = 4096;
const NO_SLOT = -1;
/** A power of two. With clusters of 64 KiB, the slices of 2 GiB of the disk. */
const GUESSES = 64;
const EMPTY_KEY = -1;
/** Words of control: where the clock stands, and how many slots were ever filled. */
const HAND = 0;
const FILLED = 1;
const CONTROL_WORDS = 2;

export interface TableCacheState {
  readonly sliceBytes: number;
  readonly capacity: number;
  readonly data: SharedArrayBuffer;
  /** host offset of the slice in each slot, or -1 */
  readonly keys: SharedArrayBuffer;
  /** hash chains: bucket heads, then the successor of each slot; slot + 1, 0 ends a chain; then the words of control */
  readonly links: SharedArrayBuffer;
  /** 1 if the slot was used since the hand passed it */
  readonly used: SharedArrayBuffer;
}

/** @param budgetBytes upper bound for the slices @param sliceBytes power of two, at most MAX_SLICE_BYTES */
export function createTableCacheState(budgetBytes: number, sliceBytes: number): TableCacheState {
  assert(sliceBytes > 0 && sliceBytes <= MAX_SLICE_BYTES, `slice of ${sliceBytes} bytes`);
  const capacity = Math.max(2, Math.floor(budgetBytes / sliceBytes));
  const keys = new SharedArrayBuffer(capacity * 8);
  new Float64Array(keys).fill(EMPTY_KEY);
  return {
    sliceBytes,
    capacity,
    data: new SharedArrayBuffer(capacity * sliceBytes),
    keys,
    links: new SharedArrayBuffer((capacity * 2 + CONTROL_WORDS) * 4),
    used: new SharedArrayBuffer(capacity),
  };
}

export class TableCache {
  readonly sliceBytes: number;
  /** all slices as bytes; slot s begins at s * sliceBytes */
  readonly bytes: Uint8Array;
  /** the same memory for decoding entries */
  readonly view: DataView;
  private readonly capacity: number;
  private readonly keys: Float64Array;
  private readonly heads: Int32Array;
  private readonly next: Int32Array;
  private readonly control: Int32Array;
  private readonly used: Uint8Array;
  /** where this thread found slices lately, by the lowest bits of their number */
  private readonly guesses = new Int32Array(GUESSES);

  constructor(state: TableCacheState) {
    this.sliceBytes = state.sliceBytes;
    this.capacity = state.capacity;
    this.bytes = new Uint8Array(state.data);
    this.view = new DataView(state.data);
    this.keys = new Float64Array(state.keys);
    this.heads = new Int32Array(state.links, 0, state.capacity);
    this.next = new Int32Array(state.links, state.capacity * 4, state.capacity);
    this.control = new Int32Array(state.links, state.capacity * 8, CONTROL_WORDS);
    this.used = new Uint8Array(state.used);
  }

  /** Slot of the slice at host offset `key`, or -1. */
  find(key: number): number {
    // a guess is checked against the shared key: no reference is kept
    const guess = (key / this.sliceBytes) & (GUESSES - 1);
    let slot = this.guesses[guess]!;
    if (this.keys[slot] !== key) {
      slot = this.heads[this.bucket(key)]! - 1;
      while (slot !== NO_SLOT && this.keys[slot] !== key) slot = this.next[slot]! - 1;
      if (slot === NO_SLOT) return NO_SLOT;
      this.guesses[guess] = slot;
    }
    // a store would take the cache line from the other threads
    if (this.used[slot] === 0) this.used[slot] = 1;
    return slot;
  }

  /** Takes a slot for `key`, evicting another slice if the cache is full. The caller fills it, or removes it again. */
  insert(key: number): number {
    assert(this.find(key) === NO_SLOT, 'a slice is inserted once');
    const slot = this.vacantSlot();
    const bucket = this.bucket(key);
    this.keys[slot] = key;
    this.next[slot] = this.heads[bucket]!;
    this.heads[bucket] = slot + 1;
    this.used[slot] = 1;
    return slot;
  }

  /** Forgets the slice at `key` if it is here. */
  remove(key: number): void {
    const slot = this.find(key);
    if (slot !== NO_SLOT) this.unlink(slot);
  }

  private bucket(key: number): number {
    const number = key / this.sliceBytes;
    const mixed = Math.imul(number | 0, 0x9e3779b1) ^ (number / 0x100000000);
    return (mixed >>> 0) % this.capacity;
  }

  /** A slot without a slice: one never filled, or the victim of the clock (first slot not used since the last turn). */
  private vacantSlot(): number {
    const { control } = this;
    const filled = control[FILLED]!;
    if (filled < this.capacity) {
      control[FILLED] = filled + 1;
      return filled;
    }
    let hand = control[HAND]!;
    while (this.keys[hand] !== EMPTY_KEY && this.used[hand] === 1) {
      this.used[hand] = 0;
      hand = (hand + 1) % this.capacity;
    }
    control[HAND] = (hand + 1) % this.capacity;
    if (this.keys[hand] !== EMPTY_KEY) this.unlink(hand);
    return hand;
  }

  private unlink(slot: number): void {
    const bucket = this.bucket(this.keys[slot]!);
    let at = this.heads[bucket]! - 1;
    if (at === slot) {
      this.heads[bucket] = this.next[slot]!;
    } else {
      while (this.next[at]! - 1 !== slot) at = this.next[at]! - 1;
      this.next[at] = this.next[slot]!;
    }
    this.keys[slot] = EMPTY_KEY;
    this.used[slot] = 0;
  }
}
