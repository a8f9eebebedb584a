// What a mount says of an open that takes long: nothing for two seconds, then what it waits for, and on a terminal how far it is.

import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { OpeningProgress } from '../../../src/cli/opening-progress.ts';

const written: string[] = [];

vi.mock('../../../src/cli/output.ts', () => ({
  complain: (sentence: string) => written.push(sentence),
  printError: (text: string) => written.push(text),
}));

beforeEach(() => {
  vi.useFakeTimers();
  written.length = 0;
});
afterEach(() => {
  vi.useRealTimers();
});

const CHECKING = { doing: 'checking a.qed', fraction: 0.5 };

test('an open of less than two seconds says nothing', () => {
  const progress = new OpeningProgress(true);
  progress.update(CHECKING);
  vi.advanceTimersByTime(1900);
  progress.end();
  vi.advanceTimersByTime(5000);
  expect(written).toEqual([]);
});

test('without a terminal each step is named once', () => {
  const progress = new OpeningProgress(false);
  progress.update({ doing: 'waiting for http://host/base.raw' });
  vi.advanceTimersByTime(2000);
  progress.update(CHECKING);
  progress.update({ ...CHECKING, fraction: 0.7 });
  progress.update({ doing: 'repairing a.qed' });
  progress.end();
  expect(written).toEqual(['waiting for http://host/base.raw ...', 'checking a.qed ...', 'repairing a.qed ...']);
});

test('on a terminal a step of known length is drawn, and wiped before anything else is printed', () => {
  const progress = new OpeningProgress(true);
  progress.update(CHECKING);
  vi.advanceTimersByTime(2000);
  expect(written).toEqual([expect.stringMatching(/checking a\.qed \[#+\.+\] {2}50%$/)]);
  progress.update({ doing: 'repairing a.qed' });
  progress.end();
  expect(written.slice(1)).toEqual(['\r\x1b[K', 'repairing a.qed ...']);
});
