// What tells a VHD from any other file. Every file is probed for it, so this file imports nothing of the engine but the footer.

import type { FileEnds, Magic } from '../file-ends.ts';
import { FIXED, FOOTER_COOKIE, POISON_COOKIE, parseFooter } from './header/footer.ts';

const TRAILERS = [512, 511] as const;

export const MAGICS: readonly Magic[] = [
  ...TRAILERS.map((length) => ({ at: -length, text: FOOTER_COOKIE })),
  { at: 0, text: FOOTER_COOKIE },
  { at: 0, text: POISON_COOKIE },
  { at: -512, text: POISON_COOKIE },
];

/**
 * Whether the file ends with a valid footer of a fixed disk that is all the rest of the file. Then it is a VHD even if its first
 * sector, which the guest can write, has the magic of another format.
 */
export function endsLikeFixedDisk(ends: FileEnds): boolean {
  const length = TRAILERS.find((bytes) => ends.has({ at: -bytes, text: FOOTER_COOKIE }));
  if (length === undefined) return false;
  const footer = parseFooter(ends.tail.subarray(ends.tail.length - length));
  return footer?.isSound === true && footer.type === FIXED && footer.size === ends.size - length;
}
