// 64-bit fields, rounding and bitmaps against naive BigInt formulas.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  combine,
  decimalWords,
  divideWords,
  hexWords,
  readU64BE,
  readU64LE,
  writeU64BE,
  writeU64LE,
} from '../../../src/bytes/endian.ts';
import {
  after,
  divideUp,
  type GuestOffset,
  guestOffset,
  type HostOffset,
  hex,
  hostOffset,
  isPowerOfTwo,
  isSafeOffset,
  remainder,
  roundDown,
  roundUp,
} from '../../../src/bytes/offsets.ts';
import { SparseBitmap } from '../../../src/bytes/sparse-bitmap.ts';

const MAX = Number.MAX_SAFE_INTEGER;
const safe = fc.oneof(
  fc.maxSafeNat(),
  fc.nat(),
  fc.nat(53).chain((bits) => fc.integer({ min: -2, max: 2 }).map((off) => Math.max(0, Math.min(MAX, 2 ** bits + off)))),
);
const u64 = fc.oneof(
  fc.bigInt(0n, 2n ** 64n - 1n),
  safe.map(BigInt),
  fc.constantFrom(2n ** 53n - 1n, 2n ** 53n, 2n ** 64n - 1n),
);
const word = fc.integer({ min: 0, max: 0xffffffff });

describe('a 64-bit field', () => {
  test('reads as its value, or as NaN where that is no safe integer', () => {
    fc.assert(
      fc.property(u64, fc.nat(9), (value, offset) => {
        const view = new DataView(new ArrayBuffer(24));
        const wanted = value <= BigInt(MAX) ? Number(value) : Number.NaN;
        view.setBigUint64(offset, value, true);
        expect(readU64LE(view, offset)).toBe(wanted);
        view.setBigUint64(offset, value, false);
        expect(readU64BE(view, offset)).toBe(wanted);
      }),
    );
  });

  test('is written in its eight bytes and no others', () => {
    fc.assert(
      fc.property(safe, fc.nat(9), (value, offset) => {
        for (const [write, little] of [
          [writeU64LE, true],
          [writeU64BE, false],
        ] as const) {
          const view = new DataView(new ArrayBuffer(24));
          write(view, offset, value);
          expect(view.getBigUint64(offset, little)).toBe(BigInt(value));
          view.setBigUint64(offset, 0n);
          expect(new Uint8Array(view.buffer).every((byte) => byte === 0)).toBe(true);
        }
      }),
    );
  });

  test('is divided exactly, beyond what a number says', () => {
    const divisor = fc.integer({ min: 2 ** 11, max: 2 ** 32 });
    fc.assert(
      fc.property(u64, divisor, (value, by) => {
        const [high, low] = [Number(value >> 32n), Number(value & 0xffffffffn)];
        const { quotient, remainder } = divideWords(high, low, by);
        expect([BigInt(quotient), BigInt(remainder)]).toEqual([value / BigInt(by), value % BigInt(by)]);
        expect(decimalWords(high, low)).toBe(String(value));
      }),
    );
  });

  test('combines from two words as BigInt does', () => {
    fc.assert(
      fc.property(word, word, (high, low) => {
        const value = (BigInt(high) << 32n) | BigInt(low);
        expect(combine(high, low)).toBe(value <= BigInt(MAX) ? Number(value) : Number.NaN);
        expect(hexWords(high, low)).toBe(`0x${value.toString(16)}`);
        expect(decimalWords(high, low)).toBe(String(value));
      }),
    );
  });
});

