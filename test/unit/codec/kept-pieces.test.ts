// The cache of decompressed pieces: what it keeps, and that it is bounded in bytes.

import { expect, test } from 'vitest';
import { KeptPieces } from '../../../src/codec/kept-pieces.ts';

/** The lengths of the kept pieces of some keys. */
const lengths = (kept: KeptPieces, ...keys: number[]): (number | undefined)[] =>
  keys.map((key) => kept.get(key)?.length);

test('the last pieces are kept, and the oldest make room', () => {
  const kept = new KeptPieces(10);
  kept.put(1, new Uint8Array(4));
  kept.put(2, new Uint8Array(6));
  expect(lengths(kept, 1, 2)).toEqual([4, 6]);
  kept.put(3, new Uint8Array(5));
  expect(lengths(kept, 1, 2, 3)).toEqual([undefined, undefined, 5]);
  kept.put(4, new Uint8Array(5));
  expect(lengths(kept, 3, 4)).toEqual([5, 5]);
  kept.put(5, new Uint8Array(1));
  expect(lengths(kept, 3, 4, 5)).toEqual([undefined, 5, 1]);
});

test('a piece that is larger than all that may be kept is kept alone', () => {
  const kept = new KeptPieces(10);
  kept.put(1, new Uint8Array(10));
  kept.put(2, new Uint8Array(11));
  expect(lengths(kept, 1, 2)).toEqual([undefined, 11]);
  kept.put(3, new Uint8Array(1));
  expect(lengths(kept, 1, 2, 3)).toEqual([undefined, undefined, 1]);
});

test('a key has one piece, the last one', () => {
  const kept = new KeptPieces(10);
  kept.put(1, new Uint8Array(6));
  kept.put(1, new Uint8Array(5));
  kept.put(2, new Uint8Array(5));
  expect(lengths(kept, 1, 2)).toEqual([5, 5]);
});
