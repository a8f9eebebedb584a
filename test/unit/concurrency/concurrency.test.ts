// Mutex and reservations between real threads, and the table cache against a map. The threads run the built code.

import { once } from 'node:events';
import { setTimeout as delay } from 'node:timers/promises';
import { Worker } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { Mutex } from '../../../src/concurrency/mutex.ts';
import {
  createReservationState,
  EXCLUSIVE,
  type ReservationState,
  Reservations,
  SHARED,
} from '../../../src/concurrency/reservations.ts';
import { createTableCacheState, TableCache } from '../../../src/concurrency/table-cache.ts';
import { isBuilt } from '../../support/image-files.ts';
import { requireOrSkip } from '../../support/requirements.ts';
import { sliceOf } from '../../support/slices.ts';

const THREADS = 4;
const ROUNDS = sliceOf('lockRounds');

async function fight(data: Record<string, unknown>): Promise<string[]> {
  const workers = Array.from(
    { length: THREADS },
    (_, slot) => new Worker(new URL('./contender.mjs', import.meta.url), { workerData: { ...data, slot } }),
  );
  try {
    const found = await Promise.all(workers.map(async (worker) => (await once(worker, 'message'))[0] as string[]));
    return found.flat();
  } finally {
    await Promise.all(workers.map((worker) => worker.terminate()));
  }
}

describe('a mutex', () => {
  const mutex = () => new Mutex(new Int32Array(new SharedArrayBuffer(4)), 0);

  test('lets one thread in at a time, and none is left asleep', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
    const cells = new SharedArrayBuffer(4);
    await fight({ kind: 'mutex', words: new SharedArrayBuffer(4), cells, rounds: ROUNDS });
    expect(new Int32Array(cells)[0]).toBe(THREADS * ROUNDS);
  }, 20_000);

  test('is not reentrant, is released by its holder only, and survives an action that throws', () => {
    const subject = mutex();
    expect(() => subject.unlock()).toThrow('does not hold');
    subject.lock();
    expect(subject.held).toBe(true);
    expect(() => subject.lock()).toThrow('that it holds');
    subject.unlock();
    expect(() =>
      subject.run(() => {
        throw new Error('x');
      }),
    ).toThrow('x');
    expect(subject.held).toBe(false);
    expect(subject.run(() => 5)).toBe(5);
  });
});

/** Runs `body` in a thread, with `Mutex`, `Reservations`, `EXCLUSIVE`, `words`, `state` and `say` in reach. */
function threadOf(body: string, words: SharedArrayBuffer, state?: ReservationState): Worker {
  const built = (name: string): string => new URL(`../../../dist/concurrency/${name}.js`, import.meta.url).href;
  const source = `
    const { parentPort, workerData: { words, state } } = require('node:worker_threads');
    const say = (text) => parentPort.postMessage(text);
    Promise.all([import('${built('mutex')}'), import('${built('reservations')}')]).then(
      ([{ Mutex }, { Reservations, EXCLUSIVE }]) => { ${body} });`;
  return new Worker(source, { eval: true, workerData: { words, state } });
}

