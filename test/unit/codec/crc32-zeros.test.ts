// The checksum of data with zeros after it, against node:zlib.

import { crc32 } from 'node:zlib';
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { crc32WithZeros } from '../../../src/codec/crc32-zeros.ts';

test('zeros after any data count as node:zlib counts them', () => {
  fc.assert(
    fc.property(fc.uint8Array(), fc.nat({ max: 10_000 }), (data, zeros) => {
      expect(crc32WithZeros(crc32(data), zeros)).toBe(crc32(Buffer.concat([data], data.length + zeros)));
    }),
  );
});

test('a whole disk of zeros takes no time', () => {
  const half = crc32WithZeros(1234, 2 ** 52);
  expect(crc32WithZeros(half, 2 ** 52 - 1)).toBe(crc32WithZeros(1234, 2 ** 53 - 1));
});
