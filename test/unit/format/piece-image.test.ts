// Parallels, sparseimage and ASIF: what their headers say, each limit with the value just outside, and entries that lead nowhere.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { asif } from '../../../src/format/asif/index.ts';
import type { ImageFormat, ReadableImage } from '../../../src/format/image-format.ts';
import { parallels } from '../../../src/format/parallels/index.ts';
import { sparseimage } from '../../../src/format/sparseimage/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { openImage } from '../../support/memory-images.ts';
import {
  type AsifSpec,
  asifImage,
  type ParallelsSpec,
  parallelsImage,
  type SparseSpec,
  sparseImage,
} from '../../support/piece-bytes.ts';

const fileOf = (image: Uint8Array, path = '/disk'): MemoryHostFile => new MemoryHostFile(image, path);

function open(format: ImageFormat, image: Uint8Array, log: string[] = [], path?: string): ReadableImage {
  return openImage(format, fileOf(image, path), { readOnly: true, log: (sentence) => log.push(sentence) });
}

function refusal(action: () => unknown): string {
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
}

function byteAt(image: ReadableImage, offset: number): number {
  const bytes = new Uint8Array(1);
  image.read(bytes, 0, 1, guestOffset(offset));
  return bytes[0]!;
}

describe('a Parallels header', () => {
  test.each<[string, ParallelsSpec, string]>([
    ['another magic', { magic: 'WithoutFreeSpacf' }, 'corrupt: /disk: invalid Parallels image at offset 0: magic is'],
    ['another version', { version: 3 }, 'unsupported: /disk: the Parallels header has version 3'],
    ['no cluster', { clusterSectors: 0, sectors: 0 }, 'offset 28: a cluster has 0 sectors'],
    [
      'a cluster too large',
      { saidClusterSectors: 2 ** 21 + 1, pieces: [], sectors: 0 },
      'offset 28: a cluster has 2097153 sectors',
    ],
    ['a BAT longer than the file', { batEntries: 2 ** 26 }, 'offset 32: the BAT of 67108864 entries'],
    ['a BAT without bounds', { batEntries: 0xffffffff }, 'offset 32: the BAT of 4294967295 entries'],
    ['a disk beyond the BAT', { sectors: 489 }, 'offset 36: the disk has 0x1e9 sectors; its BAT maps 249856 bytes'],
    ['a disk without bounds', { sectors: 2n ** 63n, pieces: [] }, 'offset 36: the disk has 0x8000000000000000 sectors'],
  ])('is refused for %s', (_, spec, sentence) => {
    const { image } = parallelsImage(spec);
    expect(refusal(() => parallels.inspect(fileOf(image)))).toContain(sentence);
    expect(refusal(() => open(parallels, image))).toContain(sentence);
  });

  test('is refused in a file that ends within it', () => {
    expect(refusal(() => open(parallels, parallelsImage().image.subarray(0, 63)))).toContain('the file has 63 bytes');
  });

  test('of the first kind has 32 bits of sectors', () => {
    const { image } = parallelsImage({ magic: 'WithoutFreeSpace' });
    image.writeUInt32LE(77, 40);
    expect(parallels.inspect(fileOf(image)).virtualSize).toBe(485 * 512);
  });

  test('that says that a program has the image open is dirty, and no other value is', () => {
    const log: string[] = [];
    const { image } = parallelsImage({ inUse: 0x746f6e59 });
    expect(open(parallels, image, log).details().dirty).toBe(true);
    expect(log).toEqual([expect.stringContaining('/disk was not closed clean')]);
    for (const inUse of [0, 0x312e3276, 0x37316470]) {
      expect(parallels.inspect(fileOf(parallelsImage({ inUse }).image)).dirty).toBe(false);
    }
  });

  test('of a file without a DiskDescriptor.xml beside it is opened without a warning', () => {
    const log: string[] = [];
    open(parallels, parallelsImage().image, log, '/no such folder/disk.0.hds');
    expect(log).toEqual([]);
  });
});

