// Mutex over one 32-bit word of shared memory (0 free, 1 held, 2 held and somebody sleeps). Not reentrant; each thread has
// its own object over the same word, so `held` speaks of this thread.

import { assert } from '../errors/index.ts';

const FREE = 0;
const HELD = 1;
const CONTENDED = 2;
/** Tries before a thread goes to sleep: a hold lasts about a microsecond, a sleep and wake-up about ten. */
const SPINS = 200;

export class Mutex {
  private readonly words: Int32Array;
  private readonly index: number;
  private holding = false;

  /** @param words over a SharedArrayBuffer @param index of the word, which is 0 at the start */
  constructor(words: Int32Array, index: number) {
    this.words = words;
    this.index = index;
  }

  /** This thread holds the mutex. */
  get held(): boolean {
    return this.holding;
  }

  lock(): void {
    assert(!this.holding, 'a thread takes a mutex that it holds');
    const { words, index } = this;
    if (Atomics.compareExchange(words, index, FREE, HELD) !== FREE) this.lockSlowly();
    this.holding = true;
  }

  unlock(): void {
    assert(this.holding, 'a thread releases a mutex that it does not hold');
    this.holding = false;
    if (Atomics.exchange(this.words, this.index, FREE) === CONTENDED) Atomics.notify(this.words, this.index, 1);
  }

  /** Runs `action` with the mutex held. */
  run<T>(action: () => T): T {
    this.lock();
    try {
      return action();
    } finally {
      this.unlock();
    }
  }

  private lockSlowly(): void {
    const { words, index } = this;
    for (let spin = 0; spin < SPINS; spin++) {
      if (Atomics.load(words, index) === FREE && Atomics.compareExchange(words, index, FREE, HELD) === FREE) return;
    }
    while (Atomics.exchange(words, index, CONTENDED) !== FREE) Atomics.wait(words, index, CONTENDED);
  }
}
