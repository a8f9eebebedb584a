// FSE tables (RFC 8878, 4.1): reads a distribution as normalized counts and makes the decoding table from it.
// Invariant: every cell leads to a state inside the table, whatever bits follow.
//
//   cell: symbol << 16 | first next state << 4 | bits to add to it

import { DamagedData } from '../damaged-data.ts';

export const CELL_SYMBOL_SHIFT = 16;
export const CELL_STATE_SHIFT = 4;
export const CELL_STATE_MASK = 0xfff;
export const CELL_BITS_MASK = 15;

const MIN_ACCURACY_LOG = 5;
/** the largest table of the format */
const MAX_STATES = 512;
const MAX_SYMBOLS = 256;

/** A decoding table of 2^accuracyLog cells. The memory is reused for every table. */
export interface FseTable {
  readonly cells: Uint32Array;
  accuracyLog: number;
}

/** @returns a table without a distribution */
export function makeFseTable(): FseTable {
  return { cells: new Uint32Array(MAX_STATES), accuracyLog: 0 };
}

/** Counts of symbols as in the description: -1 means a probability below one. */
const counts = new Int16Array(MAX_SYMBOLS);
const nextStates = new Uint16Array(MAX_SYMBOLS);

/**
 * Reads a distribution and fills `table` with it.
 * @param view covers the whole source @param start offset of the description @param end limit of the description
 * @returns end of the description
 */
export function readFseTable(
  table: FseTable,
  view: DataView,
  start: number,
  end: number,
  maxAccuracyLog: number,
  maxSymbol: number,
): number {
  let bit = start * 8;
  // this may read a few bytes beyond `end`, which the margin after the frame allows
  const peek = (bits: number): number => (view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << bits) - 1);
  const accuracyLog = MIN_ACCURACY_LOG + peek(4);
  bit += 4;
  if (accuracyLog > maxAccuracyLog) {
    throw new DamagedData(`has a zstd table of 2^${accuracyLog} states, more than 2^${maxAccuracyLog}`);
  }
  let remaining = 1 << accuracyLog;
  let symbols = 0;
  while (remaining > 0) {
    if (symbols > maxSymbol || bit > end * 8) throw new DamagedData('has a zstd table that does not end');
    // values below `short` take one bit less
    const bits = 32 - Math.clz32(remaining + 1);
    const half = 1 << (bits - 1);
    const short = 2 * half - 1 - (remaining + 1);
    let value = peek(bits);
    if ((value & (half - 1)) < short) {
      value &= half - 1;
      bit += bits - 1;
    } else {
      if (value >= half) value -= short;
      bit += bits;
    }
    const count = value - 1;
    remaining -= Math.abs(count);
    counts[symbols++] = count;
    if (count !== 0) continue;
    for (let repeat = 3; repeat === 3; ) {
      repeat = peek(2);
      bit += 2;
      if (symbols + repeat > maxSymbol + 1 || bit > end * 8)
        throw new DamagedData('has a zstd table that does not end');
      counts.fill(0, symbols, symbols + repeat);
      symbols += repeat;
    }
  }
  const next = (bit + 7) >> 3;
  if (next > end) throw new DamagedData('has a zstd table that does not end');
  fillFseTable(table, accuracyLog, counts.subarray(0, symbols));
  return next;
}

/** Fills `table` from counts that add up to 2^accuracyLog; -1 counts as 1. */
export function fillFseTable(table: FseTable, accuracyLog: number, symbolCounts: ArrayLike<number>): void {
  const { cells } = table;
  const states = 1 << accuracyLog;
  let high = states;
  for (let symbol = 0; symbol < symbolCounts.length; symbol++) {
    const count = symbolCounts[symbol]!;
    if (count === -1) cells[--high] = symbol;
    nextStates[symbol] = Math.abs(count);
  }
  const step = (states >> 1) + (states >> 3) + 3;
  let at = 0;
  for (let symbol = 0; symbol < symbolCounts.length; symbol++) {
    for (let count = symbolCounts[symbol]!; count > 0; count--) {
      cells[at] = symbol;
      do at = (at + step) & (states - 1);
      while (at >= high);
    }
  }
  for (let state = 0; state < states; state++) {
    const symbol = cells[state]!;
    const next = nextStates[symbol]!++;
    const bits = accuracyLog - (31 - Math.clz32(next));
    cells[state] = (symbol << CELL_SYMBOL_SHIFT) | (((next << bits) - states) << CELL_STATE_SHIFT) | bits;
  }
  table.accuracyLog = accuracyLog;
}

/** Makes a table with one state, which always gives `symbol` and takes no bits. */
export function fillConstantTable(table: FseTable, symbol: number): void {
  table.cells[0] = symbol << CELL_SYMBOL_SHIFT;
  table.accuracyLog = 0;
}

/**
 * The start of a bit stream that is read backwards: below the highest set bit of its last byte.
 * @returns bit position in the source
 */
export function lastBit(source: Uint8Array, start: number, end: number): number {
  const last = end > start ? source[end - 1]! : 0;
  if (last === 0) throw new DamagedData('has a zstd bit stream without its end mark');
  return (end - 1) * 8 + (31 - Math.clz32(last));
}
