// The decoder of LZMA symbols: a binary range coder with adaptive probabilities. The output is the dictionary.
// Invariant: every symbol produces output, and no byte is read before the source's end or written behind the output's.

import { copyMatch } from '../copy-match.ts';
import { DamagedData } from '../damaged-data.ts';

const PROBABILITY_BITS = 11;
const EVEN = 1 << (PROBABILITY_BITS - 1);
const MOVE_BITS = 5;
const TOP = 2 ** 24;

const STATES = 12;
const FIRST_STATE_AFTER_MATCH = 7;
const POSITION_STATES = 16;
const LITERAL_CODER = 0x300;
export const MAX_LITERAL_BITS = 4;
const MIN_MATCH = 2;
const LENGTH_STATES = 4;
const FIRST_SLOT_WITH_BITS = 4;
const FIRST_SLOT_WITH_DIRECT_BITS = 14;
const ALIGN_BITS = 4;

// where the probabilities of each kind begin
const IS_MATCH = 0;
const IS_REP = IS_MATCH + STATES * POSITION_STATES;
const IS_REP_0 = IS_REP + STATES;
const IS_REP_1 = IS_REP_0 + STATES;
const IS_REP_2 = IS_REP_1 + STATES;
const IS_REP_0_LONG = IS_REP_2 + STATES;
const SLOT = IS_REP_0_LONG + STATES * POSITION_STATES;
const SPECIAL = SLOT + LENGTH_STATES * 64;
const ALIGN = SPECIAL + 128;
const MATCH_LENGTH = ALIGN + (1 << ALIGN_BITS);
const CHOICE_2 = 1;
const LOW = 2;
const MIDDLE = LOW + POSITION_STATES * 8;
const HIGH = MIDDLE + POSITION_STATES * 8;
const LENGTH_CODER = HIGH + 256;
const REP_LENGTH = MATCH_LENGTH + LENGTH_CODER;
const LITERAL = REP_LENGTH + LENGTH_CODER;
const PROBABILITIES = LITERAL + (LITERAL_CODER << MAX_LITERAL_BITS);

/** How many bits of what make the context of a symbol. */
export interface Properties {
  readonly literalContextBits: number;
  readonly literalPositionBits: number;
  readonly positionBits: number;
}

export class LzmaDecoder {
  private readonly source: Uint8Array;
  private readonly output: Uint8Array;
  private readonly probabilities = new Uint16Array(PROBABILITIES);
  private properties: Properties = { literalContextBits: 0, literalPositionBits: 0, positionBits: 0 };
  private state = 0;
  private readonly reps = new Uint32Array(4);
  // the range coder
  private range = 0;
  private code = 0;
  private at = 0;
  private end = 0;
  /** where the dictionary begins in the output, and how far back a match may go */
  private dictionaryStart = 0;
  private readonly dictionaryBytes: number;

  constructor(source: Uint8Array, output: Uint8Array, dictionaryBytes: number) {
    this.source = source;
    this.output = output;
    this.dictionaryBytes = dictionaryBytes;
  }

  /** The bytes before `written` cannot be referred to anymore. */
  resetDictionary(written: number): void {
    this.dictionaryStart = written;
  }

  /** @param properties of what follows; the old ones if absent */
  resetState(properties: Properties = this.properties): void {
    this.properties = properties;
    const { literalContextBits, literalPositionBits } = properties;
    this.probabilities.fill(EVEN, 0, LITERAL + (LITERAL_CODER << (literalContextBits + literalPositionBits)));
    this.state = 0;
    this.reps.fill(0);
  }

  /** Decodes the chunk of source [start, end) to output [from, to). @throws DamagedData unless both fit exactly */
  decode(start: number, end: number, from: number, to: number): void {
    this.startRange(start, end);
    for (let written = from; written < to; ) written = this.symbol(written, to);
    this.normalize();
    if (this.at !== end || this.code !== 0) throw new DamagedData('has an LZMA chunk that does not end with its data');
  }

  /** @returns end of what is written then */
  private symbol(written: number, limit: number): number {
    const position = written - this.dictionaryStart;
    const positionState = position & ((1 << this.properties.positionBits) - 1);
    const { state } = this;
    if (this.bit(IS_MATCH + state * POSITION_STATES + positionState) === 0) {
      this.literal(written, position);
      return written + 1;
    }
    let length: number;
    if (this.bit(IS_REP + state) === 0) {
      length = this.match(positionState);
    } else if (this.repeat(positionState)) {
      length = this.length(REP_LENGTH, positionState);
      this.state = state < FIRST_STATE_AFTER_MATCH ? 8 : 11;
    } else {
      length = 1;
      this.state = state < FIRST_STATE_AFTER_MATCH ? 9 : 11;
    }
    const back = this.reps[0]!;
    if (back >= Math.min(position, this.dictionaryBytes))
      throw new DamagedData('has an LZMA match before its dictionary');
    if (length > limit - written) throw new DamagedData('has an LZMA match beyond its chunk');
    copyMatch(this.output, written, back + 1, length);
    return written + length;
  }

