// The sector of a master boot record, or of an extended boot record: four slots and a signature. Positions and lengths of slots
// are counted in logical sectors. Invariant: nothing here follows a slot; every value is as stored.
//
//   440 disk identifier u32    446 four slots of 16 bytes    510 0x55 0xAA
//   of a slot: 0 boot flag (0 or 0x80)   4 type   8 start u32   12 size u32

import { mbrTypeName } from './type-names.ts';

export const MBR_BYTES = 512;
export const MBR_SLOTS = 4;
/** The type of the slot that covers the disk for programs that know no GPT. */
export const MBR_TYPE_GPT = 0xee;
const DISK_IDENTIFIER_OFFSET = 440;
const SLOTS_OFFSET = 446;
const SLOT_BYTES = 16;
const SIGNATURE_OFFSET = 510;
const ACTIVE = 0x80;
/** DOS, Windows (LBA), Linux. */
const EXTENDED_TYPES: readonly number[] = [0x05, 0x0f, 0x85];

/** One slot as stored. */
export interface MbrSlot {
  /** 0 to 3 */
  readonly index: number;
  readonly bootFlag: number;
  readonly type: number;
  readonly startSectors: number;
  /** 0 is an empty slot */
  readonly sizeSectors: number;
}

export function hasBootSignature(sector: Uint8Array): boolean {
  return sector[SIGNATURE_OFFSET] === 0x55 && sector[SIGNATURE_OFFSET + 1] === 0xaa;
}

export function mbrSlots(sector: Uint8Array): MbrSlot[] {
  const view = new DataView(sector.buffer, sector.byteOffset, sector.byteLength);
  return Array.from({ length: MBR_SLOTS }, (_, index) => {
    const at = SLOTS_OFFSET + index * SLOT_BYTES;
    return {
      index,
      bootFlag: view.getUint8(at),
      type: view.getUint8(at + 4),
      startSectors: view.getUint32(at + 8, true),
      sizeSectors: view.getUint32(at + 12, true),
    };
  });
}

export function isValidBootFlag({ bootFlag }: MbrSlot): boolean {
  return bootFlag === 0 || bootFlag === ACTIVE;
}

export function isExtended({ type }: MbrSlot): boolean {
  return EXTENDED_TYPES.includes(type);
}

/** Eight digits, with which PARTUUIDs begin; null if it is 0, as on disks that have none. */
export function diskIdentifier(sector: Uint8Array): string | null {
  const view = new DataView(sector.buffer, sector.byteOffset, sector.byteLength);
  const id = view.getUint32(DISK_IDENTIFIER_OFFSET, true);
  return id === 0 ? null : id.toString(16).padStart(8, '0');
}

/** What a partition has beside number and place. */
export function describeSlot(slot: MbrSlot, diskId: string | null, number: number) {
  return {
    type: `0x${slot.type.toString(16)}`,
    typeName: mbrTypeName(slot.type),
    name: null,
    uuid: diskId === null ? null : `${diskId}-${number.toString(16).padStart(2, '0')}`,
    bootable: slot.bootFlag === ACTIVE,
  };
}
