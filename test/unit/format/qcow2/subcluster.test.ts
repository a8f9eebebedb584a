// Subcluster bitmaps against naive BigInt formulas over the 64-bit bitmap of the specification.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import {
  checkSubclusters,
  DATA_BITMAP,
  type SubclusterBitmap,
  type SubclusterStatus,
  subclusterFault,
  subclusterMask,
  subclusterRunLength,
  subclusterRuns,
  subclusterStatus,
  subclustersTouched,
  UNALLOCATED_BITMAP,
  withSubclusters,
  ZERO_BITMAP,
} from '../../../../src/format/qcow2/subcluster.ts';

/** The u64 as it stands in the image. */
function asBig({ allocated, zero }: SubclusterBitmap): bigint {
  return (BigInt(zero) << 32n) | BigInt(allocated);
}

function naiveStatus(bits: bigint, index: number): SubclusterStatus {
  if ((bits >> BigInt(index)) & 1n) return 'data';
  return (bits >> BigInt(32 + index)) & 1n ? 'zero' : 'unallocated';
}

/** Words with long runs of equal bits are as likely as random ones. */
const word = fc.oneof(
  fc.nat({ max: 0xffffffff }),
  fc.constantFrom(0, 0xffffffff, 1, 0x80000000, 0x7fffffff, 0xffff0000),
  fc.tuple(fc.nat({ max: 31 }), fc.nat({ max: 31 })).map(([up, down]) => ((0xffffffff >>> up) << down) >>> 0),
);
const validBitmap = fc
  .tuple(word, word)
  .map(([allocated, zero]): SubclusterBitmap => ({ allocated, zero: (zero & ~allocated) >>> 0 }));
const range = fc
  .tuple(fc.nat({ max: 32 }), fc.nat({ max: 32 }))
  .map(([a, b]) => ({ first: Math.min(a, b), count: Math.abs(a - b) }));
const status = fc.constantFrom<SubclusterStatus>('data', 'zero', 'unallocated');

describe('subcluster bitmaps', () => {
  test('a mask is the naive one for every range', () => {
    for (let first = 0; first <= 32; first++) {
      for (let count = 0; first + count <= 32; count++) {
        const naive = ((1n << BigInt(count)) - 1n) << BigInt(first);
        expect(subclusterMask(first, count), `${first}+${count}`).toBe(Number(naive));
      }
    }
  });

  test('a range beyond the 32 subclusters is a programmer error', () => {
    expect(() => subclusterMask(1, 32)).toThrow(/assertion/);
    expect(() => subclusterMask(-1, 2)).toThrow(/assertion/);
    expect(() => subclusterRunLength(DATA_BITMAP, 32)).toThrow(/assertion/);
  });

  test('each subcluster has the status of its two bits', () => {
    fc.assert(
      fc.property(validBitmap, fc.nat({ max: 31 }), (bitmap, index) => {
        expect(subclusterStatus(bitmap, index)).toBe(naiveStatus(asBig(bitmap), index));
      }),
    );
  });

  test('a run ends where the status changes and not before', () => {
    fc.assert(
      fc.property(validBitmap, fc.nat({ max: 31 }), (bitmap, index) => {
        const bits = asBig(bitmap);
        let end = index + 1;
        while (end < 32 && naiveStatus(bits, end) === naiveStatus(bits, index)) end++;
        expect(subclusterRunLength(bitmap, index)).toBe(end - index);
      }),
      { numRuns: 2000 },
    );
  });

  test('the runs of a range cover it in order, and neighbours differ', () => {
    fc.assert(
      fc.property(validBitmap, range, (bitmap, { first, count }) => {
        const runs = subclusterRuns(bitmap, first, count);
        const flat = runs.flatMap((run) => Array.from({ length: run.count }, (_, i) => [run.first + i, run.status]));
        const naive = Array.from({ length: count }, (_, i) => [first + i, naiveStatus(asBig(bitmap), first + i)]);
        expect(flat).toEqual(naive);
        for (let i = 1; i < runs.length; i++) expect(runs[i]!.status).not.toBe(runs[i - 1]!.status);
      }),
      { numRuns: 1000 },
    );
  });

  test('setting a range changes its bits and no other, and never leaves both bits', () => {
    fc.assert(
      fc.property(validBitmap, range, status, (bitmap, { first, count }, wanted) => {
        const mask = ((1n << BigInt(count)) - 1n) << BigInt(first);
        const both = mask | (mask << 32n);
        const set = wanted === 'data' ? mask : wanted === 'zero' ? mask << 32n : 0n;
        const changed = withSubclusters(bitmap, first, count, wanted);
        expect(asBig(changed)).toBe((asBig(bitmap) & ~both) | set);
        expect(subclusterFault(changed, true)).toBeNull();
      }),
      { numRuns: 1000 },
    );
  });

  test('the bytes of a request touch the subclusters that a walk byte by byte finds', () => {
    const request = fc
      .tuple(fc.constantFrom(16384, 65536), fc.nat(), fc.nat())
      .map(([size, a, b]) => ({ size, start: a % size, length: 1 + (b % (size - (a % size))) }));
    fc.assert(
      fc.property(request, ({ size, start, length }) => {
        const bytes = size / 32;
        const touched: number[] = [];
        for (let i = 0; i < 32; i++) {
          if (start < (i + 1) * bytes && start + length > i * bytes) touched.push(i);
        }
        expect(indices(subclustersTouched(start, length, size))).toEqual(touched);
      }),
      { numRuns: 2000 },
    );
  });

  test('the constants are whole clusters of one status', () => {
    expect(subclusterRuns(UNALLOCATED_BITMAP, 0, 32)).toEqual([{ first: 0, count: 32, status: 'unallocated' }]);
    expect(subclusterRuns(ZERO_BITMAP, 0, 32)).toEqual([{ first: 0, count: 32, status: 'zero' }]);
    expect(subclusterRuns(DATA_BITMAP, 0, 32)).toEqual([{ first: 0, count: 32, status: 'data' }]);
  });
});

function indices({ first, count }: { first: number; count: number }): number[] {
  return Array.from({ length: count }, (_, i) => first + i);
}

describe('a damaged subcluster bitmap', () => {
  test('has a subcluster with both bits, which is named', () => {
    fc.assert(
      fc.property(word, word, (allocated, zero) => {
        const both = BigInt(allocated) & BigInt(zero);
        const fault = subclusterFault({ allocated, zero }, true);
        const lowest = Array.from({ length: 32 }, (_, i) => i).find((i) => ((both >> BigInt(i)) & 1n) === 1n);
        if (lowest === undefined) expect(fault).toBeNull();
        else expect(fault).toContain(`subcluster ${lowest} `);
      }),
      { numRuns: 1000 },
    );
  });

  test('has data where the cluster has no host offset', () => {
    expect(subclusterFault({ allocated: 0x80000000, zero: 0 }, false)).toContain('subcluster 31 ');
    expect(subclusterFault({ allocated: 0, zero: 0xffffffff }, false)).toBeNull();
    expect(subclusterFault({ allocated: 0x80000000, zero: 0x7fffffff }, true)).toBeNull();
  });

  test('is refused with the file and the offset of the entry', () => {
    const check = () => checkSubclusters({ allocated: 6, zero: 4 }, true, { path: '/disk.qcow2', offset: 262144 });
    expect(check).toThrow(ImgfuseError);
    expect(check).toThrow('/disk.qcow2: the L2 entry at offset 262144 is damaged: subcluster 2 is marked both');
    expect(() => checkSubclusters({ allocated: 6, zero: 8 }, true)).not.toThrow();
  });
});
