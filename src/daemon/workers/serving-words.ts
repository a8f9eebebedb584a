// The words that all threads of a mount share, the main thread and the keeper included: whether to stop, who has a request in
// hand, whether the gates are closed, and which disk is served. Invariant: whoever changes a word that others sleep on changes
// it before it wakes them, so that one who is about to sleep sees the change or the wake-up.
//
//   0                 the stop word, a value of STOP
//   1 .. threads      1 while the thread of that slot has a request in hand
//   threads + 1       the gates: open, closed, or open for good because the mount ends
//   threads + 2       the generation: how many disks were served before this one
//   threads + 3 ..    requests that are held because the host is full: see HeldWords

import { HELD_WORDS, HeldWords } from './held-words.ts';

/** Values of the stop word. */
export const STOP = {
  run: 0,
  /** end after the request in hand */
  end: 1,
} as const;

const STOP_WORD = 0;
const IDLE = 0;
const IN_HAND = 1;
const GATES_OPEN = 0;
const GATES_CLOSED = 1;
const GATES_ENDED = 2;

export class ServingWords {
  /** what is passed to a thread */
  readonly shared: Int32Array;
  readonly held: HeldWords;
  private readonly gatesWord: number;
  private readonly generationWord: number;

  /** @param shared of another ServingWords, in this thread or another */
  constructor(shared: Int32Array) {
    this.shared = shared;
    this.held = new HeldWords(shared.subarray(shared.length - HELD_WORDS));
    this.gatesWord = shared.length - HELD_WORDS - 2;
    this.generationWord = this.gatesWord + 1;
  }

  /** @param threads how many threads serve, in the slots from 1 on */
  static create(threads: number): ServingWords {
    const count = 1 + threads + 2 + HELD_WORDS;
    return new ServingWords(new Int32Array(new SharedArrayBuffer(count * Int32Array.BYTES_PER_ELEMENT)));
  }

  get isStopped(): boolean {
    return Atomics.load(this.shared, STOP_WORD) !== STOP.run;
  }

  /** Tells every thread to end after the request in hand, those that wait at a closed gate included. */
  stop(): void {
    Atomics.store(this.shared, STOP_WORD, STOP.end);
    Atomics.store(this.shared, this.gatesWord, GATES_ENDED);
    Atomics.notify(this.shared, this.gatesWord);
    this.held.wake();
  }

  /** The thread of that slot is about to touch the disk, if the other words, which are looked at after this, allow it. */
  take(slot: number): void {
    Atomics.store(this.shared, slot, IN_HAND);
  }

  /** The thread of that slot does not touch the disk any more. */
  putDown(slot: number): void {
    Atomics.store(this.shared, slot, IDLE);
  }

  get hasRequestsInHand(): boolean {
    for (let slot = 1; slot < this.gatesWord; slot++) if (this.hasRequestInHand(slot)) return true;
    return false;
  }

  hasRequestInHand(slot: number): boolean {
    return Atomics.load(this.shared, slot) !== IDLE;
  }

  get areGatesClosed(): boolean {
    return Atomics.load(this.shared, this.gatesWord) === GATES_CLOSED;
  }

  /** From now on nobody enters; who is inside is waited for by looking at hasRequestsInHand. */
  closeGates(): void {
    Atomics.compareExchange(this.shared, this.gatesWord, GATES_OPEN, GATES_CLOSED);
  }

  /** @param renewed every thread takes another disk before its next request */
  openGates(renewed: boolean): void {
    if (renewed) Atomics.add(this.shared, this.generationWord, 1);
    Atomics.compareExchange(this.shared, this.gatesWord, GATES_CLOSED, GATES_OPEN);
    Atomics.notify(this.shared, this.gatesWord);
  }

  /** Sleeps until the gates are opened or the mount ends. */
  waitAtGates(): void {
    Atomics.wait(this.shared, this.gatesWord, GATES_CLOSED);
  }

  /** Counts the disks that were served before the present one. */
  get generation(): number {
    return Atomics.load(this.shared, this.generationWord);
  }
}
