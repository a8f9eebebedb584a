// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only. A block that is
// not here shows the parent, or zeros if there is none; of a partially present one the bitmap says so for each sector.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestOffset,
  type HostOffset,
  hex,
  hostOffset,
} from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { DataRun, UnallocatedRun, ZeroRun } from '../mapped/run-mapper.ts';
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

export class Mapper {
  private readonly path: string;
  private readonly geometry: Geometry;
  private readonly bat: Bat;
  private readonly places: Places;
  private readonly hasParent: boolean;

  constructor(path: string, geometry: Geometry, bat: Bat, places: Places, hasParent: boolean) {
    this.path = path;
    this.geometry = geometry;
    this.bat = bat;
    this.places = places;
    this.hasParent = hasParent;
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
    const { geometry } = this;
    const { sectorBytes } = geometry;
    const host = this.placeOf(index, block);
    const bitmap = this.bitmapOf(block);
    const first = geometry.bitOf(offset);
    const isHere = this.bit(bitmap, first);
    const inSector = offset % sectorBytes;
    const end = first + Math.ceil((inSector + length) / sectorBytes);
    const bits = this.endOfBits(bitmap, first, end, isHere) - first;
    const part = Math.min(length, bits * sectorBytes - inSector);
    if (!isHere) return { status: 'unallocated', length: part };
    return { status: 'data', length: part, hostOffset: after(host, offset - geometry.startOf(block)) };
  }

  /** What the entry of a payload block says that it is. */
  stateOf(block: GuestCluster): number {
    return stateOf(this.bat.low(this.geometry.entryOf(block)));
  }

  /** Entry of a payload block. Throws corrupt. */
  lookup(block: GuestCluster): Lookup {
    const { bat, geometry } = this;
    const index = geometry.entryOf(block);
    const state = stateOf(bat.low(index));
    if (hasPlace(state)) return { state, hasData: true, place: this.placeOf(index, block) };
    return { state, hasData: false, place: this.keptPlace(block) };
  }

  /** The place that a block without data keeps; null: none. */
  keptPlace(block: GuestCluster): HostOffset | null {
    const { bat, geometry } = this;
    const index = geometry.entryOf(block);
    const state = stateOf(bat.low(index));
    const isKept = isZeroState(state) && state !== PAYLOAD_BLOCK_ZERO && bat.offset(index) !== 0;
    return isKept ? this.placeOf(index, block) : null;
  }

  private bitmapOf(block: GuestCluster): HostOffset {
    const { bat, geometry, places } = this;
    const index = geometry.bitmapEntryOf(geometry.chunkOf(block));
    const bitmap = bat.offset(index);
    if (stateOf(bat.low(index)) === SB_BLOCK_PRESENT && places.hasRoomAt(bitmap, BITMAP_BYTES)) return bitmap;
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

  private bit(bitmap: HostOffset, bit: number): boolean {
    return (this.bat.bitmapByte(after(bitmap, Math.floor(bit / 8))) & (1 << (bit % 8))) !== 0;
  }

  /** The first bit from `bit` on that is not `isSet`, `end` at most. */
  private endOfBits(bitmap: HostOffset, bit: number, end: number, isSet: boolean): number {
    const uniform = isSet ? 0xff : 0;
    let at = bit;
    while (at < end) {
      if (at % 8 === 0 && this.bat.bitmapByte(hostOffset(bitmap + at / 8)) === uniform) at += 8;
      else if (this.bit(bitmap, at) === isSet) at++;
      else break;
    }
    return Math.min(at, end);
  }
}
