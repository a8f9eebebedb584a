// An open ASIF image, read-only. A chunk of which only some blocks were written has the others in a bitmap of its group, two bits for
// each block: 0 was never written and reads as zeros, whatever lies there, 1 was written. The others have not been seen.

import { after, type GuestOffset, hex, hostOffset } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { type Extent, type SharedImage, shareImage } from '../image-format.ts';
import { PieceImage, type PieceState } from '../piece-image.ts';

const BLOCKS_PER_BYTE = 4;
const WRITTEN = 1;

/** The state that all threads share. It does not change after the open. */
export interface AsifState {
  readonly pieces: PieceState;
  readonly blockBytes: number;
  /** chunks of data of one bitmap */
  readonly run: number;
  /** Uint8: 1 for a chunk of which some blocks were not written */
  readonly partial: SharedArrayBuffer;
  /** Float64: host offset of the bitmap of each group; 0 for none */
  readonly bitmaps: SharedArrayBuffer;
}

export class AsifImage extends PieceImage {
  private readonly own: AsifState;
  private readonly partial: Uint8Array;
  private readonly bitmaps: Float64Array;
  /** the bits of the chunk that was asked for last */
  private readonly known: { chunk: number; readonly bits: Uint8Array };

  constructor(file: HostFile, state: AsifState) {
    super(file, state.pieces);
    this.own = state;
    this.partial = new Uint8Array(state.partial);
    this.bitmaps = new Float64Array(state.bitmaps);
    this.known = { chunk: -1, bits: new Uint8Array(this.clusterSize / state.blockBytes / BLOCKS_PER_BYTE) };
  }

  override map(offset: GuestOffset, length: number): Extent {
    const extent = super.map(offset, length);
    if (extent.hostOffset === undefined) return extent;
    const chunk = Math.floor(offset / this.clusterSize);
    if (this.partial[chunk] === 1) return this.mapBlocks(extent, chunk);
    const end = Math.ceil((offset + extent.length) / this.clusterSize);
    let next = chunk + 1;
    while (next < end && this.partial[next] === 0) next++;
    return { ...extent, length: Math.min(extent.length, next * this.clusterSize - offset) };
  }

  override share(): SharedImage {
    return shareImage(this, this.own);
  }

  /** The blocks of one state at the start of an extent that begins in a chunk with a bitmap. */
  private mapBlocks(extent: Extent, chunk: number): Extent {
    const { blockBytes } = this.own;
    const inChunk = extent.start - chunk * this.clusterSize;
    const most = Math.min(extent.length, this.clusterSize - inChunk);
    const bits = this.bitsOf(chunk);
    const stateOf = (block: number): number =>
      (bits[Math.floor(block / BLOCKS_PER_BYTE)]! >> ((block % BLOCKS_PER_BYTE) * 2)) & 3;
    const first = Math.floor(inChunk / blockBytes);
    const state = stateOf(first);
    if (state > WRITTEN) throw this.unknown(chunk, `block ${first} of it has the state ${state}, which is not known`);
    let end = first + 1;
    while (end * blockBytes < inChunk + most && stateOf(end) === state) end++;
    const length = Math.min(most, end * blockBytes - inChunk);
    return state === WRITTEN ? { ...extent, length } : { start: extent.start, length, status: 'unallocated' };
  }

  private bitsOf(chunk: number): Uint8Array {
    const { known, own } = this;
    if (known.chunk === chunk) return known.bits;
    known.chunk = -1;
    const place = this.bitmaps[Math.floor(chunk / own.run)]!;
    if (place === 0) throw this.unknown(chunk, 'some blocks of it were not written, and no bitmap says which');
    const at = after(hostOffset(place), (chunk % own.run) * known.bits.length);
    if (this.file.read(known.bits, 0, known.bits.length, at) < known.bits.length)
      throw this.unknown(chunk, `its bitmap at ${hex(at)} lies beyond the end of the file`);
    known.chunk = chunk;
    return known.bits;
  }

  private unknown(chunk: number, what: string): ImgfuseError {
    const { path } = this.file;
    const sentence = `${path}: chunk ${chunk} of the disk cannot be read: ${what}; convert the image to a raw one on a Mac`;
    return new ImgfuseError('corrupt', sentence, { path });
  }
}
