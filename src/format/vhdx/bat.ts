// The block allocation table, decoded from cached slices of the file. An entry is a little-endian u64: its state in bits 0 to 2, and
// from bit 20 on the offset of the block in MiB. Used under the metadata lock; nothing here keeps a slice across calls (R2).

import { hexWords } from '../../bytes/endian.ts';
import { after, type HostOffset, hex, hostOffset } from '../../bytes/offsets.ts';
import type { TableCache } from '../../concurrency/table-cache.ts';
import { type TableFile, TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES } from './geometry.ts';
import { MIB } from './header/fields.ts';
import type { VhdxNumbers } from './state.ts';

export const PAYLOAD_BLOCK_NOT_PRESENT = 0;
export const PAYLOAD_BLOCK_UNDEFINED = 1;
export const PAYLOAD_BLOCK_ZERO = 2;
export const PAYLOAD_BLOCK_UNMAPPED = 3;
/** PAYLOAD_BLOCK_UNMAPPED before version 1.00 of the specification. */
export const PAYLOAD_BLOCK_UNMAPPED_V095 = 5;
export const PAYLOAD_BLOCK_FULLY_PRESENT = 6;
export const PAYLOAD_BLOCK_PARTIALLY_PRESENT = 7;
export const SB_BLOCK_NOT_PRESENT = 0;
export const SB_BLOCK_PRESENT = 6;

const STATE_MASK = 7;
/** Bits 3 to 19. */
const RESERVED_MASK = 0xffff8;
const OFFSET_SHIFT = 20;
const HIGH_MIB = 2 ** (32 - OFFSET_SHIFT);

/** The state in an entry of which this is the low word. */
export function stateOf(low: number): number {
  return low & STATE_MASK;
}

export function hasReservedBits(low: number): boolean {
  return (low & RESERVED_MASK) !== 0;
}

/** The offset in an entry, as exact as the file can be long. */
export function offsetOf(low: number, high: number): HostOffset {
  return hostOffset(((low >>> OFFSET_SHIFT) + high * HIGH_MIB) * MIB);
}

/** Sets the entry with this low word to another place, a multiple of a MiB; its other bits stay. */
export function writePlace(entry: DataView, low: number, place: number): void {
  writeEntry(entry, 0, low & (2 ** OFFSET_SHIFT - 1), place);
}

/** Puts an entry at `at` of what is written. @param bits below those of the place: its state, and what else is kept */
export function writeEntry(entries: DataView, at: number, bits: number, place: number): void {
  const mib = place / MIB;
  entries.setUint32(at, bits + (mib % HIGH_MIB) * MIB, true);
  entries.setUint32(at + 4, Math.floor(mib / HIGH_MIB), true);
}

/** The bytes of an entry. */
export function entryOf(state: number, place: number): Uint8Array {
  const bytes = new Uint8Array(ENTRY_BYTES);
  writeEntry(new DataView(bytes.buffer), 0, state, place);
  return bytes;
}

/** The block has data in the file, all of it or a part. */
export function hasPlace(state: number): boolean {
  return state === PAYLOAD_BLOCK_FULLY_PRESENT || state === PAYLOAD_BLOCK_PARTIALLY_PRESENT;
}

/** Nothing is here, and nothing of the parent shows through: zeros. */
export function isZeroState(state: number): boolean {
  return (
    state === PAYLOAD_BLOCK_ZERO ||
    state === PAYLOAD_BLOCK_UNMAPPED ||
    state === PAYLOAD_BLOCK_UNDEFINED ||
    state === PAYLOAD_BLOCK_UNMAPPED_V095
  );
}

export class Bat {
  readonly slices: TableSlices;
  private readonly numbers: Pick<VhdxNumbers, 'batOffset'>;

  /** @param file with what its log holds */
  constructor(file: TableFile, cache: TableCache, numbers: Pick<VhdxNumbers, 'batOffset'>) {
    this.slices = new TableSlices(file, cache, 0);
    this.numbers = numbers;
  }

  get start(): HostOffset {
    return this.numbers.batOffset;
  }

  placeOf(index: number): HostOffset {
    return after(this.start, index * ENTRY_BYTES);
  }

  /** The low word of an entry, which has the state. */
  low(index: number): number {
    return this.slices.view.getUint32(this.slices.load(this.placeOf(index)), true);
  }

  /** Where the block of an entry is, right or wrong. */
  offset(index: number): HostOffset {
    const at = this.slices.load(this.placeOf(index));
    return offsetOf(this.slices.view.getUint32(at, true), this.slices.view.getUint32(at + 4, true));
  }

  /** `count` entries from this one on, which lie in one sector, have no place and one of two states. */
  areAll(index: number, count: number, state: number, other: number): boolean {
    const at = this.slices.load(this.placeOf(index));
    const { view } = this.slices;
    for (let i = at; i < at + count * ENTRY_BYTES; i += ENTRY_BYTES) {
      const low = view.getUint32(i, true);
      if ((low !== state && low !== other) || view.getUint32(i + 4, true) !== 0) return false;
    }
    return true;
  }

  /** Entries from this one on that lie in its sector of the file. */
  entriesInSector(index: number): number {
    return this.slices.bytesInSlice(this.placeOf(index)) / ENTRY_BYTES;
  }

  describe(index: number): string {
    const at = this.slices.load(this.placeOf(index));
    const { view } = this.slices;
    const value = hexWords(view.getUint32(at + 4, true), view.getUint32(at, true));
    return `BAT entry ${index} at offset ${hex(this.placeOf(index))} is ${value}`;
  }
}
