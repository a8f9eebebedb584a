// The bitmaps of blocks: which sectors of a block are here. A bit is on disk only after the data of its sector is durable, because
// the parent's older data would not be seen any more (R6). So bits wait for the next flush, in memory that all threads share: a bitmap
// is looked up there first, sector by sector, and then in the cached slices. Used under the metadata lock; what is found is for use at
// once (R2).
//
//   set -> [freeze -> fdatasync] -> one write of a sector for each sector of a bitmap that has new bits -> thaw
//
// What is set between freeze and thaw waits for the next flush: it gets an entry of its own, which has the bits of the frozen one too.

import { after, type GuestCluster, type HostOffset, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { SliceLinks } from '../mapped/link-pieces.ts';
import { NOT_PENDING, type PendingLink, PendingLinks, type PendingLinksState } from '../mapped/pending-links.ts';
import type { TableSlices } from '../mapped/table-slices.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';

/** Bits of a sector of a bitmap. */
const BITS = 8 * SECTOR_BYTES;
/** Sectors that memory grows by, at least. */
const LEAST_GROWTH = 16;
const NEXT = 0;
const FROZEN = 1;

export interface WaitingBitsState {
  /** where they belong: an entry for each sector of a bitmap, its number counted over all blocks */
  readonly links: PendingLinksState;
  /** what that sector will hold */
  readonly sectors: SharedArrayBuffer;
  /** Float64: number of the next entry, and of the first that is not being written */
  readonly control: SharedArrayBuffer;
}

export function createWaitingBits(links: PendingLinksState): WaitingBitsState {
  const sectors = new SharedArrayBuffer(0, { maxByteLength: links.capacity * SECTOR_BYTES });
  return { links, sectors, control: new SharedArrayBuffer(16) };
}

export interface BitmapsParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly slices: TableSlices;
  readonly tracker: WriteTracker;
}

export class Bitmaps implements SliceLinks<number> {
  readonly waiting: PendingLinks<number>;
  private readonly parts: BitmapsParts;
  private readonly capacity: number;
  private readonly sectors: SharedArrayBuffer;
  private readonly waitingBytes: Uint8Array;
  private readonly control: Float64Array;
  /** of one bitmap */
  private readonly sectorCount: number;
  private readonly scratch = new Uint8Array(SECTOR_BYTES);
  /** memory in which locate() has found a sector */
  private bytes: Uint8Array;

  constructor(parts: BitmapsParts, { control, links, sectors }: WaitingBitsState) {
    this.parts = parts;
    this.waiting = new PendingLinks<number>(links);
    this.capacity = links.capacity;
    this.sectors = sectors;
    this.waitingBytes = new Uint8Array(sectors);
    this.control = new Float64Array(control);
    this.sectorCount = parts.geometry.bitmapBytes / SECTOR_BYTES;
    this.bytes = this.waitingBytes;
  }

  isHere(block: GuestCluster, host: HostOffset, sector: number): boolean {
    return this.endOf(block, host, sector, sector + 1, true) > sector;
  }

  /** The first sector from `sector` on whose bit is not `isSet`, `end` at most. */
  endOf(block: GuestCluster, host: HostOffset, sector: number, end: number, isSet: boolean): number {
    const uniform = isSet ? 0xff : 0;
    for (let at = sector; at < end; ) {
      const start = this.locate(block, host, Math.floor(at / BITS));
      const last = Math.min(end, roundUp(at + 1, BITS));
      while (at < last) {
        const byte = this.bytes[start + Math.floor((at % BITS) / 8)]!;
        if (at % 8 === 0 && byte === uniform) at += 8;
        else if (((byte & (0x80 >>> (at % 8))) !== 0) === isSet) at++;
        else return at;
      }
    }
    return end;
  }

  /** All sectors of a block are here. */
  isFull(block: GuestCluster, host: HostOffset): boolean {
    const { sectorsPerBlock } = this.parts.geometry;
    // most blocks are written from their beginning on
    if (!this.isHere(block, host, sectorsPerBlock - 1)) return false;
    return this.endOf(block, host, 0, sectorsPerBlock, true) === sectorsPerBlock;
  }

  /** There is room for the bits of a whole block. */
  hasRoom(): boolean {
    return this.waiting.hasRoom(this.sectorCount);
  }

