// Decompresses an LZFSE stream of known length. It is a row of blocks, each with a magic, to "bvx$":
//
//   "bvx-" raw bytes u32                    the bytes as they are
//   "bvx1", "bvx2"                          block-header.ts
//   "bvxn" raw bytes u32, payload u32       LZVN
//
// A match may go back over the blocks before. Invariant: memory is the output and tables of fixed size that each thread
// allocates once; time is bounded by both sizes, because a limit on blocks makes every block produce output.

import { assertProductive } from '../block-limit.ts';
import { DamagedData } from '../damaged-data.ts';
import { BlockDecoder } from './block.ts';
import { readHeaderV1, readHeaderV2 } from './block-header.ts';
import { decodeLzvn } from './lzvn.ts';

const MAGIC_BYTES = 4;
const RAW_HEADER_BYTES = 8;
const LZVN_HEADER_BYTES = 12;

let blockDecoder: BlockDecoder | undefined;

/** @returns exactly `length` bytes @throws DamagedData if `source` is damaged or has another length */
export function decompressLzfse(source: Uint8Array, length: number): Uint8Array {
  const stream = new Stream(source, length);
  let isLast = false;
  for (let blocks = 0; !isLast; blocks++) {
    assertProductive(blocks, length);
    isLast = stream.block();
  }
  return stream.whole();
}

class Stream {
  private readonly source: Uint8Array;
  private readonly output: Uint8Array;
  private at = 0;
  private written = 0;

  constructor(source: Uint8Array, length: number) {
    this.source = source;
    this.output = new Uint8Array(length);
  }

  whole(): Uint8Array {
    const { output, written } = this;
    if (written === output.length) return output;
    throw new DamagedData(`decompresses to ${written} bytes instead of ${output.length}`);
  }

  /** Decodes the next block. @returns whether it is the end of the stream */
  block(): boolean {
    const { source } = this;
    this.need(MAGIC_BYTES);
    const magic = Buffer.from(source.subarray(this.at, this.at + MAGIC_BYTES)).toString('latin1');
    const view = new DataView(source.buffer, source.byteOffset + this.at, source.length - this.at);
    switch (magic) {
      case 'bvx$':
        return true;
      case 'bvx-':
        this.rawBlock(view);
        break;
      case 'bvxn':
        this.lzvnBlock(view);
        break;
      case 'bvx1':
      case 'bvx2':
        this.lzfseBlock(view, magic);
        break;
      default:
        throw new DamagedData('has no LZFSE block where one is due');
    }
    return false;
  }

  private rawBlock(view: DataView): void {
    this.need(RAW_HEADER_BYTES);
    const bytes = view.getUint32(4, true);
    this.room(bytes);
    this.at += RAW_HEADER_BYTES;
    this.need(bytes);
    this.output.set(this.source.subarray(this.at, this.at + bytes), this.written);
    this.at += bytes;
    this.written += bytes;
  }

  private lzvnBlock(view: DataView): void {
    this.need(LZVN_HEADER_BYTES);
    const [bytes, payload] = [view.getUint32(4, true), view.getUint32(8, true)];
    this.room(bytes);
    this.at += LZVN_HEADER_BYTES;
    this.need(payload);
    decodeLzvn(this.source, this.at, this.at + payload, this.output, this.written, this.written + bytes);
    this.at += payload;
    this.written += bytes;
  }

  private lzfseBlock(view: DataView, magic: 'bvx1' | 'bvx2'): void {
    const header = magic === 'bvx1' ? readHeaderV1(view) : readHeaderV2(view);
    this.room(header.rawBytes);
    const payload = header.literalBytes + header.matchBytes;
    this.at += header.headerBytes;
    // the magic of the next block lets the bits be read in words
    this.need(payload + MAGIC_BYTES);
    blockDecoder ??= new BlockDecoder();
    blockDecoder.decode(this.source, this.at, header, this.output, this.written);
    this.at += payload;
    this.written += header.rawBytes;
  }

  private need(bytes: number): void {
    if (this.at + bytes > this.source.length)
      throw new DamagedData(`ends after ${this.written} of ${this.output.length} bytes`);
  }

  private room(bytes: number): void {
    if (bytes > this.output.length - this.written)
      throw new DamagedData(`decompresses to more than ${this.output.length} bytes`);
  }
}
