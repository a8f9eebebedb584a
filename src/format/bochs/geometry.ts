// Where things lie in a growing Bochs image, from its header:
//
//   header | catalog: u32 each, little-endian | extent 0: bitmap, sectors | extent 1 | ...
//
// A catalog entry is the number of the extent that has a piece of the disk. Bit n of an extent's bitmap, the lowest of a byte
// first, says that its sector n has data. Bitmaps take whole sectors.

import { type HostOffset, hostOffset, roundUp } from '../../bytes/offsets.ts';
import type { BochsHeader } from './header.ts';
import { CATALOG_ENTRY_BYTES } from './header.ts';

export const SECTOR_BYTES = 512;
/** A catalog entry of a piece of the disk that has no extent. */
export const NO_EXTENT = 0xffffffff;

export class Geometry {
  readonly extentBytes: number;
  readonly diskBytes: number;
  /** catalog entries that map the disk; the rest of the catalog is not used */
  readonly usedEntries: number;
  /** bytes of a bitmap that have a bit for a sector of the extent */
  readonly bitmapBytes: number;
  private readonly firstExtent: number;
  /** whole sectors */
  private readonly bitmapRoom: number;

  constructor({ headerBytes, catalogEntries, bitmapBytes, extentBytes, diskBytes }: BochsHeader) {
    this.extentBytes = extentBytes;
    this.diskBytes = diskBytes;
    this.usedEntries = Math.ceil(diskBytes / extentBytes);
    this.bitmapBytes = Math.ceil(extentBytes / SECTOR_BYTES / 8);
    this.firstExtent = headerBytes + catalogEntries * CATALOG_ENTRY_BYTES;
    this.bitmapRoom = roundUp(bitmapBytes, SECTOR_BYTES);
  }

  bitmapOffset(extent: number): HostOffset {
    return hostOffset(this.firstExtent + extent * (this.bitmapRoom + this.extentBytes));
  }

  /** @param inExtent bytes from the start of the extent's data */
  dataOffset(extent: number, inExtent: number): HostOffset {
    return hostOffset(this.bitmapOffset(extent) + this.bitmapRoom + inExtent);
  }
}
