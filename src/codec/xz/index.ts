// Decompresses an xz stream of known length: header, blocks, index, footer. Every checksum in it is compared.

import { createHash } from 'node:crypto';
import { crc32 } from 'node:zlib';
import { assertProductive } from '../block-limit.ts';
import { DamagedData } from '../damaged-data.ts';
import { crc64 } from './crc64.ts';
import { decodeLzma2 } from './lzma2.ts';

const HEADER_MAGIC = [0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00] as const;
const HEADER_BYTES = 12;
const FOOTER_BYTES = 12;
const LZMA2_FILTER = 0x21;
const MAX_DICTIONARY_CODE = 40;

/** The check of the data of a block, as it is stored. */
interface Check {
  readonly bytes: number;
  readonly of: (data: Uint8Array) => Uint8Array;
}

const CHECKS: ReadonlyMap<number, Check> = new Map<number, Check>([
  [0, { bytes: 0, of: () => new Uint8Array(0) }],
  [1, { bytes: 4, of: (data) => u32Bytes(crc32(data)) }],
  [4, { bytes: 8, of: (data) => crc64Bytes(data) }],
  [10, { bytes: 32, of: (data) => createHash('sha256').update(data).digest() }],
]);

/** @returns exactly `length` bytes @throws DamagedData if `source` is damaged or has another length */
export function decompressXz(source: Uint8Array, length: number): Uint8Array {
  return new Stream(source, length).run();
}

class Stream {
  private readonly source: Uint8Array;
  private readonly view: DataView;
  private readonly output: Uint8Array;
  private at = 0;
  private written = 0;

  constructor(source: Uint8Array, length: number) {
    this.source = source;
    this.view = new DataView(source.buffer, source.byteOffset, source.length);
    this.output = new Uint8Array(length);
  }

  run(): Uint8Array {
    const checkType = this.header();
    const sizes: number[] = [];
    while (this.byte('a block') !== 0) {
      assertProductive(sizes.length / 2, this.output.length);
      sizes.push(...this.block(checkType));
    }
    this.footer(checkType, this.index(sizes));
    if (this.written === this.output.length) return this.output;
    throw new DamagedData(`decompresses to ${this.written} bytes instead of ${this.output.length}`);
  }

  /** @returns type of the checks of blocks */
  private header(): number {
    const { source } = this;
    if (HEADER_MAGIC.some((byte, i) => source[i] !== byte)) throw new DamagedData('does not begin with an xz stream');
    this.need(HEADER_BYTES, 'the header');
    this.checkCrc(6, 8, 'header');
    const type = source[7]!;
    if (source[6] !== 0 || !CHECKS.has(type))
      throw new DamagedData(`has xz flags of ${source[6]}, ${type}, which are unknown`);
    this.at = HEADER_BYTES;
    return type;
  }

  /** Decodes a block. @returns its two sizes as the index has them */
  private block(checkType: number): readonly [unpadded: number, uncompressed: number] {
    const { source, output } = this;
    const start = this.at;
    const headerEnd = start + (source[start]! + 1) * 4;
    this.need(headerEnd - start, 'the header of a block');
    this.checkCrc(start, headerEnd - 4, 'block header');
    const flags = source[start + 1]!;
    if ((flags & 0x3c) !== 0) throw new DamagedData('has reserved flags in its xz block');
    this.at = start + 2;
    const compressed = (flags & 0x40) !== 0 ? this.number() : undefined;
    const uncompressed = (flags & 0x80) !== 0 ? this.number() : undefined;
    const dictionaryBytes = this.filter(flags & 3);
    this.padding(headerEnd - 4, 'block header');
    const from = this.written;
    const { end, written } = decodeLzma2(source, headerEnd, output, from, dictionaryBytes);
    if ((compressed ?? end - headerEnd) !== end - headerEnd || (uncompressed ?? written - from) !== written - from)
      throw new DamagedData('has an xz block of other sizes than its header says');
    this.at = end;
    this.padding(start + Math.ceil((end - start) / 4) * 4, 'block');
    const check = CHECKS.get(checkType)!;
    this.need(check.bytes, 'the check of a block');
    const stored = source.subarray(this.at, this.at + check.bytes);
    if (Buffer.compare(stored, check.of(output.subarray(from, written))) !== 0)
      throw new DamagedData('does not have the checksum of its xz block');
    this.at += check.bytes;
    this.written = written;
    return [end - start + check.bytes, written - from];
  }

