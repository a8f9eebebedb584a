// The batmap of Xen: behind the block allocation table, a bit for each block whose bitmap is known to be full. A header of a sector
// (u32 big-endian unless said otherwise), then the bits, MSB first, at an offset that the header says:
//
//    0 "tdbatmap"   8 offset of the bits u64   16 sectors of the bits   20 version 1.1 or 1.2   24 checksum of the bits
//
// A bit that is set must be true, a clear one says nothing. So a bit goes before its block does, and comes with the next close.

import { readU64BE } from '../../bytes/endian.ts';
import { hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import { textAt } from './header/footer.ts';
import { tableBytesOf } from './header/header.ts';

const COOKIE = 'tdbatmap';
const CHECKSUM = 24;
/** Version 1.1 sums signed bytes. */
const SIGNED_VERSION = 0x00010001;
const XEN_CREATOR = 'tap\0';

export interface BatmapPlace {
  /** of its header */
  readonly offset: number;
  readonly bitsOffset: number;
  readonly bitsBytes: number;
  readonly isSigned: boolean;
}

/** Where the batmap of an image is; null if it has none. @param entries of its table */
export function findBatmap(file: HostFile, creator: string, tableOffset: number, entries: number): BatmapPlace | null {
  if (creator !== XEN_CREATOR) return null;
  const offset = tableOffset + tableBytesOf(entries);
  const bytes = new Uint8Array(SECTOR_BYTES);
  if (file.read(bytes, 0, SECTOR_BYTES, hostOffset(offset)) < SECTOR_BYTES || textAt(bytes, 0, 8) !== COOKIE)
    return null;
  const view = new DataView(bytes.buffer);
  const bitsOffset = readU64BE(view, 8);
  const bitsBytes = view.getUint32(16, false) * SECTOR_BYTES;
  const isInside = bitsOffset >= offset + SECTOR_BYTES && bitsOffset + bitsBytes <= file.size();
  if (!isInside || bitsBytes * 8 < entries) return null;
  return { offset, bitsOffset, bitsBytes, isSigned: view.getUint32(20, false) === SIGNED_VERSION };
}

/** The bits of a batmap, read and written as a whole: one bit for each block of 2 MiB is little. */
export class Batmap {
  private readonly file: HostFile;
  private readonly place: BatmapPlace;
  readonly bits: Uint8Array;

  constructor(file: HostFile, place: BatmapPlace) {
    this.file = file;
    this.place = place;
    this.bits = new Uint8Array(place.bitsBytes);
    file.read(this.bits, 0, place.bitsBytes, hostOffset(place.bitsOffset));
  }

  has(block: number): boolean {
    return (this.bits[block >>> 3]! & (0x80 >>> (block & 7))) !== 0;
  }

  set(block: number, isFull: boolean): void {
    const bit = 0x80 >>> (block & 7);
    this.bits[block >>> 3] = isFull ? this.bits[block >>> 3]! | bit : this.bits[block >>> 3]! & ~bit;
  }

  /** Whether the checksum of the header is that of the bits. */
  isSound(): boolean {
    const header = new Uint8Array(SECTOR_BYTES);
    this.file.read(header, 0, SECTOR_BYTES, hostOffset(this.place.offset));
    return new DataView(header.buffer).getUint32(CHECKSUM, false) === this.checksum();
  }

  /** Writes the bits and their checksum. The caller makes them durable. */
  store(): void {
    const { bitsOffset, offset } = this.place;
    this.file.write(this.bits, 0, this.bits.length, hostOffset(bitsOffset));
    const word = new Uint8Array(4);
    new DataView(word.buffer).setUint32(0, this.checksum(), false);
    this.file.write(word, 0, 4, hostOffset(offset + CHECKSUM));
  }

  private checksum(): number {
    let sum = 0;
    const signed = new Int8Array(this.bits.buffer);
    if (this.place.isSigned) for (const byte of signed) sum += byte;
    else for (const byte of this.bits) sum += byte;
    return ~sum >>> 0;
  }
}
