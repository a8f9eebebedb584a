// The blocks of one remote file in memory that all threads share: present, wanted, or on their way. Readers
// put blocks into the queue (block-reader.ts), the network thread takes them out and fills them (block-loader.ts).
// Everything but the bytes of a block that is LOADING is guarded by the lock. A block with pins, QUEUED or LOADING is never
// evicted.

import { bytesOfName, nameOfBytes } from '../../bytes/names.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import type { Traffic } from '../host-file.ts';
import type { BlockCacheState } from '../shared-file.ts';
import { isAlive, type ThreadName } from '../thread-life.ts';
import { Signal } from './signal.ts';

const EMPTY = 0;
export const QUEUED = 1;
export const LOADING = 2;
export const READY = 3;
/** its readers find out why in the errors, and the last of them makes it EMPTY */
export const FAILED = 4;
type SlotState = typeof EMPTY | typeof QUEUED | typeof LOADING | typeof READY | typeof FAILED;

/** Words before the slots. */
const LOCK = 0;
const REQUESTS = 1;
const ARRIVALS = 2;
const CLOSED = 3;
const HAND = 4;
const NEXT_ERROR = 5;
const FIRST_SLOT = 6;
/** Words of a slot. */
const STATE = 0;
const PINS = 1;
const USED = 2;
const MARK = 3;
const ERROR = 4;
const SLOT_WORDS = 5;

/** Numbers: the block in each slot, the traffic, the silence. */
const NO_BLOCK = -1;
const TRAFFIC_NUMBERS = 4;
/** When the present silence began in steadyMs(), 0 if there is none; and how long its readers wait. */
const BEGAN_MS = 0;
const ENDS_MS = 1;
const SILENCE_NUMBERS = 2;
/** A reader that comes later than this after the last one has gone begins a silence of its own. */
const SILENCE_GAP_MS = 1000;

const ERRORS = 16;
const ERROR_BYTES = 1024;

export interface BlockCacheOptions {
  readonly length: number;
  readonly blockBytes: number;
  readonly cacheBytes: number;
  readonly readAheadBytes: number;
  readonly silenceMs: number;
  readonly answerMs: number;
  readonly loader: ThreadName;
}

const MIN_BLOCKS = 8;

export function createBlockCacheState(options: BlockCacheOptions): BlockCacheState {
  const { length, blockBytes, silenceMs, answerMs, loader } = options;
  const budget = Math.max(MIN_BLOCKS, Math.floor(options.cacheBytes / blockBytes));
  const capacity = Math.max(1, Math.min(budget, Math.ceil(length / blockBytes)));
  const numbers = new SharedArrayBuffer((capacity + TRAFFIC_NUMBERS + SILENCE_NUMBERS) * 8);
  new Float64Array(numbers, 0, capacity).fill(NO_BLOCK);
  return {
    length,
    blockBytes,
    capacity,
    silenceMs,
    answerMs,
    loader,
    numbers,
    // a reader that reads ahead never throws out what another one has yet to read
    readAheadBlocks: Math.floor(Math.min(options.readAheadBytes / blockBytes, capacity / 4)),
    words: new SharedArrayBuffer((FIRST_SLOT + capacity * SLOT_WORDS) * 4),
    data: new SharedArrayBuffer(capacity * blockBytes),
    errors: new SharedArrayBuffer(ERRORS * ERROR_BYTES),
  };
}

export class BlockCache {
  readonly state: BlockCacheState;
  /** the blocks; slot s begins at s * blockBytes */
  readonly bytes: Uint8Array;
  readonly lock: Mutex;
  /** something was queued: for the network thread */
  readonly requests: Signal;
  /** something has come, or never will: for the readers */
  readonly arrivals: Signal;
  private readonly words: Int32Array;
  private readonly blocks: Float64Array;
  private readonly counters: Float64Array;
  private readonly errors: Uint8Array;
  private readonly silence: Float64Array;

  /** @param path of the file, for the sentence of an error */
  constructor(state: BlockCacheState, path: string) {
    this.state = state;
    this.words = new Int32Array(state.words);
    this.bytes = new Uint8Array(state.data);
    this.lock = new Mutex(this.words, LOCK, `the blocks of ${path}`, () => this.lookAfterLoader());
    this.requests = new Signal(this.words, REQUESTS);
    this.arrivals = new Signal(this.words, ARRIVALS);
    this.blocks = new Float64Array(state.numbers, 0, state.capacity);
    this.counters = new Float64Array(state.numbers, state.capacity * 8, TRAFFIC_NUMBERS);
    this.silence = new Float64Array(state.numbers, (state.capacity + TRAFFIC_NUMBERS) * 8);
    this.errors = new Uint8Array(state.errors);
  }

  /** Slot of a block, in whatever state, or -1. */
  find(block: number): number {
    return this.blocks.indexOf(block);
  }

  blockOf(slot: number): number {
    return this.blocks[slot]!;
  }

  /** Bytes of a block: all but the last have the full length. */
  lengthOf(block: number): number {
    const { length, blockBytes } = this.state;
    return Math.min(blockBytes, length - block * blockBytes);
  }

