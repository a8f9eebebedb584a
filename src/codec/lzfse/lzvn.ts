// LZVN, the codec of small blocks of LZFSE: bytes of instructions with literals (L), and matches of M bytes from D bytes back.
//
//   LLMMMDDD DDDDDDDD                 D to 2047      1110LLLL, 11100000 L - 16    literals
//   101LLMMM DDDDDDMM DDDDDDDD        D to 16383     1111MMMM, 11110000 M - 16    a match with the last D
//   LLMMM111 DDDDDDDD DDDDDDDD        D to 65535     00001110, 00010110           nothing
//   LLMMM110                          the last D     00000110 and seven bytes     the end
//
// L to 3 and M from 3 in the left column; the literals follow the instruction. Invariant: every step consumes input.

import { copyMatch } from '../copy-match.ts';
import { DamagedData } from '../damaged-data.ts';

const MIN_MATCH = 3;
const LONG = 16;
const END_BYTES = 8;

/** Decodes the instructions of source [start, end) to output [from, to). @throws DamagedData unless both fit exactly */
export function decodeLzvn(
  source: Uint8Array,
  start: number,
  end: number,
  output: Uint8Array,
  from: number,
  to: number,
): void {
  let at = start;
  let written = from;
  let back = 0;
  for (;;) {
    const code = source[at]!;
    if (at >= end) throw cutOff();
    if (code === 0x06) break;
    if (code === 0x0e || code === 0x16) {
      at++;
      continue;
    }
    const { bytes, literals, match, distance } = instruction(source, at, code);
    const next = at + bytes + literals;
    if (next > end) throw cutOff();
    if (literals + match > to - written) throw new DamagedData('has an LZVN block of more bytes than its header says');
    output.set(source.subarray(at + bytes, next), written);
    written += literals;
    at = next;
    back = distance ?? back;
    if (match === 0) continue;
    if (back === 0 || back > written) throw new DamagedData('has an LZVN match before its start');
    copyMatch(output, written, back, match);
    written += match;
  }
  if (at + END_BYTES !== end || written !== to) throw new DamagedData('has an LZVN block that ends in a wrong place');
}

interface Instruction {
  readonly bytes: number;
  readonly literals: number;
  readonly match: number;
  /** undefined: the last one */
  readonly distance?: number;
}

/** The instruction at `at`, which may go on beyond the end. */
function instruction(source: Uint8Array, at: number, code: number): Instruction {
  const second = source[at + 1] ?? 0;
  const third = source[at + 2] ?? 0;
  if (code >= 0xf0)
    return code === 0xf0
      ? { bytes: 2, literals: 0, match: second + LONG }
      : { bytes: 1, literals: 0, match: code & 15 };
  if (code >= 0xe0)
    return code === 0xe0
      ? { bytes: 2, literals: second + LONG, match: 0 }
      : { bytes: 1, literals: code & 15, match: 0 };
  if (code >= 0xd0 || (code >= 0x70 && code < 0x80))
    throw new DamagedData(`has the unknown LZVN instruction 0x${code.toString(16)}`);
  if (code >= 0xa0 && code < 0xc0) {
    const match = MIN_MATCH + (((code & 7) << 2) | (second & 3));
    return { bytes: 3, literals: (code >> 3) & 3, match, distance: (second >> 2) | (third << 6) };
  }
  const literals = code >> 6;
  const match = MIN_MATCH + ((code >> 3) & 7);
  if ((code & 7) === 7) return { bytes: 3, literals, match, distance: second | (third << 8) };
  if ((code & 7) !== 6) return { bytes: 2, literals, match, distance: ((code & 7) << 8) | second };
  if (literals === 0) throw new DamagedData(`has the unknown LZVN instruction 0x${code.toString(16)}`);
  return { bytes: 1, literals, match };
}

function cutOff(): DamagedData {
  return new DamagedData('ends inside an LZVN block');
}
