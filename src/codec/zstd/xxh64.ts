// XXH64. The low half of this hash is the checksum of a zstd frame. 64-bit numbers are pairs of 32-bit words here.

/** high and low word of each 64-bit number, side by side */
type Words = Int32Array;

const PRIME_1 = [0x9e3779b1, 0x85ebca87] as const;
const PRIME_2 = [0xc2b2ae3d, 0x27d4eb4f] as const;
const PRIME_3 = [0x165667b1, 0x9e3779f9] as const;
const PRIME_4 = [0x85ebca77, 0xc2b2ae63] as const;
const PRIME_5 = [0x27d4eb2f, 0x165667c5] as const;
type Prime = readonly [high: number, low: number];

const STRIPE_BYTES = 32;

function add(words: Words, at: number, high: number, low: number): void {
  const sum = (words[at + 1]! >>> 0) + (low >>> 0);
  words[at] = words[at]! + high + (sum > 0xffffffff ? 1 : 0);
  words[at + 1] = sum;
}

function xor(words: Words, at: number, high: number, low: number): void {
  words[at] = words[at]! ^ high;
  words[at + 1] = words[at + 1]! ^ low;
}

function multiply(words: Words, at: number, [primeHigh, primeLow]: Prime): void {
  const high = words[at]!;
  const low = words[at + 1]!;
  // the high half of low * primeLow, from 16-bit parts
  const a0 = low & 0xffff;
  const a1 = low >>> 16;
  const b0 = primeLow & 0xffff;
  const b1 = primeLow >>> 16;
  const middle = ((a0 * b0) >>> 16) + ((a1 * b0) & 0xffff) + ((a0 * b1) & 0xffff);
  const carried = a1 * b1 + ((a1 * b0) >>> 16) + ((a0 * b1) >>> 16) + (middle >>> 16);
  words[at] = carried + Math.imul(high, primeLow) + Math.imul(low, primeHigh);
  words[at + 1] = Math.imul(low, primeLow);
}

/** @param bits 1 to 31 */
function rotate(words: Words, at: number, bits: number): void {
  const high = words[at]!;
  const low = words[at + 1]!;
  words[at] = (high << bits) | (low >>> (32 - bits));
  words[at + 1] = (low << bits) | (high >>> (32 - bits));
}

/** @param bits 1 to 63 */
function shiftXor(words: Words, at: number, bits: number): void {
  const high = words[at]!;
  const low = words[at + 1]!;
  if (bits < 32) xor(words, at, high >>> bits, (low >>> bits) | (high << (32 - bits)));
  else xor(words, at, 0, bits === 32 ? high : high >>> (bits - 32));
}

/** Mixes eight bytes of input into a lane. */
function round(words: Words, at: number, high: number, low: number): void {
  scratch[0] = high;
  scratch[1] = low;
  multiply(scratch, 0, PRIME_2);
  add(words, at, scratch[0]!, scratch[1]!);
  rotate(words, at, 31);
  multiply(words, at, PRIME_1);
}
const scratch = new Int32Array(2);
const lane = new Int32Array(2);

/** The low 32 bits of XXH64 with seed 0 over `source`. */
export function xxh64Low(source: Uint8Array): number {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  const hash = new Int32Array(2);
  let at = 0;
  if (source.length >= STRIPE_BYTES) at = hashStripes(view, hash);
  else add(hash, 0, ...PRIME_5);
  add(hash, 0, Math.floor(source.length / 2 ** 32), source.length);
  for (; at + 8 <= source.length; at += 8) {
    lane.fill(0);
    round(lane, 0, view.getInt32(at + 4, true), view.getInt32(at, true));
    xor(hash, 0, lane[0]!, lane[1]!);
    rotate(hash, 0, 27);
    multiply(hash, 0, PRIME_1);
    add(hash, 0, ...PRIME_4);
  }
  if (at + 4 <= source.length) {
    lane[0] = 0;
    lane[1] = view.getInt32(at, true);
    multiply(lane, 0, PRIME_1);
    xor(hash, 0, lane[0]!, lane[1]!);
    rotate(hash, 0, 23);
    multiply(hash, 0, PRIME_2);
    add(hash, 0, ...PRIME_3);
    at += 4;
  }
  for (; at < source.length; at++) {
    lane[0] = 0;
    lane[1] = source[at]!;
    multiply(lane, 0, PRIME_5);
    xor(hash, 0, lane[0]!, lane[1]!);
    rotate(hash, 0, 11);
    multiply(hash, 0, PRIME_1);
  }
  shiftXor(hash, 0, 33);
  multiply(hash, 0, PRIME_2);
  shiftXor(hash, 0, 29);
  multiply(hash, 0, PRIME_3);
  shiftXor(hash, 0, 32);
  return hash[1]! >>> 0;
}

/** Hashes all whole stripes of 32 bytes with four lanes and merges the lanes into `hash`. @returns bytes hashed */
function hashStripes(view: DataView, hash: Words): number {
  const lanes = new Int32Array(8);
  add(lanes, 0, ...PRIME_1);
  add(lanes, 0, ...PRIME_2);
  add(lanes, 2, ...PRIME_2);
  subtractPrime1(lanes, 6);
  const end = view.byteLength - (view.byteLength % STRIPE_BYTES);
  for (let at = 0; at < end; at += STRIPE_BYTES) {
    for (let i = 0; i < 4; i++)
      round(lanes, 2 * i, view.getInt32(at + 8 * i + 4, true), view.getInt32(at + 8 * i, true));
  }
  const turns = [1, 7, 12, 18];
  for (let i = 0; i < 4; i++) {
    lane.set(lanes.subarray(2 * i, 2 * i + 2));
    rotate(lane, 0, turns[i]!);
    add(hash, 0, lane[0]!, lane[1]!);
  }
  for (let i = 0; i < 4; i++) {
    lane.fill(0);
    round(lane, 0, lanes[2 * i]!, lanes[2 * i + 1]!);
    xor(hash, 0, lane[0]!, lane[1]!);
    multiply(hash, 0, PRIME_1);
    add(hash, 0, ...PRIME_4);
  }
  return end;
}

/** Subtracts prime 1 from a lane that is 0: the result is the two's complement of the prime. */
function subtractPrime1(words: Words, at: number): void {
  const [high, low] = PRIME_1;
  words[at] = ~high;
  words[at + 1] = ~low;
  add(words, at, 0, 1);
}
