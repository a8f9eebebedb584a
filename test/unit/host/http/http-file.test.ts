// HttpHostFile against a server in another thread: what it reads, what it asks for, and what becomes of every way in which
// a server fails. No byte that it returns is ever of another version or another place than the one asked for.

import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO, errnoOf } from '../../../../src/errors/index.ts';
import { attachHostFile } from '../../../../src/host/attach.ts';
import type { HostFile } from '../../../../src/host/host-file.ts';
import { HttpHostFile } from '../../../../src/host/http/http-file.ts';
import { HTTP_LIMITS, type HttpLimits } from '../../../../src/host/http/limits.ts';
import { keepNetworkThread } from '../../../support/kept-network.ts';
import { RangeServer } from '../../../support/range-server.ts';

const BLOCK = 4096;
/** Not a multiple of a block. */
const LENGTH = 64 * BLOCK + 1234;

const QUICK: HttpLimits = {
  ...HTTP_LIMITS,
  blockBytes: BLOCK,
  cacheBytes: 256 * BLOCK,
  requestBytes: 8 * BLOCK,
  readAheadBytes: 16 * BLOCK,
  stallMs: 400,
  backoffMs: 10,
  giveUpMs: 10_000,
};

function bytesOf(length: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; i++) bytes[i] = (i * 7 + seed + (i >> 8) * 13) % 251;
  return bytes;
}

const CONTENT = bytesOf(LENGTH, 1);

let server: RangeServer;
let url: string;
const opened: HttpHostFile[] = [];

keepNetworkThread();
beforeEach(() => {
  server = new RangeServer(CONTENT);
  url = `${server.origin}/base.raw`;
});
afterEach(async () => {
  for (const file of opened.splice(0)) file.close();
  await server.close();
});

function open(limits: Partial<HttpLimits> = {}, allowed: readonly string[] = []): HttpHostFile {
  const file = HttpHostFile.open(url, allowed, { ...QUICK, ...limits });
  opened.push(file);
  return file;
}

function read(file: HostFile, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length).fill(0xee);
  const count = file.read(bytes, 0, length, hostOffset(offset));
  return bytes.subarray(0, count);
}

function expectRead(file: HostFile, offset: number, length: number, content = CONTENT): void {
  const wanted = content.subarray(offset, offset + length);
  expect(Buffer.compare(read(file, offset, length), wanted), `bytes from ${offset} on`).toBe(0);
}

/** The sentence of a read that must fail with EIO. */
function failure(file: HostFile, offset: number, length = 10): string {
  try {
    read(file, offset, length);
  } catch (error) {
    expect(errnoOf(error)).toBe(ERRNO.EIO);
    return (error as Error).message;
  }
  throw new Error('the read succeeded');
}

/** The sentence of an open that must fail. */
function refusal(limits: Partial<HttpLimits> = {}, allowed: readonly string[] = []): string {
  try {
    open(limits, allowed);
  } catch (error) {
    expect((error as Error).message).toContain(url);
    expect((error as Error).message).not.toContain('\n');
    return (error as Error).message;
  }
  throw new Error('the URL was opened');
}

/** First bytes of the ranges that were asked for, in order. */
function starts(): number[] {
  return server.requests().map(({ range }) => Number(/^bytes=(\d+)-/.exec(range ?? '')?.[1]));
}

