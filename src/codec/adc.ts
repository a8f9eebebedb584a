// Apple Data Compression, the oldest codec of dmg images: literals, and matches with everything before them.
//
//   1nnnnnnn                       n + 1 literals follow
//   01nnnnnn dddddddd dddddddd     n + 4 bytes from d + 1 bytes back
//   00nnnndd dddddddd              n + 3 bytes from d + 1 bytes back
//
// Invariant: memory is the output, and every step consumes input and produces output.

import { copyMatch } from './copy-match.ts';
import { DamagedData } from './damaged-data.ts';

/** @returns exactly `length` bytes @throws DamagedData if `source` is damaged or has another length */
export function decompressAdc(source: Uint8Array, length: number): Uint8Array {
  const output = new Uint8Array(length);
  let written = 0;
  for (let at = 0; at < source.length; ) {
    const code = source[at]!;
    const isLiteral = (code & 0x80) !== 0;
    const isLong = (code & 0x40) !== 0;
    const count = isLiteral ? (code & 0x7f) + 1 : isLong ? (code & 0x3f) + 4 : (code >> 2) + 3;
    const next = at + (isLiteral ? 1 + count : isLong ? 3 : 2);
    if (next > source.length) throw new DamagedData(`ends after ${written} of ${length} bytes`);
    if (written + count > length) throw new DamagedData(`decompresses to more than ${length} bytes`);
    if (isLiteral) output.set(source.subarray(at + 1, next), written);
    else {
      const back = isLong ? (source[at + 1]! << 8) | source[at + 2]! : ((code & 3) << 8) | source[at + 1]!;
      if (back >= written) throw new DamagedData('has an ADC match before its start');
      copyMatch(output, written, back + 1, count);
    }
    written += count;
    at = next;
  }
  if (written < length) throw new DamagedData(`decompresses to ${written} bytes instead of ${length}`);
  return output;
}
