// The extents of an open image in the order of the disk: guest range -> extent. Each knows its own bytes from 0 on. Only the last one
// changes its length.

import { type GuestOffset, guestOffset } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { Image, WritableImage } from '../image-format.ts';
import type { ExtentLine } from './descriptor/parse.ts';
import type { WritableExtent } from './extent.ts';
import type { ExtentReader } from './fixed-extents.ts';

export interface PlacedExtent {
  /** where it begins on the disk */
  readonly start: number;
  readonly line: ExtentLine;
  /** granularity of allocation in bytes; 0: there is none */
  readonly grainBytes: number;
  /** null: it has no file */
  readonly file: HostFile | null;
  /** null: it has no file */
  readonly image: Image | null;
  readonly reader: ExtentReader;
  /** null: it is only read */
  readonly writer: WritableImage | null;
  /** the same, if it has tables of its own */
  readonly tables: WritableExtent | null;
}

/** Bytes of one extent that a request touches. */
export interface ExtentPiece {
  readonly extent: PlacedExtent;
  /** in the extent */
  readonly offset: GuestOffset;
  readonly length: number;
  /** from the beginning of the request */
  readonly done: number;
}

export class ExtentTable {
  readonly list: readonly PlacedExtent[];

  constructor(list: readonly PlacedExtent[]) {
    assert(list.length > 0, 'an image without an extent');
    this.list = list;
  }

  get last(): PlacedExtent {
    return this.list[this.list.length - 1]!;
  }

  /** Bytes of the disk. */
  get end(): number {
    return this.last.start + this.last.reader.virtualSize();
  }

  /** The extents that may be written. */
  get writers(): WritableImage[] {
    return this.list.flatMap(({ writer }) => writer ?? []);
  }

  /** The first piece of a range that lies inside the disk. */
  first(offset: GuestOffset, length: number): ExtentPiece {
    return this.pieceAt(this.indexAt(offset), offset, length, 0);
  }

  /** All pieces of a range that lies inside the disk, in its order: one, but for the few that cross a border. */
  pieces(offset: GuestOffset, length: number): ExtentPiece[] {
    if (length === 0) return [];
    let index = this.indexAt(offset);
    const first = this.pieceAt(index, offset, length, 0);
    const pieces = [first];
    for (let done = first.length; done < length; ) {
      const piece = this.pieceAt(++index, offset + done, length - done, done);
      pieces.push(piece);
      done += piece.length;
    }
    return pieces;
  }

  private pieceAt(index: number, offset: number, length: number, done: number): ExtentPiece {
    const extent = this.list[index]!;
    const next = this.list[index + 1];
    const room = next === undefined ? length : next.start - offset;
    return { extent, offset: guestOffset(offset - extent.start), length: Math.min(length, room), done };
  }

  /** The last extent that begins at or before `offset`. */
  private indexAt(offset: number): number {
    const { list } = this;
    let low = 0;
    for (let high = list.length; high - low > 1; ) {
      const middle = (low + high) >>> 1;
      if (list[middle]!.start <= offset) low = middle;
      else high = middle;
    }
    return low;
  }
}