describe('reading', () => {
  test('gives the bytes of every range, and fewer only at the end of the file', () => {
    const file = open();
    expect(file.size()).toBe(LENGTH);
    expectRead(file, 0, LENGTH);
    for (const [offset, length] of [
      [0, 1],
      [BLOCK - 1, 2],
      [BLOCK, BLOCK],
      [5 * BLOCK + 17, 9 * BLOCK],
      [LENGTH - 1, 1],
      [LENGTH - 10, 100],
    ] as const) {
      expectRead(file, offset, length);
    }
    expect(read(file, LENGTH, 10)).toHaveLength(0);
    expect(read(file, 10 * LENGTH, 10)).toHaveLength(0);
  });

  test('puts the bytes where they belong in the target and nowhere else', () => {
    const target = new Uint8Array(100).fill(9);
    open().read(target, 20, 30, hostOffset(BLOCK + 5));
    expect([...target.subarray(0, 20), ...target.subarray(50)].every((byte) => byte === 9)).toBe(true);
    expect(target.subarray(20, 50)).toEqual(CONTENT.subarray(BLOCK + 5, BLOCK + 35));
  });

  test('asks for each block once, whichever thread wants it', () => {
    const file = open();
    const other = attachHostFile(file.share());
    expectRead(file, 3 * BLOCK, 10);
    server.forget();
    expectRead(file, 3 * BLOCK, BLOCK);
    expectRead(other, 3 * BLOCK + 5, 100);
    expectRead(other, 0, BLOCK);
    expect(server.requests()).toEqual([]);
    expect(file.traffic()).toMatchObject({ requests: 2, bytes: 2 * BLOCK, retries: 0, failures: 0 });
  });

  test('sends If-Range with the version it opened from the second request on', () => {
    expectRead(open(), 9 * BLOCK, 10);
    expect(server.requests().map(({ ifRange }) => ifRange)).toEqual([null, '"one"']);
  });

  test('keeps no more blocks than its budget, and fetches again what it let go', () => {
    const file = open({ cacheBytes: 8 * BLOCK });
    for (let pass = 0; pass < 2; pass++) {
      for (let block = 63; block > 0; block -= 2) expectRead(file, block * BLOCK, BLOCK);
    }
    expect(file.traffic().bytes).toBeGreaterThan(60 * BLOCK);
    expectRead(file, 0, LENGTH);
  });

  test('a request longer than the cache is read all the same', () => {
    expectRead(open({ cacheBytes: 8 * BLOCK, requestBytes: 64 * BLOCK }), 0, LENGTH);
  });

  test('reads ahead of a sequential reader in growing steps, and not of one that jumps', () => {
    const file = open();
    for (const block of [40, 20, 60, 30, 50]) expectRead(file, block * BLOCK, 10);
    expect(file.traffic().bytes).toBe(6 * BLOCK);
    for (let at = 0; at < LENGTH; at += BLOCK / 2) expectRead(file, at, BLOCK / 2);
    expect(file.traffic().bytes).toBe(LENGTH);
    // one block after another would be 59 more
    expect(file.traffic().requests).toBeLessThan(30);
  });

  test('what was read ahead and failed is nobody’s error until somebody wants it', async () => {
    const file = open({ attempts: 1 });
    // the block that is wanted arrives, the one behind it does not
    server.plan({ do: 'cut', after: BLOCK + 100, from: BLOCK });
    expectRead(file, BLOCK, 10);
    const end = performance.now() + 10_000;
    while (file.traffic().failures === 0 && performance.now() < end)
      await new Promise((resolve) => setTimeout(resolve, 5));
    expect(file.traffic()).toMatchObject({ requests: 2, failures: 1 });
    expectRead(file, 2 * BLOCK, 10);
  });

  test('an empty file and a file that is not there are refused', () => {
    server.replace(new Uint8Array(0));
    expect(refusal()).toMatch(/is empty/);
    server.plan({ do: 'status', code: 404 });
    expect(refusal()).toMatch(/does not exist: its server answers 404/);
    server.plan({ do: 'status', code: 403 });
    expect(refusal()).toMatch(/may not be read: its server answers 403/);
  });
});

