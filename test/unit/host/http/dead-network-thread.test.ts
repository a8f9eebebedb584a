// The network thread has died: with the lock of a block cache or without, before or while somebody waits. Every reader gets an
// error that says so, soon, whether or not the thread that started it is free to hear of its death.

import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { beforeEach, expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { createBlockCacheState } from '../../../../src/host/http/block-cache.ts';
import { HttpHostFile } from '../../../../src/host/http/http-file.ts';
import { HTTP_LIMITS } from '../../../../src/host/http/limits.ts';
import type { BlockCacheState } from '../../../../src/host/shared-file.ts';
import type { ThreadName } from '../../../../src/host/thread-life.ts';
import { isBuilt } from '../../../support/image-files.ts';
import { requireOrSkip } from '../../../support/requirements.ts';

const PATH = 'http://127.0.0.1/base.raw';
const BLOCK = 4096;
const SOON_MS = 5000;

beforeEach((context) => requireOrSkip(context, isBuilt(), 'dist/ (npm run build)'));

/** Stands in for the network thread: says who it is, and ends like a thread out of memory when it is told to. */
class FakeLoader {
  readonly worker: Worker;

  constructor() {
    const life = new URL('../../../../dist/host/thread-life.js', import.meta.url).href;
    const mutex = new URL('../../../../dist/concurrency/mutex.js', import.meta.url).href;
    const source = `
      const { parentPort } = require('node:worker_threads');
      Promise.all([import('${life}'), import('${mutex}')]).then(([{ ownThread }, { Mutex }]) => {
        parentPort.postMessage(ownThread());
        parentPort.on('message', ({ words, delayMs }) => {
          if (words !== null) new Mutex(new Int32Array(words), 0).lock();
          parentPort.postMessage('ready');
          setTimeout(() => process.exit(0), delayMs);
        });
      });`;
    this.worker = new Worker(source, { eval: true });
  }

  async cache(): Promise<BlockCacheState> {
    const [loader] = (await once(this.worker, 'message')) as [ThreadName];
    const sizes = {
      ...HTTP_LIMITS,
      blockBytes: BLOCK,
      cacheBytes: 8 * BLOCK,
      silenceMs: 100_000,
    };
    return createBlockCacheState({ ...sizes, length: 100 * BLOCK, loader });
  }

  /** @param words of the cache whose lock it dies with, or null */
  async die(words: SharedArrayBuffer | null, delayMs: number): Promise<void> {
    const ready = once(this.worker, 'message');
    this.worker.postMessage({ words, delayMs });
    await ready;
  }
}

/** Reads in this thread, which hears of no death meanwhile. @returns the sentence of the error */
function failedRead(state: BlockCacheState): string {
  const start = performance.now();
  let sentence = 'no error';
  try {
    HttpHostFile.attach(PATH, state).read(new Uint8Array(10), 0, 10, hostOffset(3 * BLOCK));
  } catch (error) {
    sentence = (error as Error).message;
  }
  expect(performance.now() - start).toBeLessThan(SOON_MS);
  return sentence;
}

const DEAD = `${PATH} cannot be read: the network thread of this process has died, and reading again does not help (bytes 12288 to 16383)`;
const LOCKED = `a thread died while it was changing the blocks of ${PATH}, which cannot be used any more`;

test.each([
  ['before the read', 0],
  ['during the read', 300],
])('%s, with the lock: an error of that read and of those that follow', async (_, delayMs) => {
  const loader = new FakeLoader();
  const state = await loader.cache();
  const ended = once(loader.worker, 'exit');
  await loader.die(state.words, delayMs);
  if (delayMs === 0) await ended;
  expect(failedRead(state)).toBe(LOCKED);
  expect(failedRead(state)).toBe(LOCKED);
});

test.each([
  ['before the read', 0],
  ['during the read', 300],
])('%s, without the lock: an error of that read and of those that follow', async (_, delayMs) => {
  const loader = new FakeLoader();
  const state = await loader.cache();
  const ended = once(loader.worker, 'exit');
  await loader.die(null, delayMs);
  if (delayMs === 0) await ended;
  expect(failedRead(state)).toBe(DEAD);
  expect(failedRead(state)).toBe(DEAD);
});

test('while its thread lives, a reader to whom nothing happens gives up after the silence', async () => {
  const loader = new FakeLoader();
  const state = { ...(await loader.cache()), silenceMs: 300 };
  expect(failedRead(state)).toMatch('the network thread of this process does not answer');
  await loader.worker.terminate();
});
