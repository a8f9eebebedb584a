// Decompresses a bzip2 stream of known length: blocks of at most 900 kB, each a Burrows-Wheeler transform whose last column is
// stored as run lengths, moves to the front and Huffman codes. Invariant: memory is the output and tables of fixed size that
// each thread allocates once; time is bounded by both sizes, because a limit on blocks makes every block produce output.

import { assertProductive } from './block-limit.ts';
import { Bzip2Bits } from './bzip2-bits.ts';
import { DamagedData } from './damaged-data.ts';

const BLOCK_UNIT = 100_000;
const MAX_BLOCK = 900_000;
const GROUP_SYMBOLS = 50;
const MAX_SELECTORS = 18_002;
const MAX_GROUPS = 6;
const MAX_CODE_BITS = 20;
const MAX_SYMBOLS = 258;
const RUN_A = 0;
const RUN_B = 1;
/** equal bytes after which a count of more of them follows */
const RUN_START = 4;

const BLOCK_MAGIC = [0x314159, 0x265359] as const;
const END_MAGIC = [0x177245, 0x385090] as const;

const CRC_TABLE = Int32Array.from({ length: 256 }, (_, byte) => {
  let crc = byte << 24;
  for (let bit = 0; bit < 8; bit++) crc = crc < 0 ? (crc << 1) ^ 0x04c11db7 : crc << 1;
  return crc;
});

/** @returns exactly `length` bytes @throws DamagedData if `source` is damaged or has another length */
export function decompressBzip2(source: Uint8Array, length: number): Uint8Array {
  return new Stream(source, length).run();
}

/** A canonical Huffman code. */
interface Code {
  readonly minBits: number;
  /** by the number of bits: the highest code, and what to subtract from a code to get its place in `symbols` */
  readonly limits: Int32Array;
  readonly bases: Int32Array;
  readonly symbols: Uint16Array;
}

/** For each byte of a block the place of the next one in its upper 24 bits; all blocks of a thread use it. */
let sharedLinks: Uint32Array | undefined;

class Stream {
  private readonly bits: Bzip2Bits;
  private readonly output: Uint8Array;
  private readonly links: Uint32Array;
  private readonly selectors = new Uint8Array(MAX_SELECTORS);
  private readonly toFront = new Uint8Array(256);
  private written = 0;

  constructor(source: Uint8Array, length: number) {
    this.bits = new Bzip2Bits(source);
    this.output = new Uint8Array(length);
    sharedLinks ??= new Uint32Array(MAX_BLOCK);
    this.links = sharedLinks;
  }

  run(): Uint8Array {
    const { bits, output } = this;
    const level = this.readLevel();
    let combined = 0;
    for (let blocks = 0; ; blocks++) {
      const magic = [bits.read(24), bits.read(24)];
      if (magic[0] === END_MAGIC[0] && magic[1] === END_MAGIC[1]) break;
      if (magic[0] !== BLOCK_MAGIC[0] || magic[1] !== BLOCK_MAGIC[1])
        throw new DamagedData('has no bzip2 block where one is due');
      assertProductive(blocks, output.length);
      const wanted = this.checksum();
      const crc = this.block(level * BLOCK_UNIT);
      if (crc !== wanted) throw new DamagedData('does not have the checksum of its bzip2 block');
      combined = ((combined << 1) | (combined >>> 31)) ^ crc;
    }
    if (this.checksum() !== combined) throw new DamagedData('does not have the checksum of its bzip2 stream');
    if (this.written === output.length) return output;
    throw new DamagedData(`decompresses to ${this.written} bytes instead of ${output.length}`);
  }

  private readLevel(): number {
    const [b, z, h, digit] = [this.bits.read(8), this.bits.read(8), this.bits.read(8), this.bits.read(8)];
    const level = digit - 0x30;
    if (b === 0x42 && z === 0x5a && h === 0x68 && level >= 1 && level <= 9) return level;
    throw new DamagedData('does not begin with a bzip2 stream');
  }

