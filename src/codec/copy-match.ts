// The copy that every decoder of the LZ77 family makes.

/** Below it a loop is faster than a call. */
const SHORT_MATCH = 32;

/**
 * Repeats `length` bytes from `distance` bytes back at `at`. They may overlap: what is written is repeated as well. The caller
 * has checked that both ranges lie inside `output`.
 */
export function copyMatch(output: Uint8Array, at: number, distance: number, length: number): void {
  if (length >= SHORT_MATCH && distance >= length) {
    output.copyWithin(at, at - distance, at - distance + length);
    return;
  }
  if (length >= SHORT_MATCH && distance === 1) {
    output.fill(output[at - 1]!, at, at + length);
    return;
  }
  for (let i = at; i < at + length; i++) output[i] = output[i - distance]!;
}
