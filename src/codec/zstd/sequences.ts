// The sequences section of a compressed block (RFC 8878, 3.1.1.3.2 and 3.1.1.4): three interleaved FSE streams hold literals
// lengths, match lengths and offsets; literals and matches are copied as soon as they are decoded.
// Invariant: nothing is written beyond the block's part of the output, and nothing is read before the frame.

import { DamagedData } from '../damaged-data.ts';
import {
  CELL_BITS_MASK,
  CELL_STATE_MASK,
  CELL_STATE_SHIFT,
  CELL_SYMBOL_SHIFT,
  type FseTable,
  fillConstantTable,
  fillFseTable,
  lastBit,
  makeFseTable,
  readFseTable,
} from './fse.ts';
import type { Literals } from './literals.ts';

const LENGTH_SHIFT = 5;
const LENGTH_BITS_MASK = 31;

/** Length codes for all lengths from `first` on. @param codes pairs of extra bits and number of codes */
function lengthCodes(first: number, codes: readonly (readonly [bits: number, count: number])[]): Uint32Array {
  const values: number[] = [];
  let length = first;
  for (const [bits, count] of codes) {
    for (let i = 0; i < count; i++) {
      values.push((length << LENGTH_SHIFT) | bits);
      length += 1 << bits;
    }
  }
  return Uint32Array.from(values);
}

/** One code for each number of bits. */
function oneEach(from: number, to: number): (readonly [bits: number, count: number])[] {
  return Array.from({ length: to - from + 1 }, (_, i) => [from + i, 1] as const);
}

const LITERALS_LENGTHS = lengthCodes(0, [[0, 16], [1, 4], [2, 2], [3, 2], [4, 1], ...oneEach(6, 16)]);
const MATCH_LENGTHS = lengthCodes(3, [[0, 32], [1, 4], [2, 2], [3, 2], [4, 2], [5, 1], ...oneEach(7, 16)]);

/** A longer offset lies before the start of any cluster. A 32-bit load at any bit position yields 25 bits. */
const MAX_OFFSET_CODE = 24;

interface Kind {
  readonly name: string;
  readonly maxAccuracyLog: number;
  readonly maxSymbol: number;
  readonly predefined: FseTable;
}

function makeKind(name: string, maxAccuracyLog: number, maxSymbol: number, log: number, counts: number[]): Kind {
  const predefined = makeFseTable();
  fillFseTable(predefined, log, counts);
  return { name, maxAccuracyLog, maxSymbol, predefined };
}

const LITERALS_LENGTH = makeKind(
  'literals lengths',
  9,
  35,
  6,
  [4, 3, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 3, 2, 1, 1, 1, 1, 1, -1, -1, -1, -1],
);
const OFFSET = makeKind(
  'offsets',
  8,
  31,
  5,
  [1, 1, 1, 1, 1, 1, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1],
);
const MATCH_LENGTH = makeKind(
  'match lengths',
  9,
  52,
  6,
  [
    1, 4, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1,
    1, 1, 1, 1, 1, 1, 1, -1, -1, -1, -1, -1, -1, -1,
  ],
);

/** The current table of one of the three streams; the next block of the frame may repeat it. */
class StreamTable {
  private readonly kind: Kind;
  private readonly own = makeFseTable();
  private current: FseTable | null = null;

  constructor(kind: Kind) {
    this.kind = kind;
  }

  reset(): void {
    this.current = null;
  }

  get table(): FseTable {
    return this.current!;
  }

  /** Sets the table by the compression mode. @returns end of the description */
  read(mode: number, source: Uint8Array, view: DataView, start: number, end: number): number {
    const { name, maxAccuracyLog, maxSymbol, predefined } = this.kind;
    if (mode === 0) {
      this.current = predefined;
      return start;
    }
    if (mode === 3) {
      if (this.current === null) throw new DamagedData(`repeats a zstd table of ${name} that was never given`);
      return start;
    }
    this.current = this.own;
    if (mode === 2) return readFseTable(this.own, view, start, end, maxAccuracyLog, maxSymbol);
    const symbol = start < end ? source[start]! : Number.POSITIVE_INFINITY;
    if (symbol > maxSymbol) throw new DamagedData(`has an impossible zstd code among its ${name}`);
    fillConstantTable(this.own, symbol);
    return start + 1;
  }
}

