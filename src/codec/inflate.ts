// Decodes the first bytes of a raw deflate stream (RFC 1951) and ignores the rest. node:zlib decodes a whole stream or fails;
// this decoder serves streams that are longer than a cluster or have no end, which QEMU accepts if they fill the cluster.
// Invariant: memory is bounded by the requested output, and every step consumes input or produces output.

import { inflateRawSync } from 'node:zlib';
import { DamagedData } from './damaged-data.ts';
import { isLibraryError } from './zlib.ts';

const MAX_BITS = 15;
const END_OF_BLOCK = 256;
const LENGTH_CODES = 29;
const DISTANCE_CODES = 30;

/** The first value of each length code (3 to 258) and distance code (from 1), and the number of extra bits. */
const LENGTH_BITS = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0] as const;
const LENGTH_BASES = [...bases(3, LENGTH_BITS.slice(0, -1)).slice(0, -1), 258];
const DISTANCE_BITS = Array.from({ length: DISTANCE_CODES }, (_, code) => Math.max(0, (code >> 1) - 1));
const DISTANCE_BASES = bases(1, DISTANCE_BITS);
/** The order in which a dynamic block stores the lengths of its code length codes. */
const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15] as const;

function bases(first: number, bits: readonly number[]): number[] {
  const found = [first];
  for (const width of bits) found.push(found.at(-1)! + 2 ** width);
  return found;
}

/** A canonical Huffman code: the number of codes of each length, and the symbols in the order of their codes. */
interface Code {
  readonly counts: Uint16Array;
  readonly symbols: Uint16Array;
}

function makeCode(lengths: readonly number[]): Code {
  const counts = new Uint16Array(MAX_BITS + 1);
  for (const length of lengths) counts[length]!++;
  counts[0] = 0;
  const next = new Uint16Array(MAX_BITS + 2);
  for (let length = 1; length <= MAX_BITS; length++) next[length + 1] = next[length]! + counts[length]!;
  const symbols = new Uint16Array(lengths.length);
  for (const [symbol, length] of lengths.entries()) if (length > 0) symbols[next[length]!++] = symbol;
  let unused = 1;
  for (let length = 1; length <= MAX_BITS; length++) {
    unused = unused * 2 - counts[length]!;
    if (unused < 0) throw new DamagedData('has more deflate codes than are possible');
  }
  return { counts, symbols };
}

const FIXED_LITERALS = makeCode(
  Array.from({ length: 288 }, (_, symbol) => (symbol < 144 ? 8 : symbol < 256 ? 9 : symbol < 280 ? 7 : 8)),
);
const FIXED_DISTANCES = makeCode(new Array(DISTANCE_CODES).fill(5));

/**
 * One cluster from a deflate stream at the start of `source`.
 *
 * QEMU writes deflate with a window of 12 bits; the specification and QEMU's reader allow all 15, so the window is not
 * narrowed here. A chunk that is larger than the output saves a second one. QEMU stops when the cluster is full: a stream that
 * goes on, or has no end, is read as far as that.
 * @throws DamagedData
 */
export function inflateCluster(source: Uint8Array, clusterSize: number): Uint8Array {
  try {
    const bytes = inflateRawSync(source, { chunkSize: clusterSize + 64, maxOutputLength: clusterSize });
    if (bytes.length === clusterSize) return bytes;
  } catch (error) {
    if (!isLibraryError(error)) throw error;
  }
  return inflateFirst(source, clusterSize);
}

/** @returns the first `length` bytes of the stream at the start of `source` @throws DamagedData if it has fewer or is damaged */
export function inflateFirst(source: Uint8Array, length: number): Uint8Array {
  return new FirstBytes(source, length).run();
}

class FirstBytes {
  private readonly source: Uint8Array;
  private readonly output: Uint8Array;
  private written = 0;
  private bit = 0;

  constructor(source: Uint8Array, length: number) {
    this.source = source;
    this.output = new Uint8Array(length);
  }

  run(): Uint8Array {
    for (let isLast = false; !this.isFull; ) {
      if (isLast) throw new DamagedData(`decompresses to ${this.written} bytes instead of ${this.output.length}`);
      isLast = this.bits(1) === 1;
      const type = this.bits(2);
      if (type === 0) this.copyStored();
      else if (type === 1) this.decode(FIXED_LITERALS, FIXED_DISTANCES);
      else if (type === 2) this.decodeDynamic();
      else throw new DamagedData('has a deflate block of the reserved type');
    }
    return this.output;
  }

