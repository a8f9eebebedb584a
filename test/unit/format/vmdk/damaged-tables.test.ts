// Directories and tables that are wrong: what a check says, what a repair makes of it, what an open after a crash mends by itself, and
// what it refuses. Without repair no byte is written.

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { cowd } from '../../../../src/format/vmdk/cowd/index.ts';
import { sparse } from '../../../../src/format/vmdk/sparse/index.ts';
import { checkExtent, isSame, openExtent, readAll } from '../../../support/extents.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import {
  COWD_FIELD,
  contentOf,
  cowdBytes,
  entryAt,
  FIELD,
  NONE,
  placesOf,
  type SparseRecipe,
  sectorOf,
  sparseBytes,
  trackedSparse,
} from '../../../support/vmdk-bytes.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const GRAIN = 4096;
const RECIPE: SparseRecipe = { entries: [0, 1, NONE, 2, NONE], capacity: 200 * 8 };

/** An image with one entry changed, in one copy of its table or in both. */
function withEntry(recipe: SparseRecipe, n: number, sector: number, ...copies: ('first' | 'second')[]): MemoryHostFile {
  const bytes = sparseBytes(recipe);
  for (const copy of copies) bytes.writeUInt32LE(sector, entryAt(recipe, n, copy));
  return new MemoryHostFile(bytes, '/disk.vmdk');
}

const place = (entry: number) => sectorOf(placesOf(RECIPE), entry);
const grainOf = (image: Buffer, n: number) => image.subarray(n * GRAIN, (n + 1) * GRAIN);
const filled = (byte: number) => Buffer.alloc(GRAIN, byte);
const read = (file: MemoryHostFile) => readAll(openExtent(sparse, file.clone(true), { readOnly: true }));

describe.each<readonly [string, number, number, RegExp]>([
  ['beyond the file', 1, 0x7fffffff, /table entry 1 at offset .* is sector 0x7fffffff, beyond the end of the file/],
  ['where the descriptor is', 1, 2, /sector 0x2, where the metadata is/],
  ['where a table is', 1, placesOf(RECIPE).gd + 1, /where the metadata is/],
  ['of 1 without a flag that allows it', 1, 1, /sector 0x1, where the metadata is/],
])('an entry %s', (_, n, sector, words) => {
  test('in both tables is a corruption, refused for writing, and becomes 0 by a repair of all only', () => {
    const file = withEntry(RECIPE, n, sector, 'first', 'second');
    const before = Buffer.from(file.bytes());
    const found = checkExtent(sparse, file);
    expect(found).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
    expect(found.said.join()).toMatch(words);
    expect(() => openExtent(sparse, file)).toThrow(
      /its tables have 1 error, the first: grain table entry 1.*check -r all/,
    );
    expect(checkExtent(sparse, file, 'leaks')).toMatchObject({ corruptions: 1, corruptionsFixed: 0, leaksFixed: 0 });
    expect(isSame(file.bytes(), before)).toBe(true);
    expect(checkExtent(sparse, file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1, checkErrors: 0 });
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, leaks: 0, said: [] });
    expect(isSame(read(file), contentOf({ ...RECIPE, entries: [0, NONE, NONE, 2, NONE] }))).toBe(true);
  });

  test('in the first table only gets what the second one says', () => {
    const file = withEntry(RECIPE, n, sector, 'first');
    const { allocatedClusters, corruptionsFixed } = checkExtent(sparse, file, 'all');
    expect(corruptionsFixed).toBeGreaterThan(0);
    // the report is of the image as it has become
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, allocatedClusters });
    expect(isSame(read(file), contentOf(RECIPE))).toBe(true);
  });

  test('a read that meets it is an error, and other reads are not', () => {
    const image = openExtent(sparse, withEntry(RECIPE, n, sector, 'first').clone(true), { readOnly: true });
    const bytes = Buffer.alloc(GRAIN);
    image.read(bytes, 0, GRAIN, guestOffset(0));
    expect(isSame(bytes, filled(1))).toBe(true);
    if (sector === placesOf(RECIPE).gd + 1) return;
    expect(() => image.read(bytes, 0, GRAIN, guestOffset(GRAIN))).toThrow(
      /grain table entry 1 at offset .* check -r all/,
    );
  });
});

