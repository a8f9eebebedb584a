// Random tables against naive formulas in BigInt, written from the rules and not from the parsers.

import fc from 'fast-check';
import { expect, test } from 'vitest';
import { readPartitionTable } from '../../../../src/guest/partitions/index.ts';
import { BufferDisk } from '../../../support/buffer-disk.ts';
import { type Entry, gptDisk, mbrSector, type Slot } from '../../../support/partition-bytes.ts';

/** First and last byte of a partition, as BigInt, by number. */
type Places = Record<number, readonly [bigint, bigint]>;

function placesOf(disk: BufferDisk): Places {
  const { partitions } = readPartitionTable(disk);
  return Object.fromEntries(
    partitions.map(({ number, start, size }) => [number, [BigInt(start), BigInt(start) + BigInt(size) - 1n] as const]),
  );
}

/** A number that is often at an edge. */
const edgy = (...edges: bigint[]) =>
  fc.oneof(
    fc.constantFrom(...edges.flatMap((edge) => [edge - 1n, edge, edge + 1n].filter((value) => value >= 0n))),
    fc.bigInt(0n, edges.at(-1)! * 2n),
  );

test('a GPT shows every entry inside the usable range, and no other', () => {
  const property = fc.property(
    fc.record({
      sectorSize: fc.constantFrom(512n, 1024n, 2048n, 4096n),
      sectors: fc.bigInt(200n, 2n ** 40n),
      tail: fc.bigInt(0n, 511n),
    }),
    fc.gen(),
    ({ sectorSize, sectors, tail }, gen) => {
      const last = sectors - 1n;
      const arraySectors = (128n * 128n) / sectorSize;
      const usable = [2n + arraySectors, last - arraySectors - 1n] as const;
      const entries = Array.from({ length: 8 }, (): Entry | null => {
        if (gen(fc.boolean)) return null;
        return {
          first: gen(() => edgy(...usable)),
          last: gen(() => fc.oneof(edgy(...usable), fc.constant(2n ** 64n - 1n))),
        };
      });
      const disk = gptDisk({ size: Number(sectors * sectorSize + tail), sectorSize: Number(sectorSize), entries });
      const expected: Places = {};
      entries.forEach((entry, index) => {
        if (entry === null) return;
        const [first, end] = [BigInt(entry.first), BigInt(entry.last)];
        if (first < usable[0] || end > usable[1] || first > end) return;
        expected[index + 1] = [first * sectorSize, (end + 1n) * sectorSize - 1n];
      });
      expect(placesOf(disk)).toEqual(expected);
    },
  );
  fc.assert(property, { numRuns: 300 });
});

test('an MBR shows every slot that begins on the disk, cut at its last whole sector', () => {
  const property = fc.property(fc.bigInt(10n, 2n ** 33n), fc.bigInt(0n, 511n), fc.gen(), (sectors, tail, gen) => {
    const slots = Array.from({ length: 4 }, (): Slot => {
      const word = () => Number(gen(() => edgy(0n, sectors, 2n ** 32n - 2n)) % 2n ** 32n);
      return { boot: gen(() => fc.constantFrom(0, 0x80)), type: 0x83, start: word(), size: word() };
    });
    const disk = new BufferDisk(Number(sectors * 512n + tail)).write(0, mbrSector(slots));
    const expected: Places = {};
    slots.forEach(({ start, size }, index) => {
      if (size === 0 || BigInt(start) >= sectors) return;
      const end = BigInt(start) + BigInt(size);
      expected[index + 1] = [BigInt(start) * 512n, (end < sectors ? end : sectors) * 512n - 1n];
    });
    expect(placesOf(disk)).toEqual(expected);
  });
  fc.assert(property, { numRuns: 300 });
});

test('a chain of logical partitions is shown in its order, wherever its records lie', () => {
  const area = { type: 5, start: 1000, size: 100_000 };
  const property = fc.property(
    fc.uniqueArray(fc.integer({ min: 1, max: 990 }), { minLength: 0, maxLength: 40 }),
    fc.array(fc.boolean(), { minLength: 41, maxLength: 41 }),
    (steps, isEmpty) => {
      // one record for each hundred sectors
      const records = [0, ...steps].map((step) => area.start + step * 100);
      const disk = new BufferDisk(64 * 1024 * 1024).write(0, mbrSector([area]));
      const expected: Places = {};
      let number = 5;
      records.forEach((record, index) => {
        const next = records[index + 1];
        const data = isEmpty[index] ? null : { type: 0x83, start: 1, size: 99 };
        const link = next === undefined ? null : { type: 5, start: next - area.start, size: 100 };
        disk.write(record * 512, mbrSector([data, link], 0));
        if (data !== null) expected[number++] = [BigInt(record + 1) * 512n, BigInt(record + 100) * 512n - 1n];
      });
      expect(placesOf(disk)).toEqual(expected);
    },
  );
  fc.assert(property, { numRuns: 200 });
});

test('an answer depends on nothing outside the ranges that it names', () => {
  const property = fc.property(
    fc.constantFrom<'gpt' | 'backup' | 'dos'>('gpt', 'backup', 'dos'),
    fc.gen(),
    (kind, gen) => {
      const size = 4 * 1024 * 1024;
      const disk =
        kind === 'dos'
          ? new BufferDisk(size)
              .write(0, mbrSector([{ type: 5, start: 100, size: 5000 }]))
              .write(
                100 * 512,
                mbrSector(
                  [
                    { type: 0x83, start: 1, size: 9 },
                    { type: 5, start: 50, size: 50 },
                  ],
                  0,
                ),
              )
              .write(150 * 512, mbrSector([{ type: 0x83, start: 1, size: 9 }], 0))
          : gptDisk({ size, entries: [{ first: 100, last: 200 }], ...(kind === 'backup' ? { primary: null } : {}) });
      const before = readPartitionTable(disk);
      for (let count = 0; count < 20; count++) {
        const at = gen(() => fc.integer({ min: 0, max: size - 1 }));
        if (before.looked.some(({ start, end }) => at >= start && at < end)) continue;
        disk.write(at, Uint8Array.of(gen(() => fc.integer({ min: 0, max: 255 }))));
      }
      expect(readPartitionTable(disk)).toEqual(before);
      for (const [index, { start, end }] of before.looked.entries()) {
        expect(start).toBeLessThan(end);
        if (index > 0) expect(start).toBeGreaterThan(before.looked[index - 1]!.end);
      }
    },
  );
  fc.assert(property, { numRuns: 100 });
});
