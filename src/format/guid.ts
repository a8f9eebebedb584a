// GUIDs as Microsoft and VirtualBox store them: 16 bytes, of which the first three groups are little-endian.

import { randomUUID } from 'node:crypto';

export const UUID_BYTES = 16;
export const NULL_UUID = '00000000-0000-0000-0000-000000000000';
/** For each byte of the text, in the order in which it is written, its place in the stored form. */
const PLACES = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15] as const;
const GROUP_ENDS: readonly number[] = [3, 5, 7, 9];

/** @param stored UUID_BYTES bytes @returns the usual text, in lower case */
export function uuidText(stored: Uint8Array): string {
  return PLACES.map((place, i) => {
    const digits = stored[place]!.toString(16).padStart(2, '0');
    return GROUP_ENDS.includes(i) ? `${digits}-` : digits;
  }).join('');
}

/** @param text as uuidText() gives it */
export function uuidBytes(text: string): Uint8Array {
  const stored = new Uint8Array(UUID_BYTES);
  const digits = text.replaceAll('-', '');
  for (const [i, place] of PLACES.entries()) stored[place] = Number.parseInt(digits.slice(2 * i, 2 * i + 2), 16);
  return stored;
}

/** A UUID that follows from something: version 8 and the usual variant, whose other bits are its maker's. @param hash 16 bytes and more */
export function uuidOfHash(hash: Uint8Array): string {
  const stored = hash.slice(0, UUID_BYTES);
  stored[7] = (stored[7]! & 0x0f) | 0x80;
  stored[8] = (stored[8]! & 0x3f) | 0x80;
  return uuidText(stored);
}

export function newUuid(): string {
  return randomUUID();
}
