// CRC-32C by the check value of its definition, and piece by piece.

import { expect, test } from 'vitest';
import { crc32c } from '../../../src/codec/crc32c.ts';

test.each([
  ['', 0],
  ['123456789', 0xe3069283],
  ['a', 0xc1d04330],
  ['\0'.repeat(32), 0x8a9136aa],
])('of %j', (text, wanted) => {
  expect(crc32c(Buffer.from(text, 'latin1'))).toBe(wanted);
});

test('of pieces is that of the whole', () => {
  const bytes = Buffer.from(Array.from({ length: 1000 }, (_, i) => (i * 7) & 0xff));
  for (const cut of [0, 1, 500, 999, 1000])
    expect(crc32c(bytes.subarray(cut), crc32c(bytes.subarray(0, cut)))).toBe(crc32c(bytes));
});

test('of any length, from anywhere, is that of its bits', () => {
  const bytes = Buffer.from(Array.from({ length: 64 }, (_, i) => (i * 151 + (i >> 2)) & 0xff));
  for (let start = 0; start < 9; start++) {
    for (let end = start; end <= bytes.length; end++) {
      let wanted = 0xffffffff;
      for (const byte of bytes.subarray(start, end)) {
        wanted ^= byte;
        for (let bit = 0; bit < 8; bit++) wanted = (wanted >>> 1) ^ ((wanted & 1) === 0 ? 0 : 0x82f63b78);
      }
      expect(crc32c(bytes.subarray(start, end))).toBe(~wanted >>> 0);
    }
  }
});
