// The gates of a mount's threads: what they let through, and what whoever closes them or sets the stop word may rely on.

import { Worker } from 'node:worker_threads';
import { expect, test, vi } from 'vitest';
import { Gate, RequestGate } from '../../../../src/daemon/workers/request-gate.ts';
import { ServingWords } from '../../../../src/daemon/workers/serving-words.ts';
import type { Channel, ConnectionEnd } from '../../../../src/fuse/device.ts';

/** A channel whose reads give `answers`, and see whether a request is in hand while they are parked. */
function channelOf(words: ServingWords, answers: readonly (number | ConnectionEnd)[]): Channel & { parked: boolean[] } {
  const left = [...answers];
  const parked: boolean[] = [];
  return {
    parked,
    receive: () => {
      parked.push(words.hasRequestsInHand);
      return left.shift() ?? 'unmounted';
    },
    send: () => true,
  };
}

const BYTES = new Uint8Array(100);

test('a request is in hand until the next one is waited for', () => {
  const words = ServingWords.create(2);
  const channel = channelOf(words, [40, 0, 60]);
  const gate = new Gate(words, 2);
  const requests = new RequestGate(channel, gate);
  expect(requests.receive(BYTES)).toBe(40);
  expect(words.hasRequestsInHand).toBe(true);
  expect(requests.receive(BYTES)).toBe(0);
  expect(words.hasRequestsInHand).toBe(false);
  expect(requests.receive(BYTES)).toBe(60);
  expect(words.hasRequestsInHand).toBe(true);
  gate.leave();
  expect(words.hasRequestsInHand).toBe(false);
  expect(channel.parked).toEqual([false, false, false]);
});

test('a request that arrives after the stop is not let through', () => {
  const words = ServingWords.create(1);
  const gate = new Gate(words, 1);
  words.stop();
  expect(new RequestGate(channelOf(words, [40]), gate).receive(BYTES)).toBe('aborted');
  gate.leave();
  expect(words.hasRequestsInHand).toBe(false);
});

test('the end of the connection is passed on', () => {
  const words = ServingWords.create(1);
  expect(new RequestGate(channelOf(words, ['unmounted']), new Gate(words, 1)).receive(BYTES)).toBe('unmounted');
});

test('an exchanged disk is taken before the next request, once, and by a thread that starts with it never', () => {
  const words = ServingWords.create(2);
  let taken = 0;
  const gate = new Gate(words, 1, words.generation, () => {
    taken++;
  });
  gate.enter();
  gate.leave();
  expect(taken).toBe(0);
  words.closeGates();
  words.openGates(true);
  expect(taken).toBe(0);
  gate.enter();
  gate.leave();
  gate.enter();
  expect(taken).toBe(1);
  const late = new Gate(words, 2, words.generation, () => {
    throw new Error('it has that disk already');
  });
  expect(late.enter()).toBe(true);
});

test('gates that open without an exchange leave the disk as it was', () => {
  const words = ServingWords.create(1);
  const gate = new Gate(words, 1, words.generation, () => {
    throw new Error('there is no other disk');
  });
  words.closeGates();
  words.openGates(false);
  expect(gate.enter()).toBe(true);
});

const ENTER = `
const { workerData, parentPort } = require('node:worker_threads');
Promise.all([import(workerData.gate), import(workerData.words)]).then(([{ Gate }, { ServingWords }]) => {
  const gate = new Gate(new ServingWords(workerData.shared), 1);
  parentPort.postMessage('waiting');
  parentPort.postMessage(gate.enter() ? 'in' : 'stopped');
});
`;

test.each([
  ['opened', (words: ServingWords) => words.openGates(false), 'in'],
  ['stopped', (words: ServingWords) => words.stop(), 'stopped'],
] as const)('a thread at a closed gate has nothing in hand, and goes on when it is %s', async (_, act, outcome) => {
  const words = ServingWords.create(1);
  words.closeGates();
  const built = (name: string): string => new URL(`../../../../dist/daemon/workers/${name}.js`, import.meta.url).href;
  const workerData = { shared: words.shared, gate: built('request-gate'), words: built('serving-words') };
  const worker = new Worker(ENTER, { eval: true, workerData });
  const messages: string[] = [];
  worker.on('message', (message: string) => messages.push(message));
  while (messages.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(messages).toEqual(['waiting']);
  expect(words.hasRequestsInHand).toBe(false);
  act(words);
  await new Promise((resolve) => worker.once('exit', resolve));
  expect(messages).toEqual(['waiting', outcome]);
});

test.each([
  ['the stop', (words: ServingWords) => words.stop(), false],
  [
    'the stop of a mount whose disk is being exchanged',
    (words: ServingWords) => {
      words.stop();
      words.closeGates();
    },
    false,
  ],
  ['the opening', (words: ServingWords) => words.openGates(true), true],
] as const)('%s is not missed by a thread that is just about to sleep at a closed gate', (_, act, enters) => {
  const words = ServingWords.create(1);
  words.closeGates();
  const { wait } = Atomics;
  const results: string[] = [];
  const spy = vi.spyOn(Atomics, 'wait').mockImplementation(((array: Int32Array, index: number, value: number) => {
    act(words);
    const result = wait(array, index, value, 1000);
    results.push(result);
    return result;
  }) as typeof Atomics.wait);
  try {
    expect(new Gate(words, 1).enter()).toBe(enters);
  } finally {
    spy.mockRestore();
  }
  expect(results).toEqual(['not-equal']);
});