describe('a thread that dies', () => {
  /** Ends as process.exit() in a thread does: no finally block runs. */
  const DIE_WITH_MUTEX = 'new Mutex(new Int32Array(words), 0).lock(); process.exit(0);';
  const WAIT_FOR_MUTEX = `
    const mutex = new Mutex(new Int32Array(words), 0, 'the tables of a.qed');
    say('waiting');
    try { mutex.lock(); say('got it'); } catch (error) { say(error.message); }
    mutex.unlock();
    say('held: ' + mutex.held);`;

  async function lines(thread: Worker, count: number): Promise<string[]> {
    const said: string[] = [];
    thread.on('message', (line: string) => said.push(line));
    while (said.length < count) await once(thread, 'message');
    return said;
  }

  test('with a mutex gives an error to everybody who waits for it, then and later', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
    const words = new SharedArrayBuffer(4);
    const holder = threadOf(DIE_WITH_MUTEX, words);
    const { threadId } = holder;
    await once(holder, 'exit');
    const waiters = [threadOf(WAIT_FOR_MUTEX, words), threadOf(WAIT_FOR_MUTEX, words)];
    const said = waiters.map((waiter) => lines(waiter, 3));
    await Promise.all(waiters.map((waiter) => once(waiter, 'message')));
    await delay(50);
    const own = new Mutex(new Int32Array(words), 0);
    own.abandon(threadId + 1);
    own.abandon(0);
    await delay(50);
    own.abandon(threadId);
    const sentence = 'a thread died while it was changing the tables of a.qed, which cannot be used any more';
    for (const each of said) expect(await each).toEqual(['waiting', sentence, 'held: false']);
    expect(() => own.lock()).toThrow('a thread died while it was changing what several threads share');
    await Promise.all(waiters.map((waiter) => waiter.terminate()));
  });

  test('without the mutex takes nothing from anybody', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
    const words = new SharedArrayBuffer(4);
    const holder = threadOf('new Mutex(new Int32Array(words), 0).run(() => 0); process.exit(0);', words);
    const { threadId } = holder;
    await once(holder, 'exit');
    const own = new Mutex(new Int32Array(words), 0);
    own.abandon(threadId);
    expect(own.run(() => 5)).toBe(5);
  });

  test('with a reservation gives an error to whoever has to wait for it, and to nobody else', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
    const words = new SharedArrayBuffer(4);
    const state = createReservationState(3);
    const reserve = (slot: number, start: number, after: string): string => `
      const mutex = new Mutex(new Int32Array(words), 0);
      mutex.lock();
      say('wants');
      try {
        new Reservations(state, mutex, ${slot}).acquire(${start}, ${start + 4}, EXCLUSIVE);
        say('got it');
      } catch (error) { say(error.message); }
      mutex.unlock();
      ${after}`;
    await once(threadOf(reserve(0, 0, 'process.exit(0);'), words, state), 'exit');
    const waiter = threadOf(reserve(1, 2, 'say(mutex.held)'), words, state);
    const said = lines(waiter, 3);
    await once(waiter, 'message');
    await delay(50);
    const mutex = new Mutex(new Int32Array(words), 0);
    const own = new Reservations(state, mutex, 2);
    own.abandon(0);
    expect(await said).toEqual([
      'wants',
      'a thread died in the middle of a request that this one has to wait for',
      false,
    ]);
    mutex.lock();
    expect(own.acquire(8, 9, EXCLUSIVE)).toBe(true);
    own.release();
    expect(() => own.acquire(0, 1, SHARED)).toThrow('a thread died in the middle of a request');
    await waiter.terminate();
  });

  test('with the mutex wakes those that wait for a reservation of a thread that cannot give it back', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
    const words = new SharedArrayBuffer(4);
    const state = createReservationState(3);
    const mutex = new Mutex(new Int32Array(words), 0);
    const own = new Reservations(state, mutex, 2);
    mutex.run(() => own.acquire(0, 4, EXCLUSIVE));
    const waiter = threadOf(
      `const mutex = new Mutex(new Int32Array(words), 0);
       try { new Reservations(state, mutex, 1).exclusively(0, 4, () => say('got it')); } catch (error) { say(error.message); }`,
      words,
      state,
    );
    const said = lines(waiter, 1);
    while (Atomics.load(new Int32Array(state.words), 1) === 0) await delay(5);
    await delay(20);
    const holder = threadOf(DIE_WITH_MUTEX, words);
    const { threadId } = holder;
    await once(holder, 'exit');
    mutex.abandon(threadId);
    own.abandon(0);
    expect((await said)[0]).toMatch(/^a thread died while it was changing/);
    await waiter.terminate();
  });
});

