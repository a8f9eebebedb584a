// Reservations of guest clusters (rule R3): one slot per thread, shared or exclusive. Taken and looked at under the metadata
// lock, released without it. Invariant: no two slots hold overlapping ranges unless both are shared; among waiters the
// lower ticket goes first, so that a stream of readers cannot starve a writer.

import { assert, ImgfuseError } from '../errors/index.ts';
import { failpoint } from './failpoints.ts';
import type { Mutex } from './mutex.ts';

export const SHARED = 1;
export const EXCLUSIVE = 2;
export type ReservationMode = typeof SHARED | typeof EXCLUSIVE;

const IDLE = 0;
/** Words before the slots. */
const GENERATION = 0;
const WAITERS = 1;
const ABANDONED = 2;
const FIRST_SLOT_WORD = 3;
/** Words of a slot. */
const MODE = 0;
const WAITS = 1;
const SLOT_WORDS = 2;
/** Numbers before the slots. */
const LAST_TICKET = 0;
const FIRST_SLOT_NUMBER = 1;
/** Numbers of a slot. */
const START = 0;
const END = 1;
const TICKET = 2;
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

/** What the threads share. The metadata lock guards all of it, but for the release of a slot and the words before the slots, which are atomic. */
class Slots {
  readonly count: number;
  private readonly words: Int32Array;
  private readonly numbers: Float64Array;

  constructor(state: ReservationState) {
    this.count = state.slots;
    this.words = new Int32Array(state.words);
    this.numbers = new Float64Array(state.numbers);
  }

  modeOf(slot: number): number {
    return Atomics.load(this.words, this.word(slot, MODE));
  }

  /**
   * Under the metadata lock, and cheaper: each slot that was reserved under the lock is seen as such, and one that was released
   * meanwhile may be, too.
   */
  othersMayConflict(slot: number, mode: ReservationMode): boolean {
    const { count, words } = this;
    for (let other = 0; other < count; other++) {
      const otherMode = words[this.word(other, MODE)];
      if (other !== slot && (mode === SHARED ? otherMode === EXCLUSIVE : otherMode !== IDLE)) return true;
    }
    return false;
  }

  /** Under the metadata lock, whose release shows it to the others. */
  reserve(slot: number, mode: ReservationMode): void {
    this.words[this.word(slot, MODE)] = mode;
  }

  release(slot: number): void {
    Atomics.store(this.words, this.word(slot, MODE), IDLE);
  }

  waits(slot: number): boolean {
    return this.words[this.word(slot, WAITS)] === 1;
  }

  setWaits(slot: number, waits: boolean): void {
    this.words[this.word(slot, WAITS)] = waits ? 1 : 0;
  }

  ticketOf(slot: number): number {
    return this.numbers[this.number(slot, TICKET)]!;
  }

  overlaps(slot: number, start: number, end: number): boolean {
    return this.numbers[this.number(slot, START)]! < end && this.numbers[this.number(slot, END)]! > start;
  }

  /** Writes down what the thread of the slot wants. @returns its ticket, higher than all before */
  want(slot: number, start: number, end: number): number {
    const { numbers } = this;
    const ticket = numbers[LAST_TICKET]! + 1;
    numbers[LAST_TICKET] = ticket;
    numbers[this.number(slot, START)] = start;
    numbers[this.number(slot, END)] = end;
    numbers[this.number(slot, TICKET)] = ticket;
    return ticket;
  }

  get hasWaiters(): boolean {
    return Atomics.load(this.words, WAITERS) > 0;
  }

  changeWaiters(by: 1 | -1): void {
    Atomics.add(this.words, WAITERS, by);
  }

  /** Changes whenever a reservation is released while others wait. */
  get generation(): number {
    return Atomics.load(this.words, GENERATION);
  }

  sleep(generation: number): void {
    Atomics.wait(this.words, GENERATION, generation);
  }

  wakeAll(): void {
    Atomics.add(this.words, GENERATION, 1);
    Atomics.notify(this.words, GENERATION);
  }

  /** A thread has died with a reservation. */
  get isAbandoned(): boolean {
    return Atomics.load(this.words, ABANDONED) !== 0;
  }

  setAbandoned(): void {
    Atomics.store(this.words, ABANDONED, 1);
  }

