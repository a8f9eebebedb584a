// Members of a ZFS pool: a list of names and values at 16 KiB of each of four labels, two at the start and two at the end.
// Invariant: only the first pair of the list is looked at, which in every label is "version".

import { roundDown } from '../../../bytes/offsets.ts';
import type { Details } from './kind.ts';
import { startsWith, type Volume, viewOf } from './volume.ts';

const LABEL_BYTES = 256 * 1024;
const LIST_OFFSET = 16 * 1024;
const MIN_MEMBER_BYTES = 64 * 1024 * 1024;
const ENCODING_XDR = 1;

export function describeZfsMember(volume: Volume): Details | null {
  const { size } = volume;
  if (size < MIN_MEMBER_BYTES) return null;
  const end = roundDown(size, LABEL_BYTES);
  const labels = [0, LABEL_BYTES, end - 2 * LABEL_BYTES, end - LABEL_BYTES];
  return labels.some((label) => hasList(volume, label + LIST_OFFSET)) ? {} : null;
}

/** 0 encoding, endian, two zeros   4 version u32 = 0   8 flags u32 = 1   12 pair: two sizes u32, length of the name u32, name */
function hasList(volume: Volume, at: number): boolean {
  const bytes = volume.bytes(at, 32);
  if (bytes === null || bytes[0] !== ENCODING_XDR || bytes[1]! > 1) return false;
  const view = viewOf(bytes);
  return view.getUint32(12, false) > 0 && view.getUint32(20, false) === 7 && startsWith(bytes, 'version', 24);
}