describe('offsets', () => {
  test('have the remainder of a power of two that BigInt computes', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), fc.integer({ min: 0, max: 52 }), (value, bits) => {
        expect(BigInt(remainder(value, 2 ** bits))).toBe(BigInt(value) % 2n ** BigInt(bits));
      }),
    );
    expect(remainder(Number.MAX_SAFE_INTEGER, 2 ** 21)).toBe(2 ** 21 - 1);
    expect(remainder(Number.NaN, 512)).toBe(Number.NaN);
  });

  const unit = fc.oneof(
    fc.nat(30).map((bits) => 2 ** bits),
    fc.integer({ min: 1, max: 1_000_000 }),
  );
  const below = safe.filter((value) => value < MAX - 2 ** 31);

  test('round down and up to a unit, and divide upwards, as BigInt does', () => {
    fc.assert(
      fc.property(below, unit, (value, by) => {
        const [v, u] = [BigInt(value), BigInt(by)];
        expect(BigInt(roundDown(value, by))).toBe((v / u) * u);
        expect(BigInt(roundUp(value, by))).toBe(((v + u - 1n) / u) * u);
      }),
    );
    fc.assert(
      fc.property(fc.nat(2 ** 31 - 1), unit, (value, by) => {
        expect(divideUp(value, by)).toBe(Number((BigInt(value) + BigInt(by) - 1n) / BigInt(by)));
      }),
    );
  });

  test('are powers of two exactly where BigInt has one bit set', () => {
    fc.assert(
      fc.property(safe, (value) => {
        const bits = [...BigInt(value).toString(2)].filter((digit) => digit === '1').length;
        expect(isPowerOfTwo(value)).toBe(bits === 1);
      }),
    );
    for (let bits = 0; bits < 53; bits++) {
      expect(isPowerOfTwo(2 ** bits)).toBe(true);
      if (bits > 1) expect(isPowerOfTwo(2 ** bits - 1)).toBe(false);
      if (bits > 0) expect(isPowerOfTwo(2 ** bits + 1)).toBe(bits === 0);
    }
    for (const bad of [0, -1, -2, 0.5, 1.5, Number.NaN, Number.POSITIVE_INFINITY])
      expect(isPowerOfTwo(bad)).toBe(false);
  });

  test('are safe only as integers from 0 to 2^53 - 1', () => {
    for (const good of [0, 1, MAX]) expect(isSafeOffset(good)).toBe(true);
    for (const bad of [
      -1,
      0.5,
      MAX + 1,
      Number.NaN,
      Number.POSITIVE_INFINITY,
      5n as unknown as number,
      '5' as unknown as number,
    ]) {
      expect(isSafeOffset(bad)).toBe(false);
    }
  });

  test('are printed in hexadecimal', () => {
    expect([hex(0), hex(255), hex(2 ** 40)]).toEqual(['0x0', '0xff', '0x10000000000']);
  });
});

describe('a sparse bitmap', () => {
  const bit = fc.oneof(fc.nat(70), fc.nat(200_000), fc.constantFrom(65_535, 65_536, 131_071, 131_072));

  test('holds what a set holds, and its gaps are what a set lacks', () => {
    fc.assert(
      fc.property(fc.array(bit, { maxLength: 60 }), fc.nat(210_000), (bits, limit) => {
        const bitmap = new SparseBitmap();
        const set = new Set<number>();
        for (const each of bits) {
          expect(bitmap.add(each)).toBe(!set.has(each));
          set.add(each);
        }
        expect(bitmap.count).toBe(set.size);
        for (const each of bits) expect([bitmap.has(each), bitmap.has(each + 1)]).toEqual([true, set.has(each + 1)]);
        const gaps = [...bitmap.gaps(limit)];
        const inside = [...set].filter((each) => each < limit).sort((a, b) => a - b);
        const wanted: { start: number; end: number }[] = [];
        let start = 0;
        for (const each of [...inside, limit]) {
          if (each > start) wanted.push({ start, end: each });
          start = each + 1;
        }
        expect(gaps).toEqual(wanted);
      }),
    );
  });

  test('takes memory for its pages only: bits at 2^40 cost nothing in between', () => {
    const bitmap = new SparseBitmap();
    bitmap.add(0);
    bitmap.add(2 ** 40);
    expect([bitmap.has(2 ** 40), bitmap.has(2 ** 40 - 1), bitmap.count]).toEqual([true, false, 2]);
  });
});

test('an offset further on is of the same kind, and a guest offset is no host offset', () => {
  const place = (host: HostOffset, guest: GuestOffset) => [host, guest];
  const [host, guest] = [after(hostOffset(4096), 512), after(guestOffset(2 ** 40), 1)];
  expect(place(host, guest)).toEqual([4608, 2 ** 40 + 1]);
  // @ts-expect-error the two are swapped, and the compiler sees it
  expect(place(guest, host)).toEqual([2 ** 40 + 1, 4608]);
});
