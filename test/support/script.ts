// A script for several threads on one open disk: it starts requests, stops them at named failpoints, fails them there and
// lets them go on. A script waits for a state of a thread and never for time, so the same script gives the same order.

import { once } from 'node:events';
import { pathToFileURL } from 'node:url';
import { Worker } from 'node:worker_threads';
import { steadyMs } from '../../src/concurrency/clock.ts';
import { FAILPOINTS, type Failpoint } from '../../src/concurrency/failpoints.ts';
import type { SharedDisk, VirtualDisk } from '../../src/disk/index.ts';
import { sliceOf } from './slices.ts';

export type Operation =
  | { readonly kind: 'write'; readonly at: number; readonly length: number; readonly value: number }
  | { readonly kind: 'read' | 'discard' | 'zero' | 'preallocate'; readonly at: number; readonly length: number }
  | { readonly kind: 'read-snapshot'; readonly snapshot: number; readonly at: number; readonly length: number }
  | { readonly kind: 'resize'; readonly length: number }
  | { readonly kind: 'flush' | 'maintain' };

export interface Answer {
  readonly bytes: Uint8Array | null;
  readonly error: string | null;
}

const FAILPOINT_WORDS = 4;
const LOG_LENGTH = 65_536;
const WORKER_WORDS = 2 + FAILPOINTS.length * FAILPOINT_WORDS;
/** Int32 words: count and entries of the log, then for each thread its state, a countdown to a stop, and what to do where. */
const LAYOUT = {
  logCount: 0,
  firstLog: 1,
  logLength: LOG_LENGTH,
  firstWorker: 1 + LOG_LENGTH,
  workerWords: WORKER_WORDS,
  state: 0,
  stopAfter: 1,
  firstFailpoint: 2,
  failpointWords: FAILPOINT_WORDS,
  action: 0,
  skip: 1,
  errno: 2,
  reached: 3,
  actions: { none: 0, stop: 1, failOnce: 2, failAlways: 3 },
  states: { idle: 0, running: 1, waiting: 2, stopped: 16 },
} as const;
/** A thread that does not get where the script says within this time is stuck. */
const STUCK_MS = 20_000;
/** How often it is asked whether a thread sleeps for a lock. */
const LOOK_MS = 1;

interface Thread {
  readonly worker: Worker;
  answer: Promise<Answer> | null;
}

export class Script {
  private readonly words: Int32Array;
  private readonly threads: readonly Thread[];
  /** how often points were asked for: each time others are left out */
  private turns = 0;

  private constructor(words: Int32Array, threads: readonly Thread[]) {
    this.words = words;
    this.threads = threads;
  }

  static async start(count: number): Promise<Script> {
    const control = new SharedArrayBuffer((LAYOUT.firstWorker + (count + 1) * WORKER_WORDS) * 4);
    const dist = process.env['IMGFUSE_DIST'];
    const threads = Array.from({ length: count }, (_, i) => ({
      worker: new Worker(new URL('./script-thread.mjs', import.meta.url), {
        workerData: {
          dist: dist === undefined ? new URL('../../dist/', import.meta.url).href : pathToFileURL(`${dist}/`).href,
          ...{ slot: i + 1, control, layout: LAYOUT },
        },
      }),
      answer: null,
    }));
    await Promise.all(threads.map(({ worker }) => once(worker, 'message')));
    return new Script(new Int32Array(control), threads);
  }

  /** All threads work on this disk from now on. @param disk with a slot for each thread behind its own */
  async attach(disk: VirtualDisk): Promise<void> {
    const shared = disk.share();
    for (let thread = 1; thread <= this.threads.length; thread++) {
      this.disarm(thread);
      const { error } = await this.run(thread, { kind: 'attach', shared });
      if (error !== null) throw new Error(error);
    }
    this.clearLog();
  }

  clearLog(): void {
    Atomics.store(this.words, LAYOUT.logCount, 0);
  }

