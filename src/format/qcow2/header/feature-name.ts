// The feature name table: the names of feature bits, stored in the image by the program that wrote it, so that a refusal can
// name a feature that is newer than imgfuse.
//
//    0 kind u8 (0 incompatible, 1 compatible, 2 autoclear)    1 bit u8    2 name, 46 bytes padded with zeros

import { nameOfBytes } from '../../../bytes/names.ts';
import type { FeatureWords } from './header.ts';

export const FEATURE_NAME_BYTES = 48;

const QCOW2_FEAT_TYPE_INCOMPATIBLE = 0;
const QCOW2_FEAT_TYPE_COMPATIBLE = 1;
const QCOW2_FEAT_TYPE_AUTOCLEAR = 2;

/** The names that QEMU writes into every image with large enough clusters. */
const NAMES: readonly (readonly [kind: number, bit: number, name: string])[] = [
  [QCOW2_FEAT_TYPE_INCOMPATIBLE, 0, 'dirty bit'],
  [QCOW2_FEAT_TYPE_INCOMPATIBLE, 1, 'corrupt bit'],
  [QCOW2_FEAT_TYPE_INCOMPATIBLE, 2, 'external data file'],
  [QCOW2_FEAT_TYPE_INCOMPATIBLE, 3, 'compression type'],
  [QCOW2_FEAT_TYPE_INCOMPATIBLE, 4, 'extended L2 entries'],
  [QCOW2_FEAT_TYPE_COMPATIBLE, 0, 'lazy refcounts'],
  [QCOW2_FEAT_TYPE_AUTOCLEAR, 0, 'bitmaps'],
  [QCOW2_FEAT_TYPE_AUTOCLEAR, 1, 'raw external data'],
];

/** The data of the extension for a new image. */
export function serializeFeatureNames(): Uint8Array {
  const bytes = new Uint8Array(NAMES.length * FEATURE_NAME_BYTES);
  NAMES.forEach(([kind, bit, name], index) => {
    bytes.set([kind, bit, ...new TextEncoder().encode(name)], index * FEATURE_NAME_BYTES);
  });
  return bytes;
}

/**
 * The incompatible bits of `words` for a message, with their names from `table` if it has them.
 * @param table data of the extension, in any condition; null without one
 */
export function nameIncompatibleBits(words: FeatureWords, table: Uint8Array | null): string[] {
  const named: string[] = [];
  for (let bit = 0; bit < 64; bit++) {
    const word = bit < 32 ? words[0] : words[1];
    if ((word & (1 << (bit % 32))) === 0) continue;
    const name = table === null ? '' : nameOf(table, QCOW2_FEAT_TYPE_INCOMPATIBLE, bit);
    named.push(name === '' ? `bit ${bit}` : `"${name}" (bit ${bit})`);
  }
  return named;
}

function nameOf(table: Uint8Array, kind: number, bit: number): string {
  for (let at = 0; at + FEATURE_NAME_BYTES <= table.length; at += FEATURE_NAME_BYTES) {
    if (table[at] !== kind || table[at + 1] !== bit) continue;
    const field = table.subarray(at + 2, at + FEATURE_NAME_BYTES);
    const end = field.indexOf(0);
    // the name goes to a terminal, and the image may be hostile: replace control characters
    return nameOfBytes(end < 0 ? field : field.subarray(0, end)).replace(/\p{C}/gu, '?');
  }
  return '';
}
