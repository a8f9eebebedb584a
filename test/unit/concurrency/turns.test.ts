// Offers of a processor: between holds of a mutex nobody sleeps for, not more often than it is of use, and not without a way to offer it.

import { afterEach, expect, test } from 'vitest';
import { steadyMs } from '../../../src/concurrency/clock.ts';
import { Mutex } from '../../../src/concurrency/mutex.ts';
import { offerProcessor, offerProcessorWith } from '../../../src/concurrency/turns.ts';
import { nativeAvailable, yieldProcessor } from '../../../src/native/index.ts';
import { requireOrSkip } from '../../support/requirements.ts';

afterEach(() => offerProcessorWith(null));

test('long work that nobody sleeps for offers the processor ten times a millisecond', () => {
  let offers = 0;
  offerProcessorWith(() => offers++);
  const mutex = new Mutex(new Int32Array(new SharedArrayBuffer(4)), 0);
  const start = steadyMs();
  let turns = 0;
  for (; steadyMs() - start < 20; turns++) {
    mutex.run(() => undefined);
    mutex.giveWay();
  }
  const most = (steadyMs() - start) / 0.1 + 1;
  expect(offers).toBeGreaterThan(0);
  expect(offers).toBeLessThanOrEqual(most);
  expect(turns).toBeGreaterThan(offers);
});

test('without a way to offer it, work goes on', () => {
  expect(() => offerProcessor()).not.toThrow();
});

test('the kernel takes the offer', (context) => {
  requireOrSkip(context, nativeAvailable(), 'the package koffi');
  expect(() => yieldProcessor()).not.toThrow();
});
