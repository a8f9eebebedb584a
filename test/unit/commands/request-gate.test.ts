// The gates of a mount's threads: what they let through, and what whoever closes them or sets the stop word may rely on.

import { Worker } from 'node:worker_threads';
import { expect, test } from 'vitest';
import {
  closeGates,
  createStopWords,
  diskGeneration,
  Gate,
  hasRequestsInHand,
  openGates,
  RequestGate,
  setStop,
} from '../../../src/commands/request-gate.ts';
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
  const gate = new Gate(words, 2);
  const requests = new RequestGate(channel, gate);
  expect(requests.receive(BYTES)).toBe(40);
  expect(hasRequestsInHand(words)).toBe(true);
  expect(requests.receive(BYTES)).toBe(0);
  expect(hasRequestsInHand(words)).toBe(false);
  expect(requests.receive(BYTES)).toBe(60);
  expect(hasRequestsInHand(words)).toBe(true);
  gate.leave();
  expect(hasRequestsInHand(words)).toBe(false);
  expect(channel.parked).toEqual([false, false, false]);
});

test.each([STOP.end, STOP.rescue])('a request that arrives after stop %i is not let through', (stop) => {
  const words = createStopWords(1);
  const gate = new Gate(words, 1);
  setStop(words, stop);
  expect(new RequestGate(channelOf(words, [40]), gate).receive(BYTES)).toBe('aborted');
  gate.leave();
  expect(hasRequestsInHand(words)).toBe(false);
});

test('the end of the connection is passed on', () => {
  const words = createStopWords(1);
  expect(new RequestGate(channelOf(words, ['unmounted']), new Gate(words, 1)).receive(BYTES)).toBe('unmounted');
});

test('an exchanged disk is taken before the next request, once, and by a thread that starts with it never', () => {
  const words = createStopWords(2);
  let taken = 0;
  const gate = new Gate(words, 1, diskGeneration(words), () => {
    taken++;
  });
  gate.enter();
  gate.leave();
  expect(taken).toBe(0);
  closeGates(words);
  openGates(words, true);
  expect(taken).toBe(0);
  gate.enter();
  gate.leave();
  gate.enter();
  expect(taken).toBe(1);
  const late = new Gate(words, 2, diskGeneration(words), () => {
    throw new Error('it has that disk already');
  });
  expect(late.enter()).toBe(true);
});

test('gates that open without an exchange leave the disk as it was', () => {
  const words = createStopWords(1);
  const gate = new Gate(words, 1, diskGeneration(words), () => {
    throw new Error('there is no other disk');
  });
  closeGates(words);
  openGates(words, false);
  expect(gate.enter()).toBe(true);
});

const ENTER = `
const { workerData, parentPort } = require('node:worker_threads');
import(workerData.gate).then(({ Gate }) => {
  const gate = new Gate(workerData.words, 1);
  parentPort.postMessage('waiting');
  parentPort.postMessage(gate.enter() ? 'in' : 'stopped');
});
`;

test.each([
  ['opened', (words: Int32Array) => openGates(words, false), 'in'],
  ['stopped', (words: Int32Array) => setStop(words, STOP.end), 'stopped'],
] as const)('a thread at a closed gate has nothing in hand, and goes on when it is %s', async (_, act, outcome) => {
  const words = createStopWords(1);
  closeGates(words);
  const gate = new URL('../../../dist/commands/request-gate.js', import.meta.url).href;
  const worker = new Worker(ENTER, { eval: true, workerData: { words, gate } });
  const messages: string[] = [];
  worker.on('message', (message: string) => messages.push(message));
  while (messages.length === 0) await new Promise((resolve) => setTimeout(resolve, 5));
  await new Promise((resolve) => setTimeout(resolve, 50));
  expect(messages).toEqual(['waiting']);
  expect(hasRequestsInHand(words)).toBe(false);
  act(words);
  await new Promise((resolve) => worker.once('exit', resolve));
  expect(messages).toEqual(['waiting', outcome]);
});
