// The shared byte map against a plain array, with runs and single numbers, and what it costs.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { createSharedByteMap, SharedByteMap } from '../../../src/concurrency/shared-byte-map.ts';

const CAPACITY = 20_000;

const fill = fc.record({
  start: fc.oneof(
    fc.nat(CAPACITY),
    fc.nat(Math.floor(CAPACITY / 64)).map((leaf) => leaf * 64),
  ),
  length: fc.oneof(
    fc.nat(3),
    fc.constant(1),
    fc.constantFrom(63, 64, 65, 128, 4095, 4096, 4097, 8192),
    fc.nat(CAPACITY),
  ),
  value: fc.constantFrom(0, 0, 1, 2, 127),
});

test('it says what a plain array says, after any fills', () => {
  fc.assert(
    fc.property(
      fc.array(fill, { maxLength: 40 }),
      fc.array(fc.tuple(fc.nat(CAPACITY), fc.nat(CAPACITY)), { minLength: 1, maxLength: 20 }),
      (fills, ranges) => {
        const state = createSharedByteMap(CAPACITY);
        const maps = [new SharedByteMap(state), new SharedByteMap(state)];
        const naive = new Uint8Array(CAPACITY);
        for (const [i, { start, length, value }] of fills.entries()) {
          const end = Math.min(CAPACITY, start + length);
          if (length === 1 && start < end) maps[i % 2]!.set(start, value);
          else maps[i % 2]!.fill(start, end, value);
          naive.fill(value, start, end);
        }
        const [map] = maps;
        expect(Uint8Array.from(naive, (_, at) => map!.get(at))).toEqual(naive);
        for (const [one, other] of ranges) {
          const [start, end] = [Math.min(one, other), Math.max(one, other)];
          for (const value of [0, 1, 127]) {
            const part = naive.subarray(start, end);
            const found = part.indexOf(value);
            expect(map!.find(value, start, end)).toBe(found < 0 ? -1 : start + found);
            const different = part.findIndex((byte) => byte !== value);
            expect(map!.findOther(value, start, end)).toBe(different < 0 ? -1 : start + different);
          }
        }
      },
    ),
    { numRuns: 60 },
  );
});

test('a run of any length, and the tables of 16 TiB, take little memory', () => {
  const state = createSharedByteMap(2 ** 29);
  const map = new SharedByteMap(state);
  map.fill(5, 2 ** 29 - 5, 3);
  expect(state.units.byteLength).toBeLessThan(8192);
  expect(map.get(2 ** 28)).toBe(3);
  map.fill(0, 2 ** 29, 0);
  for (let table = 0; table < 2 ** 28; table += 8192) map.fill(table, table + 1, 1);
  expect(state.units.byteLength).toBeLessThan(24 * 2 ** 20);
});

test('what was given back is used again', () => {
  const state = createSharedByteMap(2 ** 20);
  const map = new SharedByteMap(state);
  for (let round = 0; round < 1000; round++) {
    for (let at = 0; at < 64; at += 2) map.fill(at * 64, at * 64 + 1, 1);
    map.fill(0, 4096, round % 2);
  }
  expect(state.units.byteLength).toBeLessThan(2 ** 14);
});

test('a map has no more bytes than its capacity', () => {
  const map = new SharedByteMap(createSharedByteMap(100));
  map.fill(90, 100, 2);
  expect(map.get(100)).toBe(0);
  expect(map.get(2 ** 29)).toBe(0);
  expect(() => map.fill(99, 101, 1)).toThrow('capacity');
  expect(new SharedByteMap(createSharedByteMap(0)).find(1, 0, 1000)).toBe(-1);
});