describe('a sparseimage', () => {
  test.each<[string, SparseSpec, string]>([
    ['another magic', { magic: 'sprt' }, 'corrupt: /disk: invalid sparseimage at offset 0: this is not'],
    ['another version', { version: 2 }, 'unsupported: /disk: the header of the sparseimage has version 2'],
    ['no band', { bandSectors: 0, sectors: 0 }, 'offset 8: a band has 0 sectors'],
    ['a band too large', { bandSectors: 2 ** 21 + 1, pieces: [], sectors: 0 }, 'offset 8: a band has 2097153 sectors'],
    ['two sizes', { sectorsLow: 484 }, 'offset 28: the disk has 0x1e5 sectors, and its low half is said to be 0x1e4'],
    ['a size without bounds', { sectors: 2n ** 60n, pieces: [] }, 'offset 28: the disk has 0x1000000000000000 sectors'],
  ])('is refused for %s', (_, spec, sentence) => {
    const { image } = sparseImage(spec);
    expect(refusal(() => sparseimage.inspect(fileOf(image)))).toContain(sentence);
    expect(refusal(() => open(sparseimage, image))).toContain(sentence);
  });

  test.each<[string, SparseSpec, string]>([
    ['a band that the disk has not', { numbers: [62] }, 'the list at 0x0 has band 62 at place 0, and the disk has 61'],
    ['a band twice', { numbers: [5, 5] }, 'the list at 0x0 has band 5 at place 1, which is in the file twice'],
    [
      'a node behind the end',
      { firstPlaces: 1008, lastNext: 2n ** 40n },
      'the index node at 0x10000000000 has 4096 bytes',
    ],
    ['a node out of reach', { firstPlaces: 1008, lastNext: 2n ** 63n }, 'ends before; it is truncated'],
  ])('is refused for %s', (_, spec, sentence) => {
    expect(refusal(() => open(sparseimage, sparseImage(spec).image))).toContain(sentence);
  });

  test('is refused if its nodes lead in a circle', () => {
    const { image } = sparseImage();
    const node = Number(image.readBigUInt64BE(20));
    image.writeBigUInt64BE(BigInt(node), node + 12);
    expect(refusal(() => open(sparseimage, image))).toMatch(/is in the file twice|lead back to this one/);
    image.fill(0, node + 56, node + 4096);
    expect(refusal(() => open(sparseimage, image))).toContain('its index nodes lead back to this one');
  });

  test('is refused if it ends within its header', () => {
    expect(refusal(() => open(sparseimage, sparseImage().image.subarray(0, 4095)))).toContain('it is truncated');
  });
});

/** The status of an entry of ASIF: its chunk was written as a whole. */
const WHOLE = 2n ** 62n;

describe('an ASIF image', () => {
  const CHUNK = 65_536;

  test.each<[string, AsifSpec, RegExp]>([
    ['an entry without a status', { entries: { 2: 3n } }, /leads to no place of the file/],
    ['a status that was never seen', { entries: { 2: 2n ** 63n + 3n } }, /leads to no place of the file/],
    ['an entry with a reserved bit', { entries: { 2: WHOLE + 2n ** 55n + 3n } }, /leads to no place of the file/],
    ['a partial chunk without a bitmap', { entries: { 2: 3n * WHOLE + 3n } }, /no bitmap says which/],
    ['a bitmap behind the end', { partial: [2], entries: { 2048: 999n } }, /its bitmap at .* lies beyond the end/],
  ])('with %s is an error of the chunk, and of no other', (_, spec, sentence) => {
    const disk = open(asif, asifImage(spec).image);
    expect(refusal(() => byteAt(disk, 2 * CHUNK))).toMatch(sentence);
    expect(byteAt(disk, CHUNK)).toBe(2);
  });

  test('shows of a partial chunk the blocks that its bitmap has, and zeros for the others', () => {
    const { content, image } = asifImage({ partial: [0, 5] });
    const disk = open(asif, image);
    const bytes = Buffer.alloc(content.length);
    disk.read(bytes, 0, bytes.length, guestOffset(0));
    expect(Buffer.compare(bytes, content)).toBe(0);
    expect(disk.map(guestOffset(100), 2000)).toMatchObject({ status: 'data', length: 412 });
    expect(disk.map(guestOffset(512), 5000)).toEqual({ start: 512, status: 'unallocated', length: 1024 });
    // chunk 1 is whole, and chunk 3 is not stored
    expect(disk.map(guestOffset(4 * CHUNK), 2 * CHUNK)).toMatchObject({ status: 'data', length: CHUNK });
    image[image.length - CHUNK]! |= 2;
    expect(refusal(() => byteAt(open(asif, image), 0))).toMatch(/block 0 of it has the state 3, which is not known/);
  });

  test.each<[string, AsifSpec, string]>([
    ['another magic', { magic: 'shdx' }, 'corrupt: /disk: invalid ASIF image at offset 0: this is not'],
    [
      'chunks too small',
      { chunkBytes: 32_768 },
      'offset 64: a chunk has 32768 bytes; it must be a power of two from 65536',
    ],
    ['odd chunks', { chunkBytes: 65_537, pieces: [], sectors: 0 }, 'offset 64: a chunk has 65537 bytes'],
    ['blocks too small', { blockBytes: 256 }, 'offset 68: a block has 256 bytes'],
    ['blocks too large', { blockBytes: 8192 }, 'offset 68: a block has 8192 bytes'],
    ['a disk larger than the most', { mostSectors: 1 }, 'offset 48: the disk has 588288 bytes; 512 are the most'],
    ['a disk without bounds', { mostSectors: 2n ** 63n }, 'offset 56: the disk has 0x8000000000000000 blocks'],
  ])('is refused for %s', (_, spec, sentence) => {
    const { image } = asifImage(spec);
    expect(refusal(() => asif.inspect(fileOf(image)))).toContain(sentence);
    expect(refusal(() => open(asif, image))).toContain(sentence);
  });

  test.each<[string, AsifSpec, string]>([
    ['a directory behind the end', { directories: [4096, 2 ** 40] }, 'there is no directory'],
    ['a directory in the header', { directories: [4096, 0] }, 'there is no directory'],
    ['a version without bounds', { versions: [2n ** 60n, 1] }, 'there is no directory, or its version is too large'],
    ['a table behind the end', { table: 99n }, 'a table there has 2049 entries, and the file of'],
    ['a table out of reach', { table: 2n ** 55n }, 'the entry of table 0 is 0x80000000000000, which is no place'],
    [
      'pieces without bounds',
      { sectors: 2n ** 33n, pieces: [] },
      'limit: /disk: its disk of 4398046511104 bytes has 67108864',
    ],
  ])('is refused for %s', (_, spec, sentence) => {
    expect(refusal(() => open(asif, asifImage(spec).image))).toContain(sentence);
  });

  test('reads the directory with the higher version', () => {
    const { image } = asifImage({ versions: [9, 8], table: 1n });
    expect(refusal(() => open(asif, image))).toContain('a table there has 2049 entries');
  });

  test('has a reserved entry behind every 2048 of data, and a second table behind three of those', () => {
    const { image } = asifImage({
      ...{ sectors: 7000 * 128, mostSectors: 7000 * 128 },
      entries: { 2048: 2n ** 62n, 2049: WHOLE + 2n, 6145: WHOLE + 3n },
    });
    image.writeBigUInt64BE(3n, 8192 + 16);
    const chunk = 3 * CHUNK;
    image.fill(0, chunk, chunk + CHUNK);
    image.writeBigUInt64BE(WHOLE + 4n, chunk + 8);
    const disk = open(asif, image);
    expect(byteAt(disk, 2047 * CHUNK)).toBe(0);
    expect(byteAt(disk, 2048 * CHUNK)).toBe(image[2 * CHUNK]);
    expect(byteAt(disk, 6143 * CHUNK + 16)).toBe(0);
    expect(disk.map(guestOffset(6143 * CHUNK), 1)).toMatchObject({ status: 'data', hostOffset: chunk });
    expect(disk.map(guestOffset(6145 * CHUNK), 1)).toMatchObject({ status: 'data', hostOffset: 4 * CHUNK });
    expect(disk.map(guestOffset(6146 * CHUNK), CHUNK)).toMatchObject({ status: 'unallocated', length: CHUNK });
  });
});

