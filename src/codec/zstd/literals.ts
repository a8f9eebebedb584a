// The literals section of a compressed block (RFC 8878, 3.1.1.3.1): raw, one repeated byte, or Huffman-coded with its own tree
// or the tree of the block before.

import { DamagedData } from '../damaged-data.ts';
import { decodeLiterals, type HuffmanTable, readHuffmanTable } from './huffman.ts';

const RAW = 0;
const RLE = 1;
const TREELESS = 3;

/** Literals of one block: `length` bytes of `bytes` from `start`. `end` is the end of the section in the source. */
export interface Literals {
  bytes: Uint8Array;
  start: number;
  length: number;
  end: number;
}

/**
 * Reads the section at `start`.
 * @param limit most literals that a block may have @param buffer receives literals that are not stored raw
 */
export function readLiterals(
  literals: Literals,
  table: HuffmanTable,
  source: Uint8Array,
  view: DataView,
  start: number,
  end: number,
  limit: number,
  buffer: Uint8Array,
): void {
  if (start >= end) throw new DamagedData('ends inside a zstd block');
  const type = source[start]! & 3;
  const format = (source[start]! >> 2) & 3;
  if (type === RAW || type === RLE) readPlain(literals, type, format, source, view, start, end, limit, buffer);
  else readCoded(literals, table, type === TREELESS, format, source, view, start, end, limit, buffer);
}

function readPlain(
  literals: Literals,
  type: number,
  format: number,
  source: Uint8Array,
  view: DataView,
  start: number,
  end: number,
  limit: number,
  buffer: Uint8Array,
): void {
  // a size of 5, 12 or 20 bits in one, two or three bytes
  const headerBytes = format === 1 ? 2 : format === 3 ? 3 : 1;
  const word = view.getUint32(start, true) & (2 ** (8 * headerBytes) - 1);
  const length = word >>> (headerBytes === 1 ? 3 : 4);
  const data = start + headerBytes;
  setSection(literals, data + (type === RLE ? 1 : length), end, length, limit);
  if (type === RLE) buffer.fill(source[data]!, 0, length);
  literals.bytes = type === RLE ? buffer : source;
  literals.start = type === RLE ? 0 : data;
}

function readCoded(
  literals: Literals,
  table: HuffmanTable,
  treeless: boolean,
  format: number,
  source: Uint8Array,
  view: DataView,
  start: number,
  end: number,
  limit: number,
  buffer: Uint8Array,
): void {
  // 4 bits of type and format, then two sizes of 10, 14 or 18 bits
  const sizeBits = format < 2 ? 10 : format === 2 ? 14 : 18;
  const headerBytes = (4 + 2 * sizeBits) / 8;
  let data = start + headerBytes;
  assertInside(data, end);
  const mask = (1 << sizeBits) - 1;
  const length = (view.getUint32(start, true) >>> 4) & mask;
  const lastBits = 8 * headerBytes - sizeBits;
  const coded = (view.getUint32(start + (lastBits >> 3), true) >>> (lastBits & 7)) & mask;
  setSection(literals, data + coded, end, length, limit);
  if (!treeless) data = readHuffmanTable(table, source, view, data, literals.end);
  else if (table.codeBits === 0) throw new DamagedData('repeats a zstd Huffman tree that was never given');
  decodeLiterals(table, source, view, data, literals.end, format === 0 ? 1 : 4, buffer, length);
  literals.bytes = buffer;
  literals.start = 0;
}

/** Checks and stores the end of the section and the number of literals. */
function setSection(literals: Literals, sectionEnd: number, end: number, length: number, limit: number): void {
  assertInside(sectionEnd, end);
  if (length > limit) throw new DamagedData(`has a zstd block of ${length} literals, more than ${limit}`);
  literals.end = sectionEnd;
  literals.length = length;
}

function assertInside(sectionEnd: number, end: number): void {
  if (sectionEnd > end) throw new DamagedData('ends inside the literals of a zstd block');
}
