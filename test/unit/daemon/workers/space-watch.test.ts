// What the main thread says of requests that wait for space: in the status at once, in the log without a flood.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { ServingWords } from '../../../../src/daemon/workers/serving-words.ts';
import { SpaceWatch } from '../../../../src/daemon/workers/space-watch.ts';
import type { HeldMessage } from '../../../../src/daemon/workers/threads.ts';

beforeEach(() => vi.useFakeTimers({ toFake: ['setTimeout', 'performance', 'Date'] }));
afterEach(() => vi.useRealTimers());

function watch() {
  const { held } = ServingWords.create(1);
  held.openRoom();
  const lines: string[] = [];
  const passed: HeldMessage[] = [];
  const space = new SpaceWatch(held, '/images/a', (level, sentence) => lines.push(`${level}: ${sentence}`));
  const hold = (file = '/proc/a'): void => {
    held.enter(100);
    const sinceMs = performance.timeOrigin + performance.now();
    const message = {
      message: new Uint8Array(100),
      descriptor: 3,
      requester: 1,
      sinceMs,
      file,
      sentence: `${file} is full`,
    };
    space.hear({ type: 'held', ...message }, (each) => passed.push(each));
  };
  const settle = (what: Partial<Record<'done' | 'refused' | 'dropped', number>>): void => {
    for (const count of Object.values(what)) for (let each = 0; each < count; each++) held.leave(100);
    space.hear({ type: 'settled', settled: { done: 0, refused: 0, dropped: 0, ...what } }, () => undefined);
  };
  return { space, held, lines, passed, hold, settle };
}

test('the status tells since when, how many and where, as long as one waits', () => {
  const { space, passed, hold, settle } = watch();
  expect(space.status()).toBeNull();
  const since = new Date().toISOString();
  hold();
  vi.advanceTimersByTime(3000);
  hold();
  expect(space.status()).toEqual({ since, requests: 2, file: '/proc/a', 'file-system': '/proc' });
  expect(passed).toHaveLength(2);
  settle({ done: 1 });
  expect(space.status()).toMatchObject({ since, requests: 1 });
  settle({ done: 1 });
  expect(space.status()).toBeNull();
});

test('an error that names no file is one of the image', () => {
  const { space, hold } = watch();
  hold('');
  expect(space.status()).toMatchObject({ file: '/images/a' });
});

test('the log has the beginning and the end, and what became of the others', () => {
  const { lines, hold, settle } = watch();
  for (let request = 0; request < 4; request++) hold();
  vi.advanceTimersByTime(12_000);
  settle({ done: 1, dropped: 1 });
  settle({ done: 2 });
  expect(lines).toEqual([
    'warning: /proc/a is full: from now on requests wait until there is space on /proc (full=wait), and reads go on',
    expect.stringMatching(
      /^notice: 1 request of killed programs, which waited for space on \/proc since .*Z, got EINTR$/,
    ),
    'notice: 3 requests went on after 12 s: there is space on /proc again',
  ]);
});

test('short waits that follow each other are in the log once; one that lasts is told when it has lasted', () => {
  const { lines, hold, settle } = watch();
  for (let wait = 0; wait < 8; wait++) {
    hold();
    vi.advanceTimersByTime(1000);
    settle({ done: 1 });
  }
  expect(lines).toHaveLength(2);
  hold();
  vi.advanceTimersByTime(9000);
  expect(lines).toHaveLength(2);
  vi.advanceTimersByTime(2000);
  expect(lines[2]).toContain('from now on requests wait');
  settle({ done: 1 });
  expect(lines[3]).toContain('1 request went on after 11 s');
});

test('what is given up is in the log with the reason, however short it was', async () => {
  const { space, held, lines, hold, settle } = watch();
  hold();
  const given = space.giveUp('SIGTERM');
  expect(held.isGivenUp).toBe(true);
  settle({ refused: 1 });
  await vi.advanceTimersByTimeAsync(10);
  await given;
  expect(lines[1]).toMatch(
    /^warning: 1 request, which waited for space on \/proc since .*, failed with ENOSPC: SIGTERM$/,
  );
});
