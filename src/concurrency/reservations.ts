// Reservations of guest clusters (rule R3): one slot per thread, shared or exclusive. Taken and looked at under the metadata
// lock, given back without it. Invariant: no two slots hold overlapping ranges unless both are shared; among waiters the
// lower ticket goes first, so that a stream of readers cannot starve a writer.

import { assert, ImgfuseError } from '../errors/index.ts';
import { reach } from './breakpoints.ts';
import type { Mutex } from './mutex.ts';

export const SHARED = 1;
export const EXCLUSIVE = 2;
export type ReservationMode = typeof SHARED | typeof EXCLUSIVE;

const IDLE = 0;
/** Words before the slots: generation (the futex word), count of waiters, 1 once a thread has died with a reservation. */
const GENERATION = 0;
const WAITERS = 1;
const ABANDONED = 2;
const FIRST_SLOT_WORD = 3;
/** Words of a slot: mode, 1 while it waits. */
const SLOT_WORDS = 2;
/** Numbers before the slots: the last ticket. */
const LAST_TICKET = 0;
const FIRST_SLOT_NUMBER = 1;
/** Numbers of a slot: start, end (exclusive), ticket. */
const SLOT_NUMBERS = 3;

export interface ReservationState {
  readonly slots: number;
  readonly words: SharedArrayBuffer;
  readonly numbers: SharedArrayBuffer;
}

export function createReservationState(slots: number): ReservationState {
  return {
    slots,
    words: new SharedArrayBuffer((FIRST_SLOT_WORD + slots * SLOT_WORDS) * 4),
    numbers: new SharedArrayBuffer((FIRST_SLOT_NUMBER + slots * SLOT_NUMBERS) * 8),
  };
}

export class Reservations {
  private readonly words: Int32Array;
  private readonly numbers: Float64Array;
  private readonly slots: number;
  private readonly slot: number;
  private readonly mutex: Mutex;

  /** @param mutex the metadata lock of the image @param slot this thread's slot, from 0 */
  constructor(state: ReservationState, mutex: Mutex, slot: number) {
    assert(slot >= 0 && slot < state.slots, `reservation slot ${slot} of ${state.slots}`);
    this.words = new Int32Array(state.words);
    this.numbers = new Float64Array(state.numbers);
    this.slots = state.slots;
    this.slot = slot;
    this.mutex = mutex;
  }

  /**
   * Reserves guest clusters [start, end) for this thread. The metadata lock must be held and is held again on return.
   * @returns true when it was granted at once; false when the lock was released meanwhile, so that every lookup made
   * before the call is void (R2)
   * @throws ImgfuseError io when it would have to wait and a thread has died with a reservation
   */
  acquire(start: number, end: number, mode: ReservationMode): boolean {
    const { words, numbers, slot, mutex } = this;
    assert(mutex.held, 'a reservation is taken under the metadata lock');
    const word = FIRST_SLOT_WORD + slot * SLOT_WORDS;
    assert(words[word] === IDLE, 'a thread has at most one reservation');
    const number = FIRST_SLOT_NUMBER + slot * SLOT_NUMBERS;
    const ticket = numbers[LAST_TICKET]! + 1;
    numbers[LAST_TICKET] = ticket;
    numbers[number] = start;
    numbers[number + 1] = end;
    numbers[number + 2] = ticket;
    words[word + 1] = 0;
    Atomics.store(words, word, mode);
    if (!this.mustWait(start, end, mode, ticket)) return true;

    words[word + 1] = 1;
    // counted before the conflict is looked at again: a release that comes in between sees the waiter and wakes it
    Atomics.add(words, WAITERS, 1);
    for (;;) {
      const generation = Atomics.load(words, GENERATION);
      if (!this.mustWait(start, end, mode, ticket)) break;
      if (Atomics.load(words, ABANDONED) !== 0) this.giveUp();
      mutex.unlock();
      reach('reservation-wait');
      Atomics.wait(words, GENERATION, generation);
      mutex.lock();
    }
    Atomics.sub(words, WAITERS, 1);
    words[word + 1] = 0;
    return false;
  }

  /** The same for the guest clusters in which the bytes [offset, offset + length) of the disk lie. */
  acquireBytes(offset: number, length: number, clusterSize: number, mode: ReservationMode): boolean {
    return this.acquire(Math.floor(offset / clusterSize), Math.ceil((offset + length) / clusterSize), mode);
  }

  /**
   * Takes the metadata lock, reserves guest clusters [start, end) exclusively and runs `action`, which may release the lock
   * meanwhile and whose lookups come after the wait. Gives both back.
   */
  exclusively<T>(start: number, end: number, action: () => T): T {
    const { mutex } = this;
    mutex.lock();
    try {
      this.acquire(start, end, EXCLUSIVE);
      return action();
    } finally {
      this.release();
      if (mutex.held) mutex.unlock();
    }
  }

  /** Gives the reservation back. Needs no lock. */
  release(): void {
    const { words, slot } = this;
    Atomics.store(words, FIRST_SLOT_WORD + slot * SLOT_WORDS, IDLE);
    if (Atomics.load(words, WAITERS) > 0) {
      Atomics.add(words, GENERATION, 1);
      Atomics.notify(words, GENERATION);
    }
  }

  /**
   * The thread of that slot has died; told after its mutexes were. If it held or wanted a reservation, whoever waits for
   * one, now or later, gets an error. Needs no lock.
   */
  abandon(slot: number): void {
    const { words } = this;
    if (Atomics.load(words, FIRST_SLOT_WORD + slot * SLOT_WORDS) !== IDLE) Atomics.store(words, ABANDONED, 1);
    // who sleeps looks again, and finds the metadata lock abandoned if that is what the thread died with
    Atomics.add(words, GENERATION, 1);
    Atomics.notify(words, GENERATION);
  }

  private giveUp(): never {
    Atomics.sub(this.words, WAITERS, 1);
    throw new ImgfuseError('io', 'a thread died in the middle of a request that this one has to wait for');
  }

  /** Some other thread holds or waits for an exclusive reservation. The metadata lock must be held. */
  othersExclusive(): boolean {
    for (let other = 0; other < this.slots; other++) {
      if (other !== this.slot && Atomics.load(this.words, FIRST_SLOT_WORD + other * SLOT_WORDS) === EXCLUSIVE)
        return true;
    }
    return false;
  }

  private mustWait(start: number, end: number, mode: number, ticket: number): boolean {
    const { words, numbers } = this;
    for (let other = 0; other < this.slots; other++) {
      if (other === this.slot) continue;
      const word = FIRST_SLOT_WORD + other * SLOT_WORDS;
      const otherMode = Atomics.load(words, word);
      if (otherMode === IDLE || (mode === SHARED && otherMode === SHARED)) continue;
      const number = FIRST_SLOT_NUMBER + other * SLOT_NUMBERS;
      if (numbers[number]! >= end || numbers[number + 1]! <= start) continue;
      const otherWaits = words[word + 1] === 1;
      if (!otherWaits || numbers[number + 2]! < ticket) return true;
    }
    return false;
  }
}
