// The payload of a compressed LZFSE block: all literals, in four interleaved states, then triplets of L literals and a match of
// M bytes from D bytes back. Both are finite state entropy, read from the end.

import { copyMatch } from '../copy-match.ts';
import { DamagedData } from '../damaged-data.ts';
import { BackwardBits } from './bits.ts';
import {
  type BlockHeader,
  D_STATES,
  D_SYMBOLS,
  L_STATES,
  L_SYMBOLS,
  LITERAL_STATES,
  M_STATES,
  M_SYMBOLS,
  MAX_LITERALS,
} from './block-header.ts';
import { type FseTable, fillTable, makeTable } from './fse.ts';

/** Extra bits of each symbol; its base follows those of the symbols before. */
const L_EXTRA = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 3, 5, 8];
const M_EXTRA = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 5, 8, 11];
const D_EXTRA = Array.from({ length: D_SYMBOLS }, (_, symbol) => symbol >> 2);

function basesOf(extra: readonly number[]): number[] {
  let sum = 0;
  return extra.map((bits) => {
    sum += 2 ** bits;
    return sum - 2 ** bits;
  });
}

/** A table of numbers. */
class Numbers {
  readonly table: FseTable;
  private readonly extra: readonly number[];
  private readonly bases: readonly number[];
  state = 0;

  constructor(states: number, extra: readonly number[]) {
    this.table = makeTable(states);
    this.extra = extra;
    this.bases = basesOf(extra);
  }

  next(stream: BackwardBits): number {
    const { symbols, bits, nextStates } = this.table;
    const { state } = this;
    const symbol = symbols[state]!;
    const extra = this.extra[symbol]!;
    // the bits of the next state lie above the extra bits
    this.state = nextStates[state]! + stream.read(bits[state]!);
    return this.bases[symbol]! + stream.read(extra);
  }
}

/** Decodes blocks one after the other and reuses its tables, which each thread allocates once. */
export class BlockDecoder {
  private readonly literalTable = makeTable(LITERAL_STATES);
  private readonly l = new Numbers(L_STATES, L_EXTRA);
  private readonly m = new Numbers(M_STATES, M_EXTRA);
  private readonly d = new Numbers(D_STATES, D_EXTRA);
  private readonly literals = new Uint8Array(MAX_LITERALS);

  /**
   * @param payload offset in the source, which goes on for four bytes at least behind the payload
   * @param written bytes of output before the block; the rest has room for it
   */
  decode(source: Uint8Array, payload: number, header: BlockHeader, output: Uint8Array, written: number): void {
    const { literalBytes, matchBytes, matches, frequencies } = header;
    const matchStart = payload + literalBytes;
    const literalFrequencies = L_SYMBOLS + M_SYMBOLS + D_SYMBOLS;
    if (header.literals > 0) {
      fillTable(this.literalTable, frequencies.subarray(literalFrequencies));
      this.readLiterals(new BackwardBits(source, payload, matchStart, header.literalUnusedBits), header);
    }
    if (matches > 0) {
      fillTable(this.l.table, frequencies.subarray(0, L_SYMBOLS));
      fillTable(this.m.table, frequencies.subarray(L_SYMBOLS, L_SYMBOLS + M_SYMBOLS));
      fillTable(this.d.table, frequencies.subarray(L_SYMBOLS + M_SYMBOLS, literalFrequencies));
    }
    const stream = new BackwardBits(source, matchStart, matchStart + matchBytes, header.matchUnusedBits);
    this.copyMatches(stream, header, output, written);
  }

  private readLiterals(stream: BackwardBits, { literals: count, literalStates }: BlockHeader): void {
    const { literals, literalTable } = this;
    const { symbols, bits, nextStates } = literalTable;
    const states = Uint16Array.from(literalStates);
    for (let i = 0; i < count; i++) {
      const state = states[i & 3]!;
      literals[i] = symbols[state]!;
      states[i & 3] = nextStates[state]! + stream.read(bits[state]!);
    }
  }

  private copyMatches(stream: BackwardBits, header: BlockHeader, output: Uint8Array, start: number): void {
    const { l, m, d, literals } = this;
    [l.state, m.state, d.state] = [header.lState, header.mState, header.dState];
    const end = start + header.rawBytes;
    let at = start;
    let used = 0;
    let back = 0;
    for (let i = 0; i < header.matches; i++) {
      const literalCount = l.next(stream);
      const matchLength = m.next(stream);
      // no distance repeats the last one
      back = d.next(stream) || back;
      if (used + literalCount > header.literals) throw new DamagedData('has too few literals in an LZFSE block');
      if (literalCount + matchLength > end - at)
        throw new DamagedData('has an LZFSE block of more bytes than its header says');
      for (let n = 0; n < literalCount; n++) output[at++] = literals[used++]!;
      if (matchLength === 0) continue;
      if (back === 0 || back > at) throw new DamagedData('has an LZFSE match before its start');
      copyMatch(output, at, back, matchLength);
      at += matchLength;
    }
    if (at !== end) throw new DamagedData('has an LZFSE block of fewer bytes than its header says');
  }
}
