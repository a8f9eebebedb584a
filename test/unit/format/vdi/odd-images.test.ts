// VDI images that qemu-img does not make: extra data before each block, discarded blocks, other places, version 0, parents, and
// indices in any order. Read as the fields say, written without a look at the extra bytes, and dense again after a close.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import {
  CREATE,
  contentOf,
  DISCARDED,
  differencing,
  FIELD,
  FREE,
  KIB,
  MODIFY,
  type VdiRecipe,
  vdiBytes,
  vdiVersion0,
  virtualBoxLayout,
} from '../../../support/vdi-bytes.ts';

const SHUFFLED = [2, FREE, 0, DISCARDED, 1, 3];

function readAll(image: WritableImage): Buffer {
  const bytes = Buffer.alloc(image.virtualSize(), 0x55);
  image.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

function findings(file: MemoryHostFile): string[] {
  const said: string[] = [];
  checkImage(vdi, file, { repair: 'none', log: (sentence) => said.push(sentence) });
  return said;
}

const KINDS: readonly (readonly [name: string, recipe: VdiRecipe, build: (recipe: VdiRecipe) => Buffer])[] = [
  ['indices in any order', { entries: SHUFFLED }, vdiBytes],
  ['extra data', { entries: SHUFFLED, extra: 512 }, vdiBytes],
  ['extra data larger than a block', { entries: SHUFFLED, extra: 8 * KIB, blockSize: 1024 }, vdiBytes],
  ['blocks of one sector', { entries: SHUFFLED, blockSize: 512 }, vdiBytes],
  ['the layout of VirtualBox', { entries: SHUFFLED, blockSize: 64 * KIB }, virtualBoxLayout],
  ['a static image', { entries: [0, 1, 2, 3], type: 2 }, vdiBytes],
  ['an odd size', { entries: [1, FREE, 0], diskSize: 8 * KIB + 700 }, vdiBytes],
];

describe.each(KINDS)('%s', (_, recipe, build) => {
  const wanted = contentOf(recipe);

  test('reads as its map says', () => {
    const file = new MemoryHostFile(build(recipe), '/disk.vdi', true);
    expect(readAll(openImage(vdi, file, { readOnly: true })).equals(wanted)).toBe(true);
    expect(findings(file)).toEqual([]);
  });

  test('takes writes and discards anywhere, keeps the rest, and is dense after a close', () => {
    const file = new MemoryHostFile(build(recipe), '/disk.vdi');
    const image = openImage(vdi, file);
    const model = Buffer.from(wanted);
    const blockSize = recipe.blockSize ?? 4 * KIB;
    const change = (at: number, length: number, byte: number): void => {
      model.fill(byte, at, at + length);
      if (byte === 0) image.discard(guestOffset(at), length);
      else image.write(Buffer.alloc(length, byte), 0, length, guestOffset(at));
    };
    change(blockSize - 100, 300, 0xa1);
    change(0, blockSize, 0);
    change(2 * blockSize + 10, 50, 0);
    image.flush();
    change(512, Math.min(model.length - 512, 3 * blockSize), 0xa2);
    change(2 * blockSize, 512, 0);
    expect(readAll(image).equals(model)).toBe(true);
    image.close();
    expect(findings(file)).toEqual([]);
    expect(readAll(openImage(vdi, file.clone(true), { readOnly: true })).equals(model)).toBe(true);
  });
});

test('extra bytes of a block stay with it when it moves into a gap', () => {
  const file = new MemoryHostFile(vdiBytes({ entries: [0, 1, 2], extra: 512 }), '/disk.vdi');
  const image = openImage(vdi, file);
  image.discard(guestOffset(0), 4 * KIB);
  image.close();
  const after = Buffer.from(file.bytes());
  const offData = after.readUInt32LE(FIELD.offData);
  expect(after.length).toBe(offData + 2 * (512 + 4 * KIB));
  expect([0, 1, 2].map((n) => after.readUInt32LE(512 + 4 * n))).toEqual([DISCARDED, 1, 0]);
  expect(after.subarray(offData, offData + 512)).toEqual(Buffer.alloc(512, 0xee));
});

test('a block with holes between its data moves whole', () => {
  const size = 3 * KIB * KIB;
  const file = createMemoryImage(vdi, size);
  const image = openImage(vdi, file);
  const model = Buffer.alloc(size);
  for (const at of [0, 2 * KIB * KIB, 2 * KIB * KIB + 300_000, size - 5000]) {
    model.fill((at % 251) | 1, at, at + 5000);
    image.write(model, at, 5000, guestOffset(at));
  }
  model.fill(0, 0, 5000);
  image.discard(guestOffset(0), KIB * KIB);
  image.close();
  expect(findings(file)).toEqual([]);
  expect(readAll(openImage(vdi, file)).equals(model)).toBe(true);
});

test('version 0 reads with its blocks right behind the map', () => {
  const recipe = { entries: SHUFFLED, diskSize: 21 * KIB };
  const image = openImage(vdi, new MemoryHostFile(vdiVersion0(recipe), '/disk.vdi', true), { readOnly: true });
  expect(readAll(image).equals(contentOf(recipe))).toBe(true);
});

describe('a differencing image', () => {
  const parentRecipe: VdiRecipe = { entries: [0, 1, 2, 3] };
  const parentBytes = vdiBytes(parentRecipe);
  const openParent = () => openImage(vdi, new MemoryHostFile(parentBytes, '/parent.vdi', true), { readOnly: true });
  const child = (entries: readonly number[]) =>
    new MemoryHostFile(differencing({ create: CREATE, modify: MODIFY }, { entries }), '/child.vdi');
  const blocks = (...bytes: number[]) => Buffer.concat(bytes.map((byte) => Buffer.alloc(4 * KIB, byte)));

  test('a free block shows the parent, a discarded one zeros', () => {
    const image = openImage(vdi, child([FREE, DISCARDED, 0, FREE]), { backing: openParent() });
    expect(readAll(image).equals(blocks(1, 0, 1, 4))).toBe(true);
    expect(image.mapStatus(guestOffset(0), 16 * KIB)).toEqual({ status: 'unallocated', length: 4 * KIB });
    expect(image.mapStatus(guestOffset(4 * KIB), 12 * KIB)).toEqual({ status: 'zero', length: 4 * KIB });
  });

  test('a full block of zeros written over a free one stays zeros after the image is opened again', () => {
    const file = child([FREE, FREE, FREE, FREE]);
    const image = openImage(vdi, file, { backing: openParent() });
    image.write(Buffer.alloc(4 * KIB), 0, 4 * KIB, guestOffset(0));
    image.writeZeroes(guestOffset(4 * KIB), 4 * KIB);
    image.write(Buffer.alloc(100, 9), 0, 100, guestOffset(8 * KIB + 1));
    image.close();
    const wanted = blocks(0, 0, 3, 4);
    wanted.fill(9, 8 * KIB + 1, 8 * KIB + 101);
    expect(readAll(openImage(vdi, file, { backing: openParent() })).equals(wanted)).toBe(true);
    expect(findings(file)).toEqual([]);
  });

  test('says which parent it wants, in which state', () => {
    const { backing, identity } = vdi.inspect(child([FREE]));
    const own = vdi.inspect(new MemoryHostFile(parentBytes)).identity!;
    expect(backing!.identity!.values).toEqual([own]);
    expect(backing!.search!.matches(own)).toBe(true);
    expect(backing!.search!.matches(identity!)).toBe(false);
  });
});
