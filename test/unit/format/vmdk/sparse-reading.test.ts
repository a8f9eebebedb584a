// Reading hosted sparse extents as VMware and VirtualBox write them: lazy tables, grains at any sector, capacities that are no whole
// grain, entries that stand for zeros; and what of their headers is refused.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { sparse } from '../../../../src/format/vmdk/sparse/index.ts';
import { isSame, openExtent, readAll } from '../../../support/extents.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import {
  contentOf,
  FIELD,
  NONE,
  type SparseRecipe,
  sparseBytes,
  trackedSparse,
  ZERO,
} from '../../../support/vmdk-bytes.ts';

const open = (bytes: Buffer, readOnly = true) =>
  openExtent(sparse, new MemoryHostFile(bytes, '/disk.vmdk', readOnly), { readOnly });

const RECIPES: Readonly<Record<string, SparseRecipe>> = {
  'grains out of order': { entries: [2, NONE, 0, 1, NONE] },
  'a capacity that is no whole grain': { entries: [0, 1, 2], capacity: 19 },
  'no second copy of the tables': { entries: [1, 0], redundant: false },
  'a table that is missing': { entries: [0, 1], capacity: 128 * 8 * 2 + 8, lazy: [1] },
  'no table at all': { entries: [], capacity: 4096, lazy: [0, 1, 2, 3] },
  'grains at odd sectors': { entries: [1, NONE, 0], shift: 3 },
  'entries of zeros': { entries: [0, ZERO, NONE, 1], zeroGrains: true },
  'tables of 1024 entries': { entries: [1, 0], tableEntries: 1024 },
  'grains of 64 KiB': { entries: [1, 0, NONE], grainSectors: 128 },
};

test.each(Object.entries(RECIPES))('an extent with %s reads as it was written', (_, recipe) => {
  expect(isSame(readAll(open(sparseBytes(recipe))), contentOf(recipe))).toBe(true);
  expect(isSame(readAll(open(sparseBytes(recipe), false)), contentOf(recipe))).toBe(true);
});

test('a map says where grains lie, and merges those that adjoin', () => {
  const image = open(sparseBytes({ entries: [0, 1, NONE, ZERO, 2], zeroGrains: true }));
  const data = image.map(guestOffset(0), 5 * 4096);
  expect(data).toMatchObject({ start: 0, length: 8192, status: 'data' });
  expect(image.map(guestOffset(8192), 12288)).toEqual({ start: 8192, length: 4096, status: 'unallocated' });
  expect(image.map(guestOffset(12288), 8192)).toEqual({ start: 12288, length: 4096, status: 'zero' });
  expect(image.mapStatus(guestOffset(100), 20380)).toEqual({ status: 'data', length: 8092 });
});

test('what is not mapped is read from the image below, and zeros are not', () => {
  const below = open(sparseBytes({ entries: [0, 1, 2] }));
  const recipe = { entries: [ZERO, NONE, 0, NONE], zeroGrains: true };
  const image = openExtent(sparse, new MemoryHostFile(sparseBytes(recipe), '/child.vmdk', true), {
    readOnly: true,
    backing: below,
  });
  expect([...new Set(readAll(image))]).toEqual([0, 2, 1]);
  expect(readAll(image).subarray(3 * 4096)).toEqual(Buffer.alloc(4096));
});

test('inspect says what the header says', () => {
  const facts = sparse.inspect(new MemoryHostFile(sparseBytes({ entries: [0], unclean: true, capacity: 7 })));
  expect(facts).toEqual({
    capacity: 3584,
    grainBytes: 4096,
    isCompressed: false,
    isUnclean: true,
    descriptor: { offset: 512, length: 2048 },
    onlyRead: null,
  });
});

test('a version 3 with changed block tracking is read, and not written', () => {
  const recipe = { entries: [1, 0] };
  expect(readAll(open(trackedSparse(recipe)))).toEqual(contentOf(recipe));
  expect(() => open(trackedSparse(recipe), false)).toThrow(
    /disk\.vmdk is a VMDK extent of version 3 .*-o overlay=FILE/,
  );
  expect(sparse.inspect(new MemoryHostFile(trackedSparse(recipe))).onlyRead).toMatch(/version 3/);
});

