// Mutex over one 32-bit word of shared memory. The word names the thread that holds it. If that thread dies, what the mutex
// guards may be half changed, so every later lock() fails instead of waiting for ever. Not reentrant. Each thread has its own
// object over the same word, so `held` speaks of this thread.
//
//   0                          free
//   2 * (thread id + 1)        held by that thread
//   2 * (thread id + 1) + 1    held, and another thread sleeps
//   -1                         abandoned: the thread that held it has died

import { threadId } from 'node:worker_threads';
import { assert, ImgfuseError } from '../errors/index.ts';
import { sleepMs } from './clock.ts';
import { offerProcessor } from './turns.ts';

const FREE = 0;
const ABANDONED = -1;
/** Set while a thread sleeps. */
const SLEEPERS = 1;
/** Tries before a thread goes to sleep: a hold lasts about a microsecond, a sleep and wake-up about ten. */
const SPINS = 200;
/** A thread that was woken needs some tens of microseconds until it runs and takes the mutex. */
const GIVE_WAY_MS = 0.1;
/** How long a thread sleeps before it looks whether the holder has died. */
const LOOK_MS = 1000;

/** The word while that thread holds the mutex and no thread sleeps. @param thread as `threadId` of node:worker_threads */
function heldBy(thread: number): number {
  return 2 * (thread + 1);
}

export class Mutex {
  private readonly words: Int32Array;
  private readonly index: number;
  /** what it guards */
  readonly guarded: string;
  private readonly look: (() => void) | null;
  /** the word while this thread holds it; asked here, because not every program that loads this file has threads */
  private readonly own = heldBy(threadId);
  private holding = false;
  private isAbandoned = false;
  /** the last unlock() has woken a thread */
  private hasWoken = false;

  /**
   * @param words over a SharedArrayBuffer @param index of the word, which is 0 at the start
   * @param guarded what the mutex guards, for the sentence of an error
   * @param look called every second by a thread that waits: if the holder has died, it calls abandon()
   */
  constructor(words: Int32Array, index: number, guarded = 'what several threads share', look?: () => void) {
    this.words = words;
    this.index = index;
    this.guarded = guarded;
    this.look = look ?? null;
  }

  /** This thread holds the mutex. */
  get held(): boolean {
    return this.holding;
  }

  /** @throws ImgfuseError io if the thread that held it has died */
  lock(): void {
    assert(!this.holding, 'a thread takes a mutex that it holds');
    const { words, index } = this;
    if (Atomics.compareExchange(words, index, FREE, this.own) !== FREE) this.lockSlowly();
    this.holding = true;
  }

  /** Does nothing after a lock() that failed, so that the caller sees the error of lock(). */
  unlock(): void {
    if (!this.holding && this.isAbandoned) return;
    assert(this.holding, 'a thread releases a mutex that it does not hold');
    this.holding = false;
    this.hasWoken = (Atomics.exchange(this.words, this.index, FREE) & SLEEPERS) !== 0;
    if (this.hasWoken) Atomics.notify(this.words, this.index, 1);
  }

  /**
   * For long work in many short holds, between two of them: if another thread slept for the mutex, it gets it now. The mutex is not
   * fair, and without this the thread that runs takes it again before the one that was woken has come to run. If none slept, the
   * processor is offered from time to time.
   */
  giveWay(): void {
    if (this.hasWoken) sleepMs(GIVE_WAY_MS);
    else offerProcessor();
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

  /**
   * That thread has died. If it held the mutex, each lock() that waits, and each later one, fails.
   * @param thread its `threadId`
   */
  abandon(thread: number): void {
    const { words, index } = this;
    for (;;) {
      const found = Atomics.load(words, index);
      if ((found & ~SLEEPERS) !== heldBy(thread)) return;
      // a thread may have gone to sleep since
      if (Atomics.compareExchange(words, index, found, ABANDONED) === found) break;
    }
    Atomics.notify(words, index);
  }

  private lockSlowly(): void {
    const { words, index } = this;
    for (let spin = 0; spin < SPINS; spin++) {
      if (Atomics.load(words, index) === FREE && Atomics.compareExchange(words, index, FREE, this.own) === FREE) return;
    }
    for (;;) {
      const found = Atomics.load(words, index);
      if (found === ABANDONED) throw this.abandoned();
      if (found === FREE) {
        // marked as if a thread slept: others may have been asleep before
        if (Atomics.compareExchange(words, index, FREE, this.own | SLEEPERS) === FREE) return;
        continue;
      }
      const asleep = found | SLEEPERS;
      if (found === asleep || Atomics.compareExchange(words, index, found, asleep) === found) {
        const slept = Atomics.wait(words, index, asleep, this.look === null ? undefined : LOOK_MS);
        if (slept === 'timed-out') this.look?.();
      }
    }
  }

  private abandoned(): ImgfuseError {
    this.isAbandoned = true;
    return new ImgfuseError('io', `a thread died while it was changing ${this.guarded}, which cannot be used any more`);
  }
}