  /** Thread `thread` (from 1) begins a request. */
  begin(thread: number, operation: Operation | { readonly kind: 'attach'; readonly shared: SharedDisk }): void {
    const { worker } = this.threads[thread - 1]!;
    this.setState(thread, LAYOUT.states.running);
    this.threads[thread - 1]!.answer = once(worker, 'message').then(([answer]) => answer as Answer);
    worker.postMessage(operation);
  }

  /** Begins a request and waits for its answer. */
  async run(thread: number, operation: Parameters<Script['begin']>[1]): Promise<Answer> {
    this.begin(thread, operation);
    return this.answer(thread);
  }

  /** The next time but `skip` that the thread reaches the failpoint it stops there. */
  stopAt(thread: number, failpoint: Failpoint, skip = 0): void {
    this.arm(thread, failpoint, LAYOUT.actions.stop, skip, 0);
  }

  /** The thread stops at the failpoint that it reaches after `skip` others, whatever its name. */
  stopAtAny(thread: number, skip: number): void {
    const word = this.stateWord(thread) + LAYOUT.stopAfter;
    Atomics.store(this.words, word, Math.min(skip + 1, 2 ** 31 - 1));
  }

  failAt(thread: number, failpoint: Failpoint, errno: 'EIO' | 'ENOSPC', times: 'once' | 'always', skip = 0): void {
    const action = times === 'once' ? LAYOUT.actions.failOnce : LAYOUT.actions.failAlways;
    this.arm(thread, failpoint, action, skip, errno === 'EIO' ? 5 : 28);
  }

  disarm(thread: number): void {
    Atomics.store(this.words, this.stateWord(thread) + LAYOUT.stopAfter, 0);
    for (const failpoint of FAILPOINTS) this.arm(thread, failpoint, LAYOUT.actions.none, 0, 0);
  }

  /** Begins a request that stops at the failpoint. */
  async beginAndStop(thread: number, operation: Operation, failpoint: Failpoint, skip = 0): Promise<void> {
    this.stopAt(thread, failpoint, skip);
    this.begin(thread, operation);
    await this.untilStopped(thread, failpoint);
  }

  /** Begins a request that has to wait for the clusters of others. */
  async beginAndWait(thread: number, operation: Operation): Promise<void> {
    this.begin(thread, operation);
    await this.until(thread, LAYOUT.states.waiting, 'waits for clusters');
  }

  untilStopped(thread: number, failpoint: Failpoint): Promise<void> {
    return this.until(thread, LAYOUT.states.stopped + FAILPOINTS.indexOf(failpoint), `stops at ${failpoint}`);
  }

  /** Until the request has ended, waits for clusters, or sleeps for a lock, which no thread tells: `isLockAwaited` is asked again and again. */
  async untilIdleOrWaiting(thread: number, isLockAwaited: () => boolean): Promise<void> {
    const word = this.stateWord(thread);
    const latest = steadyMs() + STUCK_MS;
    for (;;) {
      const state = Atomics.load(this.words, word);
      if (state === LAYOUT.states.idle || state === LAYOUT.states.waiting || isLockAwaited()) return;
      if (steadyMs() > latest) throw new Error(`thread ${thread} neither ends nor waits: ${this.where(thread)}`);
      const change = Atomics.waitAsync(this.words, word, state, LOOK_MS);
      if (change.async) await change.value;
    }
  }

  isIdle(thread: number): boolean {
    return Atomics.load(this.words, this.stateWord(thread)) === LAYOUT.states.idle;
  }

  /** A request that may end first. @returns whether it stopped */
  async stopsBeforeItEnds(thread: number): Promise<boolean> {
    for (;;) {
      const state = Atomics.load(this.words, this.stateWord(thread));
      if (state === LAYOUT.states.idle) return false;
      if (state >= LAYOUT.states.stopped) return true;
      await this.change(thread, state, 'stops or ends');
    }
  }

  /** Lets a stopped thread go on. */
  resume(thread: number): void {
    this.setState(thread, LAYOUT.states.running);
    Atomics.notify(this.words, this.stateWord(thread));
  }

  /** The answer of the request that the thread has begun. */
  answer(thread: number): Promise<Answer> {
    return within(this.threads[thread - 1]!.answer!, () => `thread ${thread} does not answer: ${this.where(thread)}`);
  }