  /** Sectors [first, end) of a block are here, once a flush has made their data durable. There is room. */
  set(block: GuestCluster, host: HostOffset, first: number, end: number, nowMs: number): void {
    for (let at = first; at < end; ) {
      const last = Math.min(end, roundUp(at + 1, BITS));
      const start = this.open(block, host, Math.floor(at / BITS), nowMs);
      setBits(this.waitingBytes, start, at % BITS, last - at);
      at = last;
    }
  }

  /** The bitmap of a new block is written: the cache may have that of another one, which lay there before. */
  rewritten(host: HostOffset): void {
    this.parts.slices.forget(host, this.parts.geometry.bitmapBytes);
  }

  /** A block is not in the file any more. */
  drop(block: GuestCluster): void {
    if (this.waiting.isEmpty) return;
    for (let index = 0; index < this.sectorCount; index++) this.waiting.drop(this.numberOf(block, index));
  }

  /** What waits now does not change any more, and can be written after a fdatasync. @returns how many entries these are */
  freeze(): number {
    this.control[FROZEN] = this.control[NEXT]!;
    return this.waiting.count;
  }

  /** What was frozen is written. */
  thaw(): void {
    if (!this.waiting.isEmpty) return;
    this.control[NEXT] = 0;
    this.control[FROZEN] = 0;
  }

  span(): number {
    return 1;
  }

  /** Writes the sector of a bitmap that was frozen. */
  linkSlice(links: readonly PendingLink<number>[], count: number): void {
    const { file, slices, tracker } = this.parts;
    for (const { allocated: entry, guestCluster: number, hostOffset } of links) {
      const start = this.placeOf(entry);
      // memory that grows is none for the host's calls
      this.scratch.set(this.waitingBytes.subarray(start, start + SECTOR_BYTES));
      tracker.writeMetadata('l2-update', () => file.write(this.scratch, 0, SECTOR_BYTES, hostOffset));
      slices.written(hostOffset, this.scratch);
      this.waiting.drop(number, count);
    }
  }

  /** The entry of a sector of a bitmap that bits can be added to, with all that it says already. @returns its place */
  private open(block: GuestCluster, host: HostOffset, index: number, nowMs: number): number {
    const { control, waiting } = this;
    const number = this.numberOf(block, index);
    // an entry has its number where formats with subclusters have a word of them
    if (waiting.find(number) !== NOT_PENDING && waiting.allocated >= control[FROZEN]!) {
      return this.placeOf(waiting.allocated);
    }
    const entry = control[NEXT]!;
    const start = this.placeOf(entry);
    this.grow(start + SECTOR_BYTES);
    const from = this.locate(block, host, index);
    this.waitingBytes.set(this.bytes.subarray(from, from + SECTOR_BYTES), start);
    waiting.add(number, after(host, index * SECTOR_BYTES), nowMs, entry);
    control[NEXT] = entry + 1;
    return start;
  }

  private grow(bytes: number): void {
    const { sectors } = this;
    if (bytes <= sectors.byteLength) return;
    sectors.grow(Math.min(sectors.maxByteLength, Math.max(2 * sectors.byteLength, LEAST_GROWTH * SECTOR_BYTES)));
  }

  /** Where a sector of a bitmap is: sets `bytes`. */
  private locate(block: GuestCluster, host: HostOffset, index: number): number {
    if (this.waiting.find(this.numberOf(block, index)) !== NOT_PENDING) {
      this.bytes = this.waitingBytes;
      return this.placeOf(this.waiting.allocated);
    }
    this.bytes = this.parts.slices.bytes;
    return this.parts.slices.load(after(host, index * SECTOR_BYTES));
  }

  private numberOf(block: GuestCluster, index: number): number {
    return block * this.sectorCount + index;
  }

  /** Entries come and go in their order, so no two of them share a place. */
  private placeOf(entry: number): number {
    return (entry % this.capacity) * SECTOR_BYTES;
  }
}

/** Sets `count` bits from `first` on, MSB first. */
function setBits(bytes: Uint8Array, start: number, first: number, count: number): void {
  for (let at = first; at < first + count; ) {
    if (at % 8 === 0 && at + 8 <= first + count) {
      bytes[start + at / 8] = 0xff;
      at += 8;
    } else {
      bytes[start + Math.floor(at / 8)]! |= 0x80 >>> (at % 8);
      at++;
    }
  }
}