  private checksum(): number {
    return (this.bits.read(16) << 16) | this.bits.read(16);
  }

  /** @returns its checksum */
  private block(limit: number): number {
    const { bits } = this;
    if (bits.read(1) === 1)
      throw new DamagedData('has a randomized bzip2 block, which no program has written since 1997');
    const origin = bits.read(24);
    const alphabet = this.readAlphabet();
    const groups = bits.read(3);
    if (groups < 2 || groups > MAX_GROUPS) throw new DamagedData(`has a bzip2 block of ${groups} Huffman codes`);
    const selectors = this.readSelectors(groups);
    const codes = Array.from({ length: groups }, () => this.readCode(alphabet.length + 2));
    const count = this.readColumn(alphabet, codes, selectors, limit);
    if (origin >= count) throw new DamagedData('has a bzip2 block that begins outside of itself');
    this.linkBytes(count);
    return this.expand(origin, count);
  }

  /** The bytes that occur, in ascending order. */
  private readAlphabet(): Uint8Array {
    const { bits } = this;
    const rows = bits.read(16);
    const alphabet: number[] = [];
    for (let row = 0; row < 16; row++) {
      if ((rows & (0x8000 >> row)) === 0) continue;
      const used = bits.read(16);
      for (let i = 0; i < 16; i++) if ((used & (0x8000 >> i)) !== 0) alphabet.push(row * 16 + i);
    }
    if (alphabet.length === 0) throw new DamagedData('has a bzip2 block without bytes');
    return Uint8Array.from(alphabet);
  }

  /** Reads which code each group of symbols uses. @returns number of groups */
  private readSelectors(groups: number): number {
    const { bits, selectors } = this;
    const count = bits.read(15);
    if (count === 0) throw new DamagedData('has a bzip2 block without selectors');
    const order = [0, 1, 2, 3, 4, 5];
    for (let i = 0; i < count; i++) {
      let place = 0;
      while (bits.read(1) === 1) if (++place >= groups) throw new DamagedData('has an impossible bzip2 selector');
      const [selected] = order.splice(place, 1);
      order.unshift(selected!);
      // some programs write more than a block can use
      if (i < MAX_SELECTORS) selectors[i] = selected!;
    }
    return Math.min(count, MAX_SELECTORS);
  }

  private readCode(symbols: number): Code {
    const { bits } = this;
    const lengths = new Uint8Array(symbols);
    let length = bits.read(5);
    for (let symbol = 0; symbol < symbols; symbol++) {
      for (;;) {
        if (length < 1 || length > MAX_CODE_BITS) throw new DamagedData(`has a bzip2 Huffman code of ${length} bits`);
        if (bits.read(1) === 0) break;
        length += bits.read(1) === 0 ? 1 : -1;
      }
      lengths[symbol] = length;
    }
    return makeCode(lengths);
  }

  /** Decodes the last column of the transform into the low bytes of the links. @returns its length */
  private readColumn(alphabet: Uint8Array, codes: readonly Code[], selectors: number, limit: number): number {
    const { bits, links, toFront } = this;
    toFront.set(alphabet);
    const end = alphabet.length + 1;
    let count = 0;
    let run = 0;
    let runUnit = 1;
    for (let group = 0; group < selectors; group++) {
      const code = codes[this.selectors[group]!]!;
      for (let i = 0; i < GROUP_SYMBOLS; i++) {
        const symbol = readSymbol(bits, code);
        if (symbol === RUN_A || symbol === RUN_B) {
          run += symbol === RUN_A ? runUnit : 2 * runUnit;
          runUnit *= 2;
          if (run > limit - count) throw tooLong(limit);
          continue;
        }
        if (run > 0) {
          links.fill(toFront[0]!, count, count + run);
          count += run;
          run = 0;
          runUnit = 1;
        }
        if (symbol === end) return count;
        if (count === limit) throw tooLong(limit);
        const place = symbol - 1;
        const byte = toFront[place]!;
        moveToFront(toFront, place, byte);
        links[count++] = byte;
      }
      bits.assertInside();
    }
    throw new DamagedData('has a bzip2 block without an end');
  }

