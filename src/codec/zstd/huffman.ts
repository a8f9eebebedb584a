// Huffman-coded literals (RFC 8878, 4.2): reads a tree as weights, makes the decoding table, decodes one or four bit streams.
// Invariant: a table covers every bit pattern, and a valid stream ends exactly at its first bit.
//
//   cell: symbol << 8 | code length in bits

import { DamagedData } from '../damaged-data.ts';
import {
  CELL_BITS_MASK,
  CELL_STATE_MASK,
  CELL_STATE_SHIFT,
  CELL_SYMBOL_SHIFT,
  lastBit,
  makeFseTable,
  readFseTable,
} from './fse.ts';

const MAX_CODE_BITS = 11;
const MAX_WEIGHTS = 255;
const MAX_WEIGHTS_ACCURACY_LOG = 6;
const JUMP_TABLE_BYTES = 6;
/** fewer literals cannot be split into four streams */
const MIN_FOUR_STREAMS = 6;

/** Indexed by the next `codeBits` bits. codeBits is 0 until a tree was read. */
export interface HuffmanTable {
  readonly cells: Uint16Array;
  codeBits: number;
}

export function makeHuffmanTable(): HuffmanTable {
  return { cells: new Uint16Array(1 << MAX_CODE_BITS), codeBits: 0 };
}

const weights = new Uint8Array(MAX_WEIGHTS + 1);
const weightTable = makeFseTable();
/** number of codes of each weight; later the first cell of the next code of that weight */
const ranks = new Uint32Array(MAX_CODE_BITS + 2);

/**
 * Reads a tree description and fills `table` with it.
 * @returns end of the description, at most `end`
 */
export function readHuffmanTable(
  table: HuffmanTable,
  source: Uint8Array,
  view: DataView,
  start: number,
  end: number,
): number {
  if (start >= end) throw new DamagedData('ends inside a zstd Huffman tree');
  const header = source[start]!;
  const bytes = header < 128 ? header : (header - 126) >> 1;
  const next = start + 1 + bytes;
  if (next > end) throw new DamagedData('ends inside a zstd Huffman tree');
  const count =
    header < 128 ? readCodedWeights(source, view, start + 1, next) : readPlainWeights(source, start + 1, header - 127);
  fillTable(table, count);
  return next;
}

function readPlainWeights(source: Uint8Array, start: number, count: number): number {
  for (let i = 0; i < count; i++) {
    const byte = source[start + (i >> 1)]!;
    weights[i] = i % 2 === 0 ? byte >> 4 : byte & 15;
  }
  return count;
}

/** Two states take turns. The stream ends when a state needs more bits than are left; the other state has the last weight. */
function readCodedWeights(source: Uint8Array, view: DataView, start: number, end: number): number {
  const stream = readFseTable(weightTable, view, start, end, MAX_WEIGHTS_ACCURACY_LOG, MAX_CODE_BITS);
  const { cells, accuracyLog } = weightTable;
  const first = stream * 8;
  let bit = lastBit(source, stream, end);
  const take = (bits: number): number => {
    bit -= bits;
    return (view.getUint32(bit >> 3, true) >>> (bit & 7)) & ((1 << bits) - 1);
  };
  if (bit - 2 * accuracyLog < first) throw new DamagedData('has a zstd Huffman tree that is cut off');
  let state = take(accuracyLog);
  let other = take(accuracyLog);
  for (let count = 0; count < MAX_WEIGHTS - 1; ) {
    const cell = cells[state]!;
    weights[count++] = cell >>> CELL_SYMBOL_SHIFT;
    const bits = cell & CELL_BITS_MASK;
    if (bit - bits < first) {
      weights[count++] = cells[other]! >>> CELL_SYMBOL_SHIFT;
      return count;
    }
    state = other;
    other = ((cell >>> CELL_STATE_SHIFT) & CELL_STATE_MASK) + take(bits);
  }
  throw new DamagedData('has a zstd Huffman tree of more than 256 symbols');
}

/** The weight of the last symbol is not stored: it is the one that makes the codes complete. */
function fillTable(table: HuffmanTable, count: number): void {
  ranks.fill(0);
  let total = 0;
  for (let i = 0; i < count; i++) {
    const weight = weights[i]!;
    if (weight > MAX_CODE_BITS) throw new DamagedData(`has a zstd Huffman weight of ${weight}`);
    ranks[weight]!++;
    total += (1 << weight) >> 1;
  }
  const codeBits = 32 - Math.clz32(total);
  const missing = (1 << codeBits) - total;
  const last = 32 - Math.clz32(missing);
  if (total === 0 || codeBits > MAX_CODE_BITS || missing !== 1 << (last - 1)) {
    throw new DamagedData('has a zstd Huffman tree that is not complete');
  }
  weights[count] = last;
  ranks[last]!++;
  // as in libzstd: the longest codes come in pairs
  if (ranks[1]! < 2) throw new DamagedData('has a zstd Huffman tree that is not complete');
  let cell = 0;
  for (let weight = 1; weight <= codeBits; weight++) {
    const codes = ranks[weight]!;
    ranks[weight] = cell;
    cell += codes << (weight - 1);
  }
  for (let symbol = 0; symbol <= count; symbol++) {
    const weight = weights[symbol]!;
    if (weight === 0) continue;
    const start = ranks[weight]!;
    const end = start + (1 << (weight - 1));
    ranks[weight] = end;
    table.cells.fill((symbol << 8) | (codeBits + 1 - weight), start, end);
  }
  table.codeBits = codeBits;
}