  /** @param more filters than one @returns size of the dictionary in bytes */
  private filter(more: number): number {
    const id = this.number();
    if (more !== 0 || id !== LZMA2_FILTER)
      throw new DamagedData(`has the xz filter 0x${id.toString(16)}; only LZMA2 alone is supported`);
    const propertyBytes = this.number();
    const code = this.byte('a filter');
    this.at++;
    if (propertyBytes !== 1 || code > MAX_DICTIONARY_CODE)
      throw new DamagedData(`has an LZMA2 dictionary of the impossible size ${code}`);
    return code === MAX_DICTIONARY_CODE ? 2 ** 32 - 1 : (2 | (code & 1)) * 2 ** ((code >> 1) + 11);
  }

  /** @returns its length in bytes */
  private index(sizes: readonly number[]): number {
    const start = this.at++;
    const isRight = this.number() === sizes.length / 2 && sizes.every((size) => this.number() === size);
    if (!isRight) throw new DamagedData('has an xz index that does not fit its blocks');
    const end = start + Math.ceil((this.at - start) / 4) * 4;
    this.padding(end, 'index');
    this.need(4, 'the index');
    this.checkCrc(start, end, 'index');
    this.at = end + 4;
    return this.at - start;
  }

  private footer(checkType: number, indexBytes: number): void {
    const { source, at, view } = this;
    this.need(FOOTER_BYTES, 'the footer');
    if (crc32(source.subarray(at + 4, at + 10)) !== view.getUint32(at, true)) throw wrongCrc('footer');
    const backward = (view.getUint32(at + 4, true) + 1) * 4;
    const isRight = backward === indexBytes && source[at + 8] === 0 && source[at + 9] === checkType;
    if (!isRight || source[at + 10] !== 0x59 || source[at + 11] !== 0x5a)
      throw new DamagedData('has an xz footer that does not fit its header and index');
  }

  /** A number of 7 bits a byte, the lowest first. */
  private number(): number {
    let [low, high] = [0, 0];
    for (let i = 0; i < 9; i++) {
      const byte = this.byte('a number');
      this.at++;
      if (i < 4) low += (byte & 0x7f) * 2 ** (7 * i);
      else high += (byte & 0x7f) * 2 ** (7 * (i - 4));
      if (byte === 0 && i > 0) break;
      if ((byte & 0x80) === 0) return combineGroups(high, low);
    }
    throw new DamagedData('has an xz number that does not end');
  }

  /** Goes to `end`, over zeros. */
  private padding(end: number, what: string): void {
    if (this.at > end) throw new DamagedData(`has an xz ${what} that is too short`);
    for (; this.at < end; this.at++)
      if (this.byte('padding') !== 0) throw new DamagedData(`has an xz ${what} with padding that is not zero`);
  }

  private checkCrc(start: number, end: number, what: string): void {
    if (crc32(this.source.subarray(start, end)) !== this.view.getUint32(end, true)) throw wrongCrc(what);
  }

  private byte(what: string): number {
    this.need(1, what);
    return this.source[this.at]!;
  }

  private need(bytes: number, what: string): void {
    if (this.at + bytes > this.source.length) throw new DamagedData(`ends inside ${what} of an xz stream`);
  }
}

/** high * 2^28 + low; a number above all safe ones equals no size. */
function combineGroups(high: number, low: number): number {
  const value = high * 2 ** 28 + low;
  return Number.isSafeInteger(value) ? value : Number.NaN;
}

function wrongCrc(what: string): DamagedData {
  return new DamagedData(`does not have the checksum of its xz ${what}`);
}

function u32Bytes(value: number): Uint8Array {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value);
  return bytes;
}

function crc64Bytes(data: Uint8Array): Uint8Array {
  const { high, low } = crc64(data);
  return Buffer.concat([u32Bytes(low), u32Bytes(high)]);
}