const TOO_LONG = 'has a zstd block that decompresses to more than the block, its frame or the cluster may hold';

/** For fewer bytes a loop is faster than a call. */
const LONG_COPY = 48;

/** Decodes the sequences of a frame, block by block; keeps the tables and offsets that the next block may repeat. */
export class Sequences {
  private readonly literalsLengths = new StreamTable(LITERALS_LENGTH);
  private readonly offsets = new StreamTable(OFFSET);
  private readonly matchLengths = new StreamTable(MATCH_LENGTH);
  private readonly repeated = new Int32Array(3);

  /** Call it before the first block of a frame. */
  reset(): void {
    this.literalsLengths.reset();
    this.offsets.reset();
    this.matchLengths.reset();
    this.repeated.set([1, 4, 8]);
  }

  /**
   * Reads the section from `start` to `end`, the end of its block, and executes it.
   * @param output receives the block's bytes from `at` to at most `limit`; the frame's output begins at `from`
   * @returns end of the block's output
   */
  run(
    source: Uint8Array,
    view: DataView,
    start: number,
    end: number,
    literals: Literals,
    output: Uint8Array,
    from: number,
    at: number,
    limit: number,
  ): number {
    if (start >= end) throw new DamagedData('ends inside a zstd block');
    const first = source[start]!;
    const headerBytes = first < 128 ? 1 : first < 255 ? 2 : 3;
    if (start + headerBytes > end) throw new DamagedData('ends inside a zstd block');
    let count = first;
    if (headerBytes === 2) count = ((first - 128) << 8) + source[start + 1]!;
    else if (headerBytes === 3) count = view.getUint16(start + 1, true) + 0x7f00;
    let next = start + headerBytes;
    let done = literals.start;
    if (count > 0) {
      const modes = next < end ? source[next++]! : 3;
      if ((modes & 3) !== 0) throw new DamagedData('has a reserved bit set in a zstd block');
      next = this.literalsLengths.read(modes >> 6, source, view, next, end);
      next = this.offsets.read((modes >> 4) & 3, source, view, next, end);
      next = this.matchLengths.read((modes >> 2) & 3, source, view, next, end);
      at = this.execute(view, next, lastBit(source, next, end), count, literals, output, from, at, limit);
      done = this.literalsDone;
    } else if (next !== end) {
      throw new DamagedData('has bytes after a zstd block without sequences');
    }
    const left = literals.start + literals.length - done;
    if (at + left > limit) throw new DamagedData(TOO_LONG);
    output.set(literals.bytes.subarray(done, done + left), at);
    return at + left;
  }

  private literalsDone = 0;

