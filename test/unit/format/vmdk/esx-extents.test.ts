// Extents of ESX: COWD (vmfsSparse) with grains of one sector and tables that come into being when they are needed, and SESparse.

import { describe, expect, test } from 'vitest';
import { cowd } from '../../../../src/format/vmdk/cowd/index.ts';
import { sesparse } from '../../../../src/format/vmdk/sesparse/index.ts';
import { isSame, openExtent, readAll } from '../../../support/extents.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { COWD_FIELD, cowdBytes, NONE, SECTOR, seSparseBytes } from '../../../support/vmdk-bytes.ts';

const memory = (bytes: Buffer, readOnly = true) => new MemoryHostFile(bytes, '/disk-delta.vmdk', readOnly);

describe('a COWD extent', () => {
  test('reads sector by sector, over the image below', () => {
    const entries = [1, NONE, 0, NONE];
    const below = openExtent(cowd, memory(cowdBytes({ entries: [8, 8, 8, 8, 8].map((_, i) => i + 8) })), {
      readOnly: true,
    });
    const image = openExtent(cowd, memory(cowdBytes({ entries, capacity: 5 })), { readOnly: true, backing: below });
    const read = readAll(image);
    expect(Array.from({ length: 5 }, (_, i) => read[i * SECTOR])).toEqual([2, 10, 1, 12, 13]);
    expect(image.clusterSize).toBe(SECTOR);
  });

  test('has no table where nothing was written', () => {
    const image = openExtent(cowd, memory(cowdBytes({ entries: [0], capacity: 3 * 4096 + 1 })), { readOnly: true });
    const read = readAll(image);
    expect(isSame(read.subarray(0, SECTOR), Buffer.alloc(SECTOR, 1))).toBe(true);
    expect(isSame(read.subarray(SECTOR), Buffer.alloc(3 * 4096 * SECTOR))).toBe(true);
  });

  test.each<readonly [string, number, number, RegExp]>([
    ['version 2', COWD_FIELD.version, 2, /has version 2, and known is 1/],
    ['no capacity', COWD_FIELD.capacity, 0, /capacity is 0; an extent has one sector at least/],
    ['grains of 3 sectors', COWD_FIELD.grain, 3, /grainSize is 3 sectors/],
    ['grains of 0 sectors', COWD_FIELD.grain, 0, /grainSize is 0 sectors/],
    ['grains of 2 MiB', COWD_FIELD.grain, 4096, /grainSize is 4096 sectors/],
    ['too few directory entries', COWD_FIELD.entries, 0, /grain directory has 0 entries; it must have from 1/],
    ['too many directory entries', COWD_FIELD.entries, 2 ** 21, /grain directory has 2097152 entries/],
    ['a directory in the header', COWD_FIELD.gd, 3, /grain directory at 0x600 .* must lie behind the header/],
    ['a directory beyond the file', COWD_FIELD.gd, 900, /grain directory at 0x70800/],
  ])('with %s is refused', (_, at, value, words) => {
    const bytes = cowdBytes({ entries: [0] });
    bytes.writeUInt32LE(value, at);
    expect(() => openExtent(cowd, memory(bytes), { readOnly: true })).toThrow(words);
  });

  test('is told by its magic', () => {
    expect(cowd.matches(cowdBytes({ entries: [] }))).toBe(true);
    expect(cowd.matches(Buffer.from('COW'))).toBe(false);
    expect(cowd.inspect(memory(cowdBytes({ entries: [0], unclean: true })))).toMatchObject({
      isUnclean: true,
      capacity: 512,
    });
  });
});

describe('an SESparse extent', () => {
  const open = (bytes: Buffer, below: ReturnType<typeof openExtent<ReturnType<typeof sesparse.open>>> | null = null) =>
    openExtent(sesparse, memory(bytes), { readOnly: true, backing: below });

  test('reads data, zeros, and what is below', () => {
    const below = open(seSparseBytes([4, 5, 6, 7, 8]));
    const image = open(seSparseBytes([1, 'none', 'zero', 0, 'unmapped']), below);
    const read = readAll(image);
    expect(Array.from({ length: 5 }, (_, i) => read[i * 4096])).toEqual([2, 6, 0, 1, 0]);
  });

  test('has its numbers of grains in two parts', () => {
    const entries = Array.from({ length: 4200 }, (_, i) => (i === 1 ? 4199 : ('none' as const)));
    const bytes = seSparseBytes(entries);
    bytes.fill(0x77, bytes.length - 4096);
    expect(readAll(open(bytes))[4096]).toBe(0x77);
  });

  test('whose journal must be replayed is refused', () => {
    expect(() => open(seSparseBytes([0], 8, { replay: true }))).toThrow(
      /was not closed clean: its journal must be replayed/,
    );
  });

  test('is not written', () => {
    expect(() => openExtent(sesparse, memory(seSparseBytes([0]), false))).toThrow(
      /is an SESparse extent, .* use an overlay/,
    );
  });

  test.each<readonly [string, number, bigint, RegExp]>([
    ['another version', 1, 0x300000001n, /has version 3\.1, and known is 2\.1/],
    ['grains of 16 sectors', 3, 16n, /grains of 0x10 sectors/],
    ['larger tables', 4, 128n, /grain tables of 0x80 sectors/],
    ['flags', 5, 1n, /0x1 in a field that must be 0/],
    ['no capacity', 2, 0n, /capacity is 0/],
    ['a capacity of 2^60 sectors', 2, 2n ** 60n, /capacity is 0x1000000000000000 sectors, more than 8 PiB/],
    ['a directory in the header', 16, 0n, /grain directory is sector 0x0, inside the header/],
    ['a directory that is too small', 17, 0n, /grain directory has 0 bytes, and the capacity needs 8/],
    ['a directory beyond the file', 16, 5000n, /grain directory ends beyond the file/],
    ['no volatile header', 10, 2n, /magic of the volatile header is 0x0/],
    ['a volatile header beyond the file', 10, 5000n, /volatile header ends beyond the file/],
  ])('with %s is refused', (_, n, value, words) => {
    const bytes = seSparseBytes([0]);
    bytes.writeBigUInt64LE(value, 8 * n);
    expect(() => open(bytes)).toThrow(words);
  });

  test.each<readonly [string, number, bigint, RegExp]>([
    ['a table of no kind', 4 * SECTOR, 0x2000000000000000n, /grain directory entry 0 .* leads to nothing/],
    ['a table beyond the file', 4 * SECTOR, 0x1000000000000007n, /grain directory entry 0/],
    ['a grain of no kind', 8 * SECTOR, 0x4000000000000000n, /grain table entry 0 .* is 0x4000000000000000/],
    ['a grain beyond the file', 8 * SECTOR, 0x3000000000000001n, /grain table entry 0/],
    ['an unallocated grain with a number', 8 * SECTOR, 5n, /grain table entry 0 .* is 0x5/],
  ])('with %s is an error of the read', (_, at, value, words) => {
    const bytes = seSparseBytes([0]);
    bytes.writeBigUInt64LE(value, at);
    expect(() => readAll(open(bytes))).toThrow(words);
  });
});
