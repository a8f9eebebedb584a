// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only. A block that is
// not here shows the parent, or zeros if there is none; of a partially present one the bitmap says so for each sector.

import { after, type GuestCluster, type GuestOffset, guestOffset, type HostOffset, hex } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { DataRun, UnallocatedRun, ZeroRun } from '../mapped/runs/run-mapper.ts';
import {
  type Bat,
  hasPlace,
  isZeroState,
  PAYLOAD_BLOCK_FULLY_PRESENT,
  PAYLOAD_BLOCK_NOT_PRESENT,
  PAYLOAD_BLOCK_PARTIALLY_PRESENT,
  PAYLOAD_BLOCK_ZERO,
  SB_BLOCK_PRESENT,
  stateOf,
} from './bat.ts';
import type { Bitmaps } from './bitmaps.ts';
import { BITMAP_BYTES, type Geometry } from './geometry.ts';
import type { Places } from './places.ts';

export type Run = DataRun | ZeroRun | UnallocatedRun;

/** What the entry of a block says. */
export interface Lookup {
  readonly state: number;
  readonly hasData: boolean;
  /** where its data is, or the place that it keeps */
  readonly place: HostOffset | null;
}

export interface MapperParts {
  readonly path: string;
  readonly geometry: Geometry;
  readonly bat: Bat;
  readonly bitmaps: Bitmaps;
  readonly places: Places;
  readonly hasParent: boolean;
  /** of the disk, by now */
  readonly sectorCount: () => number;
}

export class Mapper {
  private readonly path: string;
  private readonly geometry: Geometry;
  private readonly bat: Bat;
  private readonly bitmaps: Bitmaps;
  private readonly places: Places;
  readonly hasParent: boolean;
  private readonly sectorCount: () => number;

  constructor({ bat, bitmaps, geometry, hasParent, path, places, sectorCount }: MapperParts) {
    this.path = path;
    this.geometry = geometry;
    this.bat = bat;
    this.bitmaps = bitmaps;
    this.places = places;
    this.hasParent = hasParent;
    this.sectorCount = sectorCount;
  }

  /** The run of one status from `offset` on; it ends with its block at the latest. Throws corrupt. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { bat, geometry } = this;
    const block = geometry.blockOf(offset);
    const inBlock = offset - geometry.startOf(block);
    const length = Math.min(maxLength, geometry.blockBytes - inBlock);
    failpoint('l2-load');
    const index = geometry.entryOf(block);
    const state = stateOf(bat.low(index));
    if (isZeroState(state)) return { status: 'zero', length };
    if (state === PAYLOAD_BLOCK_NOT_PRESENT) return { status: 'unallocated', length };
    if (state === PAYLOAD_BLOCK_FULLY_PRESENT)
      return { status: 'data', length, hostOffset: after(this.placeOf(index, block), inBlock) };
    if (state === PAYLOAD_BLOCK_PARTIALLY_PRESENT && this.hasParent)
      return this.mapSectors(block, index, offset, length);
    const known = this.hasParent ? '' : ', and the image has no parent';
    throw this.corrupt(index, block, `which has the state ${state}${known}`);
  }

  /** The sectors of a partially present block that are here, or are not, from `offset` on. */
  private mapSectors(block: GuestCluster, index: number, offset: GuestOffset, length: number): Run {
    const { bitmaps, geometry } = this;
    const { sectorBytes } = geometry;
    const host = this.placeOf(index, block);
    const bitmap = this.bitmapOf(block);
    const first = bitmaps.sectorOf(offset);
    const end = Math.ceil((offset + length) / sectorBytes);
    let reached = bitmaps.endOf(bitmap, first, end, true);
    const isHere = reached > first;
    if (!isHere) reached = bitmaps.endOf(bitmap, first, end, false);
    const part = Math.min(length, reached * sectorBytes - offset);
    if (!isHere) return { status: 'unallocated', length: part };
    return { status: 'data', length: part, hostOffset: after(host, offset - geometry.startOf(block)) };
  }

