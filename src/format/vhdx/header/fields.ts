// What the structures of a VHDX have in common: signatures, GUIDs, sequence numbers, and a CRC-32C over all of the structure, whose
// own field counts as 0. Sequence numbers are compared and counted up, and may have all 64 bits, so they are two words.

import { hostOffset } from '../../../bytes/offsets.ts';
import { crc32c } from '../../../codec/crc32c.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { UUID_BYTES, uuidText } from '../../guid.ts';

/** Everything behind the headers begins at a multiple of this, and has whole multiples of it. */
export const MIB = 2 ** 20;
/** Of headers, region tables and log entries. */
const CHECKSUM_AT = 4;
const CHECKSUM_BYTES = 4;
const NO_CHECKSUM = new Uint8Array(CHECKSUM_BYTES);

/** A structure as it is in the file; what lies behind the end of the file counts as zeros. */
export interface Structure {
  readonly bytes: Uint8Array;
  readonly view: DataView;
}

export function bytesAt(file: HostFile, offset: number, length: number): Structure {
  const bytes = new Uint8Array(length);
  file.read(bytes, 0, length, hostOffset(offset));
  return { bytes, view: new DataView(bytes.buffer) };
}

export function textAt(bytes: Uint8Array, offset: number, length: number): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset + offset, length).toString('latin1');
}

/** In lower case, without braces. */
export function guidAt(bytes: Uint8Array, offset: number): string {
  return uuidText(bytes.subarray(offset, offset + UUID_BYTES));
}

/** CRC of a structure whose checksum stands at its offset 4. */
export function checksumOf(bytes: Uint8Array): number {
  const before = crc32c(NO_CHECKSUM, crc32c(bytes.subarray(0, CHECKSUM_AT)));
  return crc32c(bytes.subarray(CHECKSUM_AT + CHECKSUM_BYTES), before);
}

export function hasChecksum({ bytes, view }: Structure): boolean {
  return checksumOf(bytes) === view.getUint32(CHECKSUM_AT, true);
}

/** Sets the checksum of a structure that is complete. */
export function seal({ bytes, view }: Structure): void {
  view.setUint32(CHECKSUM_AT, checksumOf(bytes), true);
}

/** An unsigned 64-bit number. */
export interface Sequence {
  readonly high: number;
  readonly low: number;
}

export function sequenceAt(view: DataView, offset: number): Sequence {
  return { high: view.getUint32(offset + 4, true), low: view.getUint32(offset, true) };
}

export function writeSequence(view: DataView, offset: number, { high, low }: Sequence): void {
  view.setUint32(offset, low, true);
  view.setUint32(offset + 4, high, true);
}

/** Negative, 0 or positive, as a comparison of a sort. */
export function compareSequences(one: Sequence, other: Sequence): number {
  return one.high - other.high || one.low - other.low;
}

export function nextSequence({ high, low }: Sequence): Sequence {
  const next = (low + 1) >>> 0;
  return { high: next === 0 ? (high + 1) >>> 0 : high, low: next };
}

/** Something that the file says and that cannot be. */
export function invalid({ path }: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${path}: ${what}`, { path, offset });
}