describe('copies that differ', () => {
  test('are a corruption, refused for writing; the first one counts', () => {
    const file = withEntry(RECIPE, 2, place(3), 'first');
    file.truncate(file.size() + GRAIN);
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 1, leaks: 0 });
    expect(checkExtent(sparse, file).said.join()).toMatch(/entry 2 .* is sector 0x\w+, and 0x0 in the second table/);
    expect(() => openExtent(sparse, file)).toThrow(/its tables have 1 error/);
    expect(checkExtent(sparse, file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    const bytes = Buffer.from(file.bytes());
    expect(bytes.readUInt32LE(entryAt(RECIPE, 2, 'second'))).toBe(place(3));
  });

  test('a grain that only the second one knows comes back in an extent that was closed clean', () => {
    const file = withEntry(RECIPE, 1, 0, 'first');
    expect(checkExtent(sparse, file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(isSame(read(file), contentOf(RECIPE))).toBe(true);
  });

  test('a grain that only the second one knows does not come back after a crash: the second copy may be behind', () => {
    const recipe = { ...RECIPE, unclean: true };
    const file = withEntry(recipe, 1, 0, 'first');
    const said: string[] = [];
    const image = openExtent(sparse, file, { log: (sentence) => said.push(sentence) });
    expect(said.join()).toMatch(/was not closed clean; repairing 1 error/);
    expect(isSame(readAll(image), contentOf({ ...RECIPE, entries: [0, NONE, NONE, 2, NONE] }))).toBe(true);
    image.markUnclean();
    image.close();
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(sparse.inspect(file).isUnclean).toBe(false);
  });

  test('a grain of the second one that another entry uses stays with that one', () => {
    const file = withEntry(RECIPE, 2, place(1), 'second');
    expect(checkExtent(sparse, file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(isSame(read(file), contentOf(RECIPE))).toBe(true);
  });
});

describe('a grain that two entries lead to', () => {
  const file = () => withEntry(RECIPE, 2, place(1), 'first', 'second');

  test('is a corruption, refused for writing even after a crash', () => {
    expect(checkExtent(sparse, file()).said.join()).toMatch(/entry 2 .*: the grain at sector 0x\w+ is used twice/);
    expect(() => openExtent(sparse, file())).toThrow(/1 of them grains used twice/);
    const unclean = withEntry({ ...RECIPE, unclean: true }, 2, place(1), 'first', 'second');
    expect(() => openExtent(sparse, unclean)).toThrow(/1 of them grains used twice/);
  });

  test('is copied by a repair, so that both keep their data', () => {
    const repaired = file();
    expect(checkExtent(sparse, repaired, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(checkExtent(sparse, repaired)).toMatchObject({ corruptions: 0, leaks: 0 });
    const image = openExtent(sparse, repaired);
    image.write(filled(9), 0, GRAIN, guestOffset(2 * GRAIN));
    const bytes = readAll(image);
    expect(isSame(grainOf(bytes, 1), filled(2))).toBe(true);
    expect(isSame(grainOf(bytes, 2), filled(9))).toBe(true);
    image.close();
  });

  test('is copied as far as the file goes, however long the header says that it is', () => {
    const recipe: SparseRecipe = { entries: [0, 0, 0], grainSectors: 16 * 1024 };
    const bytes = sparseBytes(recipe);
    const file = new MemoryHostFile(bytes.subarray(0, placesOf(recipe).data * 512 + GRAIN), '/disk.vmdk');
    const recording = new RecordingHostFile(file);
    expect(checkExtent(sparse, recording, 'all')).toMatchObject({ checkErrors: 0 });
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0 });
    const written = recording.log.reduce((sum, { operation, length }) => sum + (operation === 'write' ? length : 0), 0);
    expect(written).toBeLessThan(8 * GRAIN);
    const wanted = Buffer.alloc(3 * 16 * 1024 * 512);
    for (const n of [0, 1, 2]) wanted.fill(1, n * 16 * 1024 * 512, n * 16 * 1024 * 512 + GRAIN);
    expect(isSame(read(file), wanted)).toBe(true);
  });

  test('gets no copy for which entries have no numbers', () => {
    const bytes = sparseBytes({ entries: [0, 0, 0, 0, 0], grainSectors: 8, fileGrains: 1 });
    bytes.writeBigUInt64LE(BigInt(2 ** 21), FIELD.grain);
    bytes.writeBigUInt64LE(BigInt(5 * 2 ** 21), FIELD.capacity);
    const file = new MemoryHostFile(bytes, '/disk.vmdk');
    file.truncate(2 ** 41 - 3 * 2 ** 30);
    expect(() => checkExtent(sparse, file, 'all')).toThrow(/disk.vmdk cannot grow beyond 2 TiB/);
    const left = Buffer.alloc(bytes.length);
    file.read(left, 0, left.length, hostOffset(0));
    expect(isSame(left, bytes)).toBe(true);
  });

  test('in part, because one of them lies off its place, is copied as well', () => {
    const shifted = withEntry(RECIPE, 2, place(1) + 3, 'first', 'second');
    expect(checkExtent(sparse, shifted)).toMatchObject({ corruptions: 1 });
    expect(checkExtent(sparse, shifted, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(checkExtent(sparse, shifted)).toMatchObject({ corruptions: 0 });
    const bytes = read(shifted);
    expect(isSame(grainOf(bytes, 1), filled(2))).toBe(true);
    expect(isSame(grainOf(bytes, 3), filled(3))).toBe(true);
  });
});

describe('a directory entry', () => {
  const directory = (copy: 'gd' | 'rgd', index: number) => placesOf(RECIPE)[copy] * 512 + 4 * index;
  const damaged = (...entries: (readonly [at: number, value: number])[]) => {
    const bytes = sparseBytes(RECIPE);
    for (const [at, value] of entries) bytes.writeUInt32LE(value, at);
    return new MemoryHostFile(bytes, '/disk.vmdk');
  };

  test.each([
    ['beyond the file', 0x7fffffff],
    ['where the header is', 1],
    ['to the table of another entry', placesOf(RECIPE).gd + 2],
  ])('of the first directory that leads %s gets a copy of the second table', (_, value) => {
    const file = damaged([directory('gd', 0), value]);
    expect(checkExtent(sparse, file).corruptions).toBeGreaterThan(0);
    expect(() => openExtent(sparse, file)).toThrow(/imgfuse check -r all/);
    const { corruptions, corruptionsFixed } = checkExtent(sparse, file, 'all');
    expect(corruptionsFixed).toBe(corruptions);
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0 });
    expect(isSame(read(file), contentOf(RECIPE))).toBe(true);
  });

  test('of the second directory that leads nowhere gets a copy of the first table', () => {
    const file = damaged([directory('rgd', 0), 0x7fffffff]);
    expect(checkExtent(sparse, file, 'all').corruptionsFixed).toBe(1);
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0 });
    const image = openExtent(sparse, file);
    image.write(filled(9), 0, GRAIN, guestOffset(0));
    image.close();
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  test('that is wrong in both directories leaves its part of the disk empty, which can be written', () => {
    const file = damaged([directory('gd', 0), 0x7fffffff], [directory('rgd', 0), 0x7ffffff0]);
    expect(checkExtent(sparse, file, 'all')).toMatchObject({ corruptions: 2, corruptionsFixed: 2 });
    const image = openExtent(sparse, file);
    expect(isSame(readAll(image), Buffer.alloc(200 * GRAIN))).toBe(true);
    image.write(filled(9), 0, GRAIN, guestOffset(GRAIN));
    image.close();
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  test('in one directory only is found, and repaired', () => {
    for (const copy of ['gd', 'rgd'] as const) {
      const file = damaged([directory(copy, 1), 0]);
      expect(checkExtent(sparse, file).said.join()).toMatch(/refers to a table in the (first|second) directory only/);
      expect(checkExtent(sparse, file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
      expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0 });
    }
  });

  test.each([
    true,
    false,
  ])('that leads nowhere gets a table behind a grain that only the second one knows and the file cuts (unclean: %s)', (unclean) => {
    const recipe: SparseRecipe = { ...RECIPE, entries: [0, 1, 2], unclean };
    const file = withEntry(recipe, 2, place(2) + 4, 'second');
    const directory = placesOf(recipe).gd * 512;
    const bytes = Buffer.from(file.bytes());
    bytes.writeUInt32LE(0x9812ad94, directory);
    const damaged = new MemoryHostFile(bytes, '/disk.vmdk');
    expect(checkExtent(sparse, damaged.clone(), 'all')).toMatchObject({ corruptionsFixed: 1, checkErrors: 0 });
    if (!unclean) return;
    const half = Buffer.concat([filled(3).subarray(0, GRAIN / 2), Buffer.alloc(GRAIN / 2)]);
    const image = openExtent(sparse, damaged);
    expect(isSame(readAll(image).subarray(0, 3 * GRAIN), Buffer.concat([filled(1), filled(2), half]))).toBe(true);
    image.close();
    expect(checkExtent(sparse, damaged)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  test('that leads both directories to one table is no fault, and that table is written once', () => {
    const file = damaged([directory('rgd', 0), placesOf(RECIPE).gd + 1]);
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, said: [] });
    const image = openExtent(sparse, file);
    image.write(filled(9), 0, GRAIN, guestOffset(2 * GRAIN));
    image.close();
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(isSame(grainOf(read(file), 2), filled(9))).toBe(true);
  });
});

describe('the end of the file', () => {
  test('inside the last grain reads as zeros, and is made whole by a read-write open', () => {
    const bytes = sparseBytes(RECIPE);
    const cut = () => new MemoryHostFile(bytes.subarray(0, bytes.length - 1024), '/disk.vmdk');
    const wanted = contentOf(RECIPE);
    wanted.fill(0, 4 * GRAIN - 1024, 4 * GRAIN);
    expect(isSame(read(cut()), wanted)).toBe(true);
    expect(checkExtent(sparse, cut())).toMatchObject({ corruptions: 1 });
    const repaired = cut();
    expect(checkExtent(sparse, repaired, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(checkExtent(sparse, repaired)).toMatchObject({ corruptions: 0 });
    const said: string[] = [];
    const image = openExtent(sparse, cut(), { log: (sentence) => said.push(sentence) });
    expect(isSame(readAll(image), wanted)).toBe(true);
    expect(said.join()).toMatch(/ended inside its last grain/);
  });

  test('far behind the last grain is leaks, which a repair of leaks cuts off', () => {
    const file = new MemoryHostFile(sparseBytes({ ...RECIPE, fileGrains: 9 }), '/disk.vmdk');
    const end = file.size() - 6 * GRAIN;
    expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, leaks: 6, imageEndOffset: end });
    expect(checkExtent(sparse, file, 'leaks')).toMatchObject({ leaks: 6, leaksFixed: 6 });
    expect(file.size()).toBe(end);
  });
});

test('an extent with changed block tracking is checked, and not repaired', () => {
  const bytes = trackedSparse(RECIPE);
  expect(checkExtent(sparse, new MemoryHostFile(bytes), 'all')).toMatchObject({ corruptions: 0 });
  bytes.writeUInt32LE(0x7fffffff, entryAt(RECIPE, 0));
  expect(checkExtent(sparse, new MemoryHostFile(bytes)).corruptions).toBe(2);
  expect(() => checkExtent(sparse, new MemoryHostFile(bytes), 'all')).toThrow(/version 3 with changed block tracking/);
});

test('the mark of an extent that was not closed clean is taken away by a repair, and by an open and a close', () => {
  const file = new MemoryHostFile(sparseBytes({ ...RECIPE, unclean: true }), '/disk.vmdk');
  expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, leaks: 0 });
  expect(Buffer.from(file.bytes())[FIELD.unclean]).toBe(1);
  expect(checkExtent(sparse, file, 'leaks')).toMatchObject({ corruptions: 0 });
  expect(Buffer.from(file.bytes())[FIELD.unclean]).toBe(0);
});

test('a freeSector below what is in use is a corruption, and repaired', () => {
  const file = new MemoryHostFile(cowdBytes({ entries: [0, 1, 2], freeSector: 6 }), '/disk.vmdk');
  expect(checkExtent(cowd, file).said.join()).toMatch(/freeSector is 6, and sectors up to 40 are in use/);
  expect(checkExtent(cowd, file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
  expect(checkExtent(cowd, file)).toMatchObject({ corruptions: 0 });
  expect(Buffer.from(file.bytes()).readUInt32LE(COWD_FIELD.free)).toBe(40);
});

test('an overHead that takes grains in is kept when these become free at the end', () => {
  const recipe: SparseRecipe = { entries: [0, 1, 2], capacity: 200 * 8 };
  const bytes = sparseBytes(recipe);
  const { data, grainSectors } = placesOf(recipe);
  const overhead = data + 2 * grainSectors + 1;
  bytes.writeUInt32LE(overhead, FIELD.overhead);
  const file = new MemoryHostFile(bytes, '/disk.vmdk');
  const image = openExtent(sparse, file);
  image.discard(guestOffset(0), 3 * GRAIN);
  for (let n = 0; n < 3; n++) {
    image.flush();
    image.write(filled(9), 0, GRAIN, guestOffset(100 * GRAIN));
    image.discard(guestOffset(100 * GRAIN), GRAIN);
  }
  image.close();
  expect(file.size()).toBeGreaterThanOrEqual(overhead * 512);
  expect(checkExtent(sparse, file)).toMatchObject({ corruptions: 0, said: [] });
});
