// More entries than the map has room for: in the room up to block 0, or in a new map in the place of the first blocks. A power cut
// at any moment leaves the old map or the new one, each with all of the data.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { distinctCrashStates } from '../../../support/crash-states.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { contentOf, DISCARDED, FIELD, FREE, KIB, type VdiRecipe, vdiBytes } from '../../../support/vdi-bytes.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const BLOCK = 4 * KIB;
const free = (count: number): number[] => Array(count).fill(FREE);

function readAll(image: WritableImage): Buffer {
  const bytes = Buffer.alloc(image.virtualSize(), 0x55);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

function expectClean(file: MemoryHostFile): void {
  const said: string[] = [];
  checkImage(vdi, file, { repair: 'none', log: (sentence) => said.push(sentence) });
  expect(said).toEqual([]);
}

/** Its map ends where block 0 begins. */
function tight(recipe: VdiRecipe): VdiRecipe {
  return { ...recipe, offData: 512 + 4 * recipe.entries.length };
}

const KINDS: readonly (readonly [name: string, recipe: VdiRecipe, blocks: number])[] = [
  ['in the room behind the map', { entries: [1, FREE, 0], offData: 1024 }, 120],
  ['in a new map, with blocks in the way', tight({ entries: [2, FREE, 0, DISCARDED, 1, ...free(8)] }), 900],
  ['in a new map over two blocks', tight({ entries: [3, 2, 1, 0, 4, ...free(8)] }), 1500],
  ['in a new map that needs more blocks than there are', tight({ entries: [0, ...free(8)] }), 5000],
  ['in a new map of an empty image', tight({ entries: free(3) }), 2000],
  ['in a new map before blocks with extra data', tight({ entries: [1, 0, ...free(6)], extra: 512 }), 1200],
];

describe.each(KINDS)('a disk grows %s', (_, recipe, blocks) => {
  const before = contentOf(recipe);
  const size = blocks * BLOCK;

  test('keeps its content, reads zeros in the new part, takes writes there, and closes clean', () => {
    const file = new MemoryHostFile(vdiBytes(recipe), '/disk.vdi');
    const image = openImage(vdi, file, { tableCacheBytes: 8192 });
    image.resize(size);
    const model = Buffer.alloc(size);
    before.copy(model);
    expect(readAll(image).equals(model)).toBe(true);
    for (const at of [0, before.length + 100, size - 512]) {
      model.fill(0x99, at, at + 512);
      image.write(Buffer.alloc(512, 0x99), 0, 512, guestOffset(at));
    }
    expect(readAll(image).equals(model)).toBe(true);
    image.close();
    expectClean(file);
    const bytes = Buffer.from(file.bytes());
    expect(bytes.readUInt32LE(FIELD.offData)).toBeGreaterThanOrEqual(bytes.readUInt32LE(FIELD.offBlocks) + 4 * blocks);
    expect(readAll(openImage(vdi, file)).equals(model)).toBe(true);
  });

  test('and a power cut at any moment loses nothing of it', () => {
    const start = new MemoryHostFile(vdiBytes(recipe), '/disk.vdi');
    const recording = new RecordingHostFile(start.clone());
    const image = openImage(vdi, recording);
    image.resize(size);
    image.close();
    let states = 0;
    for (const { state, subset, moment } of distinctCrashStates(start, recording.log, seededRandom(1))) {
      const where = `moment ${moment}, subset ${subset.toString()}`;
      const found = openImage(vdi, state);
      expect([before.length, size], where).toContain(found.virtualSize());
      const content = readAll(found);
      expect(content.subarray(0, before.length).equals(before), where).toBe(true);
      expect(content.subarray(before.length).equals(Buffer.alloc(content.length - before.length)), where).toBe(true);
      found.close();
      expectClean(state);
      states++;
    }
    expect(states).toBeGreaterThan(4);
  });
});

describe('a map in which every index is in use', () => {
  // blocks begin at multiples of a page, so that they can be holes
  const recipe = { entries: [1, 0, 2, 3, 5, 4], type: 2, offBlocks: BLOCK - 24, offData: BLOCK };
  const size = 20 * BLOCK;

  /** Guest blocks 0 and 3 are punched, as by fstrim; their neighbours keep what they have. */
  function withHoles(): { readonly file: MemoryHostFile; readonly disk: Buffer } {
    const file = new MemoryHostFile(vdiBytes(recipe), '/disk.vdi');
    const disk = contentOf(recipe);
    const image = openImage(vdi, file);
    for (const block of [0, 3]) {
      image.discard(guestOffset(block * BLOCK), BLOCK);
      disk.fill(0, block * BLOCK, (block + 1) * BLOCK);
    }
    image.close();
    return { file, disk };
  }

  test('cannot move without holes: refused with a cure, and the disk is as it was', () => {
    const file = new MemoryHostFile(vdiBytes(recipe), '/disk.vdi');
    const image = openImage(vdi, file);
    expect(() => image.resize(size)).toThrow(
      /cannot get a map of 20 blocks: all of its blocks are in use, and 1 of 4096 bytes must be empty.*fstrim/,
    );
    expect(readAll(image).equals(contentOf(recipe))).toBe(true);
    image.write(Buffer.alloc(BLOCK, 5), 0, BLOCK, guestOffset(0));
    image.close();
    expectClean(file);
  });

  test('moves once a block of a static image is a hole, and keeps the disk at any power cut', () => {
    const { file: start, disk } = withHoles();
    expect(Buffer.from(start.bytes()).readUInt32LE(FIELD.allocated)).toBe(recipe.entries.length);
    const recording = new RecordingHostFile(start.clone());
    const image = openImage(vdi, recording);
    image.resize(size);
    image.close();
    let states = 0;
    for (const { state, subset, moment } of distinctCrashStates(start, recording.log, seededRandom(2))) {
      const where = `moment ${moment}, subset ${subset.toString()}`;
      const found = openImage(vdi, state);
      expect(readAll(found).subarray(0, disk.length).equals(disk), where).toBe(true);
      found.close();
      expectClean(state);
      states++;
    }
    expect(states).toBeGreaterThan(4);
  });
});

test('a smaller disk keeps cBlocks, frees what lies behind its end, and shows zeros there when it grows again', () => {
  const file = new MemoryHostFile(vdiBytes({ entries: [0, 1, 2, 3] }), '/disk.vdi');
  const image = openImage(vdi, file);
  image.resize(BLOCK + 512);
  image.resize(4 * BLOCK);
  const wanted = Buffer.concat([Buffer.alloc(BLOCK, 1), Buffer.alloc(512, 2), Buffer.alloc(3 * BLOCK - 512)]);
  expect(readAll(image).equals(wanted)).toBe(true);
  image.close();
  expectClean(file);
  expect(Buffer.from(file.bytes()).readUInt32LE(FIELD.blocks)).toBe(4);
  expect(Buffer.from(file.bytes()).readUInt32LE(FIELD.allocated)).toBe(2);
});
