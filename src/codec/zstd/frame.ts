// zstd frames (RFC 8878, 3.1.1): parses the header, finds the blocks, and decodes a frame.
// Invariant: memory is one cluster of output, plus tables of fixed size that each thread allocates once. Time is bounded by
// the size of the cluster, because a limit on blocks makes every block produce output.

import { DamagedData } from '../damaged-data.ts';
import { makeHuffmanTable } from './huffman.ts';
import { type Literals, readLiterals } from './literals.ts';
import { Sequences } from './sequences.ts';
import { xxh64Low } from './xxh64.ts';

/** The default of libzstd, and so of QEMU. A window needs no memory here, because the output is the window. */
const MAX_WINDOW_BYTES = 2 ** 27;
const MAX_BLOCK_BYTES = 128 * 1024;

const FRAME_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;
const CHECKSUM_BYTES = 4;

const RAW_BLOCK = 0;
const RLE_BLOCK = 1;
const RESERVED_BLOCK = 3;

/** A block with tables costs time even without output, so a frame may have this many, plus one per MIN_BYTES_PER_BLOCK. */
const FREE_BLOCKS = 64;
const MIN_BYTES_PER_BLOCK = 128;

/** A frame in a source. Its header and the headers of its blocks have been checked. */
export interface Frame {
  readonly start: number;
  /** offset of the first block; equal to `end` in a skippable frame */
  readonly blocks: number;
  /** end of the frame, exclusive */
  readonly end: number;
  /** window size in bytes: how far back a match may refer */
  readonly window: number;
  /** most bytes that one block may decompress to */
  readonly blockLimit: number;
  /** bytes of data; null if the frame does not say */
  readonly contentSize: number | null;
  readonly hasChecksum: boolean;
  /** false for a skippable frame */
  readonly hasData: boolean;
}

/** Parses the frame at `start`. @throws DamagedData if there is no frame or it does not end inside the source */
export function findFrame(source: Uint8Array, start: number): Frame {
  const view = new DataView(source.buffer, source.byteOffset, source.byteLength);
  if (start + 8 > source.length) throw new DamagedData('ends before a zstd frame begins');
  const magic = view.getUint32(start, true);
  if ((magic & 0xfffffff0) >>> 0 === SKIPPABLE_MAGIC) {
    const end = start + 8 + view.getUint32(start + 4, true);
    if (end > source.length) throw new DamagedData('has a skippable zstd frame that ends beyond its sectors');
    return { start, blocks: end, end, window: 0, blockLimit: 0, contentSize: null, hasChecksum: false, hasData: false };
  }
  if (magic !== FRAME_MAGIC) throw new DamagedData('does not begin with a zstd frame');
  const descriptor = source[start + 4]!;
  if ((descriptor & 0x08) !== 0) throw new DamagedData('has a reserved bit set in its zstd frame header');
  const singleSegment = (descriptor & 0x20) !== 0;
  const dictionaryBytes = [0, 1, 2, 4][descriptor & 3]!;
  const sizeCode = descriptor >> 6;
  const sizeBytes = sizeCode === 0 ? (singleSegment ? 1 : 0) : 1 << sizeCode;
  const fields = start + 5 + (singleSegment ? 0 : 1);
  const blocks = fields + dictionaryBytes + sizeBytes;
  if (blocks > source.length) throw new DamagedData('ends inside a zstd frame header');
  for (let i = 0; i < dictionaryBytes; i++) {
    if (source[fields + i] !== 0) throw new DamagedData('asks for a zstd dictionary, which the image does not have');
  }
  const contentSize = sizeBytes === 0 ? null : readContentSize(source, fields + dictionaryBytes, sizeBytes);
  const window = singleSegment ? contentSize! : readWindow(source[start + 5]!);
  if (window > MAX_WINDOW_BYTES) throw new DamagedData(`asks for a zstd window of ${window} bytes`);
  const blockLimit = Math.min(window, MAX_BLOCK_BYTES);
  const hasChecksum = (descriptor & 4) !== 0;
  const end = skipBlocks(source, blocks, blockLimit) + (hasChecksum ? CHECKSUM_BYTES : 0);
  if (end > source.length) throw new DamagedData('ends inside a zstd frame');
  return { start, blocks, end, window, blockLimit, contentSize, hasChecksum, hasData: true };
}

