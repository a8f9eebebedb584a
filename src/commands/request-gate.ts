// The gate between the kernel and a thread. A thread parked in read(/dev/fuse) cannot be woken where its connection cannot be
// aborted, so everything that ends or exchanges the disk is decided here, when its next request arrives.
// Invariant: a thread touches the disk only between enter and leave. Once the stop word is set, or the gates are closed, and
// the thread's own word is 0, it does not touch the disk again before the gates open, and then takes the disk of that time.

import type { Channel, ConnectionEnd } from '../fuse/device.ts';
import { STOP } from './threads.ts';

const IDLE = 0;
const IN_HAND = 1;
/** Words behind those of the slots. */
const CLOSED = -2;
const GENERATION = -1;

export class Gate {
  readonly #words: Int32Array;
  readonly #slot: number;
  readonly #renew: () => void;
  #generation: number;

  /**
   * @param words element 0 is the stop word, element `slot` says whether this thread has a request in hand
   * @param generation of the disk that the thread has, from diskGeneration
   * @param renew takes the disk that is served from now on
   */
  constructor(words: Int32Array, slot: number, generation = 0, renew: () => void = () => undefined) {
    this.#words = words;
    this.#slot = slot;
    this.#renew = renew;
    this.#generation = generation;
  }

  /** Waits while the gates are closed. @returns false when the thread shall end */
  enter(): boolean {
    const words = this.#words;
    const closed = words.length + CLOSED;
    for (;;) {
      // announced before the other words are looked at: whoever sets those looks at this one afterwards
      Atomics.store(words, this.#slot, IN_HAND);
      if (Atomics.load(words, 0) !== STOP.run) return false;
      if (Atomics.load(words, closed) === 0) break;
      this.leave();
      Atomics.wait(words, closed, 1);
    }
    this.renew();
    return true;
  }

  /** The request in hand is done. */
  leave(): void {
    Atomics.store(this.#words, this.#slot, IDLE);
  }

  /** Takes the disk that is served now, if it is another one. */
  renew(): void {
    const generation = Atomics.load(this.#words, this.#words.length + GENERATION);
    if (generation === this.#generation) return;
    this.#generation = generation;
    this.#renew();
  }
}

/** Requests of the kernel, let through one by one. */
export class RequestGate implements Channel {
  readonly #device: Channel;
  readonly #gate: Gate;

  constructor(device: Channel, gate: Gate) {
    this.#device = device;
    this.#gate = gate;
  }

  /** A request that arrives after the stop is not let through: it fails when the process and its connection end. */
  receive(target: Uint8Array): number | ConnectionEnd {
    this.#gate.leave();
    const received = this.#device.receive(target);
    if (typeof received === 'string' || received === 0) return received;
    return this.#gate.enter() ? received : 'aborted';
  }

  send(source: Uint8Array, length: number): boolean {
    return this.#device.send(source, length);
  }
}

/** Words for the stop word and `threads` gates, in the slots from 1 on. */
export function createStopWords(threads: number): Int32Array {
  return new Int32Array(new SharedArrayBuffer((1 + threads - CLOSED) * Int32Array.BYTES_PER_ELEMENT));
}

export function hasRequestsInHand(words: Int32Array): boolean {
  return words.subarray(1, words.length + CLOSED).some((_, index) => Atomics.load(words, index + 1) !== IDLE);
}

/** Tells every thread to end after the request in hand, those that wait at a closed gate included. */
export function setStop(words: Int32Array, value: number): void {
  Atomics.store(words, 0, value);
  Atomics.notify(words, 0);
  Atomics.notify(words, words.length + CLOSED);
}

/** Counts the disks that were served before the present one. */
export function diskGeneration(words: Int32Array): number {
  return Atomics.load(words, words.length + GENERATION);
}

/** From now on nobody enters; who is inside is waited for by looking at hasRequestsInHand. */
export function closeGates(words: Int32Array): void {
  Atomics.store(words, words.length + CLOSED, 1);
}

/** @param renewed every thread takes another disk before its next request */
export function openGates(words: Int32Array, renewed: boolean): void {
  if (renewed) Atomics.add(words, words.length + GENERATION, 1);
  Atomics.store(words, words.length + CLOSED, 0);
  Atomics.notify(words, words.length + CLOSED);
}
