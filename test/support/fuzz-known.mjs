// Which mutants were judged: a hash table in a file that all processes of a run share. A process that ends loses nothing of it,
// and it takes none of the memory that is watched. Two processes that look at the same time may both judge a mutant.

import { readSync, writeSync } from 'node:fs';

const SLOT_BYTES = 8;
const BUCKET_BYTES = 8 * SLOT_BYTES;

export class KnownMutants {
  /** @param descriptor of a file of zeros @param bytes its size, a power of two */
  constructor(descriptor, bytes) {
    this.descriptor = descriptor;
    this.buckets = bytes / BUCKET_BYTES;
    this.slots = new Uint32Array(BUCKET_BYTES / 4);
  }

  /** @returns whether this is the first time; in a full bucket a key takes the place of another one, which is judged again */
  add({ low, high }) {
    const { slots, descriptor } = this;
    const at = (low & (this.buckets - 1)) * BUCKET_BYTES;
    readSync(descriptor, slots, 0, BUCKET_BYTES, at);
    let slot = 0;
    for (; slot < slots.length; slot += 2) {
      if (slots[slot] === low && slots[slot + 1] === high) return false;
      if (slots[slot] === 0 && slots[slot + 1] === 0) break;
    }
    if (slot === slots.length) slot = (high & 7) * 2;
    slots[slot] = low;
    slots[slot + 1] = high;
    writeSync(descriptor, slots, slot * 4, SLOT_BYTES, at + slot * 4);
    return true;
  }
}

/** 64 bits of a mutant, equal for equal ones: every word changes all bits. */
export class MutantKey {
  low = 0x243f6a88;
  high = 0x13198a2e;

  add(word) {
    this.low = Math.imul(this.low ^ word, 0x9e3779b1);
    this.low = (this.low ^ (this.low >>> 15)) >>> 0;
    this.high = Math.imul(this.high + word, 0x85ebca6b);
    this.high = (this.high ^ (this.high >>> 13)) >>> 0;
  }

  /** No key is all zeros, which is an empty slot. */
  end() {
    this.low = mix(this.low);
    this.high = mix(this.high) || 1;
    return this;
  }
}

/** The finalizer of Murmur3. */
function mix(word) {
  let mixed = Math.imul(word ^ (word >>> 16), 0x85ebca6b);
  mixed = Math.imul(mixed ^ (mixed >>> 13), 0xc2b2ae35);
  return (mixed ^ (mixed >>> 16)) >>> 0;
}
