import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { answerTimeMs, connectionLimit, requestTimeouts, wantedTimeout } from '../../../src/fuse/request-timeout.ts';

const limits = (defaultSeconds: number, maxSeconds: number) => ({ defaultSeconds, maxSeconds });

test('the limits of the machine are read, and a kernel without them has none', () => {
  const folder = mkdtempSync(join(tmpdir(), 'imgfuse-sysctl-'));
  try {
    expect(requestTimeouts(folder)).toEqual(limits(0, 0));
    writeFileSync(join(folder, 'default_request_timeout'), '20\n');
    writeFileSync(join(folder, 'max_request_timeout'), '300\n');
    expect(requestTimeouts(folder)).toEqual(limits(20, 300));
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test('a time is asked for only where there is a default, which it replaces', () => {
  expect(wantedTimeout(limits(0, 0))).toBe(0);
  expect(wantedTimeout(limits(0, 60))).toBe(0);
  expect(wantedTimeout(limits(20, 0))).toBe(65535);
});

test.each([
  [limits(0, 0), true, null],
  [limits(20, 0), true, null],
  [limits(20, 0), false, 20],
  [limits(20, 60), true, 60],
  [limits(20, 60), false, 20],
  [limits(60, 20), false, 20],
  [limits(0, 1), true, 15],
])('under %o, and a time asked for: %s, a connection ends after %s seconds', (machine, asks, seconds) => {
  expect(connectionLimit(machine, asks)).toBe(seconds);
});

test('a request is answered well before the limit', () => {
  expect(answerTimeMs(null)).toBe(undefined);
  expect(answerTimeMs(15)).toBe(9000);
});
