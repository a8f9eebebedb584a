// The numbers that threads share behind the metadata lock: nobody gets at one without the lock, and what a caller without it
// may ask for waits for nobody.

import { threadId } from 'node:worker_threads';
import { expect, test } from 'vitest';
import { Mutex } from '../../../../src/concurrency/mutex.ts';
import { LockedNumbers } from '../../../../src/format/mapped/locked-numbers.ts';

/** Two threads' objects over the same numbers, each with its own object of the one lock. */
function shared(readOnly: boolean) {
  const numbers = new SharedArrayBuffer(2 * 8);
  const words = new Int32Array(new SharedArrayBuffer(4));
  const attach = () => {
    const lock = new Mutex(words, 0);
    return { lock, numbers: new LockedNumbers({ numbers, lock, readOnly }) };
  };
  return { ours: attach(), others: attach() };
}

test('a number is not read, set or added to without the lock', () => {
  const { numbers } = shared(false).ours;
  expect(() => numbers.get(0)).toThrow('assertion failed: a shared number is read under the metadata lock');
  expect(() => numbers.underLock()).toThrow('assertion failed: shared numbers are read under the metadata lock');
  expect(() => numbers.set(0, 1)).toThrow('assertion failed: a shared number is changed under the metadata lock');
  expect(() => numbers.add(0, 1)).toThrow('under the metadata lock');
  expect(numbers.getOutsideLock(0)).toBe(0);
});

test('that another thread holds the lock does not count', () => {
  const { ours, others } = shared(false);
  others.lock.run(() => {
    expect(() => ours.numbers.get(0)).toThrow('under the metadata lock');
    expect(() => ours.numbers.set(0, 1)).toThrow('under the metadata lock');
  });
});

test('what one thread sets another reads, larger than 2^32 and each in its place', () => {
  const { ours, others } = shared(false);
  ours.lock.run(() => {
    ours.numbers.set(0, 2 ** 53 - 512);
    ours.numbers.set(1, 3);
    ours.numbers.add(1, -1);
  });
  expect(others.lock.run(() => [others.numbers.get(0), others.numbers.get(1)])).toEqual([2 ** 53 - 512, 2]);
});

test('a caller without the lock does not wait for its holder, not even for one that has died', () => {
  const { ours, others } = shared(false);
  others.lock.lock();
  others.numbers.set(0, 2 ** 53 - 512);
  expect(ours.numbers.getOutsideLock(0)).toBe(2 ** 53 - 512);
  ours.lock.abandon(threadId);
  expect(ours.numbers.getOutsideLock(0)).toBe(2 ** 53 - 512);
  expect(() => ours.lock.lock()).toThrow('a thread died');
});

test('the numbers of a read-only image never change', () => {
  const { ours } = shared(true);
  expect(() => ours.lock.run(() => ours.numbers.set(0, 1))).toThrow('read-only');
});
