// The types of the runs of a dmg image, and the decoder of each compressed one.

import { decompressAdc } from '../../codec/adc.ts';
import { decompressBzip2 } from '../../codec/bzip2.ts';
import type { Decompress } from '../../codec/compressed-pieces.ts';
import { decompressLzfse } from '../../codec/lzfse/index.ts';
import { decompressXz } from '../../codec/xz/index.ts';
import { decompressZlib } from '../../codec/zlib.ts';

export const RAW_RUN = 1;
export const TERMINATOR = 0xffffffff;
const ZERO_RUN = 0;
/** free space, which its checksum leaves out */
export const IGNORED_RUN = 2;
const COMMENT = 0x7ffffffe;

const DECODERS: ReadonlyMap<number, Decompress> = new Map([
  [0x80000004, decompressAdc],
  [0x80000005, decompressZlib],
  [0x80000006, decompressBzip2],
  [0x80000007, decompressLzfse],
  [0x80000008, decompressXz],
]);

export function isZero(type: number): boolean {
  return type === ZERO_RUN || type === IGNORED_RUN;
}

export function isSkipped(type: number): boolean {
  return type === COMMENT;
}

export function isCompressed(type: number): boolean {
  return DECODERS.has(type);
}

/** @param type of a compressed run */
export function decoderOf(type: number): Decompress {
  return DECODERS.get(type)!;
}
