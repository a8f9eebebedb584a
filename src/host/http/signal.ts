// A futex word that is counted up to wake the threads that sleep on it. Invariant: a thread that reads the count before it
// reads anything else, and then sleeps on that count, misses no wake-up.

export class Signal {
  private readonly words: Int32Array;
  private readonly index: number;

  /** @param words over a SharedArrayBuffer @param index of the word */
  constructor(words: Int32Array, index: number) {
    this.words = words;
    this.index = index;
  }

  /** The number of calls of wake(). */
  get count(): number {
    return Atomics.load(this.words, this.index);
  }

  wake(): void {
    Atomics.add(this.words, this.index, 1);
    Atomics.notify(this.words, this.index);
  }

  /** Sleeps unless the count has changed from `seen`. */
  wait(seen: number, milliseconds: number): 'ok' | 'not-equal' | 'timed-out' {
    return Atomics.wait(this.words, this.index, seen, milliseconds);
  }

  /** Like wait(), for a thread that runs its event loop meanwhile. */
  async waitAsync(seen: number): Promise<void> {
    const wait = Atomics.waitAsync(this.words, this.index, seen);
    if (wait.async) await wait.value;
  }
}
