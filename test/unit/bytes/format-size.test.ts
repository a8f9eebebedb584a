// Sizes for people, against the words of qemu-img.

import { expect, it } from 'vitest';
import { formatSize } from '../../../src/bytes/format-size.ts';

it('sizes are printed as qemu-img prints them', () => {
  const cases: [number, string][] = [
    [0, '0 B'],
    [999, '999 B'],
    [1000, '0.977 KiB'],
    [593920, '580 KiB'],
    [10485760, '10 MiB'],
    [1073741824 * 1.5, '1.5 GiB'],
    [2 ** 50, '1 PiB'],
  ];
  for (const [bytes, text] of cases) expect(formatSize(bytes)).toBe(text);
});
