// Clusters at the end of the file are counted before anybody asks for them. What nobody has asked for is given back, and
// nothing that refers to a cluster is ever without its counter.

import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 65536;
const VALUE = 7;

function opened(options: Record<string, string> = {}) {
  const file = createMemoryImage(qcow2, 2 ** 30, options);
  const recording = new RecordingHostFile(file);
  return { file, recording, image: openImage(qcow2, recording) };
}

/** 512 bytes into each of `count` clusters, of which no two adjoin. */
function writeApart(image: WritableImage, count: number, first = 0): void {
  for (let n = 0; n < count; n++) {
    image.write(new Uint8Array(512).fill(VALUE), 0, 512, guestOffset((first + 2 * n) * CLUSTER));
  }
}

function checked(file: MemoryHostFile) {
  const { leaks, corruptions } = qcow2.check(file, { repair: 'none', log: () => undefined });
  return { leaks, corruptions };
}

/** Clusters that the only refcount block of a new image counts, and that the file does not reach. */
function countedBehindEnd(file: MemoryHostFile): number {
  const counters = new Uint8Array(CLUSTER);
  file.read(counters, 0, CLUSTER, hostOffset(2 * CLUSTER));
  let count = 0;
  for (let cluster = Math.ceil(file.size() / CLUSTER); cluster < CLUSTER / 2; cluster++) {
    if (counters[2 * cluster] !== 0 || counters[2 * cluster + 1] !== 0) count++;
  }
  return count;
}

/** Counters are 0 and 1; data is not, and nothing else has a 1. */
function counterWrites({ log }: RecordingHostFile, begin: number): number {
  const isCounters = (bytes: Uint8Array) => bytes.includes(1) && bytes.every((byte) => byte <= 1);
  return log.slice(begin).filter(({ data }) => data !== undefined && isCounters(data)).length;
}

test('a hundred new clusters are counted in a few writes', () => {
  const { image, recording } = opened();
  const begin = recording.log.length;
  writeApart(image, 100);
  expect(counterWrites(recording, begin)).toBeLessThanOrEqual(2);
  image.close();
});

test.each([
  { lazy_refcounts: 'on' },
  { lazy_refcounts: 'off' },
])('close gives back what nobody asked for (%o)', (options) => {
  const { image, file } = opened(options);
  writeApart(image, 3);
  image.close();
  expect(checked(file)).toEqual({ leaks: 0, corruptions: 0 });
  // header, refcount table, refcount block, L1 table, L2 table, data
  expect(Math.ceil(file.size() / CLUSTER)).toBe(5 + 3);
  expect(countedBehindEnd(file)).toBe(0);
});

test('an image without writers has none counted ahead, and new clusters still read as zeros without being zeroed', () => {
  const { image, file, recording } = opened();
  writeApart(image, 3);
  image.flush();
  expect(countedBehindEnd(file)).toBeGreaterThan(0);
  image.makeClean();
  expect(countedBehindEnd(file)).toBe(0);
  expect(checked(file.clone())).toEqual({ leaks: 0, corruptions: 0 });
  const begin = recording.log.length;
  writeApart(image, 3, 100);
  // data, counters and nothing that zeros the rest of a cluster
  expect(recording.log.slice(begin).filter(({ data }) => data === undefined)).toEqual([]);
  const bytes = new Uint8Array(CLUSTER);
  image.read(bytes, 0, CLUSTER, guestOffset(100 * CLUSTER));
  expect(Buffer.compare(bytes, new Uint8Array(CLUSTER).fill(VALUE, 0, 512))).toBe(0);
  image.close();
  expect(checked(file)).toEqual({ leaks: 0, corruptions: 0 });
});

test('what a killed process had counted ahead is given back when the image is closed the next time', () => {
  const { image, file } = opened();
  writeApart(image, 3);
  image.flush();
  const left = file.clone();
  expect(countedBehindEnd(left)).toBeGreaterThan(50);
  const next = openImage(qcow2, left);
  writeApart(next, 2, 50);
  next.close();
  expect(checked(left)).toEqual({ leaks: 0, corruptions: 0 });
  expect(countedBehindEnd(left)).toBe(0);
});
