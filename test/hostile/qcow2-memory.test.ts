// qcow2 images of a few MiB that would take memory or time by what they claim: a sparse file can be of any length, and a
// table of 8 bytes an entry can refer to all of it.

import { expect, test } from 'vitest';
import { hostOffset, roundUp } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../../src/host/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { put32, put64 } from '../support/qcow2-bytes.ts';

const MIB = 2 ** 20;
const SMALL = 512;

/** An image whose 1-bit counters say that every second cluster of so many bytes is used, which nothing refers to. */
function withEverySecondClusterFree(length: number): MemoryHostFile {
  const file = createMemoryImage(qcow2, MIB, { cluster_size: String(SMALL), refcount_bits: '1' });
  const blockCount = length / (SMALL * 8 * SMALL);
  const table = roundUp(file.size(), SMALL);
  const tableBytes = roundUp(blockCount * 8, SMALL);
  const blocks = table + tableBytes;
  const counters = new Uint8Array(blockCount * SMALL).fill(0x55);
  counters.fill(0xff, 0, Math.ceil((blocks + counters.length) / SMALL / 8));
  file.write(counters, 0, counters.length, hostOffset(blocks));
  for (let index = 0; index < blockCount; index++) put64(file, table + index * 8, blocks + index * SMALL);
  file.truncate(length);
  put64(file, 48, table);
  put32(file, 56, tableBytes / SMALL);
  return file;
}

test('clusters that are free one by one cost no memory beside the map of free clusters', () => {
  const file = withEverySecondClusterFree(2 ** 32);
  const before = process.memoryUsage().heapUsed;
  let during = 0;
  const opened = openImage(qcow2, file, {
    log: (sentence) => {
      expect(sentence).toMatch(/has \d+ leaked clusters/);
      during = process.memoryUsage().heapUsed;
    },
  });
  // 8 million clusters: half of them free, half of them leaked
  expect(during).toBeGreaterThan(0);
  expect(during - before).toBeLessThan(48 * MIB);
  opened.close();
});

test('leaks of any number are given back', () => {
  const file = withEverySecondClusterFree(2 ** 29);
  const report = qcow2.check(file, { repair: 'leaks', log: () => undefined });
  expect(report.leaks).toBeGreaterThan(500_000);
  expect(report.leaksFixed).toBe(report.leaks);
  expect(qcow2.check(file, { repair: 'none', log: () => undefined })).toMatchObject({ leaks: 0, corruptions: 0 });
});