describe.each<[string, ImageFormat, () => Buffer, number]>([
  ['Parallels', parallels, () => parallelsImage({ bat: [200, 1, 2], pieces: [1, 2, 3] }).image, 4096],
  [
    'of the first kind',
    parallels,
    () => parallelsImage({ magic: 'WithoutFreeSpace', bat: [99_999, 1, 2], pieces: new Array(200).fill(1) }).image,
    4096,
  ],
  [
    'ASIF',
    asif,
    () => asifImage({ pieces: [1, 2, 3], entries: { 0: WHOLE + 200n, 1: WHOLE + 2n ** 55n, 2: WHOLE + 2n } }).image,
    65_536,
  ],
])('an entry that leads nowhere, %s,', (_, format, make, pieceBytes) => {
  test('is an error of the read that meets it, and of nothing else', () => {
    const disk = open(format, make());
    const nowhere = format === parallels ? /where no cluster of this file is/ : /0 of the disk lies beyond the end of/;
    expect(refusal(() => byteAt(disk, 0))).toMatch(nowhere);
    const noPlace = format === parallels ? nowhere : /leads to no place of the file; copy the image again/;
    if (_ !== 'Parallels') expect(refusal(() => byteAt(disk, pieceBytes))).toMatch(noPlace);
    expect(byteAt(disk, 2 * pieceBytes)).toBeGreaterThan(0);
    expect(disk.mapStatus(guestOffset(2 * pieceBytes), 100)).toMatchObject({ status: 'data' });
  });
});

test('a file that was cut within a piece reads up to there', () => {
  const { image } = asifImage({ pieces: [1, 2, 3] });
  const disk = open(asif, image.subarray(0, -1000));
  expect(disk.map(guestOffset(0), 65_536)).toMatchObject({ status: 'data', length: 64_536 });
  expect(refusal(() => byteAt(disk, 64_536))).toContain('lies beyond the end of the file');
  expect(byteAt(disk, 64_535)).toBe(1);
});