  /** Inverts the transform: each entry gets the place of the byte after its own. */
  private linkBytes(count: number): void {
    const { links } = this;
    const next = new Uint32Array(256);
    for (let i = 0; i < count; i++) next[links[i]!]!++;
    for (let byte = 0, sum = 0; byte < 256; byte++) {
      const here = next[byte]!;
      next[byte] = sum;
      sum += here;
    }
    for (let i = 0; i < count; i++) {
      const place = next[links[i]! & 0xff]!++;
      links[place] = (links[place]! & 0xff) | (i << 8);
    }
  }

  /** Follows the links and expands runs into the output. @returns checksum of the block */
  private expand(origin: number, count: number): number {
    const { links, output } = this;
    let crc = -1;
    let at = this.written;
    let place = links[origin]! >>> 8;
    let previous = -1;
    let equal = 0;
    for (let i = 0; i < count; i++) {
      const link = links[place]!;
      const byte = link & 0xff;
      place = link >>> 8;
      const isCount = equal === RUN_START;
      const times = isCount ? byte : 1;
      if (times > output.length - at) throw new DamagedData(`decompresses to more than ${output.length} bytes`);
      const value = isCount ? previous : byte;
      for (let n = 0; n < times; n++) {
        output[at++] = value;
        crc = (crc << 8) ^ CRC_TABLE[(crc >>> 24) ^ value]!;
      }
      equal = isCount ? 0 : byte === previous ? equal + 1 : 1;
      previous = isCount ? -1 : byte;
    }
    this.written = at;
    return ~crc;
  }
}

/** Below it a loop is faster than a call. */
const SHORT_MOVE = 24;

function moveToFront(order: Uint8Array, place: number, byte: number): void {
  if (place < SHORT_MOVE) for (let i = place; i > 0; i--) order[i] = order[i - 1]!;
  else order.copyWithin(1, 0, place);
  order[0] = byte;
}

function tooLong(limit: number): DamagedData {
  return new DamagedData(`has a bzip2 block of more than ${limit} bytes`);
}

function makeCode(lengths: Uint8Array): Code {
  const counts = new Int32Array(MAX_CODE_BITS + 1);
  for (const length of lengths) counts[length]!++;
  const limits = new Int32Array(MAX_CODE_BITS + 1).fill(-1);
  const bases = new Int32Array(MAX_CODE_BITS + 1);
  const symbols = new Uint16Array(MAX_SYMBOLS);
  const places = new Int32Array(MAX_CODE_BITS + 1);
  let code = 0;
  let place = 0;
  let minBits = 0;
  for (let bits = 1; bits <= MAX_CODE_BITS; bits++) {
    if (minBits === 0 && counts[bits]! > 0) minBits = bits;
    bases[bits] = code - place;
    places[bits] = place;
    place += counts[bits]!;
    code += counts[bits]!;
    if (code > 2 ** bits) throw new DamagedData('has more bzip2 Huffman codes than are possible');
    limits[bits] = code - 1;
    code *= 2;
  }
  for (const [symbol, bits] of lengths.entries()) symbols[places[bits]!++] = symbol;
  return { minBits, limits, bases, symbols };
}

function readSymbol(bits: Bzip2Bits, { minBits, limits, bases, symbols }: Code): number {
  const window = bits.peek20();
  for (let length = minBits; length <= MAX_CODE_BITS; length++) {
    const code = window >>> (MAX_CODE_BITS - length);
    if (code > limits[length]!) continue;
    bits.skip(length);
    return symbols[code - bases[length]!]!;
  }
  throw new DamagedData('has a bzip2 Huffman code that does not exist');
}
