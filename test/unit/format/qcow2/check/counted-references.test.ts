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
  const times = fc.oneof(fc.constantFrom(1, 1, 2, 7), fc.integer({ min: 65530, max: 65540 }), fc.nat(2 ** 40));
  const clusters = fc.oneof(fc.constant(1), fc.nat(700));
  const step = fc.record({ at: cluster, clusters, times, adds: fc.boolean() });
  fc.assert(
    fc.property(
      fc.constantFrom(0, 300, 2 ** 21),
      fc.array(step, { maxLength: 20 }),
      step,
      (expected, steps, looked) => {
        const counts = new CountedReferences(expected);
        const naive = new Map<number, number>();
        for (const { at, clusters: run, times: added, adds } of steps) {
          if (adds && run === 1) counts.add(at, added);
          else if (adds) counts.addRun(at, run, added);
          else counts.set(at, added);
          if (!adds) naive.set(at, added);
          else for (let each = at; each < at + run; each++) naive.set(each, (naive.get(each) ?? 0) + added);
        }
        for (const [at, count] of naive) expect(counts.get(at)).toBe(count);
        const inside = Array.from({ length: looked.clusters }, (_, i) => looked.at + i);
        const wanted = inside.map((each) => naive.get(each) ?? 0);
        const loaded = new Float64Array(inside.length);
        counts.load(looked.at, inside.length, loaded);
        expect([...loaded]).toEqual(wanted);
        for (const count of [0, 1, 2])
          if (counts.areAll(looked.at, inside.length, count)) expect(wanted.every((each) => each === count)).toBe(true);
        if (inside.length > 0 && wanted.every((each) => each === 1))
          expect(counts.areAll(looked.at, inside.length, 1)).toBe(true);
        const last = inside.findLast((_, i) => wanted[i]! > 0);
        expect(counts.usedEnd(looked.at, looked.at + inside.length)).toBe(last === undefined ? looked.at : last + 1);
        const ranges = [...counts.ranges()];
        for (const [at, count] of naive)
          if (count > 0) expect(ranges.some((range) => range.start <= at && at < range.end)).toBe(true);
        expect(ranges.map(({ start }) => start)).toEqual(ranges.map(({ start }) => start).sort((a, b) => a - b));
      },
    ),
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
