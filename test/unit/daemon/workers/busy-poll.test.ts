// When the one thread that serves a mount looks for its next request instead of sleeping: `gaps` says how long each request takes to come.

import { expect, test } from 'vitest';
import { BusyPoll } from '../../../../src/daemon/workers/busy-poll.ts';

const LOOK_MS = 0.001;

interface Run {
  /** at which requests the thread looked for the next one, more than once */
  readonly polled: number[];
  /** looks at whether a request waits */
  readonly looks: number;
}

/**
 * @param gapMs from the thread's readiness to the request
 * @param delayed part of the time in which the thread had no processor
 */
function run(requests: number, gapMs: (request: number) => number, delayed = (_request: number): number => 0): Run {
  let now = 1000;
  let delay = 0;
  let dueMs = 0;
  let looks = 0;
  let request = 0;
  const polled: number[] = [];
  const poll = new BusyPoll(
    {
      receive: () => {
        const started = now;
        now = Math.max(now, dueMs) + 0.01;
        delay += (now - started) * delayed(request);
        return 40;
      },
      send: () => true,
    },
    {
      isWaiting: () => {
        looks++;
        if (now < dueMs && polled.at(-1) !== request) polled.push(request);
        now += LOOK_MS;
        delay += LOOK_MS * delayed(request);
        return now >= dueMs;
      },
      delayMs: () => delay,
      nowMs: () => now,
    },
  );
  for (request = 1; request <= requests; request++) {
    dueMs = now + gapMs(request);
    expect(poll.receive(new Uint8Array(100))).toBe(40);
  }
  return { polled, looks };
}

test('requests that follow each other closely are looked for', () => {
  const { polled } = run(1000, () => 0.02);
  expect(polled).toHaveLength(996);
});

test('requests that come seldom are not: few looks, and fewer and fewer', () => {
  const { polled, looks } = run(2000, () => 1);
  expect(polled.length).toBeLessThan(20);
  expect(looks).toBeLessThan(20 * 54);
});

test('requests that wait already are received at once', () => {
  const { polled, looks } = run(1600, () => 0);
  expect(polled).toEqual([]);
  expect(looks).toBeLessThan(330);
});

test('a seldom request does not end it, and it begins again after seldom ones', () => {
  const { polled } = run(2000, (request) => (request % 100 === 0 || (request > 500 && request < 700) ? 1 : 0.02));
  expect(polled.length).toBeGreaterThan(1400);
  expect(polled.filter((request) => request > 1000).length).toBeGreaterThan(850);
});

test('whoever wants the processor gets it, for as long as that lasts', () => {
  const { polled } = run(
    10_000,
    () => 0.02,
    (request) => (request < 5000 ? 0.2 : 0),
  );
  expect(polled.filter((request) => request < 5000).length).toBeLessThan(100);
  expect(polled.filter((request) => request > 6300).length).toBeGreaterThan(3690);
});

test('a thread that is not alone any more sleeps', () => {
  let looks = 0;
  const poll = new BusyPoll(
    { receive: () => 40, send: () => true },
    { isWaiting: () => looks++ < 0, delayMs: () => 0 },
  );
  poll.stop();
  for (let request = 0; request < 1000; request++) poll.receive(new Uint8Array(100));
  expect(looks).toBe(0);
});

test('a reply goes to the kernel, and the end of the connection is told', () => {
  const sent: number[] = [];
  const poll = new BusyPoll(
    { receive: () => 'unmounted', send: (_bytes, length) => sent.push(length) > 0 },
    { isWaiting: () => true, delayMs: () => 0 },
  );
  expect(poll.receive(new Uint8Array(100))).toBe('unmounted');
  expect(poll.send(new Uint8Array(16), 16)).toBe(true);
  expect(sent).toEqual([16]);
});
