// The size of a raw disk: whole sectors, whatever the length of its file.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { raw } from '../../../src/format/raw/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { openImage } from '../../support/memory-images.ts';

const LENGTH = 10_000;
const SIZE = 10_240;

describe('a raw image whose file ends inside a sector', () => {
  test('has the rest of that sector, which reads as zeros and is no data', () => {
    const file = new MemoryHostFile(Buffer.alloc(LENGTH, 7));
    expect(raw.inspect(file).virtualSize).toBe(SIZE);
    const image = openImage(raw, file, { readOnly: true });
    expect(image.virtualSize()).toBe(SIZE);
    const bytes = Buffer.alloc(SIZE, 0xee);
    image.read(bytes, 0, SIZE, guestOffset(0));
    expect(bytes.equals(Buffer.concat([Buffer.alloc(LENGTH, 7), Buffer.alloc(SIZE - LENGTH)]))).toBe(true);
    expect(image.map(guestOffset(0), SIZE)).toMatchObject({ length: LENGTH, status: 'data' });
    const rest = { start: LENGTH, length: SIZE - LENGTH, status: 'zero' };
    expect(image.map(guestOffset(LENGTH), SIZE - LENGTH)).toEqual(rest);
    image.close();
    expect(file.size()).toBe(LENGTH);
  });

  test('takes a write there, and its file gets the rest of the sector', () => {
    const file = new MemoryHostFile(Buffer.alloc(LENGTH, 7));
    const image = openImage(raw, file);
    image.writeZeroes(guestOffset(9728), 512);
    image.discard(guestOffset(9728), 512);
    expect(file.size()).toBe(LENGTH);
    image.write(Buffer.alloc(512, 8), 0, 512, guestOffset(9728));
    image.close();
    expect(Buffer.from(file.bytes()).equals(Buffer.alloc(SIZE, 7).fill(8, 9728))).toBe(true);
  });
});

test.each([
  [8193, 8704],
  [8192, 8192],
  [1, 512],
  [0, 0],
])('a resize to %i bytes makes a file of %i', (size, length) => {
  const file = new MemoryHostFile(Buffer.alloc(4096, 7));
  const image = openImage(raw, file);
  image.resize(size);
  expect([image.virtualSize(), file.size()]).toEqual([length, length]);
  image.close();
});
