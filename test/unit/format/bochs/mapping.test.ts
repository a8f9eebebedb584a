// Runs of a growing Bochs image: bitmaps, pieces without an extent, and entries that lead out of the file.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { bochs } from '../../../../src/format/bochs/index.ts';
import type { ReadableImage } from '../../../../src/format/image-format.ts';
import { type BochsSpec, bochsImage, NO_EXTENT } from '../../../support/bochs-bytes.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { openImage } from '../../../support/memory-images.ts';
import { CountingHostFile } from '../../../support/wrapping-files.ts';

function open(spec: BochsSpec): ReadableImage {
  return openImage(bochs, new MemoryHostFile(bochsImage(spec).image, '/disk'), { readOnly: true });
}

/** Status, start and length of every extent, in sectors. */
function extentsOf(image: ReadableImage): string[] {
  const found: string[] = [];
  for (let at = 0; at < image.virtualSize(); ) {
    const { start, length, status } = image.map(guestOffset(at), image.virtualSize() - at);
    expect(start).toBe(at);
    found.push(`${status} ${start / 512}+${length / 512}`);
    at += length;
  }
  return found;
}

const EMPTY = Array.from({ length: 8 }, () => 0);

test('sectors of one extent are one run as long as their bits agree, the lowest bit of a byte first', () => {
  const sectors = [1, 0, 0, 2, 3, 0, 0, 0, ...EMPTY, ...EMPTY, 0, 4, 5, 6];
  const image = open({ sectors });
  expect(extentsOf(image)).toEqual([
    ...['data 0+1', 'unallocated 1+2', 'data 3+2', 'unallocated 5+3'],
    ...['unallocated 8+16', 'unallocated 24+1', 'data 25+3'],
  ]);
  expect(image.mapStatus(guestOffset(5 * 512), 23 * 512)).toEqual({ status: 'unallocated', length: 20 * 512 });
  expect(image.allocatedBytes()).toBe(8192);
});

test('a run begins where the request does, and ends with it', () => {
  const image = open({ sectors: [1, 2, 0, 0] });
  expect(image.map(guestOffset(100), 200)).toMatchObject({ start: 100, length: 200, status: 'data' });
  expect(image.map(guestOffset(1000), 5)).toMatchObject({ start: 1000, length: 5, status: 'data' });
  expect(image.map(guestOffset(1020), 300)).toMatchObject({ start: 1020, length: 4, status: 'data' });
  expect(image.map(guestOffset(1030), 300)).toMatchObject({ start: 1030, length: 300, status: 'unallocated' });
});

test('a bitmap that is at hand is not read again, and a catalog is read once', () => {
  const counting = new CountingHostFile(new MemoryHostFile(bochsImage({ sectors: [1, 2, 0, 3] }).image));
  const image = openImage(bochs, counting, { readOnly: true });
  const before = counting.calls.read;
  for (let n = 0; n < 10; n++) extentsOf(image);
  expect(counting.calls.read - before).toBe(1);
});

describe('an entry that leads out of the file', () => {
  const SECTORS = [...EMPTY.map(() => 1), ...EMPTY.map(() => 2)];

  test.each([2, 7, 0x7fffffff, 0xfffffffe])('to extent %i is refused by name, and the rest is read', (entry) => {
    const image = open({ sectors: SECTORS, catalog: [entry, 0] });
    const target = new Uint8Array(4096);
    expect(() => image.read(target, 0, 512, guestOffset(0))).toThrow(
      new RegExp(`^/disk: the bitmap of extent ${entry} ends at 0x[0-9a-f]+, beyond the end of the file`),
    );
    expect(() => image.map(guestOffset(0), 512)).toThrow(/beyond the end of the file/);
    image.read(target, 0, 4096, guestOffset(4096));
    expect(target.every((byte) => byte === 2)).toBe(true);
    expect(image.mapStatus(guestOffset(4096), 4096)).toEqual({ status: 'data', length: 4096 });
  });

  test('ends what is told of the status before it', () => {
    const image = open({ sectors: SECTORS, catalog: [0, 9] });
    expect(image.mapStatus(guestOffset(0), 8192)).toEqual({ status: 'data', length: 4096 });
  });

  test('is the same for data that a truncated file has lost', () => {
    const { image: bytes } = bochsImage({ sectors: SECTORS });
    const image = openImage(bochs, new MemoryHostFile(bytes.subarray(0, -1), '/disk'), { readOnly: true });
    // the extents lie in the reverse order
    expect(() => image.read(new Uint8Array(1), 0, 1, guestOffset(4094))).not.toThrow();
    expect(() => image.read(new Uint8Array(4096), 0, 4096, guestOffset(0))).toThrow(/the data of extent 1 ends at/);
  });
});

test('the largest catalog takes 4 MiB, and a disk without extents is one run', () => {
  const entries = 0x100000;
  const { image: head } = bochsImage({ catalogEntries: entries, extentBytes: 512, diskBytes: entries * 512 });
  const image = openImage(
    bochs,
    new MemoryHostFile(Buffer.concat([head.subarray(0, 512), Buffer.alloc(entries * 4, 0xff)])),
    { readOnly: true },
  );
  expect((image.share().state as { catalog: SharedArrayBuffer }).catalog.byteLength).toBe(4 * 1024 * 1024);
  expect(extentsOf(image)).toEqual([`unallocated 0+${entries}`]);
  expect(NO_EXTENT).toBe(0xffffffff);
});
