// The gate of a worker: what it lets through, and what whoever set the stop word may rely on.

import { expect, test } from 'vitest';
import { createStopWords, hasRequestsInHand, RequestGate } from '../../../src/commands/request-gate.ts';
import { STOP } from '../../../src/commands/threads.ts';
import type { Channel, ConnectionEnd } from '../../../src/fuse/device.ts';

/** A channel whose reads give `answers`, and see whether a request is in hand while they are parked. */
function channelOf(words: Int32Array, answers: readonly (number | ConnectionEnd)[]): Channel & { parked: boolean[] } {
  const left = [...answers];
  const parked: boolean[] = [];
  return {
    parked,
    receive: () => {
      parked.push(hasRequestsInHand(words));
      return left.shift() ?? 'unmounted';
    },
    send: () => true,
  };
}

const BYTES = new Uint8Array(100);

test('a request is in hand until the next one is waited for', () => {
  const words = createStopWords(2);
  const channel = channelOf(words, [40, 0, 60]);
  const gate = new RequestGate(channel, words, 2);
  expect(gate.receive(BYTES)).toBe(40);
  expect(hasRequestsInHand(words)).toBe(true);
  expect(gate.receive(BYTES)).toBe(0);
  expect(hasRequestsInHand(words)).toBe(false);
  expect(gate.receive(BYTES)).toBe(60);
  expect(hasRequestsInHand(words)).toBe(true);
  gate.leave();
  expect(hasRequestsInHand(words)).toBe(false);
  expect(channel.parked).toEqual([false, false, false]);
});

test.each([STOP.end, STOP.rescue])('a request that arrives after stop %i is not let through', (stop) => {
  const words = createStopWords(1);
  const gate = new RequestGate(channelOf(words, [40]), words, 1);
  Atomics.store(words, 0, stop);
  expect(gate.receive(BYTES)).toBe('aborted');
  gate.leave();
  expect(hasRequestsInHand(words)).toBe(false);
});

test('the end of the connection is passed on', () => {
  const words = createStopWords(1);
  expect(new RequestGate(channelOf(words, ['unmounted']), words, 1).receive(BYTES)).toBe('unmounted');
});