describe('reservations', () => {
  test('keep writers alone on every cluster and let readers share, between threads', async (context) => {
    requireOrSkip(context, isBuilt(), 'dist/ (npm run build)');
    const size = 8;
    const cells = new SharedArrayBuffer((size * 3 + 1) * 4);
    const words = new SharedArrayBuffer(4);
    const state = createReservationState(THREADS);
    const violations = await fight({ kind: 'reservations', words, state, cells, size, rounds: ROUNDS / 4 });
    expect(violations).toEqual([]);
    const counters = new Int32Array(cells);
    const written = Array.from({ length: size }, (_, cell) => counters[cell * 3 + 2]!).reduce((a, b) => a + b);
    expect(written).toBe(counters[size * 3]);
    expect(written).toBeGreaterThan(0);
  }, 20_000);

  test('are granted at once where nothing overlaps or both are shared, and know of others that are exclusive', () => {
    const words = new Int32Array(new SharedArrayBuffer(4));
    const state = createReservationState(3);
    // one thread plays three, so one mutex object is enough
    const mutex = new Mutex(words, 0);
    const [a, b, c] = [0, 1, 2].map((slot) => new Reservations(state, mutex, slot)) as [
      Reservations,
      Reservations,
      Reservations,
    ];
    mutex.lock();
    expect(a.acquire(0, 10, EXCLUSIVE)).toBe(true);
    expect(b.acquire(10, 20, SHARED)).toBe(true);
    expect(c.acquire(15, 30, SHARED)).toBe(true);
    expect([a.othersExclusive(), b.othersExclusive()]).toEqual([false, true]);
    expect(() => a.acquire(40, 41, SHARED)).toThrow('at most one');
    a.release();
    expect(b.othersExclusive()).toBe(false);
    mutex.unlock();
    a.release();
    expect(() => a.acquire(0, 1, SHARED)).toThrow('under the metadata lock');
    expect(() => new Reservations(state, mutex, 3)).toThrow('slot 3');
  });

  test('cover every cluster that a byte range touches, and no other', () => {
    const state = createReservationState(1);
    const mutex = new Mutex(new Int32Array(new SharedArrayBuffer(4)), 0);
    const reservations = new Reservations(state, mutex, 0);
    const taken = new Float64Array(state.numbers);
    mutex.lock();
    const ranges = [
      [0, 1],
      [511, 1],
      [511, 2],
      [512, 1024],
      [1023, 1026],
    ].map(([offset, length]) => {
      expect(reservations.acquireBytes(offset!, length!, 512, SHARED)).toBe(true);
      reservations.release();
      return [taken[1], taken[2]];
    });
    expect(ranges).toEqual([
      [0, 1],
      [0, 1],
      [0, 2],
      [1, 3],
      [1, 5],
    ]);
  });

  test('taken for one action are exclusive, and leave nothing behind when it throws without the lock', () => {
    const state = createReservationState(2);
    const mutex = new Mutex(new Int32Array(new SharedArrayBuffer(4)), 0);
    const [a, b] = [0, 1].map((slot) => new Reservations(state, mutex, slot)) as [Reservations, Reservations];
    const looked = a.exclusively(3, 4, () => [mutex.held, b.othersExclusive()]);
    expect([looked, mutex.held, b.othersExclusive()]).toEqual([[true, true], false, false]);
    const failing = (): never => {
      mutex.unlock();
      throw new Error('meanwhile');
    };
    expect(() => a.exclusively(3, 4, failing)).toThrow('meanwhile');
    expect([mutex.held, b.othersExclusive()]).toEqual([false, false]);
  });
});

describe('a table cache', () => {
  test('finds what was inserted and not removed or evicted, with its bytes, and never holds more than its budget', () => {
    const key = fc.oneof(fc.nat(12), fc.constantFrom(2 ** 20, 2 ** 31, 2 ** 41 - 1)).map((number) => number * 512);
    const step = fc.record({ kind: fc.constantFrom('load', 'load', 'load', 'remove'), key });
    fc.assert(
      fc.property(fc.integer({ min: 2, max: 5 }), fc.array(step, { maxLength: 80 }), (capacity, steps) => {
        const state = createTableCacheState(capacity * 512, 512);
        const [cache, other] = [new TableCache(state), new TableCache(state)];
        const ever = new Set<number>();
        for (const each of steps) {
          if (each.kind === 'remove') cache.remove(each.key);
          else {
            let slot = cache.find(each.key);
            if (slot < 0) {
              slot = cache.insert(each.key);
              cache.view.setFloat64(slot * 512, each.key);
              ever.add(each.key);
            }
            expect(other.find(each.key)).toBe(slot);
          }
          if (each.kind === 'remove') expect(other.find(each.key)).toBe(-1);
          const present = [...ever].filter((known) => other.find(known) >= 0);
          expect(present.length).toBeLessThanOrEqual(capacity);
          for (const known of present) expect(other.view.getFloat64(other.find(known) * 512)).toBe(known);
        }
      }),
      { numRuns: 200 },
    );
  });

  test('keeps what is used again and again while others pass through', () => {
    const cache = new TableCache(createTableCacheState(8 * 512, 512));
    let misses = 0;
    for (let i = 1; i < 200; i++) {
      if (cache.find(0) < 0) {
        cache.insert(0);
        misses++;
      }
      cache.insert(i * 512);
    }
    expect(misses).toBeLessThan(40);
    expect(() => cache.insert(199 * 512)).toThrow('once');
  });
});