  private execute(
    view: DataView,
    start: number,
    bit: number,
    count: number,
    literals: Literals,
    output: Uint8Array,
    from: number,
    at: number,
    limit: number,
  ): number {
    const firstBit = start * 8;
    const { cells: literalsCells, accuracyLog: literalsLog } = this.literalsLengths.table;
    const { cells: offsetCells, accuracyLog: offsetLog } = this.offsets.table;
    const { cells: matchCells, accuracyLog: matchLog } = this.matchLengths.table;
    const { bytes, start: literalsStart, length } = literals;
    const literalsEnd = literalsStart + length;
    let literal = literalsStart;
    let [repeated1, repeated2, repeated3] = this.repeated as unknown as [number, number, number];
    bit -= literalsLog;
    let literalsState = (view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << literalsLog) - 1);
    bit -= offsetLog;
    let offsetState = (view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << offsetLog) - 1);
    bit -= matchLog;
    let matchState = (view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << matchLog) - 1);

    for (;;) {
      const literalsCell = literalsCells[literalsState]!;
      const offsetCell = offsetCells[offsetState]!;
      const matchCell = matchCells[matchState]!;
      const literalsCode = LITERALS_LENGTHS[literalsCell >>> CELL_SYMBOL_SHIFT]!;
      const matchCode = MATCH_LENGTHS[matchCell >>> CELL_SYMBOL_SHIFT]!;
      const offsetBits = offsetCell >>> CELL_SYMBOL_SHIFT;
      if (offsetBits > MAX_OFFSET_CODE) throw new DamagedData('has a zstd match before the start of the cluster');

      bit -= offsetBits;
      let offset = (1 << offsetBits) + ((view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << offsetBits) - 1));
      const matchBits = matchCode & LENGTH_BITS_MASK;
      bit -= matchBits;
      let matchLength =
        (matchCode >>> LENGTH_SHIFT) + ((view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << matchBits) - 1));
      const literalsBits = literalsCode & LENGTH_BITS_MASK;
      bit -= literalsBits;
      let literalsLength =
        (literalsCode >>> LENGTH_SHIFT) + ((view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << literalsBits) - 1));

      if (offset > 3) {
        offset -= 3;
        repeated3 = repeated2;
        repeated2 = repeated1;
        repeated1 = offset;
      } else {
        // without literals, repeating the last offset is useless, so each number means the next older offset
        if (literalsLength === 0) offset++;
        if (offset === 1) {
          offset = repeated1;
        } else {
          const chosen = offset === 2 ? repeated2 : offset === 3 ? repeated3 : repeated1 - 1;
          if (offset !== 2) repeated3 = repeated2;
          repeated2 = repeated1;
          repeated1 = chosen;
          offset = chosen;
        }
      }

      if (bit < firstBit) throw new DamagedData('has zstd sequences that are cut off');
      if (literal + literalsLength > literalsEnd) throw new DamagedData('has fewer zstd literals than it uses');
      if (at + literalsLength + matchLength > limit) throw new DamagedData(TOO_LONG);
      if (literalsLength > LONG_COPY) {
        output.set(bytes.subarray(literal, literal + literalsLength), at);
        at += literalsLength;
        literal += literalsLength;
      } else {
        for (; literalsLength > 0; literalsLength--) output[at++] = bytes[literal++]!;
      }
      if (offset > at - from || offset === 0) throw new DamagedData('has a zstd match before the start of the cluster');
      if (matchLength > LONG_COPY && offset >= matchLength) {
        output.copyWithin(at, at - offset, at - offset + matchLength);
        at += matchLength;
      } else if (matchLength > LONG_COPY && offset === 1) {
        output.fill(output[at - 1]!, at, at + matchLength);
        at += matchLength;
      } else {
        for (let back = at - offset; matchLength > 0; matchLength--) output[at++] = output[back++]!;
      }

      if (--count === 0) break;
      const literalsStep = literalsCell & CELL_BITS_MASK;
      bit -= literalsStep;
      literalsState =
        ((literalsCell >>> CELL_STATE_SHIFT) & CELL_STATE_MASK) +
        ((view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << literalsStep) - 1));
      const matchStep = matchCell & CELL_BITS_MASK;
      bit -= matchStep;
      matchState =
        ((matchCell >>> CELL_STATE_SHIFT) & CELL_STATE_MASK) +
        ((view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << matchStep) - 1));
      const offsetStep = offsetCell & CELL_BITS_MASK;
      bit -= offsetStep;
      offsetState =
        ((offsetCell >>> CELL_STATE_SHIFT) & CELL_STATE_MASK) +
        ((view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << offsetStep) - 1));
    }
    if (bit !== firstBit) throw new DamagedData('has zstd sequences that do not end with their stream');
    this.repeated[0] = repeated1;
    this.repeated[1] = repeated2;
    this.repeated[2] = repeated3;
    this.literalsDone = literal;
    return at;
  }
}
