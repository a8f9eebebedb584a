// A change of a descriptor that no single sector holds: a crash could leave a mixture of the old and the new text, so both are kept
// beside it until the change is made. Nothing else marks a descriptor, and other programs read no further than its first NUL:
//
//   text, NULs up to a sector | this record, old bytes, new bytes        (S is a fdatasync)
//
//   record -> S    before it is whole the old text is right, and after that the new one
//   text -> S      any mixture, and the record says what it is to be
//   record cut off -> S
//
// A record counts only while each sector of the text is the old one or the new one: whoever has changed the text meanwhile is right.

import { createHash } from 'node:crypto';
import { roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';

const MAGIC = Buffer.from('imgfuse: this descriptor changes');
/** Of the record: bytes of the text with its room, bytes of the new text, hash of all that follows the magic but itself. */
const REGION_AT = 32;
const LENGTH_AT = 36;
const HASH_AT = 40;
const HASH_BYTES = 32;

/** Of a record, which stands behind `region` bytes of text. */
export function recordBytes(region: number): number {
  return SECTOR_BYTES + 2 * region;
}

export interface PendingChange {
  /** whole sectors, with NULs behind the text; the record follows */
  readonly region: number;
  readonly next: Buffer;
  /** bytes of the new text */
  readonly length: number;
}

/** @param old all bytes of the place @param next the new text */
export function pendingRecord(old: Uint8Array, next: Uint8Array): { readonly region: number; readonly bytes: Buffer } {
  const region = roundUp(Math.max(old.indexOf(0) === -1 ? old.length : old.indexOf(0), next.length) + 1, SECTOR_BYTES);
  const bytes = Buffer.alloc(recordBytes(region));
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(region, REGION_AT);
  bytes.writeUInt32LE(next.length, LENGTH_AT);
  bytes.set(old.subarray(0, region), SECTOR_BYTES);
  bytes.set(next, SECTOR_BYTES + region);
  hashOf(bytes).copy(bytes, HASH_AT);
  return { region, bytes };
}

function hashOf(record: Buffer): Buffer {
  const facts = record.subarray(REGION_AT, HASH_AT);
  return createHash('sha256').update(facts).update(record.subarray(SECTOR_BYTES)).digest();
}

/** @param bytes all bytes of the place */
export function pendingIn(bytes: Buffer): PendingChange | null {
  for (let region = SECTOR_BYTES; region + SECTOR_BYTES <= bytes.length; region += SECTOR_BYTES) {
    if (!bytes.subarray(region, region + MAGIC.length).equals(MAGIC)) continue;
    const record = bytes.subarray(region, region + recordBytes(region));
    const length = record.readUInt32LE(LENGTH_AT);
    if (record.length < recordBytes(region) || record.readUInt32LE(REGION_AT) !== region || length >= region) continue;
    if (!hashOf(record).equals(record.subarray(HASH_AT, HASH_AT + HASH_BYTES))) continue;
    const old = record.subarray(SECTOR_BYTES, SECTOR_BYTES + region);
    const next = record.subarray(SECTOR_BYTES + region);
    if (isMixture(bytes, old, next)) return { region, next, length };
  }
  return null;
}

function isMixture(bytes: Buffer, old: Buffer, next: Buffer): boolean {
  for (let at = 0; at < old.length; at += SECTOR_BYTES) {
    const sector = bytes.subarray(at, at + SECTOR_BYTES);
    if (![old, next].some((each) => sector.equals(each.subarray(at, at + SECTOR_BYTES)))) return false;
  }
  return true;
}
