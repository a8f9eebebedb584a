// What an idle image does with free clusters: it gives them to guest clusters that read as zeros, beside its requests, and
// does not look for such clusters again and again where there are none.

import { expect, test, vi } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { steadyMs } from '../../../../src/concurrency/clock.ts';
import { Reservations } from '../../../../src/concurrency/reservations.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { Mapper } from '../../../../src/format/qed/mapping.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const CLUSTER = 4096;
/** of one table */
const COVERAGE = 512 * CLUSTER;
const SIZE = 4 * COVERAGE;

/** A disk without a cluster that reads as zeros, and whose image has one free cluster. */
function fullImage(): { image: WritableImage; file: MemoryHostFile } {
  const file = createMemoryImage(qed, SIZE, { cluster_size: '4k', table_size: '1' });
  const image = openImage(qed, file, { slots: 2 });
  image.preallocate(guestOffset(0), SIZE);
  rewrite(image, 5 * CLUSTER);
  return { image, file };
}

/** A discard of a cluster, and it is written again elsewhere before its place is free. */
function rewrite(image: WritableImage, at: number): void {
  image.discard(guestOffset(at), CLUSTER);
  image.write(new Uint8Array(CLUSTER).fill(7), 0, CLUSTER, guestOffset(at));
}

/** A turn of the keeper thread five idle seconds later. @returns entries that it looked at */
function idleTurn(image: WritableImage): number {
  const lookup = vi.spyOn(Mapper.prototype, 'lookup');
  try {
    image.maintain(steadyMs() + 6000);
    return lookup.mock.calls.length;
  } finally {
    lookup.mockRestore();
  }
}

test('an idle image searches once for a taker of its free clusters, and again when there may be one', () => {
  const { image, file } = fullImage();
  const isDirty = () => qed.inspect(file).dirty;
  expect(idleTurn(image)).toBeGreaterThanOrEqual(SIZE / CLUSTER);
  expect([idleTurn(image), idleTurn(image), isDirty()]).toEqual([0, 0, true]);

  // one more cluster without a taker, then a guest cluster that reads as zeros and takes one; its own place is cut off or free
  image.discard(guestOffset(SIZE - CLUSTER), CLUSTER);
  idleTurn(image);
  expect(image.map(guestOffset(SIZE - CLUSTER), CLUSTER).status).toBe('data');
  expect(isDirty()).toBe(true);
  image.discard(guestOffset(0), 3 * CLUSTER);
  for (let turn = 0; turn < 3; turn++) idleTurn(image);
  expect(image.map(guestOffset(0), 3 * CLUSTER).status).toBe('data');
  image.close();
  expect([isDirty(), qed.check(file, { repair: 'none', log: () => undefined })]).toMatchObject([
    false,
    { corruptions: 0, leaks: 0 },
  ]);
});

test('a larger disk has new takers', () => {
  const { image } = fullImage();
  idleTurn(image);
  expect(idleTurn(image)).toBe(0);
  image.resize(SIZE + COVERAGE);
  // takes the free cluster, and brings a table
  image.write(new Uint8Array(CLUSTER).fill(8), 0, CLUSTER, guestOffset(SIZE));
  rewrite(image, 9 * CLUSTER);
  idleTurn(image);
  expect(image.map(guestOffset(SIZE + CLUSTER), CLUSTER).status).toBe('data');
  image.close();
});

test('the search reserves one table at a time, so that requests are served in between', () => {
  const { image } = fullImage();
  const exclusively = vi.spyOn(Reservations.prototype, 'exclusively');
  try {
    idleTurn(image);
    const ranges = exclusively.mock.calls.map(([start, end]) => end - start);
    expect(ranges.length).toBeGreaterThanOrEqual(SIZE / COVERAGE);
    expect(Math.max(...ranges)).toBe(COVERAGE / CLUSTER);
  } finally {
    exclusively.mockRestore();
  }
  image.close();
});
