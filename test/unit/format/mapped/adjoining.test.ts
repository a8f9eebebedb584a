// Runs of adjoining places against the places themselves, and that a discard frees neighbours together: a map of a large disk takes a
// microsecond for each change, whatever its length.

import fc from 'fast-check';
import { afterEach, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableFormat } from '../../../../src/format/image-format.ts';
import { FreeClusters } from '../../../../src/format/mapped/free-clusters.ts';
import { eachAdjoining } from '../../../../src/format/mapped/space/adjoining.ts';
import { qcow } from '../../../../src/format/qcow/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { plainParallels } from '../../../support/plain-parallels.ts';

const CLUSTER = 4096;
const CLUSTERS = 256;

afterEach(() => vi.restoreAllMocks());

test('runs are as long as they can be, and have every place in its order', () => {
  fc.assert(
    fc.property(fc.array(fc.nat(6)), fc.constantFrom(1, 512), (numbers, step) => {
      const places = numbers.map((number) => number * step);
      const runs: number[][] = [];
      eachAdjoining(places, step, (first, count) =>
        runs.push(Array.from({ length: count }, (_, i) => first + i * step)),
      );
      expect(runs.flat()).toEqual(places);
      const follows = runs.slice(1).filter((run, i) => run[0] === runs[i]!.at(-1)! + step);
      expect(follows).toEqual([]);
    }),
  );
});

const formats: readonly (readonly [WritableFormat, Readonly<Record<string, string>>])[] = [
  [qed, { cluster_size: '4k' }],
  [qcow, {}],
  [vdi, { block_size: '4k' }],
  [plainParallels as WritableFormat, { cluster_size: '4k' }],
  [vmdk, { grain_size: '4k' }],
];

test.each(formats)('clusters that lie side by side are freed together: %#', (format, options) => {
  const size = CLUSTERS * CLUSTER;
  const image = openImage(format, createMemoryImage(format, size, options));
  image.write(new Uint8Array(size).fill(3), 0, size, guestOffset(0));
  image.flush();
  const freed = vi.spyOn(FreeClusters.prototype, 'markFreed');
  image.discard(guestOffset(0), size);
  const clusters = freed.mock.calls.reduce((sum, [, count]) => sum + count, 0);
  expect(clusters).toBe(size / image.clusterSize);
  expect(freed.mock.calls.length).toBeLessThanOrEqual(8);
  image.close();
});
