// The resource fork of an old dmg image, which holds the block tables where there is no property list, big-endian:
//
//   0 data offset u32, map offset u32, data bytes u32, map bytes u32
//   map: 24 type list offset u16
//   type list (from the map): types - 1 u16; of 8 bytes each: name[4], resources - 1 u16, reference list offset u16
//   reference list (from the type list), of 12 bytes each: id u16, name u16, attributes u8, data offset u24, handle u32
//   data (from the data): bytes u32, and the bytes
//
// Invariant: every resource lies inside the fork, and together they are no longer than it.

import { DamagedData } from '../../codec/damaged-data.ts';

const HEADER_BYTES = 16;
const TYPE_LIST_AT = 24;
const TYPE_BYTES = 8;
const REFERENCE_BYTES = 12;

/** The resources of a type, in the order of the fork. @throws DamagedData "has ...", about the fork */
export function resourcesOf(fork: Uint8Array, type: string): Uint8Array[] {
  const view = new DataView(fork.buffer, fork.byteOffset, fork.length);
  const need = (at: number, bytes: number): number => {
    if (at + bytes > fork.length) throw new DamagedData(`has ${fork.length} bytes, and goes on at ${at + bytes}`);
    return at;
  };
  const u16 = (at: number): number => view.getUint16(need(at, 2));
  const u32 = (at: number): number => view.getUint32(need(at, 4));
  need(0, HEADER_BYTES);
  const [data, map] = [u32(0), u32(4)];
  const typeList = map + u16(map + TYPE_LIST_AT);
  // one less than there are, so that 65535 means none
  const types = (u16(typeList) + 1) & 0xffff;
  for (let i = 0; i < types; i++) {
    const entry = need(typeList + 2 + i * TYPE_BYTES, TYPE_BYTES);
    if (Buffer.from(fork.subarray(entry, entry + type.length)).toString('latin1') !== type) continue;
    const references = typeList + u16(entry + 6);
    let total = 0;
    return Array.from({ length: u16(entry + 4) + 1 }, (_, n) => {
      const start = data + (u32(references + n * REFERENCE_BYTES + 4) & 0xffffff);
      const bytes = u32(start);
      total += bytes;
      if (total > fork.length) throw new DamagedData('has resources that lie in each other');
      return fork.subarray(need(start + 4, bytes), start + 4 + bytes);
    });
  }
  return [];
}
