// 64-bit fields as JavaScript numbers. A value above 2^53-1 decodes to NaN, so that no unchecked use can look valid.

const HIGH = 2 ** 32;

/** Little-endian u64 at `offset`; NaN if it is not a safe integer. */
export function readU64LE(view: DataView, offset: number): number {
  return combine(view.getUint32(offset + 4, true), view.getUint32(offset, true));
}

/** Big-endian u64 at `offset`; NaN when it is not a safe integer. */
export function readU64BE(view: DataView, offset: number): number {
  return combine(view.getUint32(offset, false), view.getUint32(offset + 4, false));
}

export function writeU64LE(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, value % HIGH, true);
  view.setUint32(offset + 4, Math.floor(value / HIGH), true);
}

export function writeU64BE(view: DataView, offset: number, value: number): void {
  view.setUint32(offset, Math.floor(value / HIGH), false);
  view.setUint32(offset + 4, value % HIGH, false);
}

/** high * 2^32 + low, or NaN if that is not a safe integer. */
export function combine(high: number, low: number): number {
  const value = high * HIGH + low;
  return value <= Number.MAX_SAFE_INTEGER ? value : Number.NaN;
}

/** The decimal digits of a u64 given as two words. */
export function decimalWords(high: number, low: number): string {
  const { quotient, remainder } = divideWords(high, low, 1e9);
  return quotient === 0 ? String(remainder) : `${quotient}${String(remainder).padStart(9, '0')}`;
}

/** A u64 given as two words, divided by a number from 2^11 to 2^32: quotient and remainder are safe integers. */
export function divideWords(high: number, low: number, divisor: number): { quotient: number; remainder: number } {
  let quotient = 0;
  let remainder = 0;
  for (const digit of [high >>> 16, high & 0xffff, low >>> 16, low & 0xffff]) {
    const value = remainder * 65536 + digit;
    quotient = quotient * 65536 + Math.floor(value / divisor);
    remainder = value % divisor;
  }
  return { quotient, remainder };
}

/** The hexadecimal digits of a u64 given as two words, for messages about values that do not fit a number. */
export function hexWords(high: number, low: number): string {
  const digits = high === 0 ? low.toString(16) : high.toString(16) + low.toString(16).padStart(8, '0');
  return `0x${digits}`;
}
