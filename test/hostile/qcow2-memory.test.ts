// qcow2 images of a few MiB that would take memory or time by what they claim: a sparse file can be of any length, and a
// table of 8 bytes an entry can refer to all of it.

import { expect, test } from 'vitest';
import { hostOffset, roundUp } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { get64, put32, put64 } from '../support/qcow2-bytes.ts';

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
      expect(sentence).toMatch(/freed \d+ leaked clusters/);
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

test('entries that refer to clusters far from each other cost memory by what they take in the file', () => {
  const count = 2 ** 16;
  const entries = SMALL / 8;
  const file = createMemoryImage(qcow2, count * SMALL, { cluster_size: String(SMALL) });
  const l1 = Number(get64(file, 40));
  const tables = roundUp(file.size(), SMALL);
  const bytes = Buffer.alloc(count * 8);
  for (let index = 0; index < count; index++) bytes.writeBigUInt64BE(BigInt((index + 1) * 4096 * SMALL), index * 8);
  file.write(bytes, 0, bytes.length, hostOffset(tables));
  for (let index = 0; index < count / entries; index++) put64(file, l1 + index * 8, tables + index * SMALL);
  file.truncate((count + 2) * 4096 * SMALL);
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  const report = qcow2.check(file, {
    repair: 'none',
    log: () => {
      most = Math.max(most, process.memoryUsage().arrayBuffers - before);
    },
  });
  expect(report.corruptions).toBeGreaterThan(count);
  expect(most).toBeGreaterThan(0);
  // half a MiB of tables
  expect(most).toBeLessThan(64 * MIB);
});

test('an image that is refused has no map of metadata that seems to be all over a sparse file', () => {
  const count = 2 ** 16;
  const file = createMemoryImage(qcow2, MIB, { cluster_size: String(SMALL) });
  const l1 = roundUp(file.size(), SMALL);
  const bytes = Buffer.alloc(count * 8);
  // a page of the map for each table
  for (let index = 0; index < count; index++) bytes.writeBigUInt64BE(BigInt((index + 128) * 4096 * SMALL), index * 8);
  file.write(bytes, 0, bytes.length, hostOffset(l1));
  put32(file, 36, count);
  put64(file, 40, l1);
  file.truncate((count + 129) * 4096 * SMALL);
  const before = process.memoryUsage().rss;
  expect(() => openImage(qcow2, file)).toThrow(/corruptions and is not opened for writing/);
  expect(process.memoryUsage().rss - before).toBeLessThan(128 * MIB);
});
