// A seeded source of random numbers, so that a failure can be run again.

/** Mulberry32. @returns a function that gives 0 <= x < 1 */
export function seededRandom(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** A seed made of numbers of which each changes all of its bits. */
export function seedOf(...numbers: readonly number[]): number {
  let seed = 0;
  for (const number of numbers) {
    seed = Math.imul(seed ^ (number >>> 0) ^ Math.floor(number / 2 ** 32), 0x9e3779b1) + 0x7f4a7c15;
    seed = Math.imul(seed ^ (seed >>> 16), 0x85ebca6b);
    seed ^= seed >>> 13;
  }
  return seed >>> 0;
}
