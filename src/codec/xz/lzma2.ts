// LZMA2: chunks of LZMA symbols or of plain bytes, each with a byte of control before it:
//
//   0x00                       the end
//   0x01, 0x02  size u16       plain bytes, one more than the size says; 0x01 empties the dictionary first
//   1rruuuuu    u16, u16       LZMA: decompressed size - 1 (its high bits are uuuuu), compressed size - 1
//                              rr 1 resets the state, 2 also reads new properties, 3 also empties the dictionary
//
// Invariant: memory is the output and tables of fixed size; a limit on chunks makes each of them produce output.

import { assertProductive } from '../block-limit.ts';
import { DamagedData } from '../damaged-data.ts';
import { LzmaDecoder, MAX_LITERAL_BITS, type Properties } from './lzma.ts';

const END = 0x00;
const PLAIN_AFTER_RESET = 0x01;
const PLAIN = 0x02;
const LZMA = 0x80;

/**
 * Decodes the chunks of `source` from `start` on to `output` from `from` on.
 * @returns the ends of both
 */
export function decodeLzma2(
  source: Uint8Array,
  start: number,
  output: Uint8Array,
  from: number,
  dictionaryBytes: number,
): { readonly end: number; readonly written: number } {
  const decoder = new LzmaDecoder(source, output, dictionaryBytes);
  let needsDictionary = true;
  let needsProperties = true;
  let needsState = true;
  let written = from;
  let at = start;
  const u16 = (place: number): number => (source[place]! << 8) | source[place + 1]!;
  for (let chunks = 0; ; chunks++) {
    const control = source[at];
    if (control === undefined) throw cutOff();
    if (control === END) return { end: at + 1, written };
    assertProductive(chunks, output.length);
    const isLzma = control >= LZMA;
    if (!isLzma && control > PLAIN) throw new DamagedData(`has an LZMA2 chunk of the unknown kind ${control}`);
    const reset = isLzma ? (control >> 5) & 3 : 0;
    if (control === PLAIN_AFTER_RESET || reset === 3) {
      decoder.resetDictionary(written);
      needsDictionary = false;
    } else if (needsDictionary) throw new DamagedData('has no dictionary in its first LZMA2 chunk');
    const header = isLzma ? (reset >= 2 ? 6 : 5) : 3;
    if (at + header > source.length) throw cutOff();
    const bytes = (isLzma ? (control & 0x1f) * 0x10000 : 0) + u16(at + 1) + 1;
    const stored = isLzma ? u16(at + 3) + 1 : bytes;
    if (bytes > output.length - written) throw new DamagedData(`decompresses to more than ${output.length} bytes`);
    const data = at + header;
    if (data + stored > source.length) throw cutOff();
    if (isLzma) {
      if (reset >= 2) needsProperties = false;
      if (needsProperties) throw new DamagedData('has an LZMA2 chunk without properties');
      if (reset > 0) needsState = false;
      if (needsState) throw new DamagedData('has an LZMA2 chunk without a state');
      if (reset >= 2) decoder.resetState(propertiesOf(source[at + 5]!));
      else if (reset === 1) decoder.resetState();
      decoder.decode(data, data + stored, written, written + bytes);
    } else output.set(source.subarray(data, data + stored), written);
    written += bytes;
    at = data + stored;
  }
}

function propertiesOf(byte: number): Properties {
  const [literalContextBits, rest] = [byte % 9, Math.floor(byte / 9)];
  const [literalPositionBits, positionBits] = [rest % 5, Math.floor(rest / 5)];
  if (positionBits > 4 || literalContextBits + literalPositionBits > MAX_LITERAL_BITS)
    throw new DamagedData(`has LZMA properties of ${byte}, which are impossible`);
  return { literalContextBits, literalPositionBits, positionBits };
}

function cutOff(): DamagedData {
  return new DamagedData('ends inside an LZMA2 chunk');
}