describe('a base that changed', () => {
  const later = bytesOf(LENGTH, 99);

  test('is an error where the ETag is another, and what comes back with the old ETag is read again', () => {
    const file = open();
    expectRead(file, 5 * BLOCK, 10);
    server.replace(later);
    server.set({ etag: '"two"' });
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed since it was opened \(its ETag is "two" and was "one"\)/);
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed/);
    server.replace(CONTENT);
    server.set({ etag: '"one"' });
    expectRead(file, 9 * BLOCK, 10);
  });

  test('is an error although the server ignores If-Range', () => {
    const file = open();
    server.replace(later);
    server.set({ etag: '"two"' });
    server.plan({ do: 'ignore-if-range' });
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed.*ETag/);
  });

  test('is an error although its validators are the same, when its length is not', () => {
    const file = open();
    server.replace(bytesOf(LENGTH + 1, 99));
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed.*bytes instead of/);
    server.replace(bytesOf(10, 99));
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed.*shorter/);
  });

  test('is an error between the attempts of one request, too', () => {
    const file = open();
    const before = server.requests().length;
    server.plan(
      { do: 'cut', after: BLOCK + 100, from: 8 * BLOCK },
      { do: 'headers', headers: { etag: '"two"' }, from: 9 * BLOCK },
    );
    expect(failure(file, 8 * BLOCK, 4 * BLOCK)).toMatch(/has changed/);
    expect(server.requests().length).toBe(before + 2);
    // what had arrived before the change is of the old version
    expectRead(file, 8 * BLOCK, BLOCK);
  });

  test('is noticed by its date where there is no strong ETag', () => {
    server.set({ etag: 'W/"weak"', lastModified: 'Mon, 02 Nov 2026 10:00:00 GMT' });
    const file = open();
    expectRead(file, 5 * BLOCK, 10);
    expect(server.requests().map(({ ifRange }) => ifRange)).toEqual([null, 'Mon, 02 Nov 2026 10:00:00 GMT']);
    server.replace(later);
    server.set({ lastModified: 'Mon, 02 Nov 2026 10:00:01 GMT' });
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed.*last modified/);
    server.plan({ do: 'ignore-if-range' });
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed.*last modified/);
  });

  test('could not be noticed with a weak ETag alone, or with none: refused', () => {
    server.set({ etag: 'W/"weak"' });
    expect(refusal()).toMatch(/only a weak ETag/);
    server.set({ etag: null });
    expect(refusal()).toMatch(/neither ETag nor Last-Modified/);
  });

  test('could not be noticed by a date of this very second: refused for now', () => {
    const date = 'Mon, 02 Nov 2026 10:00:00 GMT';
    server.set({ etag: null, lastModified: date, date });
    expect(refusal({ openAttempts: 1 })).toMatch(/too short a time ago/);
    server.set({ date: 'Mon, 02 Nov 2026 10:00:01 GMT' });
    expectRead(open(), 5 * BLOCK, 10);
  });
});

describe('validators that are hard to use', () => {
  const FUTURE = 'Tue, 02 Nov 2038 10:00:00 GMT';

  test('a date in the future is one that has stayed the same for a second', () => {
    server.set({ etag: null, lastModified: FUTURE, date: 'Mon, 02 Nov 2026 10:00:00 GMT' });
    const start = performance.now();
    const file = open();
    expect(performance.now() - start).toBeGreaterThanOrEqual(1000);
    expectRead(file, 5 * BLOCK, 10);
    server.set({ lastModified: 'Tue, 02 Nov 2038 10:00:01 GMT' });
    expect(failure(file, 9 * BLOCK)).toMatch(/has changed.*last modified/);
  });

  test('a date that changes between the attempts has not stayed the same', () => {
    server.set({ etag: null, lastModified: FUTURE, date: 'Mon, 02 Nov 2026 10:00:00 GMT' });
    server.plan({ do: 'headers', headers: { 'last-modified': 'Tue, 02 Nov 2038 09:59:59 GMT' } });
    expect(refusal({ openAttempts: 2 })).toMatch(/too short a time ago/);
  });

  test('a server that never takes If-Range for the same version is asked without', () => {
    server.set({ etag: null, lastModified: 'Mon, 02 Nov 2026 10:00:00 GMT', honoursIfRange: false });
    const file = open();
    expectRead(file, 0, LENGTH);
    const conditional = server.requests().filter(({ ifRange }) => ifRange !== null);
    expect(conditional.length).toBeGreaterThanOrEqual(1);
    server.forget();
    expectRead(open(), 20 * BLOCK, 10);
    server.set({ lastModified: 'Mon, 02 Nov 2026 10:00:01 GMT' });
    expect(failure(opened[1]!, 40 * BLOCK)).toMatch(/has changed.*last modified/);
  });

  test('a range in answer to If-Range need not repeat the date, and one without If-Range has to', () => {
    const lastModified = 'Mon, 02 Nov 2026 10:00:00 GMT';
    server.set({ etag: null, lastModified });
    const file = open();
    server.plan({ do: 'headers', headers: { 'last-modified': undefined } });
    expectRead(file, 9 * BLOCK, 10);
    server.set({ honoursIfRange: false });
    expectRead(file, 20 * BLOCK, 10);
    server.plan({ do: 'headers', headers: { 'last-modified': undefined } });
    expect(failure(file, 40 * BLOCK)).toMatch(/has changed.*last modified null/);
  });
});