  private get isFull(): boolean {
    return this.written === this.output.length;
  }

  private copyStored(): void {
    this.bit = Math.ceil(this.bit / 8) * 8;
    const length = this.bits(16);
    if (this.bits(16) !== (length ^ 0xffff))
      throw new DamagedData('has a stored deflate block with contradictory lengths');
    const start = this.bit / 8;
    const part = Math.min(length, this.output.length - this.written);
    if (start + part > this.source.length) throw this.cutOff();
    this.output.set(this.source.subarray(start, start + part), this.written);
    this.written += part;
    this.bit = (start + length) * 8;
  }

  private decodeDynamic(): void {
    const literalCount = this.bits(5) + END_OF_BLOCK + 1;
    const distanceCount = this.bits(5) + 1;
    const lengthCount = this.bits(4) + 4;
    if (literalCount > END_OF_BLOCK + 1 + LENGTH_CODES || distanceCount > DISTANCE_CODES)
      throw new DamagedData('has a deflate block of too many codes');
    const codeLengths = new Array<number>(ORDER.length).fill(0);
    for (const symbol of ORDER.slice(0, lengthCount)) codeLengths[symbol] = this.bits(3);
    const lengths = this.readLengths(makeCode(codeLengths), literalCount + distanceCount);
    this.decode(makeCode(lengths.slice(0, literalCount)), makeCode(lengths.slice(literalCount)));
  }

  private readLengths(code: Code, count: number): number[] {
    const lengths: number[] = [];
    while (lengths.length < count) {
      const symbol = this.symbol(code);
      if (symbol < 16) {
        lengths.push(symbol);
        continue;
      }
      const previous = symbol === 16 ? lengths.at(-1) : 0;
      const times = symbol === 16 ? 3 + this.bits(2) : symbol === 17 ? 3 + this.bits(3) : 11 + this.bits(7);
      if (previous === undefined || lengths.length + times > count)
        throw new DamagedData('has impossible lengths of deflate codes');
      for (let i = 0; i < times; i++) lengths.push(previous);
    }
    return lengths;
  }

  /** Decodes to the end of the block, or until the output is full. */
  private decode(literals: Code, distances: Code): void {
    const { output } = this;
    while (!this.isFull) {
      const symbol = this.symbol(literals);
      if (symbol === END_OF_BLOCK) return;
      if (symbol < END_OF_BLOCK) {
        output[this.written++] = symbol;
        continue;
      }
      const lengthCode = symbol - END_OF_BLOCK - 1;
      if (lengthCode >= LENGTH_CODES) throw new DamagedData('has a deflate code that does not exist');
      const length = LENGTH_BASES[lengthCode]! + this.bits(LENGTH_BITS[lengthCode]!);
      const distanceCode = this.symbol(distances);
      const distance = DISTANCE_BASES[distanceCode]! + this.bits(DISTANCE_BITS[distanceCode]!);
      if (distance > this.written) throw new DamagedData('has a deflate match before the start of the cluster');
      const end = Math.min(this.written + length, output.length);
      for (; this.written < end; this.written++) output[this.written] = output[this.written - distance]!;
    }
  }

  private symbol({ counts, symbols }: Code): number {
    let [code, first, index] = [0, 0, 0];
    for (let length = 1; length <= MAX_BITS; length++) {
      code |= this.bits(1);
      const count = counts[length]!;
      if (code - count < first) return symbols[index + (code - first)]!;
      index += count;
      first = (first + count) << 1;
      code <<= 1;
    }
    throw new DamagedData('has a deflate code that does not exist');
  }

  /** The next `count` bits; the first one is bit 0 of the result. */
  private bits(count: number): number {
    const { source } = this;
    if (this.bit + count > source.length * 8) throw this.cutOff();
    let value = 0;
    for (let i = 0; i < count; i++, this.bit++) value |= ((source[this.bit >> 3]! >> (this.bit & 7)) & 1) << i;
    return value;
  }

  private cutOff(): DamagedData {
    return new DamagedData(`ends after ${this.written} of ${this.output.length} bytes`);
  }
}
