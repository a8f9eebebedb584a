// A futex word that is counted up to wake the threads that sleep on it. Invariant: whoever looked at the count before it
// looked at anything else, and sleeps on that count, misses no wake-up.

export class Signal {
  private readonly words: Int32Array;
  private readonly index: number;

  /** @param words over a SharedArrayBuffer @param index of the word */
  constructor(words: Int32Array, index: number) {
    this.words = words;
    this.index = index;
  }

  /** How often it was woken. */
  get count(): number {
    return Atomics.load(this.words, this.index);
  }

  wake(): void {
    Atomics.add(this.words, this.index, 1);
    Atomics.notify(this.words, this.index);
  }

  /** Sleeps unless the count is another than `seen` by now. */
  wait(seen: number, milliseconds: number): 'ok' | 'not-equal' | 'timed-out' {
    return Atomics.wait(this.words, this.index, seen, milliseconds);
  }

  /** The same for a thread that has an event loop to run meanwhile. */
  async waitAsync(seen: number): Promise<void> {
    const wait = Atomics.waitAsync(this.words, this.index, seen);
    if (wait.async) await wait.value;
  }
}