function readWindow(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

function readContentSize(source: Uint8Array, at: number, bytes: number): number {
  let size = 0;
  for (let i = bytes - 1; i >= 0; i--) size = size * 256 + source[at + i]!;
  return bytes === 2 ? size + 256 : size;
}

/** The three bytes before a block: bit 0 marks the last block, bits 1 and 2 are the type, bits 3 to 23 the size. */
function readBlockHeader(source: Uint8Array, at: number): number {
  return source[at]! | (source[at + 1]! << 8) | (source[at + 2]! << 16);
}

/** @param at offset of the first block @returns end of the last block */
function skipBlocks(source: Uint8Array, at: number, limit: number): number {
  for (let last = false; !last; ) {
    if (at + 3 > source.length) throw new DamagedData('ends inside a zstd frame');
    const header = readBlockHeader(source, at);
    last = (header & 1) !== 0;
    const type = (header >> 1) & 3;
    const size = header >> 3;
    if (type === RESERVED_BLOCK) throw new DamagedData('has a zstd block of the reserved type');
    if (size > limit) throw new DamagedData(`has a zstd block of ${size} bytes, more than the ${limit} of its window`);
    at += 3 + (type === RLE_BLOCK ? 1 : size);
  }
  if (at > source.length) throw new DamagedData('ends inside a zstd frame');
  return at;
}

/** Padding before and after the frame: bit streams are read backwards in 32-bit words, which may reach beyond their ends. */
const MARGIN_BYTES = 16;

/** Decodes frames one after the other and reuses its tables and buffers. */
export class FrameDecoder {
  private source = new Uint8Array(0);
  private view = new DataView(this.source.buffer);
  private readonly huffman = makeHuffmanTable();
  private readonly literals: Literals = { bytes: this.source, start: 0, length: 0, end: 0 };
  private readonly literalsBuffer = new Uint8Array(MAX_BLOCK_BYTES);
  private readonly sequences = new Sequences();

  /** @param frame what findFrame() found in `source` @returns the data in new memory, at most `limit` bytes */
  decode(source: Uint8Array, frame: Frame, limit: number): Uint8Array {
    if (frame.contentSize !== null && frame.contentSize > limit) {
      throw new DamagedData('decompresses to more than a cluster');
    }
    this.copyWithMargins(source.subarray(frame.blocks, frame.end));
    const output = new Uint8Array(frame.contentSize ?? limit);
    const length = this.decodeBlocks(frame, output);
    if (frame.contentSize !== null && frame.contentSize !== length) {
      throw new DamagedData(`has ${length} bytes in a zstd frame of ${frame.contentSize}`);
    }
    const data = output.subarray(0, length);
    if (frame.hasChecksum) {
      const stored = this.view.getUint32(MARGIN_BYTES + frame.end - frame.blocks - CHECKSUM_BYTES, true);
      if (stored !== xxh64Low(data)) throw new DamagedData('does not have the checksum of its zstd frame');
    }
    return data;
  }

  /** Copies the blocks into a buffer with margins around them. */
  private copyWithMargins(blocks: Uint8Array): void {
    const needed = blocks.length + 2 * MARGIN_BYTES;
    if (this.source.length < needed) {
      this.source = new Uint8Array(needed);
      this.view = new DataView(this.source.buffer);
    }
    this.source.set(blocks, MARGIN_BYTES);
  }

  /** @returns length of the output */
  private decodeBlocks(frame: Frame, output: Uint8Array): number {
    const { source } = this;
    this.huffman.codeBits = 0;
    this.sequences.reset();
    let tables = 0;
    let length = 0;
    for (let at = MARGIN_BYTES, last = false; !last; ) {
      const header = readBlockHeader(source, at);
      last = (header & 1) !== 0;
      const type = (header >> 1) & 3;
      const size = header >> 3;
      at += 3;
      if (type === RAW_BLOCK || type === RLE_BLOCK) {
        if (length + size > output.length) throw new DamagedData('decompresses to more than a cluster');
        if (type === RAW_BLOCK) output.set(source.subarray(at, at + size), length);
        else output.fill(source[at]!, length, length + size);
        length += size;
        at += type === RAW_BLOCK ? size : 1;
        continue;
      }
      if (++tables > FREE_BLOCKS + length / MIN_BYTES_PER_BLOCK) {
        throw new DamagedData(`is split into more than ${tables} zstd blocks with almost no data`);
      }
      length = this.decodeBlock(at, at + size, frame.blockLimit, output, length);
      at += size;
    }
    return length;
  }

  private decodeBlock(start: number, end: number, blockLimit: number, output: Uint8Array, at: number): number {
    const { source, view, literals, huffman, literalsBuffer } = this;
    readLiterals(literals, huffman, source, view, start, end, blockLimit, literalsBuffer);
    const limit = Math.min(at + blockLimit, output.length);
    return this.sequences.run(source, view, literals.end, end, literals, output, 0, at, limit);
  }
}
