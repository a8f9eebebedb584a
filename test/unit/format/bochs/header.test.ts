// The Bochs header: what it says, and each limit with the value just outside.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { readHeader } from '../../../../src/format/bochs/header.ts';
import { bochs } from '../../../../src/format/bochs/index.ts';
import { type BochsSpec, bochsImage } from '../../../support/bochs-bytes.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';

const SECTORS = [1, 0, 2, 3];
const GOOD: BochsSpec = { sectors: SECTORS };

function fileOf(spec: BochsSpec, more: { readonly cut?: number } = {}): MemoryHostFile {
  const { image } = bochsImage({ ...GOOD, ...spec });
  return new MemoryHostFile(image.subarray(0, more.cut ?? image.length), '/disk');
}

function refusalOf(file: MemoryHostFile): string {
  const sentences = [() => bochs.inspect(file), () => readHeader(file)].map((look) => {
    let caught: unknown;
    try {
      look();
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(ImgfuseError);
    return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
  });
  expect(sentences[0]).toBe(sentences[1]);
  return sentences[0]!;
}

test.each([
  [1, 0x10000],
  [2, 0x20000],
])('of version %i says where everything is', (version, stored) => {
  expect(readHeader(fileOf({ version: stored, headerBytes: 600, bitmapBytes: 700 }))).toEqual({
    ...{ version, headerBytes: 600, catalogEntries: 2, bitmapBytes: 700, extentBytes: 4096, diskBytes: 2048 },
  });
});

test('is what info shows', () => {
  expect(bochs.inspect(fileOf({}))).toEqual({
    ...{ format: 'bochs', virtualSize: 2048, clusterSize: null, dirty: false, specific: {} },
  });
});

describe('is refused', () => {
  test.each<[string, BochsSpec, string]>([
    [
      'another magic',
      { magic: 'Bochs Virtual HD Imagf' },
      'corrupt: /disk: Bochs header at offset 0: magic is "Bochs Vi',
    ],
    ['a longer magic', { magic: 'Bochs Virtual HD Images' }, 'corrupt: /disk: Bochs header at offset 0: magic is'],
    [
      'an undoable image',
      { subtype: 'Undoable' },
      'unsupported: /disk is a Bochs image of the kind "Redolog Undoable"',
    ],
    ['a volatile image', { subtype: 'Volatile' }, 'unsupported: /disk is a Bochs image of the kind "Redolog Volatile"'],
    ['another type', { type: 'Sparse' }, 'unsupported: /disk is a Bochs image of the kind "Sparse Growing"'],
    ['another version', { version: 0x30000 }, 'unsupported: /disk: the Bochs header at offset 64 has version 0x30000'],
    ['a header without room', { headerBytes: 95 }, 'offset 68: header has 95 bytes'],
    ['a header behind the end', { headerBytes: 0xffffffff }, 'offset 68: header has 4294967295 bytes'],
    ['no catalog', { catalogEntries: 0 }, 'offset 72: catalog has 0 entries; it must have from 1 to 1048576'],
    ['a catalog too large', { catalogEntries: 0x100001 }, 'offset 72: catalog has 1048577 entries'],
    ['a catalog larger than the file', { catalogEntries: 0x100000 }, 'the catalog after it would end at 0x400200'],
    ['a bitmap too small', { extentBytes: 8192, bitmapBytes: 1 }, 'offset 76: bitmap has 1 bytes; it must have from 2'],
    ['a bitmap too large', { bitmapBytes: 0x100001 }, 'offset 76: bitmap has 1048577 bytes'],
    [
      'an extent too small',
      { extentBytes: 256, bitmapBytes: 1, sectors: [], diskBytes: 0 },
      'offset 80: extent has 256 b',
    ],
    ['an extent of another size', { extentBytes: 4608, sectors: [], diskBytes: 0 }, 'offset 80: extent has 4608 bytes'],
    [
      'an extent too large',
      { extentBytes: 2 ** 24, sectors: [], diskBytes: 0 },
      'offset 80: extent has 16777216 bytes',
    ],
    ['a disk of odd size', { diskBytes: 1000 }, 'offset 88: disk has 0x3e8 bytes; it must be a multiple of 512'],
    [
      'a disk beyond the catalog',
      { diskBytes: 8704 },
      'offset 88: disk has 0x2200 bytes; it must be a multiple of 512 up',
    ],
    ['a disk without bounds', { diskBytes: 2n ** 64n - 512n }, 'offset 88: disk has 0xfffffffffffffe00 bytes'],
    ['the same of version 1', { version: 0x10000, diskBytes: 8704 }, 'offset 84: disk has 0x2200 bytes'],
  ])('for %s', (_, spec, sentence) => {
    expect(refusalOf(fileOf(spec))).toContain(sentence);
  });

  test('in a file that ends within it', () => {
    expect(refusalOf(fileOf({}, { cut: 95 }))).toContain('the file has 95 bytes, but a Bochs header has 96');
  });
  test('in a file that ends within the catalog', () => {
    expect(refusalOf(fileOf({}, { cut: 519 }))).toContain('would end at 0x208; the file has 519 bytes');
  });
});

test.each<[string, BochsSpec]>([
  ['the smallest extents', { extentBytes: 512, bitmapBytes: 1 }],
  ['the largest extents', { extentBytes: 8 * 1024 * 1024 }],
  ['the largest bitmap', { bitmapBytes: 0x100000 }],
  ['the smallest header', { headerBytes: 96 }],
  ['a disk as large as the catalog allows', { diskBytes: 8192 }],
  ['an empty disk', { sectors: [], diskBytes: 0 }],
])('%s are taken', (_, spec) => {
  expect(readHeader(fileOf(spec)).headerBytes).toBeGreaterThan(0);
});