describe('a file that came whole with the first answer', () => {
  const small = bytesOf(BLOCK - 7, 3);
  const exact = bytesOf(BLOCK, 4);

  test.each([small, exact])('may come as 200, and without a validator', (bytes) => {
    server.replace(bytes);
    server.set({ etag: null });
    server.plan({ do: 'whole' });
    const file = open();
    expect(file.size()).toBe(bytes.length);
    expectRead(file, 0, bytes.length + 10, bytes);
    expect(server.requests()).toHaveLength(1);
  });

  test('is begun anew when the connection is cut, and another one is a change', () => {
    server.replace(small);
    server.set({ etag: null });
    server.plan({ do: 'cut', after: 100 }, { do: 'whole' });
    expectRead(open(), 0, small.length, small);
    server.plan({ do: 'cut', after: 100 }, { do: 'headers', headers: { etag: '"two"' } });
    expect(refusal()).toMatch(/has changed/);
  });

  test('is no such file when it has one byte more, or when 200 does not say how long it is', () => {
    server.replace(bytesOf(BLOCK + 1, 3));
    server.plan({ do: 'whole' });
    expect(refusal()).toMatch(/sends the whole file and not the range/);
    server.replace(new Uint8Array(0));
    server.plan({ do: 'whole' });
    expect(refusal()).toMatch(/is empty/);
  });
});

describe('a request of the kernel that has to be answered in time', () => {
  /** stallMs: the request for the block goes on in the background */
  const LIMITED = { answerMs: 800, stallMs: 30_000 };

  function lateAfter(file: HttpHostFile, offset: number, length = 10): number {
    const start = performance.now();
    file.requestBegins();
    expect(failure(file, offset, length)).toMatch(/no request may wait longer than 0\.8 seconds/);
    return performance.now() - start;
  }

  test('fails before the limit of the kernel, those that queue behind it at once, and works when the server does', async () => {
    const file = open(LIMITED);
    server.plan({ do: 'silence', times: 2 });
    expect(lateAfter(file, 9 * BLOCK)).toBeGreaterThanOrEqual(750);
    expect(lateAfter(file, 19 * BLOCK)).toBeLessThan(400);
    // a reader that comes later is no part of that queue, and has the whole time
    await new Promise((resolve) => setTimeout(resolve, 1300));
    file.requestBegins();
    expectRead(file, 29 * BLOCK, 10);
    server.plan({ do: 'silence' });
    expect(lateAfter(file, 39 * BLOCK)).toBeGreaterThanOrEqual(750);
  });

  test('fails on a line that is too slow for all of it, although blocks arrive', () => {
    const file = open(LIMITED);
    server.set({ bytesPerSecond: 4 * BLOCK });
    expect(lateAfter(file, 8 * BLOCK, 16 * BLOCK)).toBeLessThan(3000);
    server.set({ bytesPerSecond: 0 });
  });

  test('has no limit while no request of the kernel is served', () => {
    const file = open({ ...LIMITED, answerMs: 100 });
    server.set({ bytesPerSecond: 4 * BLOCK });
    expectRead(file, 8 * BLOCK, 2 * BLOCK);
  });
});

