// Maps, counts and lengths that are wrong: what a check says, what a repair makes of it, what a read-write open mends by itself,
// and what it refuses. Without repair no byte is written.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, openImage } from '../../../support/memory-images.ts';
import { contentOf, FIELD, FREE, KIB, type VdiRecipe, vdiBytes } from '../../../support/vdi-bytes.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const BLOCK = 4 * KIB;

function fileOf(recipe: VdiRecipe, cut = 0): MemoryHostFile {
  const bytes = vdiBytes(recipe);
  return new MemoryHostFile(bytes.subarray(0, bytes.length - cut), '/disk.vdi');
}

function check(file: MemoryHostFile, repair: 'none' | 'leaks' | 'all' = 'none') {
  const said: string[] = [];
  const report = checkImage(vdi, file, { repair, log: (sentence) => said.push(sentence) });
  return { ...report, said };
}

function readAll(file: MemoryHostFile): Buffer {
  const image = openImage(vdi, file.clone(true), { readOnly: true });
  const bytes = Buffer.alloc(image.virtualSize(), 0x55);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

describe.each([
  ['an entry that is cBlocks', { entries: [0, 2], fileBlocks: 3, allocated: 1 }, /map entry 1 .*: 0x2 is not a block/],
  ['an entry beyond the file', { entries: [0, 1, FREE], fileBlocks: 1, allocated: 2 }, /map entry 1 .*: 0x1 is not a/],
  ['an entry of 0xfffffffd', { entries: [0, 0xfffffffd], fileBlocks: 1, allocated: 1 }, /0xfffffffd is not a block/],
] as const)('%s', (_, recipe, words) => {
  test('is a corruption, refused for writing, and set free by a repair of all only', () => {
    const file = fileOf(recipe);
    const before = Buffer.from(file.bytes());
    expect(check(file)).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
    expect(check(file).said.join()).toMatch(words);
    expect(() => openImage(vdi, file)).toThrow(/its map has 1 error, the first: map entry 1.*imgfuse check -r all/s);
    expect(check(file, 'leaks')).toMatchObject({ corruptions: 1, corruptionsFixed: 0, leaksFixed: 0 });
    expect(Buffer.from(file.bytes())).toEqual(before);
    expect(check(file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1, checkErrors: 0 });
    expect(check(file).said).toEqual([]);
    expect(readAll(file).subarray(0, 2 * BLOCK)).toEqual(Buffer.concat([Buffer.alloc(BLOCK, 1), Buffer.alloc(BLOCK)]));
  });

  test('a read that meets it is an error, and other reads are not', () => {
    const image = openImage(vdi, fileOf(recipe), { readOnly: true });
    const bytes = Buffer.alloc(BLOCK);
    image.read(bytes, 0, BLOCK, guestOffset(0));
    expect(bytes).toEqual(Buffer.alloc(BLOCK, 1));
    if (recipe.fileBlocks === 3) return;
    expect(() => image.read(bytes, 0, BLOCK, guestOffset(BLOCK))).toThrow(/map entry 1 at offset 0x204/);
  });
});

describe('a block that two entries lead to', () => {
  const recipe = { entries: [1, 0, 1, 1], allocated: 2 };

  test('is refused for writing; a repair gives each its copy, and clears none', () => {
    const file = fileOf(recipe);
    const wanted = contentOf(recipe);
    expect(check(file)).toMatchObject({ corruptions: 2 });
    expect(() => openImage(vdi, file)).toThrow(/2 errors, 2 of them blocks used twice/);
    expect(check(file, 'all')).toMatchObject({ corruptions: 3, corruptionsFixed: 3, checkErrors: 0 });
    expect(check(file).said).toEqual([]);
    expect(readAll(file).equals(wanted)).toBe(true);
    const image = openImage(vdi, file);
    image.write(Buffer.alloc(BLOCK, 0x77), 0, BLOCK, guestOffset(2 * BLOCK));
    image.close();
    wanted.fill(0x77, 2 * BLOCK, 3 * BLOCK);
    expect(readAll(file).equals(wanted)).toBe(true);
  });
});

describe('a count that is too low', () => {
  test('is a corruption that a read-write open mends, and says so', () => {
    const file = fileOf({ entries: [0, 1, 2, FREE], allocated: 1 });
    expect(check(file)).toMatchObject({ corruptions: 1, leaks: 0 });
    const said: string[] = [];
    openImage(vdi, file, { log: (sentence) => said.push(sentence) }).close();
    expect(said).toEqual(['/disk.vdi: the count of its blocks was 1, and is 3 now']);
    expect(Buffer.from(file.bytes()).readUInt32LE(FIELD.allocated)).toBe(3);
    expect(check(file).said).toEqual([]);
  });

  test('is counted by a repair', () => {
    const file = fileOf({ entries: [0, 1, 2, FREE], allocated: 0 });
    expect(check(file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(check(file).said).toEqual([]);
  });
});

describe.each([
  ['a count that is too high, as a crash leaves it', { entries: [0, 1, FREE], allocated: 3, fileBlocks: 3 }, 1],
  ['a count that the file has no blocks for', { entries: [0, 1, FREE], allocated: 3 }, 1],
  ['a hole between the indices', { entries: [0, 3, 1, FREE], allocated: 4 }, 1],
  ['blocks behind the last one in use', { entries: [0, FREE, FREE], fileBlocks: 3 }, 2],
  ['all of these', { entries: [4, 1, FREE, FREE, FREE], fileBlocks: 6, allocated: 5 }, 4],
] as const)('%s', (_, recipe, leaks) => {
  test.each([
    ['an open and a close', (file: MemoryHostFile) => openImage(vdi, file).close()],
    ['a repair of leaks', (file: MemoryHostFile) => expect(check(file, 'leaks')).toMatchObject({ leaksFixed: leaks })],
  ])('is a leak, and %s makes the image dense again', (__, mend) => {
    const file = fileOf(recipe);
    const wanted = readAll(file);
    expect(check(file)).toMatchObject({ corruptions: 0, leaks });
    mend(file);
    expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0, said: [] });
    expect(readAll(file).equals(wanted)).toBe(true);
    const bytes = Buffer.from(file.bytes());
    const blocks = bytes.readUInt32LE(FIELD.allocated);
    expect(bytes.length).toBe(bytes.readUInt32LE(FIELD.offData) + blocks * BLOCK);
    const before = bytes.subarray(FIELD.uuidModify, FIELD.uuidModify + 16).toString('hex');
    expect(before, 'the guest sees no change, so a child may stay').toBe('20'.repeat(16));
  });

  test('is read without a change of the file', () => {
    const recording = new RecordingHostFile(fileOf(recipe));
    openImage(vdi, recording, { readOnly: true }).close();
    expect(recording.log).toEqual([]);
  });
});

describe('a last block that is cut off', () => {
  const recipe = { entries: [0, 1] };

  test('reads as zeros from there on, is told, and is whole after a read-write open', () => {
    const file = fileOf(recipe, 1000);
    const wanted = contentOf(recipe).fill(0, 2 * BLOCK - 1000);
    const said: string[] = [];
    openImage(vdi, file.clone(true), { readOnly: true, log: (sentence) => said.push(sentence) });
    expect(said).toEqual([
      `/disk.vdi is truncated: it has ${file.size()} bytes, and its header counts blocks up to ${file.size() + 1000}; those are lost`,
    ]);
    expect(readAll(file).equals(wanted)).toBe(true);
    expect(check(file)).toMatchObject({ corruptions: 1 });
    openImage(vdi, file, { log: (sentence) => said.push(sentence) }).close();
    expect(said[1]).toMatch(/is truncated: its last block ends beyond the \d+ bytes/);
    expect(check(file).said).toEqual([]);
    expect(readAll(file).equals(wanted)).toBe(true);
  });

  test('is completed by a repair', () => {
    const file = fileOf(recipe, 1000);
    expect(check(file, 'all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
    expect(check(file).said).toEqual([]);
  });
});