/**
 * Decodes `size` literals from one stream or four.
 * @param start,end range of the streams in `source`, which needs margins of at least 4 bytes
 */
export function decodeLiterals(
  table: HuffmanTable,
  source: Uint8Array,
  view: DataView,
  start: number,
  end: number,
  streams: 1 | 4,
  target: Uint8Array,
  size: number,
): void {
  if (streams === 1) {
    decodeStream(table, view, start, lastBit(source, start, end), target, 0, size);
    return;
  }
  const first = start + JUMP_TABLE_BYTES;
  const part = (size + 3) >> 2;
  if (first > end || size < MIN_FOUR_STREAMS) throw new DamagedData('has four zstd streams for too few literals');
  const second = first + view.getUint16(start, true);
  const third = second + view.getUint16(start + 2, true);
  const fourth = third + view.getUint16(start + 4, true);
  if (fourth > end) throw new DamagedData('has zstd streams that end beyond their block');
  const bounds = [first, second, third, fourth, end];
  const bits = bounds.slice(1).map((bound, i) => lastBit(source, bounds[i]!, bound));
  const shared = decodeFourStreams(table, view, bounds, bits, target, part, size - 3 * part);
  for (let i = 0; i < 4; i++) {
    const length = i < 3 ? part : size - 3 * part;
    decodeStream(table, view, bounds[i]!, bits[i]!, target, i * part + shared, length - shared);
  }
}

/**
 * Decodes the same number of literals from each of the four streams and stops before one of them ends. The four chains of
 * lookups do not depend on each other, so the CPU runs them in parallel.
 * @param bits bit position of each stream, updated @returns number of literals decoded from each stream
 */
function decodeFourStreams(
  table: HuffmanTable,
  view: DataView,
  bounds: readonly number[],
  bits: number[],
  target: Uint8Array,
  part: number,
  count: number,
): number {
  const { cells } = table;
  const down = 32 - table.codeBits;
  // each step takes two codes, and loads the 32 bits below each position
  const [low0, low1, low2, low3] = bounds.map((bound) => bound * 8 + 32) as [number, number, number, number];
  let [bit0, bit1, bit2, bit3] = bits as [number, number, number, number];
  let i = 0;
  for (; i + 2 <= count && bit0 >= low0 && bit1 >= low1 && bit2 >= low2 && bit3 >= low3; i += 2) {
    // at least 25 bits of each stream, the next one in the highest bit
    let word0 = view.getInt32((bit0 - 25) >> 3, true) << (7 - ((bit0 - 25) & 7));
    let word1 = view.getInt32((bit1 - 25) >> 3, true) << (7 - ((bit1 - 25) & 7));
    let word2 = view.getInt32((bit2 - 25) >> 3, true) << (7 - ((bit2 - 25) & 7));
    let word3 = view.getInt32((bit3 - 25) >> 3, true) << (7 - ((bit3 - 25) & 7));
    const a0 = cells[word0 >>> down]!;
    const a1 = cells[word1 >>> down]!;
    const a2 = cells[word2 >>> down]!;
    const a3 = cells[word3 >>> down]!;
    word0 <<= a0 & 15;
    word1 <<= a1 & 15;
    word2 <<= a2 & 15;
    word3 <<= a3 & 15;
    const b0 = cells[word0 >>> down]!;
    const b1 = cells[word1 >>> down]!;
    const b2 = cells[word2 >>> down]!;
    const b3 = cells[word3 >>> down]!;
    target[i] = a0 >> 8;
    target[i + 1] = b0 >> 8;
    target[part + i] = a1 >> 8;
    target[part + i + 1] = b1 >> 8;
    target[2 * part + i] = a2 >> 8;
    target[2 * part + i + 1] = b2 >> 8;
    target[3 * part + i] = a3 >> 8;
    target[3 * part + i + 1] = b3 >> 8;
    bit0 -= (a0 & 15) + (b0 & 15);
    bit1 -= (a1 & 15) + (b1 & 15);
    bit2 -= (a2 & 15) + (b2 & 15);
    bit3 -= (a3 & 15) + (b3 & 15);
  }
  bits[0] = bit0;
  bits[1] = bit1;
  bits[2] = bit2;
  bits[3] = bit3;
  return i;
}

/** @param bit the bits from `start` to this position are left; they must hold exactly `count` literals */
function decodeStream(
  table: HuffmanTable,
  view: DataView,
  start: number,
  bit: number,
  target: Uint8Array,
  at: number,
  count: number,
): void {
  const { cells } = table;
  const down = 32 - table.codeBits;
  const first = start * 8;
  const end = at + count;
  while (at < end && bit > first) {
    // the lookup may include bits below the start of the stream; the last check finds a code that needed them
    const cell = cells[(view.getInt32((bit - 25) >> 3, true) << (7 - ((bit - 25) & 7))) >>> down]!;
    target[at++] = cell >> 8;
    bit -= cell & 15;
  }
  if (at < end || bit !== first) throw new DamagedData('has a zstd stream that does not end with its literals');
}
