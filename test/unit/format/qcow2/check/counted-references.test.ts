// Counts of references and the set of numbers below them, against plain maps; and what they cost when every number is far
// from the next.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { NumberIndex } from '../../../../../src/bytes/number-index.ts';
import { CountedReferences } from '../../../../../src/format/qcow2/check/counted-references.ts';

const MIB = 2 ** 20;
/** Near each other, and up to the last cluster of the longest file. */
const cluster = fc.oneof(fc.nat(200), fc.nat(2 ** 20), fc.integer({ min: 0, max: 2 ** 44 - 1 }));

test('a number has the place at which it was first added', () => {
  fc.assert(
    fc.property(fc.array(cluster, { maxLength: 200 }), cluster, (numbers, other) => {
      const index = new NumberIndex();
      const places = new Map<number, number>();
      for (const number of numbers) {
        if (!places.has(number)) places.set(number, places.size);
        expect(index.add(number)).toBe(places.get(number));
      }
      expect(index.size).toBe(places.size);
      for (const [number, place] of places) {
        expect(index.find(number)).toBe(place);
        expect(index.at(place)).toBe(number);
      }
      expect(index.find(other)).toBe(places.get(other) ?? -1);
      expect([...index.sorted()]).toEqual([...places.keys()].sort((a, b) => a - b));
    }),
  );
});

test('numbers that differ in a few bits only do not slow each other down', () => {
  for (const step of [1, 2 ** 9, 2 ** 16, 2 ** 21, 2 ** 32]) {
    const index = new NumberIndex();
    const start = process.cpuUsage();
    for (let i = 0; i < 100_000; i++) index.add(i * step);
    const { user } = process.cpuUsage(start);
    expect(index.size).toBe(100_000);
    expect(user).toBeLessThan(2_000_000);
  }
});

test('references are counted as in a map, whatever their number', () => {
  const times = fc.oneof(fc.constantFrom(1, 2), fc.integer({ min: 65530, max: 65540 }), fc.nat(2 ** 40));
  fc.assert(
    fc.property(fc.array(fc.tuple(cluster, times, fc.boolean())), cluster, cluster, (steps, one, other) => {
      const counts = new CountedReferences();
      const naive = new Map<number, number>();
      for (const [at, count, adds] of steps) {
        naive.set(at, adds ? (naive.get(at) ?? 0) + count : count);
        if (adds) expect(counts.add(at, count)).toBe(naive.get(at));
        else counts.set(at, count);
      }
      for (const [at, count] of naive) expect(counts.get(at)).toBe(count);
      expect(counts.get(one)).toBe(naive.get(one) ?? 0);
      const [start, end] = [Math.min(one, other), Math.max(one, other)];
      const used = [...naive].filter(([at, count]) => count > 0 && at >= start && at < end).map(([at]) => at);
      expect(counts.usedEnd(start, end)).toBe(used.length === 0 ? start : Math.max(...used) + 1);
      const ranges = [...counts.ranges()];
      for (const at of naive.keys()) expect(ranges.some((range) => range.start <= at && at < range.end)).toBe(true);
      expect(ranges.map(({ start: first }) => first)).toEqual(
        ranges.map(({ start: first }) => first).sort((a, b) => a - b),
      );
    }),
  );
});

test('a cluster that is far from all others costs about a hundred bytes', () => {
  const counts = new CountedReferences();
  const before = process.memoryUsage().arrayBuffers;
  const count = 2 ** 16;
  for (let i = 0; i < count; i++) counts.add(i * 4096);
  expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(16 * MIB);
  expect(counts.get((count - 1) * 4096)).toBe(1);
});
