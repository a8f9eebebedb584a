// The layout of a growing Bochs image, computed once from its header:
//
//   header | catalog: little-endian u32 entries | extent 0: bitmap, sectors | extent 1 | ...
//
// Catalog entry n is the number of the extent with piece n of the disk. Bit n of an extent's bitmap, lowest bit of a byte first,
// says that sector n of the extent has data. A bitmap takes whole sectors.

import { type HostOffset, hostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { BochsHeader } from './header.ts';
import { CATALOG_ENTRY_BYTES } from './header.ts';

/** A catalog entry of a piece of the disk that has no extent. */
export const NO_EXTENT = 0xffffffff;

export class Geometry {
  readonly extentBytes: number;
  readonly diskBytes: number;
  /** number of catalog entries that map the disk; the rest of the catalog is not used */
  readonly usedEntries: number;
  /** bytes of a bitmap with bits for sectors; the header may give it more */
  readonly bitmapBytes: number;
  /** host offset */
  private readonly firstExtent: number;
  /** bytes of a bitmap in the file: whole sectors */
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