describe('a server that fails', () => {
  test('with 500 and 503 is asked again, and the read succeeds', () => {
    const file = open();
    server.plan({ do: 'status', code: 500, times: 2 }, { do: 'status', code: 503, times: 1 });
    expectRead(file, 9 * BLOCK, 10);
    expect(file.traffic()).toMatchObject({ retries: 3, failures: 0 });
  });

  test('for good is an error of that range, and other and later reads succeed', () => {
    const file = open({ attempts: 3 });
    server.plan({ do: 'status', code: 500, times: 3, from: 9 * BLOCK });
    expect(failure(file, 9 * BLOCK + 5)).toMatch(
      /base.raw cannot be read: its server answers 500, at the 3. attempt in a row \(bytes 36864 to 40959\)$/,
    );
    expectRead(file, 20 * BLOCK, 10);
    expectRead(file, 9 * BLOCK + 5, 10);
    expect(file.traffic()).toMatchObject({ retries: 2, failures: 1 });
  });

  test('that asks for a pause gets it', () => {
    const file = open();
    server.plan({ do: 'status', code: 503, headers: { 'retry-after': '1' } });
    const start = performance.now();
    expectRead(file, 9 * BLOCK, 10);
    expect(performance.now() - start).toBeGreaterThan(950);
  });

  test('by cutting the connection goes on behind the last whole block', () => {
    const file = open();
    server.forget();
    server.plan({ do: 'cut', after: 3 * BLOCK + 100, from: 8 * BLOCK }, { do: 'cut', after: 10, from: 11 * BLOCK });
    expectRead(file, 8 * BLOCK, 8 * BLOCK);
    expect(starts()).toEqual([8 * BLOCK, 11 * BLOCK, 11 * BLOCK]);
    expect(file.traffic()).toMatchObject({ retries: 2, failures: 0 });
  });

  test('again and again, but sends a block each time, is asked as often as it takes', () => {
    const file = open({ attempts: 2 });
    server.plan(...[8, 9, 10, 11].map((block) => ({ do: 'cut', after: BLOCK + 1, from: block * BLOCK }) as const));
    expectRead(file, 8 * BLOCK, 8 * BLOCK);
    expect(file.traffic()).toMatchObject({ retries: 4, failures: 0 });
  });

  test('by closing connections without an answer is asked again', () => {
    const file = open();
    server.plan({ do: 'refuse', times: 2 });
    expectRead(file, 9 * BLOCK, 10);
  });

  test('by never answering is given up after a while', () => {
    const file = open({ attempts: 2 });
    server.plan({ do: 'silence', times: 2 });
    expect(failure(file, 9 * BLOCK)).toMatch(/its server sent too little in 0.4 seconds, at the 2. attempt/);
    expectRead(file, 9 * BLOCK, 10);
  });

  test('by sending byte after byte is given up as well', () => {
    const file = open({ attempts: 2 });
    server.plan({ do: 'drip', everyMs: 20, times: 2 });
    const start = performance.now();
    expect(failure(file, 9 * BLOCK)).toMatch(/its server sent too little/);
    expect(performance.now() - start).toBeLessThan(15_000);
    expectRead(file, 9 * BLOCK, 10);
  });

  test('by being gone is an error, and when it is back the same range is read', () => {
    const file = open({ attempts: 2 });
    server.goDown();
    expect(failure(file, 9 * BLOCK)).toMatch(/refuses the connection|connection was cut/);
    // what is here is read all the same
    expectRead(file, 0, BLOCK);
    server.comeBack();
    expectRead(file, 9 * BLOCK, 10);
  });

  test('at the open is asked a few times, and then named', () => {
    server.plan({ do: 'status', code: 503, times: 2 });
    expectRead(open(), 0, 10);
    server.plan({ do: 'status', code: 503, times: 3 });
    expect(refusal()).toMatch(/its server answers 503, at the 3. attempt/);
    server.goDown();
    expect(refusal()).toMatch(/its server refuses the connection/);
  });
});

describe('a server that is no use', () => {
  test('because it has no ranges is refused, and its whole file is not fetched', () => {
    server.replace(bytesOf(20_000_000, 1));
    server.set({ bytesPerSecond: 1_000_000 });
    server.plan({ do: 'whole' });
    const start = performance.now();
    expect(refusal()).toMatch(/sends the whole file and not the range/);
    expect(performance.now() - start).toBeLessThan(10_000);
  });

  test('because it stops to have ranges fails the read, although the file is the same', () => {
    const file = open();
    server.plan({ do: 'whole', times: 2 });
    expect(failure(file, 9 * BLOCK)).toMatch(/sends the whole file/);
    expectRead(file, 9 * BLOCK, 10);
  });

  test.each([
    ['another start', `bytes ${8 * BLOCK}-${9 * BLOCK - 1}/${LENGTH}`],
    ['an end too early', `bytes ${9 * BLOCK}-${10 * BLOCK - 2}/${LENGTH}`],
    ['an end too late', `bytes ${9 * BLOCK}-${10 * BLOCK}/${LENGTH}`],
    ['no length', `bytes ${9 * BLOCK}-${10 * BLOCK - 1}/*`],
    ['an end before its start', `bytes ${9 * BLOCK}-5/${LENGTH}`],
    ['an end beyond the file', `bytes ${9 * BLOCK}-${LENGTH}/${LENGTH}`],
    ['a length that is no safe integer', `bytes ${9 * BLOCK}-${10 * BLOCK - 1}/9007199254740993`],
    ['another unit', `lines ${9 * BLOCK}-${10 * BLOCK - 1}/${LENGTH}`],
    ['no value', ''],
  ])('because its Content-Range has %s gives not a byte', (_what, value) => {
    const file = open();
    server.plan({ do: 'headers', headers: { 'content-range': value } });
    expect(failure(file, 9 * BLOCK)).toMatch(/Content-Range|were asked for|has changed/);
    expectRead(file, 9 * BLOCK, 10);
  });

  test('because it says no Content-Range at all is refused', () => {
    server.plan({ do: 'headers', headers: { 'content-range': undefined } });
    expect(refusal()).toMatch(/Content-Range/);
  });

  test('because it claims more bytes than a number can count is refused', () => {
    server.plan({ do: 'headers', headers: { 'content-range': `bytes 0-4095/${2 ** 60}` } });
    expect(refusal()).toMatch(/Content-Range/);
  });

  test('because it sends more than it announced gives not a byte', () => {
    const file = open();
    server.plan({ do: 'more' });
    expect(failure(file, 9 * BLOCK)).toMatch(/sends more than it announced/);
    expectRead(file, 9 * BLOCK, 10);
  });

  test('because it encodes the content is refused', () => {
    server.plan({ do: 'headers', headers: { 'content-encoding': 'gzip' } });
    expect(refusal()).toMatch(/Content-Encoding: gzip/);
    const file = open();
    server.plan({ do: 'headers', headers: { 'content-encoding': 'br' } });
    expect(failure(file, 9 * BLOCK)).toMatch(/Content-Encoding: br/);
  });

  test('because it says a header twice is refused', () => {
    server.plan({ do: 'headers', headers: { 'content-range': [`bytes 0-4095/${LENGTH}`, `bytes 1-4096/${LENGTH}`] } });
    expect(refusal()).toMatch(/more than once|Content-Range/);
  });
});

