// status.json: a text for each opening, which stays as it was made.

import { expect, test, vi } from 'vitest';
import { StatusTexts } from '../../../../src/daemon/inspection/status-texts.ts';
import { errnoOf } from '../../../../src/errors/index.ts';

function text(texts: StatusTexts, handle: number): unknown {
  return JSON.parse(Buffer.from(texts.read(handle, 0, 4096)).toString());
}

test('each opening has the text of its time, until it is closed', async () => {
  let count = 0;
  const texts = new StatusTexts(async () => ({ count: ++count, name: 'ö' }));
  const one = await texts.open();
  const two = await texts.open();
  expect([text(texts, one), text(texts, two), text(texts, one)]).toEqual([
    { count: 1, name: 'ö' },
    { count: 2, name: 'ö' },
    { count: 1, name: 'ö' },
  ]);
  texts.release(one);
  expect(() => texts.read(one, 0, 1)).toThrow('no such handle');
  expect(text(texts, two)).toMatchObject({ count: 2 });
});

test('it is read in pieces, and ends where the text ends, with the end of a line', async () => {
  const texts = new StatusTexts(async () => ({ a: 1 }));
  const handle = await texts.open();
  const whole = Buffer.from(texts.read(handle, 0, 4096)).toString();
  expect(whole).toBe('{\n  "a": 1\n}\n');
  const pieces = [0, 5, 10].map((at) => Buffer.from(texts.read(handle, at, 5)).toString());
  expect(pieces.join('')).toBe(whole);
  for (const at of [whole.length, 2 ** 52, Number.NaN]) expect(texts.read(handle, at, 100)).toHaveLength(0);
});

test('an opening that fails leaves nothing, and so many at once are refused', async () => {
  const make = vi.fn<() => Promise<unknown>>().mockRejectedValueOnce(new Error('no status'));
  make.mockResolvedValue({});
  const texts = new StatusTexts(make);
  await expect(texts.open()).rejects.toThrow('no status');
  const handles = await Promise.all(Array.from({ length: 256 }, () => texts.open()));
  const refused = await texts.open().catch(errnoOf);
  expect(refused).toBe(24);
  texts.release(handles[7]!);
  expect(await texts.open()).toBeGreaterThan(256);
});
