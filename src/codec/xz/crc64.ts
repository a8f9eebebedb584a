// The CRC-64 of xz (ECMA-182, reflected).

const POLYNOMIAL_HIGH = 0xc96c5795 | 0;
const POLYNOMIAL_LOW = 0xd7870f42 | 0;

/** High and low words of each byte's remainder, one after the other. */
const TABLE = new Int32Array(512);
for (let byte = 0; byte < 256; byte++) {
  let [high, low] = [0, byte];
  for (let bit = 0; bit < 8; bit++) {
    const isOdd = (low & 1) !== 0;
    low = (low >>> 1) | (high << 31);
    high >>>= 1;
    if (isOdd) {
      high ^= POLYNOMIAL_HIGH;
      low ^= POLYNOMIAL_LOW;
    }
  }
  TABLE.set([high, low], 2 * byte);
}

export function crc64(source: Uint8Array): { readonly high: number; readonly low: number } {
  let high = -1;
  let low = -1;
  for (let i = 0; i < source.length; i++) {
    const entry = 2 * ((low ^ source[i]!) & 0xff);
    low = ((low >>> 8) | (high << 24)) ^ TABLE[entry + 1]!;
    high = (high >>> 8) ^ TABLE[entry]!;
  }
  return { high: ~high >>> 0, low: ~low >>> 0 };
}