  get blockCount(): number {
    return Math.ceil(this.state.length / this.state.blockBytes);
  }

  stateOf(slot: number): SlotState {
    return this.word(slot, STATE) as SlotState;
  }

  setState(slot: number, state: SlotState): void {
    this.setWord(slot, STATE, state);
  }

  /** How many readers wait for the block. */
  pinsOf(slot: number): number {
    return this.word(slot, PINS);
  }

  pin(slot: number): void {
    this.setWord(slot, PINS, this.pinsOf(slot) + 1);
  }

  unpin(slot: number): void {
    this.setWord(slot, PINS, this.pinsOf(slot) - 1);
  }

  noteUse(slot: number): void {
    this.setWord(slot, USED, 1);
  }

  /** Whether reading the block starts the next read-ahead. */
  startsReadAhead(slot: number): boolean {
    return this.word(slot, MARK) === 1;
  }

  setStartsReadAhead(slot: number, starts: boolean): void {
    this.setWord(slot, MARK, starts ? 1 : 0);
  }

  /** Takes a slot for a block that has none. @returns -1 if every slot is in use or on its way */
  insert(block: number, state: SlotState): number {
    const slot = this.vacantSlot();
    if (slot < 0) return -1;
    this.blocks[slot] = block;
    this.setState(slot, state);
    this.noteUse(slot);
    return slot;
  }

  clear(slot: number): void {
    this.blocks[slot] = NO_BLOCK;
    for (let word = 0; word < SLOT_WORDS; word++) this.setWord(slot, word, 0);
  }

  /** A block did not arrive: its readers get the sentence; without readers the slot becomes empty. */
  fail(slot: number, error: number): void {
    if (this.pinsOf(slot) === 0) return this.clear(slot);
    this.setState(slot, FAILED);
    this.setWord(slot, ERROR, error);
  }

  /** Keeps a sentence for a while. @returns its number, for fail */
  storeError(sentence: string): number {
    const number = this.words[NEXT_ERROR]!;
    this.words[NEXT_ERROR] = (number + 1) % ERRORS;
    const place = this.errors.subarray(number * ERROR_BYTES, (number + 1) * ERROR_BYTES).fill(0);
    // encodeInto refuses shared memory
    place.set(bytesOfName(sentence).subarray(0, ERROR_BYTES));
    return number;
  }

  errorOf(slot: number): string {
    const start = this.word(slot, ERROR) * ERROR_BYTES;
    const text = nameOfBytes(this.errors.slice(start, start + ERROR_BYTES));
    return text.slice(0, text.indexOf('\0') < 0 ? text.length : text.indexOf('\0'));
  }

  /** Only the network thread counts. */
  setTraffic({ requests, bytes, retries, failures }: Traffic): void {
    this.counters.set([requests, bytes, retries, failures]);
  }

  traffic(): Traffic {
    const [requests = 0, bytes = 0, retries = 0, failures = 0] = this.counters;
    return { requests, bytes, retries, failures };
  }

  /**
   * A reader waits. Requests that are served one after the other while nothing arrives have all waited from the beginning.
   * @returns when the present silence began
   */
  waitsAt(nowMs: number): number {
    const { silence } = this;
    if (silence[BEGAN_MS] === 0 || nowMs - silence[ENDS_MS]! > SILENCE_GAP_MS) silence[BEGAN_MS] = nowMs;
    silence[ENDS_MS] = Math.max(nowMs, silence[BEGAN_MS]! + this.state.answerMs);
    return silence[BEGAN_MS]!;
  }

  /** A block has come. */
  endSilence(): void {
    this.silence[BEGAN_MS] = 0;
  }

  /** No block arrives any more: readers that wait, and later ones, get an error. */
  close(): void {
    Atomics.store(this.words, CLOSED, 1);
    this.requests.wake();
    this.arrivals.wake();
  }

  get isClosed(): boolean {
    return Atomics.load(this.words, CLOSED) === 1;
  }

  get isLoaderAlive(): boolean {
    return isAlive(this.state.loader);
  }

  /** If the network thread has died: no block arrives any more, and what it held is abandoned. */
  lookAfterLoader(): void {
    if (this.isLoaderAlive) return;
    this.close();
    this.lock.abandon(this.state.loader.thread);
  }

  /** The victim of the clock among the slots without readers. */
  private vacantSlot(): number {
    const { capacity } = this.state;
    for (let step = 0; step < 2 * capacity; step++) {
      const slot = this.words[HAND]!;
      this.words[HAND] = (slot + 1) % capacity;
      const state = this.stateOf(slot);
      if (state === EMPTY) return slot;
      if (state !== READY || this.pinsOf(slot) > 0) continue;
      if (this.word(slot, USED) === 0) {
        this.clear(slot);
        return slot;
      }
      this.setWord(slot, USED, 0);
    }
    return -1;
  }

  private word(slot: number, word: number): number {
    return this.words[FIRST_SLOT + slot * SLOT_WORDS + word]!;
  }

  private setWord(slot: number, word: number, value: number): void {
    this.words[FIRST_SLOT + slot * SLOT_WORDS + word] = value;
  }
}
