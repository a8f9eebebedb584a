// The sparse bitmap against a plain set: bits in its directory and beyond it, one by one and in runs; and what it costs.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { PAGE_BITS, SparseBitmap } from '../../../src/bytes/sparse-bitmap.ts';

/** In the first pages, on both sides of the directory's end, and far away. */
const bit = fc.oneof(fc.nat(600), fc.integer({ min: 1900, max: 2700 }), fc.constantFrom(2 ** 40, 2 ** 44 - 700));
const count = fc.oneof(fc.nat(3), fc.nat(70), fc.constantFrom(32, 255, 256, 257, 600));

test('holds what a set holds, whatever is added and removed in runs', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(0, 100, 2100),
      fc.array(fc.tuple(bit, count, fc.boolean()), { maxLength: 30 }),
      bit,
      count,
      (expected, steps, first, length) => {
        const bitmap = new SparseBitmap(expected);
        const set = new Set<number>();
        for (const [start, run, adds] of steps) {
          if (adds) bitmap.addRun(start, run);
          else bitmap.removeRun(start, run);
          for (let each = start; each < start + run; each++) adds ? set.add(each) : set.delete(each);
        }
        expect(bitmap.count).toBe(set.size);
        const inside = Array.from({ length }, (_, i) => first + i);
        expect(inside.map((each) => bitmap.has(each))).toEqual(inside.map((each) => set.has(each)));
        expect(bitmap.hasAny(first, length)).toBe(inside.some((each) => set.has(each)));
        expect(bitmap.hasAll(first, length)).toBe(inside.every((each) => set.has(each)));
        const last = inside.findLast((each) => set.has(each));
        expect(bitmap.endOfLast(first, first + length)).toBe(last === undefined ? first : last + 1);
        const pages = [...new Set([...set].map((each) => Math.floor(each / PAGE_BITS)))].sort((a, b) => a - b);
        const found: number[] = [];
        for (let page = bitmap.nextPage(0); Number.isFinite(page); page = bitmap.nextPage(page + 1)) found.push(page);
        expect(found).toEqual(pages);
      },
    ),
  );
});

test('the gaps between full pages, empty pages and single bits are what the set lacks', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.nat(2600), count), { maxLength: 12 }), fc.nat(3000), (runs, limit) => {
      const bitmap = new SparseBitmap(1000);
      const set = new Set<number>();
      for (const [start, run] of runs) {
        bitmap.addRun(start, run);
        for (let each = start; each < start + run; each++) set.add(each);
      }
      const lacking: number[] = [];
      for (const { start, end } of bitmap.gaps(limit)) {
        expect(end).toBeGreaterThan(start);
        for (let each = start; each < end; each++) lacking.push(each);
      }
      expect(lacking).toEqual(Array.from({ length: limit }, (_, each) => each).filter((each) => !set.has(each)));
    }),
  );
});

test('full pages take no memory, in whatever order they fill', () => {
  const bits = 2 ** 20;
  const bitmap = new SparseBitmap(bits);
  bitmap.addRun(3, bits - 3);
  const inRuns = bitmap.rowBytes;
  const scattered = new SparseBitmap(bits);
  let most = 0;
  for (let i = 0; i < bits; i++) {
    scattered.add((i * 40_503) % bits);
    most = Math.max(most, scattered.rowBytes);
  }
  expect(scattered.count).toBe(bits);
  expect(scattered.hasAll(0, bits)).toBe(true);
  // a row that is no longer needed serves the next page
  expect(inRuns).toBeLessThan(1024);
  expect(most).toBeLessThan(bits / 8 + 1024);
});