test('an extent that was not closed clean is read as it is, and says so', () => {
  const said: string[] = [];
  const file = new MemoryHostFile(sparseBytes({ entries: [0], unclean: true }), '/disk.vmdk', true);
  const image = openExtent(sparse, file, { readOnly: true, log: (sentence) => said.push(sentence) });
  expect(readAll(image)).toEqual(Buffer.alloc(4096, 1));
  expect(said.join()).toMatch(/was not closed clean; it is read as it is/);
});

describe('a header is refused', () => {
  const u32 = (at: number, value: number) => (bytes: Buffer) => bytes.writeUInt32LE(value, at);
  const u64 = (at: number, value: bigint) => (bytes: Buffer) => bytes.writeBigUInt64LE(value, at);
  test.each<readonly [string, (bytes: Buffer) => unknown, RegExp]>([
    ['with another magic', (bytes) => bytes.write('KDMW', 0), /magic is "KDMW"/],
    ['of version 0', u32(FIELD.version, 0), /has version 0, and known are 1, 2 and 3/],
    ['of version 4', u32(FIELD.version, 4), /has version 4/],
    ['with an unknown high flag', u32(FIELD.flags, 0x40003), /flags 0x40003, of which 0x40000 are not known/],
    ['with markers without compression', u32(FIELD.flags, 0x20003), /markers without compression/],
    ['with a damaged newline test', (bytes) => bytes.fill(0x0a, 75, 76), /copied as text; copy it again as binary/],
    ['with a capacity of more than 8 PiB', u64(FIELD.capacity, 2n ** 44n), /capacity is 0x100000000000 sectors/],
    [
      'with a capacity that needs too long a directory',
      u64(FIELD.capacity, 2n ** 36n),
      /directory of 67108864 grain tables/,
    ],
    ['with its directory in its descriptor', u64(FIELD.gd, 1n), /grain directory at 0x200 overlaps what lies at 0x200/],
    ['with no capacity', u64(FIELD.capacity, 0n), /capacity is 0; an extent has one sector at least/],
    ['with grains of 4 sectors', u64(FIELD.grain, 4n), /grainSize is 4 sectors; it must be a power of two from 8/],
    ['with grains of 12 sectors', u64(FIELD.grain, 12n), /grainSize is 12 sectors/],
    ['with grains of 2 GiB', u64(FIELD.grain, 2n ** 22n), /grainSize is 0x400000 sectors/],
    [
      'with tables of 64 entries',
      u32(FIELD.tableEntries, 64),
      /numGTEsPerGT is 64; it must be a power of two from 128/,
    ],
    ['with tables of 500 entries', u32(FIELD.tableEntries, 500), /numGTEsPerGT is 500/],
    ['with tables of 128 Ki entries', u32(FIELD.tableEntries, 131072), /numGTEsPerGT is 131072/],
    ['with a directory in the header', u64(FIELD.gd, 0n), /grain directory is sector 0, inside the header/],
    ['with a directory beyond the file', u64(FIELD.gd, 5000n), /grain directory of 4 bytes at .* ends beyond the file/],
    ['with a second directory beyond the file', u64(FIELD.rgd, 5000n), /redundant grain directory of 4 bytes/],
    ['with a directory at no sector', u64(FIELD.gd, 2n ** 40n), /gdOffset is 0x10000000000 sectors/],
    ['with a directory in a footer', u64(FIELD.gd, 2n ** 64n - 1n), /the grain directory is in no footer/],
    [
      'with a descriptor beyond the file',
      u64(FIELD.descriptorSize, 5000n),
      /descriptor of 2560000 bytes .* outside the file/,
    ],
    [
      'of a file that is shorter than its metadata',
      u64(FIELD.overhead, 5000n),
      /overHead is 2560000 bytes, and the file has/,
    ],
  ])('%s', (_, change, words) => {
    const bytes = sparseBytes({ entries: [0, 1] });
    change(bytes);
    expect(() => open(bytes)).toThrow(words);
    expect(() => sparse.inspect(new MemoryHostFile(bytes))).toThrow(words);
  });

  test('of a file that ends inside it', () => {
    expect(() => open(sparseBytes({ entries: [0] }).subarray(0, 500))).toThrow(
      /has 500 bytes, and the header takes 512/,
    );
  });
});