  /** Lets the thread go on. @returns the answer of its request */
  finish(thread: number): Promise<Answer> {
    this.resume(thread);
    return this.answer(thread);
  }

  /** How often the thread has reached the failpoint. */
  count(thread: number, failpoint: Failpoint): number {
    return Atomics.load(this.words, this.failpointWord(thread, failpoint) + LAYOUT.reached);
  }

  /** What was reached so far, in order: "2 data-write". */
  log(): string[] {
    const count = Math.min(Atomics.load(this.words, LAYOUT.logCount), LOG_LENGTH);
    return Array.from(this.words.subarray(LAYOUT.firstLog, LAYOUT.firstLog + count), (entry) => {
      return `${entry >> 8} ${FAILPOINTS[entry & 255]}`;
    });
  }

  /**
   * Numbers of the points of these names, or of a slice of them. If no names are given: of all, but of lookups that follow each other
   * the first only, because another thread that waits for the lock sees no difference.
   */
  pointsOf(thread: number, only?: readonly string[]): number[] {
    const names = this.log()
      .filter((entry) => entry.startsWith(`${thread} `) && !entry.endsWith(' reservation-wait'))
      .map((entry) => entry.split(' ')[1]!);
    const isWanted = (name: string, i: number): boolean =>
      only?.includes(name) ?? !(name.endsWith('-load') && names[i - 1]?.endsWith('-load'));
    const points = [...names.keys()].filter((i) => isWanted(names[i]!, i));
    const step = Math.min(sliceOf('points'), points.length);
    const first = this.turns++ % step;
    return points.filter((_, i) => i % step === first);
  }

  /** Lets every thread go on to the end of its request, whatever becomes of it: after a failure, before the disk is closed. */
  async letGo(): Promise<void> {
    for (let thread = 1; thread <= this.threads.length; thread++) {
      this.disarm(thread);
      if (Atomics.load(this.words, this.stateWord(thread)) >= LAYOUT.states.stopped) this.resume(thread);
    }
    await Promise.allSettled(
      this.threads.map(({ answer }, index) => (answer === null ? null : this.answer(index + 1))),
    );
  }

  async end(): Promise<void> {
    await Promise.all(this.threads.map(({ worker }) => worker.terminate()));
  }

  private arm(thread: number, failpoint: Failpoint, action: number, skip: number, errno: number): void {
    const at = this.failpointWord(thread, failpoint);
    Atomics.store(this.words, at + LAYOUT.skip, skip);
    Atomics.store(this.words, at + LAYOUT.errno, errno);
    Atomics.store(this.words, at + LAYOUT.action, action);
  }

  private stateWord(thread: number): number {
    return LAYOUT.firstWorker + thread * WORKER_WORDS + LAYOUT.state;
  }

  private failpointWord(thread: number, failpoint: Failpoint): number {
    const first = LAYOUT.firstWorker + thread * WORKER_WORDS + LAYOUT.firstFailpoint;
    return first + FAILPOINTS.indexOf(failpoint) * FAILPOINT_WORDS;
  }

  private setState(thread: number, state: number): void {
    Atomics.store(this.words, this.stateWord(thread), state);
  }

  private async until(thread: number, wanted: number, what: string): Promise<void> {
    for (;;) {
      const state = Atomics.load(this.words, this.stateWord(thread));
      if (state === wanted) return;
      if (state === LAYOUT.states.idle)
        throw new Error(`thread ${thread} ended before it ${what}: ${this.where(thread)}`);
      await this.change(thread, state, what);
    }
  }

  private async change(thread: number, from: number, what: string): Promise<void> {
    const waiting = Atomics.waitAsync(this.words, this.stateWord(thread), from);
    if (waiting.async) {
      await within(waiting.value, () => `thread ${thread} never ${what}: ${this.where(thread)}`);
    }
  }

  private where(thread: number): string {
    const last = this.log().filter((entry) => entry.startsWith(`${thread} `));
    return `it last reached ${last.slice(-5).join(', ')}`;
  }
}

async function within<T>(promise: Promise<T>, describe: () => string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(describe())), STUCK_MS);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
