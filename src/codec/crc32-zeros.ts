// The CRC-32 of zlib over zeros, without a walk over them: a run of zeros may be as long as a disk.

/** x^8 modulo the polynomial, the highest power in bit 0 */
const BYTE_STEP = 1 << 23;
const POLYNOMIAL = 0xedb88320;

/** @returns the checksum of data with the checksum `crc` and `count` zero bytes after it */
export function crc32WithZeros(crc: number, count: number): number {
  let register = ~crc;
  let step = BYTE_STEP;
  for (let left = count; left > 0; left = Math.floor(left / 2)) {
    if (left % 2 === 1) register = multiply(register, step);
    step = multiply(step, step);
  }
  return ~register >>> 0;
}

/** The product of two polynomials over GF(2), modulo that of the checksum. */
function multiply(a: number, b: number): number {
  let product = 0;
  let shifted = b;
  for (let bit = 31; bit >= 0; bit--) {
    if (((a >>> bit) & 1) !== 0) product ^= shifted;
    shifted = (shifted & 1) === 0 ? shifted >>> 1 : (shifted >>> 1) ^ POLYNOMIAL;
  }
  return product;
}