describe('a redirect', () => {
  test('within the origin is followed, remembered, and left when its target expires', () => {
    server.plan({ do: 'redirect', to: '/signed?one' });
    const file = open();
    server.forget();
    expectRead(file, 9 * BLOCK, 10);
    expect(server.requests().map((request) => request.url)).toEqual(['/signed?one']);
    server.forget();
    server.plan({ do: 'status', code: 403 }, { do: 'redirect', to: '/signed?two' });
    expectRead(file, 20 * BLOCK, 10);
    expect(server.requests().map((request) => request.url)).toEqual(['/signed?one', '/base.raw', '/signed?two']);
  });

  test('to another origin is refused with the flag that allows it, and followed with it', async () => {
    const other = new RangeServer(CONTENT);
    try {
      server.plan({ do: 'redirect', to: `${other.origin}/cdn/base.raw` });
      expect(refusal()).toContain(`--allow-backing ${other.origin}/cdn/`);
      expect(other.requests()).toEqual([]);
      server.plan({ do: 'redirect', to: `${other.origin}/cdn/base.raw` });
      expect(refusal({}, [`${other.origin}/elsewhere/`])).toContain('--allow-backing');
      server.plan({ do: 'redirect', to: `${other.origin}/cdn/base.raw` });
      expectRead(open({}, [`${other.origin}/cdn/`]), 5 * BLOCK, 10);
    } finally {
      await other.close();
    }
  });

  test('that leads to another protocol, or nowhere, is refused', () => {
    for (const to of ['file:///etc/passwd', 'ftp://127.0.0.1/x', 'http://']) {
      server.plan({ do: 'redirect', to });
      expect(refusal()).toMatch(/redirected/);
    }
  });

  test('in a circle ends', () => {
    server.plan({ do: 'redirect', to: '/base.raw', times: 100 });
    expect(refusal()).toMatch(/redirected more than 5 times/);
    expect(server.requests().length).toBe(6);
  });

  test('in a circle later on is an error of that range', () => {
    const file = open();
    server.plan({ do: 'redirect', to: '/base.raw', times: 6 });
    expect(failure(file, 9 * BLOCK)).toMatch(/redirected more than 5 times/);
    expectRead(file, 9 * BLOCK, 10);
  });
});

test('nothing can be written, and every range is data', () => {
  const file = open();
  for (const write of [
    () => file.write(),
    () => file.truncate(),
    () => file.punchHole(),
    () => file.zeroRange(),
    () => file.allocateRange(),
  ]) {
    expect(write).toThrow(/read over HTTP and cannot be changed/);
  }
  expect(file.seekData(hostOffset(5))).toBe(5);
  expect(file.seekHole()).toBe(LENGTH);
});

test('a read after the close fails at once and does not wait', () => {
  const file = open();
  const other = open();
  opened.splice(0, 1);
  file.close();
  expect(failure(file, 9 * BLOCK)).toMatch(/it is being closed/);
  expectRead(other, 9 * BLOCK, 10);
});
