// The numbers that follow from the size of a block, computed once, and the grid on which new blocks are laid. In the file a block is
// its bitmap and then its data:
//
//   | bitmap | data of block_size bytes | padding |  bitmap | data ...        the grid: `phase` + n * `stride`
//
// Blocks of other programs lie anywhere. One on the grid can be freed and used again. The footer behind the last block lies in its
// padding, so it need not be wiped when the file grows.

import {
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  guestOffset,
  type HostCluster,
  type HostOffset,
  hostCluster,
  hostOffset,
  remainder,
  roundUp,
  SECTOR_BYTES,
} from '../../bytes/offsets.ts';
import { FOOTER_BYTES } from './header/footer.ts';
import { bitmapBytesOf } from './header/header.ts';

/** Data of new blocks begins at a page of the host. */
const PAGE_BYTES = 4096;

export interface Grid {
  readonly stride: number;
  readonly phase: number;
}

export class Geometry {
  readonly blockSize: number;
  readonly sectorsPerBlock: number;
  readonly bitmapBytes: number;
  /** bytes of a block in the file, without padding */
  readonly blockBytes: number;
  readonly stride: number;
  private readonly phase: number;

  constructor(blockSize: number, grid: Grid) {
    this.blockSize = blockSize;
    this.sectorsPerBlock = blockSize / SECTOR_BYTES;
    this.bitmapBytes = bitmapBytesOf(blockSize);
    this.blockBytes = this.bitmapBytes + blockSize;
    this.stride = grid.stride;
    this.phase = grid.phase;
  }

  blockOf(offset: GuestOffset): GuestCluster {
    return guestCluster(Math.floor(offset / this.blockSize));
  }

  startOf(block: GuestCluster): GuestOffset {
    return guestOffset(block * this.blockSize);
  }

  /** Blocks that `bytes` bytes of the disk take, the last one maybe in part. */
  blocksFor(bytes: number): number {
    return Math.ceil(bytes / this.blockSize);
  }

  isOnGrid(host: HostOffset): boolean {
    return host >= this.phase && (host - this.phase) % this.stride === 0;
  }

  /** The place on the grid that begins at `host`. */
  placeOf(host: HostOffset): HostCluster {
    return hostCluster(Math.floor((host - this.phase) / this.stride));
  }

  offsetOf(place: HostCluster): HostOffset {
    return hostOffset(this.phase + place * this.stride);
  }

  /** The first offset of the grid at or behind `offset`. */
  nextOnGrid(offset: number): HostOffset {
    return hostOffset(this.phase + Math.max(0, Math.ceil((offset - this.phase) / this.stride)) * this.stride);
  }

  /** The last place on the grid whose block ends at or before `end`; -1 if there is none. */
  lastPlaceBefore(end: number): number {
    return Math.max(-1, Math.floor((end - this.blockBytes - this.phase) / this.stride));
  }

  /**
   * Length of a file that is used up to `end`: the footer follows at once. QEMU lays its next block there, and takes what is not
   * covered by the new bitmap for zeros.
   */
  lengthFor(end: number): number {
    return roundUp(end, SECTOR_BYTES) + FOOTER_BYTES;
  }
}

/** Blocks that new images are laid out in: padded, so that their data begins at a page. */
export function paddedGrid(blockSize: number, end: number): Grid {
  const bitmap = bitmapBytesOf(blockSize);
  const stride = roundUp(bitmap + blockSize + FOOTER_BYTES, PAGE_BYTES);
  const start = roundUp(end + FOOTER_BYTES + bitmap, PAGE_BYTES) - bitmap;
  return { stride, phase: remainder(start, stride) };
}

/**
 * The grid that most blocks of an image lie on: one behind the other, as most programs lay them, or padded as here.
 * @param starts offsets of its blocks @param end of the metadata
 */
export function gridOf(blockSize: number, starts: ArrayLike<number>, end: number): Grid {
  const padded = paddedGrid(blockSize, end);
  if (starts.length === 0) return padded;
  const dense = bitmapBytesOf(blockSize) + blockSize;
  const first = starts[0]!;
  const onGrid = (stride: number): number => {
    let count = 0;
    for (let i = 0; i < starts.length; i++) if ((starts[i]! - first) % stride === 0) count++;
    return count;
  };
  const [onDense, onPadded] = [onGrid(dense), onGrid(padded.stride)];
  const isAligned = (first + bitmapBytesOf(blockSize)) % PAGE_BYTES === 0;
  const stride = onPadded > onDense || (onPadded === onDense && isAligned) ? padded.stride : dense;
  return { stride, phase: remainder(first, stride) };
}
