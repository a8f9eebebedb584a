// Which known word a mistyped one is taken for.

import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { didYouMean, nearestWord } from '../../../src/errors/index.ts';
import { editDistance } from '../../../src/errors/suggest.ts';

describe('editDistance', () => {
  it('counts letters that are left out, added, replaced or exchanged with their neighbour', () => {
    const cases: [string, string, number][] = [
      ['', '', 0],
      ['', 'abc', 3],
      ['mont', 'mount', 1],
      ['mounnt', 'mount', 1],
      ['maunt', 'mount', 1],
      ['muont', 'mount', 1],
      ['tnuom', 'mount', 4],
    ];
    for (const [a, b, distance] of cases) expect(editDistance(a, b), `${a} ${b}`).toBe(distance);
  });
  it('is 0 for the same words only, the same both ways, and no more than the longer word', () => {
    const word = fc.string({ unit: fc.constantFrom('a', 'b', 'c'), maxLength: 8 });
    fc.assert(
      fc.property(word, word, (a, b) => {
        const distance = editDistance(a, b);
        expect(distance === 0).toBe(a === b);
        expect(editDistance(b, a)).toBe(distance);
        expect(distance).toBeLessThanOrEqual(Math.max(a.length, b.length));
        expect(distance).toBeGreaterThanOrEqual(Math.abs(a.length - b.length));
      }),
    );
  });
});

describe('nearestWord', () => {
  const known = ['mount', 'unmount', 'umount', 'status', 'create', 'key_file', 'read-only', 'map'];
  it('takes dashes, underscores and capitals for the same, and an abbreviation for its word', () => {
    expect(nearestWord('key-file', known)).toBe('key_file');
    expect(nearestWord('readonly', known)).toBe('read-only');
    expect(nearestWord('MOUNT', known)).toBe('mount');
    expect(nearestWord('stat', known)).toBe('status');
  });
  it('says nothing where nothing is near', () => {
    for (const word of ['', 'x', 'zz', 'frobnicate', 'toString'])
      expect(nearestWord(word, known), word).toBeUndefined();
    expect(nearestWord('mount', [])).toBeUndefined();
    expect(didYouMean('frobnicate', known)).toBe('');
    expect(didYouMean('maps', known)).toBe('; did you mean "map"?');
  });
});
