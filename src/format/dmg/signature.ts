// What tells a dmg image from any other file. Every file is probed for it, so this file imports no engine.

import type { Magic } from '../file-ends.ts';

export const TRAILER_MAGIC = 'koly';
export const TRAILER_BYTES = 512;
/** Magic, version and length of the trailer, where zeros fill the last sector of a file up: a copy by sectors has them. */
const TRAILER_START = 'koly\0\0\0\x04\0\0\x02\0';
export const MOST_PADDING = 511;

export const MAGICS: readonly Magic[] = [
  { at: -TRAILER_BYTES, text: TRAILER_MAGIC },
  { at: -TRAILER_BYTES - MOST_PADDING, upTo: -TRAILER_BYTES, text: TRAILER_START },
];
