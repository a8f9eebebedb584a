// The gate between the kernel and a worker thread. A thread parked in read(/dev/fuse) cannot be woken where its connection
// cannot be aborted. Invariant: once the stop word is set and the thread's own word is 0, it never touches the disk again.

import type { Channel, ConnectionEnd } from '../fuse/device.ts';
import { STOP } from './threads.ts';

const IDLE = 0;
const IN_HAND = 1;

export class RequestGate implements Channel {
  readonly #device: Channel;
  readonly #words: Int32Array;
  readonly #slot: number;

  /** @param words element 0 is the stop word, element `slot` says whether this thread has a request in hand */
  constructor(device: Channel, words: Int32Array, slot: number) {
    this.#device = device;
    this.#words = words;
    this.#slot = slot;
  }

  /** A request that arrives after the stop is not let through: it fails when the process and its connection end. */
  receive(target: Uint8Array): number | ConnectionEnd {
    this.leave();
    const received = this.#device.receive(target);
    if (typeof received === 'string' || received === 0) return received;
    // announced before the stop word is looked at: whoever sets that looks at this one afterwards
    Atomics.store(this.#words, this.#slot, IN_HAND);
    return Atomics.load(this.#words, 0) === STOP.run ? received : 'aborted';
  }

  send(source: Uint8Array, length: number): boolean {
    return this.#device.send(source, length);
  }

  /** The request in hand is done. */
  leave(): void {
    Atomics.store(this.#words, this.#slot, IDLE);
  }
}

/** Words for the stop word and `workers` gates, in the slots from 1 on. */
export function createStopWords(workers: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer((1 + workers) * Int32Array.BYTES_PER_ELEMENT));
}

export function hasRequestsInHand(words: Int32Array): boolean {
  return words.some((_, slot) => slot > 0 && Atomics.load(words, slot) !== IDLE);
}
