// Slices of tables: what a file that ends early reads as, and what the cache holds after a read that fails.

import { beforeEach, describe, expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { createTableCacheState, TableCache } from '../../../../src/concurrency/table-cache.ts';
import { TableSlices } from '../../../../src/format/mapped/table-slices.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';

const SLICE = 512;
let file: MemoryHostFile;
let cache: TableCache;

beforeEach(() => {
  file = new MemoryHostFile();
  file.write(new Uint8Array(SLICE * 2 + 100).fill(7), 0, SLICE * 2 + 100, hostOffset(0));
  cache = new TableCache(createTableCacheState(SLICE * 4, SLICE));
});

function bytesAt(slices: TableSlices, offset: number, length: number): number[] {
  const at = slices.load(offset);
  return [...slices.bytes.subarray(at, at + length)];
}

describe('slices of tables', () => {
  test('read as zeros behind the end of a file that may end early', () => {
    const slices = new TableSlices(file, cache, SLICE);
    // what the slot held before must not show
    cache.bytes.fill(9);
    expect(bytesAt(slices, SLICE * 2 + 98, 4)).toEqual([7, 7, 0, 0]);
    expect(bytesAt(slices, SLICE * 3 - 1, 1)).toEqual([0]);
    // a slice of which nothing is there, in a cluster that has begun
    expect(bytesAt(new TableSlices(file, cache, SLICE * 4), SLICE * 3 + 8, 1)).toEqual([0]);
  });

  test('are refused where a file must not end early, and where nothing of their cluster is there', () => {
    const refused = /the table at offset 0x400 ends beyond the file/;
    expect(() => new TableSlices(file, cache, 0).load(SLICE * 2 + 8)).toThrow(refused);
    expect(() => new TableSlices(file, cache, SLICE).load(SLICE * 3)).toThrow(/the table at offset 0x600 ends beyond/);
    // nothing of a read that failed is taken for the table afterwards
    expect([cache.find(SLICE * 2), cache.find(SLICE * 3)]).toEqual([-1, -1]);
  });

  test('change with the file, and are read again when they were forgotten', () => {
    const slices = new TableSlices(file, cache, 0);
    slices.written(8, Uint8Array.of(1));
    expect(bytesAt(slices, 8, 2)).toEqual([7, 7]);
    slices.written(8, Uint8Array.of(1, 2));
    expect(bytesAt(slices, 7, 4)).toEqual([7, 1, 2, 7]);
    slices.load(SLICE);
    slices.forget(0, SLICE);
    expect([cache.find(0), cache.find(SLICE) >= 0]).toEqual([-1, true]);
    expect(bytesAt(slices, 8, 2)).toEqual([7, 7]);
    expect([slices.bytesInSlice(0), slices.bytesInSlice(SLICE + 504)]).toEqual([SLICE, 8]);
  });
});