  private literal(written: number, position: number): void {
    const { output, properties } = this;
    const { literalContextBits, literalPositionBits } = properties;
    const before = position > 0 ? output[written - 1]! : 0;
    const context =
      ((position & ((1 << literalPositionBits) - 1)) << literalContextBits) | (before >> (8 - literalContextBits));
    const coder = LITERAL + LITERAL_CODER * context;
    let symbol = 1;
    if (this.state >= FIRST_STATE_AFTER_MATCH) {
      if (this.reps[0]! >= position) throw new DamagedData('has an LZMA literal after a match that does not exist');
      let matched = output[written - this.reps[0]! - 1]!;
      while (symbol < 0x100) {
        matched <<= 1;
        const matchedBit = matched & 0x100;
        const bit = this.bit(coder + 0x100 + matchedBit + symbol);
        symbol = (symbol << 1) | bit;
        if (matchedBit >> 8 !== bit) break;
      }
    }
    while (symbol < 0x100) symbol = (symbol << 1) | this.bit(coder + symbol);
    output[written] = symbol;
    const { state } = this;
    this.state = state < 4 ? 0 : state < 10 ? state - 3 : state - 6;
  }

  /** A match with a new distance. @returns its length */
  private match(positionState: number): number {
    const { reps } = this;
    reps.copyWithin(1, 0, 3);
    const length = this.length(MATCH_LENGTH, positionState);
    this.state = this.state < FIRST_STATE_AFTER_MATCH ? 7 : 10;
    reps[0] = this.distance(Math.min(length - MIN_MATCH, LENGTH_STATES - 1));
    return length;
  }

  /** Moves the distance of a match before to the front. @returns whether a length follows; else it is one byte */
  private repeat(positionState: number): boolean {
    const { reps, state } = this;
    if (this.bit(IS_REP_0 + state) === 0)
      return this.bit(IS_REP_0_LONG + state * POSITION_STATES + positionState) === 1;
    const place = this.bit(IS_REP_1 + state) === 0 ? 1 : this.bit(IS_REP_2 + state) === 0 ? 2 : 3;
    const distance = reps[place]!;
    reps.copyWithin(1, 0, place);
    reps[0] = distance;
    return true;
  }

  private length(coder: number, positionState: number): number {
    if (this.bit(coder) === 0) return MIN_MATCH + this.tree(coder + LOW + positionState * 8, 3);
    if (this.bit(coder + CHOICE_2) === 0) return MIN_MATCH + 8 + this.tree(coder + MIDDLE + positionState * 8, 3);
    return MIN_MATCH + 16 + this.tree(coder + HIGH, 8);
  }

  private distance(lengthState: number): number {
    const slot = this.tree(SLOT + lengthState * 64, 6);
    if (slot < FIRST_SLOT_WITH_BITS) return slot;
    const bits = (slot >> 1) - 1;
    const base = (2 | (slot & 1)) * 2 ** bits;
    if (slot < FIRST_SLOT_WITH_DIRECT_BITS) return base + this.reverseTree(SPECIAL + base - slot, bits);
    return base + this.directBits(bits - ALIGN_BITS) * 2 ** ALIGN_BITS + this.reverseTree(ALIGN, ALIGN_BITS);
  }

  private tree(start: number, bits: number): number {
    let node = 1;
    for (let i = 0; i < bits; i++) node = (node << 1) | this.bit(start + node);
    return node - (1 << bits);
  }

  /** The lowest bit comes first. */
  private reverseTree(start: number, bits: number): number {
    let node = 1;
    let value = 0;
    for (let i = 0; i < bits; i++) {
      const bit = this.bit(start + node);
      node = (node << 1) | bit;
      value |= bit << i;
    }
    return value;
  }

  private directBits(count: number): number {
    let value = 0;
    for (let i = 0; i < count; i++) {
      this.normalize();
      this.range >>>= 1;
      const isSet = this.code >= this.range;
      if (isSet) this.code -= this.range;
      value = value * 2 + (isSet ? 1 : 0);
    }
    return value;
  }

  private startRange(start: number, end: number): void {
    if (end - start < 5 || this.source[start] !== 0)
      throw new DamagedData('has an LZMA chunk that does not begin with a zero');
    this.at = start + 1;
    this.end = end;
    this.range = 0xffffffff;
    this.code = 0;
    for (let i = 0; i < 4; i++) this.code = this.code * 256 + this.source[this.at++]!;
  }

  private normalize(): void {
    if (this.range >= TOP) return;
    if (this.at >= this.end) throw new DamagedData('ends inside an LZMA chunk');
    this.range = (this.range << 8) >>> 0;
    this.code = ((this.code << 8) | this.source[this.at++]!) >>> 0;
  }

  /** Decodes one bit with the probability at `index`, and adapts it. */
  private bit(index: number): 0 | 1 {
    this.normalize();
    const probability = this.probabilities[index]!;
    const bound = Math.imul(this.range >>> PROBABILITY_BITS, probability) >>> 0;
    if (this.code < bound) {
      this.range = bound;
      this.probabilities[index] = probability + (((1 << PROBABILITY_BITS) - probability) >> MOVE_BITS);
      return 0;
    }
    this.range -= bound;
    this.code -= bound;
    this.probabilities[index] = probability - (probability >> MOVE_BITS);
    return 1;
  }
}