  private word(slot: number, word: number): number {
    return FIRST_SLOT_WORD + slot * SLOT_WORDS + word;
  }

  private number(slot: number, number: number): number {
    return FIRST_SLOT_NUMBER + slot * SLOT_NUMBERS + number;
  }
}

export class Reservations {
  private readonly slots: Slots;
  private readonly slot: number;
  private readonly mutex: Mutex;

  /** @param mutex the metadata lock of the image @param slot this thread's slot, from 0 */
  constructor(state: ReservationState, mutex: Mutex, slot: number) {
    assert(slot >= 0 && slot < state.slots, `reservation slot ${slot} of ${state.slots}`);
    this.slots = new Slots(state);
    this.slot = slot;
    this.mutex = mutex;
  }

  /**
   * Reserves guest clusters [start, end) for this thread. The metadata lock must be held and is held again on return.
   * @returns true if it was granted at once; false if the lock was released meanwhile, so that every earlier lookup is void (R2)
   * @throws ImgfuseError io if it would have to wait and a thread has died with a reservation
   */
  acquire(start: number, end: number, mode: ReservationMode): boolean {
    const { slots, slot, mutex } = this;
    assert(mutex.held, 'a reservation is taken under the metadata lock');
    assert(slots.modeOf(slot) === IDLE, 'a thread has at most one reservation');
    const ticket = slots.want(slot, start, end);
    slots.setWaits(slot, false);
    slots.reserve(slot, mode);
    if (!slots.othersMayConflict(slot, mode) || !this.mustWait(start, end, mode, ticket)) return true;

    slots.setWaits(slot, true);
    // counted before the conflict is looked at again: a release that comes in between sees the waiter and wakes it
    slots.changeWaiters(1);
    for (;;) {
      const { generation } = slots;
      if (!this.mustWait(start, end, mode, ticket)) break;
      if (slots.isAbandoned) this.giveUp();
      mutex.unlock();
      failpoint('reservation-wait');
      slots.sleep(generation);
      mutex.lock();
    }
    slots.changeWaiters(-1);
    slots.setWaits(slot, false);
    return false;
  }

  /** Like acquire(), for the guest clusters that hold the bytes [offset, offset + length) of the disk. */
  acquireBytes(offset: number, length: number, clusterSize: number, mode: ReservationMode): boolean {
    return this.acquire(Math.floor(offset / clusterSize), Math.ceil((offset + length) / clusterSize), mode);
  }

  /**
   * Takes the metadata lock, reserves guest clusters [start, end) exclusively, runs `action` and releases both. `action` starts
   * with the lock held, looks everything up by itself, and may release the lock.
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

  /** Releases the reservation. Needs no lock. */
  release(): void {
    const { slots, slot } = this;
    slots.release(slot);
    if (slots.hasWaiters) slots.wakeAll();
  }

  /**
   * The thread of that slot has died; told after its mutexes were. If it held or wanted a reservation, every thread that waits
   * for one, now or later, gets an error. Needs no lock.
   */
  abandon(slot: number): void {
    const { slots } = this;
    if (slots.modeOf(slot) !== IDLE) slots.setAbandoned();
    // a sleeper looks again, and finds the metadata lock abandoned if that is what the thread died with
    slots.wakeAll();
  }

  private giveUp(): never {
    this.slots.changeWaiters(-1);
    throw new ImgfuseError('io', 'a thread died in the middle of a request that this one has to wait for');
  }

  /** Some other thread holds or waits for an exclusive reservation. The metadata lock must be held. */
  othersExclusive(): boolean {
    const { slots } = this;
    for (let other = 0; other < slots.count; other++) {
      if (other !== this.slot && slots.modeOf(other) === EXCLUSIVE) return true;
    }
    return false;
  }

  private mustWait(start: number, end: number, mode: number, ticket: number): boolean {
    const { slots } = this;
    for (let other = 0; other < slots.count; other++) {
      if (other === this.slot) continue;
      const otherMode = slots.modeOf(other);
      if (otherMode === IDLE || (mode === SHARED && otherMode === SHARED)) continue;
      if (!slots.overlaps(other, start, end)) continue;
      if (!slots.waits(other) || slots.ticketOf(other) < ticket) return true;
    }
    return false;
  }
}
