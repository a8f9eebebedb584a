// Streamed extents: where their directory is, with and without markers, padding and footer; and what damaged grains cost.

import { deflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { stream } from '../../../../src/format/vmdk/stream/index.ts';
import { isSame, openExtent, readAll } from '../../../support/extents.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { FIELD, SECTOR, type StreamRecipe, sparseBytes, streamBytes } from '../../../support/vmdk-bytes.ts';

const GRAIN = 4096;
const noise = (seed: number): Buffer =>
  Buffer.from(Array.from({ length: GRAIN }, (_, i) => (i * seed * 7919) >> (i % 11)));
const GRAINS = [Buffer.alloc(GRAIN, 1), null, noise(3), Buffer.alloc(GRAIN, 9), null, noise(5)];
const CONTENT = Buffer.concat(GRAINS.map((grain) => grain ?? Buffer.alloc(GRAIN)));

function open(bytes: Buffer) {
  return openExtent(stream, new MemoryHostFile(bytes, '/disk.vmdk', true), { readOnly: true });
}

test.each<readonly [string, Partial<StreamRecipe>]>([
  ['a footer', {}],
  ['a footer and padding behind it', { padding: 5000 }],
  ['a directory in front, and no footer', { footer: false }],
  ['no markers', { markers: false }],
  ['no markers and no footer', { markers: false, footer: false }],
  ['streams as RFC 1951 has them', { raw: true }],
  ['progress markers', { progress: true }],
])('an extent with %s reads as it was written', (_, recipe) => {
  expect(isSame(readAll(open(streamBytes({ grains: GRAINS, ...recipe }))), CONTENT)).toBe(true);
});

test('a file whose length is no whole sector has its footer all the same', () => {
  const bytes = Buffer.concat([streamBytes({ grains: GRAINS }), Buffer.alloc(100)]);
  expect(isSame(readAll(open(bytes)), CONTENT)).toBe(true);
});

test('the last grain may be as short as the disk', () => {
  const recipe = { grains: [Buffer.alloc(GRAIN, 1), Buffer.alloc(1536, 2)], capacity: 11 };
  const read = readAll(open(streamBytes(recipe)));
  expect(isSame(read, Buffer.concat([Buffer.alloc(GRAIN, 1), Buffer.alloc(1536, 2)]))).toBe(true);
});

test('parts of grains are read, and what is not here comes from below', () => {
  const below = open(streamBytes({ grains: [null, Buffer.alloc(GRAIN, 7)] }));
  const file = new MemoryHostFile(streamBytes({ grains: GRAINS }), '/child.vmdk', true);
  const image = openExtent(stream, file, { readOnly: true, backing: below });
  const part = Buffer.alloc(2 * GRAIN);
  image.read(part, 0, part.length, guestOffset(GRAIN - 10));
  const expected = Buffer.concat([Buffer.alloc(10, 1), Buffer.alloc(GRAIN, 7), GRAINS[2]!.subarray(0, GRAIN - 10)]);
  expect(isSame(part, expected)).toBe(true);
});

test('a map says what is data, without a place that could be read directly', () => {
  const image = open(streamBytes({ grains: GRAINS }));
  expect(image.map(guestOffset(0), 6 * GRAIN)).toEqual({ start: 0, length: GRAIN, status: 'data' });
  expect(image.mapStatus(guestOffset(2 * GRAIN), 4 * GRAIN)).toEqual({ status: 'data', length: 2 * GRAIN });
  expect(image.mapStatus(guestOffset(GRAIN), GRAIN)).toEqual({ status: 'unallocated', length: GRAIN });
  expect(image.allocatedBytes()).toBe(4 * GRAIN);
});

test('it is told from an extent that is not compressed, and not opened for writing', () => {
  const bytes = streamBytes({ grains: GRAINS });
  expect(stream.matches(bytes.subarray(0, 512))).toBe(true);
  expect(stream.matches(sparseBytes({ entries: [0] }).subarray(0, 512))).toBe(false);
  expect(stream.matches(Buffer.from('KDMV'))).toBe(false);
  expect(() => openExtent(stream, new MemoryHostFile(bytes, '/disk.vmdk'))).toThrow(
    /disk\.vmdk is a compressed VMDK extent .* use an overlay \(-o overlay=FILE\), or convert it/,
  );
  expect(stream.inspect(new MemoryHostFile(bytes))).toMatchObject({ isCompressed: true, capacity: 6 * GRAIN });
});

test.each([
  {},
  { footer: false },
  { markers: false },
  { padding: 3 },
])('a download that was interrupted is refused wherever it ends, or is whole (%o)', (recipe) => {
  const bytes = streamBytes({ grains: GRAINS, ...recipe });
  let whole = 0;
  for (let end = bytes.length - 1; end > 0; end -= SECTOR / 2) {
    const cut = new MemoryHostFile(bytes.subarray(0, end), '/disk.vmdk', true);
    try {
      // only zeros are missing
      expect(isSame(readAll(openExtent(stream, cut, { readOnly: true })), CONTENT)).toBe(true);
      whole++;
    } catch (error) {
      expect((error as Error).message).toMatch(/truncated|did not finish|beyond the file|outside the file/);
    }
  }
  expect(whole).toBeLessThan(10);
});

describe('a damaged extent is an error', () => {
  /** The first grain begins at sector 2. */
  const FIRST = 2 * SECTOR;
  const sizeOfFirst = deflateSync(GRAINS[0]!).length;
  const lastSectors = (bytes: Buffer, sectors: number) => bytes.subarray(0, bytes.length - sectors * SECTOR);
  test.each<readonly [string, (bytes: Buffer) => Buffer, RegExp]>([
    [
      'without its footer',
      (bytes) => lastSectors(bytes, 3),
      /directory is found at the end of the file, and no footer is there/,
    ],
    [
      'whose footer is of another disk',
      (bytes) => {
        bytes.writeBigUInt64LE(40n, bytes.length - 2 * SECTOR + FIELD.capacity);
        return bytes;
      },
      /footer is of another image/,
    ],
    [
      'whose footer refers to itself',
      (bytes) => {
        bytes.fill(0xff, bytes.length - 2 * SECTOR + FIELD.gd, bytes.length - 2 * SECTOR + FIELD.gd + 8);
        return bytes;
      },
      /footer has no directory either/,
    ],
    [
      'of another compression',
      (bytes) => {
        bytes.writeUInt16LE(2, FIELD.compression);
        return bytes;
      },
      /compression 2, and known is 1/,
    ],
    [
      'whose grain is the one of another place',
      (bytes) => {
        bytes.writeBigUInt64LE(8n, FIRST);
        return bytes;
      },
      /grain at offset 0x400 .* says that it is the one of sector 8/,
    ],
    [
      'whose grain has no bytes',
      (bytes) => {
        bytes.writeUInt32LE(0, FIRST + 8);
        return bytes;
      },
      /says that it has 0 bytes/,
    ],
    [
      'whose grain is far too long',
      (bytes) => {
        bytes.writeUInt32LE(0xffffffff, FIRST + 8);
        return bytes;
      },
      /says that it has 4294967295 bytes; it must have from 1 to 8192/,
    ],
    [
      'whose grain ends early',
      (bytes) => {
        bytes.writeUInt32LE(sizeOfFirst - 6, FIRST + 8);
        return bytes;
      },
      /does not decompress/,
    ],
    [
      'whose stream is damaged',
      (bytes) => {
        bytes.fill(0xff, FIRST + 14, FIRST + 20);
        return bytes;
      },
      /does not decompress/,
    ],
  ])('%s', (_, damage, words) => {
    const bytes = damage(streamBytes({ grains: GRAINS }));
    expect(() => readAll(open(bytes))).toThrow(words);
  });

  test('whose grain is a bomb', () => {
    const bytes = streamBytes({ grains: [Buffer.alloc(64 * GRAIN)] });
    expect(() => readAll(open(bytes))).toThrow(/decompresses to more than 4096 bytes/);
  });

  test('whose grain is too short for its place', () => {
    const bytes = streamBytes({ grains: [Buffer.alloc(512, 1), null] });
    expect(() => readAll(open(bytes))).toThrow(/decompresses to 512 bytes instead of 4096/);
  });

  test('whose entry leads beyond the file, and other grains are read', () => {
    const bytes = streamBytes({ grains: GRAINS, footer: false });
    const directory = Number(bytes.readBigUInt64LE(FIELD.gd)) * SECTOR;
    bytes.writeUInt32LE(0x7fffffff, bytes.readUInt32LE(directory) * SECTOR);
    const image = open(bytes);
    const part = Buffer.alloc(GRAIN);
    image.read(part, 0, GRAIN, guestOffset(3 * GRAIN));
    expect(isSame(part, GRAINS[3]!)).toBe(true);
    expect(() => image.read(part, 0, GRAIN, guestOffset(0))).toThrow(
      /grain table entry 0 .* is sector 0x7fffffff, outside/,
    );
    bytes.writeUInt32LE(0x7fffffff, directory);
    expect(() => readAll(open(bytes))).toThrow(/grain directory entry 0 .* outside the file/);
  });
});
