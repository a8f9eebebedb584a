// A hold of a metadata lock that takes long is reported with its time and the functions it was taken in; others are not.

import { afterEach, expect, test } from 'vitest';
import { type LongHold, reportHolds, TABLES_OF } from '../../../src/concurrency/hold-times.ts';
import { Mutex } from '../../../src/concurrency/mutex.ts';
import { logLongHolds } from '../../../src/disk/index.ts';

const { lock, unlock } = Mutex.prototype;

afterEach(() => {
  Mutex.prototype.lock = lock;
  Mutex.prototype.unlock = unlock;
});

const noDelay = () => 0;

function mutex(guarded: string): Mutex {
  return new Mutex(new Int32Array(new SharedArrayBuffer(4)), 0, guarded);
}

function wait(ms: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ms);
}

function search(metadata: Mutex): void {
  metadata.run(() => wait(20));
}

test('a long hold is reported with its time and its functions, a short one is not', () => {
  const holds: LongHold[] = [];
  reportHolds(10, noDelay, (hold) => holds.push(hold));
  const metadata = mutex(`${TABLES_OF}/disk.qed`);
  metadata.run(() => undefined);
  search(metadata);
  expect(holds).toHaveLength(1);
  expect(holds[0]!.ms).toBeGreaterThan(15);
  expect(holds[0]!.callers).toContain('search');
});

test('what the machine has added to a hold is left out of it', () => {
  const holds: LongHold[] = [];
  let delay = 0;
  reportHolds(
    10,
    () => delay,
    (hold) => holds.push(hold),
  );
  const metadata = mutex(`${TABLES_OF}/disk.qed`);
  metadata.run(() => {
    wait(20);
    delay += 1000;
  });
  search(metadata);
  expect(holds.map(({ callers }) => callers.includes('search'))).toEqual([true]);
});

test('a lock that others wait for by design is not reported', () => {
  const holds: LongHold[] = [];
  reportHolds(0, noDelay, (hold) => holds.push(hold));
  mutex('/disk.qed').run(() => undefined);
  expect(holds).toEqual([]);
});

test('the environment switches it on, with the least time to report', () => {
  const said: string[] = [];
  logLongHolds((sentence) => said.push(sentence), {});
  const metadata = mutex(`${TABLES_OF}/disk.qed`);
  search(metadata);
  expect(said).toEqual([]);
  logLongHolds((sentence) => said.push(sentence), { IMGFUSE_LOCK_HOLDS: '10' });
  search(metadata);
  expect(said).toHaveLength(1);
  expect(said[0]).toMatch(/^the tables of \/disk\.qed were locked for \d+\.\d\d ms by .*search/);
});
