// Reads the compressed pieces of an image that is only read: each is decompressed as a whole, and the last few are kept. One
// object serves one thread. Invariant: a piece gives exactly the bytes that it maps, or the read fails.

import { type HostOffset, hex } from '../bytes/offsets.ts';
import { ImgfuseError } from '../errors/index.ts';
import type { HostFile } from '../host/host-file.ts';
import { DamagedData } from './damaged-data.ts';
import { KeptPieces } from './kept-pieces.ts';

/** Per thread; a piece that is larger than this is kept alone. */
const KEPT_BYTES = 8 * 1024 * 1024;

/** Largest piece, compressed or not, for which memory is taken; as in QEMU. */
export const MAX_PIECE_BYTES = 64 * 1024 * 1024;

/** Decodes `source` into exactly `length` bytes. @throws DamagedData */
export type Decompress = (source: Uint8Array, length: number) => Uint8Array;

/** A piece that has been checked: it lies inside the file, and neither length is above MAX_PIECE_BYTES. */
export interface CompressedPiece {
  readonly hostOffset: HostOffset;
  readonly storedBytes: number;
  /** bytes of the disk that it maps */
  readonly bytes: number;
}

export class CompressedPieces {
  private readonly file: HostFile;
  /** what the format calls a piece */
  private readonly noun: string;
  private readonly kept = new KeptPieces(KEPT_BYTES);

  constructor(file: HostFile, noun: string) {
    this.file = file;
    this.noun = noun;
  }

  /**
   * @param index number of the piece in the image @param find called if the piece is not kept
   * @returns the decompressed piece, which belongs to this object
   * @throws ImgfuseError corrupt
   */
  read(index: number, find: () => CompressedPiece, decompress: Decompress): Uint8Array {
    const known = this.kept.get(index);
    if (known !== undefined) return known;
    const bytes = this.decode(find(), decompress);
    this.kept.put(index, bytes);
    return bytes;
  }

  private decode({ hostOffset, storedBytes, bytes }: CompressedPiece, decompress: Decompress): Uint8Array {
    const source = new Uint8Array(storedBytes);
    const got = this.file.read(source, 0, storedBytes, hostOffset);
    try {
      if (got < storedBytes) throw new DamagedData(`ends after ${got} of ${storedBytes} bytes, at the end of the file`);
      return decompress(source, bytes);
    } catch (error) {
      if (!(error instanceof DamagedData)) throw error;
      const { path } = this.file;
      const sentence = `${path}: the compressed ${this.noun} at offset ${hex(hostOffset)} ${error.message}`;
      const context = { path, offset: hostOffset };
      throw new ImgfuseError('corrupt', `${sentence}; restore the image from a backup`, context, error);
    }
  }
}
