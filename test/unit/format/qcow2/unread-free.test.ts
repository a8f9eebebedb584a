// Free clusters of an image that was closed clean: known by number at the open, and looked up by the first write that needs one.

import { beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { listenToFailpoints } from '../../../../src/concurrency/failpoints.ts';
import type { ClosedFacts, WritableImage } from '../../../../src/format/image-format.ts';
import { countInStretches, STRETCH_CLUSTERS } from '../../../../src/format/qcow2/counters/unread-free.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { factsOf } from '../../../support/closed-facts.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { CountingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 512;
/** Four stretches of data and more. */
const SIZE = 4 * STRETCH_CLUSTERS * CLUSTER;
const STRETCH = STRETCH_CLUSTERS * CLUSTER;
const HOLE = 40 * CLUSTER;

function fill(image: WritableImage, at: number, length: number, value: number): void {
  image.write(new Uint8Array(length).fill(value), 0, length, guestOffset(at));
}

function expectSound(file: MemoryHostFile): void {
  const findings: string[] = [];
  checkImage(qcow2, file, { repair: 'none', log: (finding) => findings.push(finding) });
  expect(findings).toEqual([]);
}

describe('an image with free clusters in every stretch', () => {
  let template: MemoryHostFile;
  let facts: ClosedFacts;
  let freeCount: number;
  let file: MemoryHostFile;

  beforeAll(() => {
    const file = createMemoryImage(qcow2, SIZE, { cluster_size: '512', refcount_bits: '16' });
    const image = openImage(qcow2, file);
    fill(image, 0, SIZE, 1);
    image.flush();
    for (let at = 0; at < SIZE - STRETCH / 2; at += STRETCH / 2) image.discard(guestOffset(at + 7 * CLUSTER), HOLE);
    image.close();
    facts = factsOf(image)!;
    const counts = facts['free'] as [number, number][];
    expect(counts.length).toBeGreaterThan(3);
    freeCount = counts.reduce((sum, [, count]) => sum + count, 0);
    expect(freeCount).toBeGreaterThanOrEqual((7 * HOLE) / CLUSTER);
    template = file;
  });
  beforeEach(() => {
    file = template.clone();
  });

  test('opens without a look at counters and L2 tables', () => {
    const counting = new CountingHostFile(file);
    openImage(qcow2, counting, { closedFacts: facts });
    expect(counting.bytes.read).toBeLessThan(64 * 1024);
  });

  test('uses all of them before the file grows', () => {
    const image = openImage(qcow2, file, { closedFacts: facts });
    const before = file.size();
    for (let at = 0; at < SIZE - STRETCH / 2; at += STRETCH / 2) fill(image, at + 7 * CLUSTER, HOLE, 2);
    image.flush();
    expect(file.size()).toBe(before);
    image.close();
    expectSound(file);
    const left = (factsOf(image)!['free'] as [number, number][]).reduce((sum, [, count]) => sum + count, 0);
    expect(left).toBe(freeCount - (7 * HOLE) / CLUSTER);
  });

  test('a cluster whose counter falls to 0 in a stretch that nobody has read is not free before it is punched', () => {
    const image = openImage(qcow2, file, { closedFacts: facts });
    image.discard(guestOffset(100 * CLUSTER), HOLE);
    // the flush lowers the counters, and between that and the hole somebody needs clusters
    listenToFailpoints((point) => {
      if (point !== 'punch-hole') return;
      listenToFailpoints(null);
      fill(image, 7 * CLUSTER, HOLE, 2);
    });
    try {
      image.flush();
    } finally {
      listenToFailpoints(null);
    }
    const bytes = new Uint8Array(HOLE);
    image.read(bytes, 0, HOLE, guestOffset(7 * CLUSTER));
    expect(bytes.every((byte) => byte === 2)).toBe(true);
    image.close();
    expectSound(file);
  });

  test('is cut at a free tail that nobody has read', () => {
    const image = openImage(qcow2, file, { closedFacts: facts });
    const before = file.size();
    image.discard(guestOffset(SIZE - HOLE), HOLE);
    image.close();
    expect(file.size()).toBeLessThanOrEqual(before - HOLE / 2);
    expectSound(file);
  });

  test('says the same free clusters when nothing was written', () => {
    const image = openImage(qcow2, file, { closedFacts: facts });
    image.close();
    expect(factsOf(image)).toEqual(facts);
  });
});

test('runs count for the stretches that they lie in', () => {
  const counts = new Map<number, number>();
  countInStretches(counts, STRETCH_CLUSTERS - 3, 2 * STRETCH_CLUSTERS);
  countInStretches(counts, 5, 1);
  expect([...counts].sort()).toEqual([
    [0, 4],
    [1, STRETCH_CLUSTERS],
    [2, STRETCH_CLUSTERS - 3],
  ]);
});