  /** What the entry of a payload block says that it is. */
  stateOf(block: GuestCluster): number {
    return stateOf(this.bat.low(this.geometry.entryOf(block)));
  }

  /** All sectors of a partially present block that lie on the disk are here, and no bit of them waits. */
  isCompleteStored(block: GuestCluster): boolean {
    const { bitmaps, geometry } = this;
    if (this.stateOf(block) !== PAYLOAD_BLOCK_PARTIALLY_PRESENT) return false;
    const bitmap = this.bitmapOf(block);
    const first = bitmaps.sectorOf(geometry.startOf(block));
    const end = Math.min(first + geometry.blockBytes / geometry.sectorBytes, this.sectorCount());
    // most blocks are written from their beginning on
    return (
      first < end &&
      bitmaps.endOfStored(bitmap, end - 1, end, true) === end &&
      bitmaps.endOfStored(bitmap, first, end, true) === end
    );
  }

  /** Entry of a payload block. Throws corrupt. */
  lookup(block: GuestCluster): Lookup {
    const { bat, geometry } = this;
    const index = geometry.entryOf(block);
    const state = stateOf(bat.low(index));
    if (hasPlace(state)) return { state, hasData: true, place: this.placeOf(index, block) };
    return { state, hasData: false, place: this.keptPlace(block) };
  }

  /** `count` blocks from `first` on have no place, and it changes nothing to give them the state "zero" or "not present". */
  areSettled(first: GuestCluster, count: number, state: number): boolean {
    const { bat, geometry } = this;
    const { chunkRatio } = geometry;
    // without a parent "zero" and "not present" read the same
    const same = state === PAYLOAD_BLOCK_ZERO && !this.hasParent ? PAYLOAD_BLOCK_NOT_PRESENT : state;
    for (let block = first, left = count; left > 0; ) {
      const index = geometry.entryOf(block);
      // the entry of a bitmap may lie between them
      const row = Math.min(left, bat.entriesInSector(index), chunkRatio - (block % chunkRatio));
      if (!bat.areAll(index, row, state, same)) return false;
      block = after(block, row);
      left -= row;
    }
    return true;
  }

  /** The place that a block without data keeps; null: none. */
  keptPlace(block: GuestCluster): HostOffset | null {
    const { bat, geometry } = this;
    const index = geometry.entryOf(block);
    const state = stateOf(bat.low(index));
    const isKept = isZeroState(state) && state !== PAYLOAD_BLOCK_ZERO && bat.offset(index) !== 0;
    return isKept ? this.placeOf(index, block) : null;
  }

  /** The chunk of a block has a bitmap. As long as one of its blocks is reserved it stays so. */
  hasBitmap(block: GuestCluster): boolean {
    const { bat, geometry } = this;
    return stateOf(bat.low(geometry.bitmapEntryOf(geometry.chunkOf(block)))) === SB_BLOCK_PRESENT;
  }

  /** Where the bitmap of the chunk of a block is. Throws corrupt. */
  bitmapOf(block: GuestCluster): HostOffset {
    const { bat, geometry, places } = this;
    const index = geometry.bitmapEntryOf(geometry.chunkOf(block));
    const bitmap = bat.offset(index);
    if (this.hasBitmap(block) && places.hasRoomAt(bitmap, BITMAP_BYTES)) return bitmap;
    throw this.corrupt(index, block, 'which is no place for the bitmap of a partially present block');
  }

  private placeOf(index: number, block: GuestCluster): HostOffset {
    const host = this.bat.offset(index);
    if (this.places.hasRoomAt(host, this.geometry.blockBytes)) return host;
    throw this.corrupt(index, block, 'which is no place for a block in this file');
  }

  private corrupt(index: number, block: GuestCluster, what: string): ImgfuseError {
    const guest = guestOffset(this.geometry.startOf(block));
    const sentence = `${this.bat.describe(index)}, ${what} (guest offset ${hex(guest)}); run imgfuse check`;
    return new ImgfuseError('corrupt', `${this.path}: ${sentence}`, {
      path: this.path,
      offset: this.bat.placeOf(index),
    });
  }
}
