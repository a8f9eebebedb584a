// Reading the facts of a clean close (image-format.ts), which may be anything.

import type { ClosedFacts } from './image-format.ts';

/** The number of that name, if it is a whole number from 0 to `most`. */
export function countOf(facts: ClosedFacts, name: string, most: number): number | null {
  const value = facts[name];
  return isCount(value, most) ? value : null;
}

/** The pairs of that name: each a place below `places` with a count from 1 to `most`. null if it is anything else. */
export function pairsOf(
  facts: ClosedFacts,
  name: string,
  places: number,
  most: number,
): readonly (readonly [place: number, count: number])[] | null {
  const value = facts[name];
  if (!Array.isArray(value) || value.length > places) return null;
  const isPair = (pair: unknown): pair is [number, number] =>
    Array.isArray(pair) && pair.length === 2 && isCount(pair[0], places - 1) && isCount(pair[1], most) && pair[1] > 0;
  return value.every(isPair) ? value : null;
}

function isCount(value: unknown, most: number): value is number {
  return typeof value === 'number' && Number.isSafeInteger(value) && value >= 0 && value <= most;
}
