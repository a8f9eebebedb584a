// Random requests to extents that are written, against a byte array: with and without a second copy of the tables, a parent, entries of
// zeros, tables that come into being, grains off their places. After each round the extent is closed, checked, and opened again.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { cowd } from '../../../../src/format/vmdk/cowd/index.ts';
import type { WritableExtent } from '../../../../src/format/vmdk/extent.ts';
import { sparse } from '../../../../src/format/vmdk/sparse/index.ts';
import { checkExtent, isSame, openExtent, readAll } from '../../../support/extents.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { seededRandom } from '../../../support/random.ts';
import {
  COWD_FIELD,
  contentOf,
  cowdBytes,
  FIELD,
  NONE,
  type SparseRecipe,
  sparseBytes,
  ZERO,
} from '../../../support/vmdk-bytes.ts';

const SECTOR = 512;
const ROUNDS = 4;
const REQUESTS = 60;

const SPARSE: Readonly<Record<string, SparseRecipe>> = {
  'two copies of the tables': { entries: [1, NONE, 0, NONE], capacity: 300 * 8 },
  'one copy of the tables': { entries: [1, NONE, 0, NONE], capacity: 300 * 8, redundant: false },
  'entries of zeros': { entries: [1, ZERO, 0, NONE], capacity: 300 * 8, zeroGrains: true },
  'tables that are missing': { entries: [0], capacity: 300 * 8, lazy: [1, 2] },
  'a capacity that is no whole grain': { entries: [0], capacity: 140 * 8 + 3 },
  'grains off their places': { entries: [3, NONE, 0, 1, 2], capacity: 200 * 8, shift: 5 },
};

interface Subject {
  readonly kind: typeof sparse | typeof cowd;
  readonly bytes: Buffer;
  readonly content: Buffer;
  /** byte of the header that is 0 after a clean close */
  readonly uncleanAt: number;
}

const subjects: readonly (readonly [string, Subject])[] = [
  ...Object.entries(SPARSE).map(([name, recipe]): readonly [string, Subject] => [
    name,
    { kind: sparse, bytes: sparseBytes(recipe), content: contentOf(recipe), uncleanAt: FIELD.unclean },
  ]),
  [
    'grains of one sector (COWD)',
    {
      kind: cowd,
      bytes: cowdBytes({ entries: [2, NONE, 0, 1], capacity: 3 * 4096 + 5 }),
      content: Buffer.concat([
        ...[3, 0, 1, 2].map((byte) => Buffer.alloc(SECTOR, byte)),
        Buffer.alloc((3 * 4096 + 1) * SECTOR),
      ]),
      uncleanAt: COWD_FIELD.unclean,
    },
  ],
];

/** Applies random requests to both. @returns what the disk must read */
function disturb(image: WritableExtent, model: Buffer, below: Buffer, random: () => number): Buffer {
  const pick = (most: number) => Math.floor(random() * most);
  for (let n = 0; n < REQUESTS; n++) {
    const sectors = model.length / SECTOR;
    const at = pick(sectors);
    const length = Math.min(1 + pick(random() < 0.3 ? 400 : 20), sectors - at) * SECTOR;
    const offset = guestOffset(at * SECTOR);
    const what = pick(12);
    if (what < 6) {
      const bytes = Buffer.alloc(length, 1 + pick(255));
      image.write(bytes, 0, length, offset);
      bytes.copy(model, offset);
    } else if (what < 8) {
      image.discard(offset, length);
      model.fill(0, offset, offset + length);
    } else if (what === 8) {
      image.preallocate(offset, length);
    } else if (what === 9) {
      image.flush();
    } else if (what === 10) {
      image.copyUp(offset, length);
    } else if (random() < 0.5) {
      const size = Math.max(8, sectors + pick(300) - 150) * SECTOR;
      image.resize(size);
      const grown = Buffer.alloc(size);
      model.copy(grown);
      model = grown;
    } else if (image.deallocate !== undefined) {
      const { clusterSize } = image;
      image.deallocate(offset, length);
      const isEnd = offset + length === model.length;
      const start = Math.ceil(offset / clusterSize) * clusterSize;
      const end = isEnd ? model.length : Math.floor((offset + length) / clusterSize) * clusterSize;
      for (let i = start; i < end; i++) model[i] = below[i] ?? 0;
    }
  }
  return model;
}

describe.each(subjects)('an extent with %s', (_, { kind, bytes, content, uncleanAt }) => {
  test.each([
    ['without a parent', 1, false],
    ['without a parent, again', 2, false],
    ['over a parent', 3, true],
    ['over a parent, again', 4, true],
  ])('reads what was written to it, %s', (_name, seed, hasParent) => {
    const random = seededRandom(seed);
    const parentRecipe = { entries: Array.from({ length: 150 }, (_value, i) => (i % 3 === 0 ? NONE : i)) };
    const below = hasParent ? contentOf(parentRecipe) : Buffer.alloc(0);
    const backing = hasParent
      ? openExtent(sparse, new MemoryHostFile(sparseBytes(parentRecipe), '/base.vmdk', true), { readOnly: true })
      : null;
    const file = new MemoryHostFile(bytes, '/disk.vmdk');
    let model: Buffer = Buffer.from(content);
    const first = openExtent(kind, file, { backing });
    model = readAll(first);
    if (!hasParent) expect(isSame(model, content)).toBe(true);
    first.close();
    for (let round = 0; round < ROUNDS; round++) {
      const image = openExtent(kind, file, { backing });
      model = disturb(image, model, below, random);
      expect(isSame(readAll(image), model)).toBe(true);
      const facts = image.closedFacts?.();
      expect(facts).toBeNull();
      image.close();
      expect(file.bytes()[uncleanAt]).toBe(0);
      expect(checkExtent(kind, file)).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0, said: [] });
      const closedFacts = image.closedFacts?.() ?? undefined;
      const again = openExtent(kind, file, { backing, closedFacts });
      expect(isSame(readAll(again), model)).toBe(true);
      expect(again.allocatedBytes()).toBe(checkExtent(kind, file).allocatedClusters * again.clusterSize);
      again.close();
    }
  });
});
