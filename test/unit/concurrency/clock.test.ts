// The clock for waiting: one for all threads, and none of the business of who sets the time of day.

import { Worker } from 'node:worker_threads';
import { afterEach, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { steadyMs } from '../../../src/concurrency/clock.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';

afterEach(() => vi.restoreAllMocks());

test('all threads read the same clock', async () => {
  const code = `require('node:worker_threads').parentPort.postMessage(process.hrtime())`;
  const before = steadyMs();
  const worker = new Worker(code, { eval: true });
  const [seconds, nanoseconds] = await new Promise<[number, number]>((resolve) => worker.once('message', resolve));
  const inWorker = seconds * 1000 + nanoseconds / 1e6;
  expect(inWorker).toBeGreaterThanOrEqual(before);
  expect(inWorker).toBeLessThanOrEqual(steadyMs());
  await worker.terminate();
});

test('a link is held back no longer when the time of day is set back meanwhile', () => {
  const file = createMemoryImage(qcow2, 1 << 20, { cluster_size: '4k' });
  const image = openImage(qcow2, file);
  const now = Date.now();
  vi.spyOn(Date, 'now').mockReturnValue(now + 3_600_000);
  image.write(new Uint8Array(4096).fill(7), 0, 4096, guestOffset(0));
  vi.spyOn(Date, 'now').mockReturnValue(now);
  // what a killed daemon would leave
  const found = () => {
    const bytes = new Uint8Array(4096);
    openImage(qcow2, file.clone(true), { readOnly: true }).read(bytes, 0, 4096, guestOffset(0));
    return bytes[0];
  };
  expect(found()).toBe(0);
  image.maintain(steadyMs() + 600);
  expect(found()).toBe(7);
  image.close();
});
