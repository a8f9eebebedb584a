// The header of a compressed LZFSE block, little-endian. Version 1 ("bvx1") has every number as it is; version 2 ("bvx2")
// packs them into three words of 64 bits, with frequencies of variable length after them:
//
//    0 magic   4 raw bytes u32
//    8 literals:20, literal bytes:20, matches:20, literal bits:3
//   16 literal states 4 * :10, match bytes:20, match bits:3
//   24 header bytes:32, L state:10, M state:10, D state:10
//   32 frequencies: 20 of L, 20 of M, 64 of D, 256 of literals
//
// Invariant: the numbers of a BlockHeader are inside the limits of a block, and its payload inside the source.

import { DamagedData } from '../damaged-data.ts';

export const L_SYMBOLS = 20;
export const M_SYMBOLS = 20;
export const D_SYMBOLS = 64;
export const LITERAL_SYMBOLS = 256;
const SYMBOLS = L_SYMBOLS + M_SYMBOLS + D_SYMBOLS + LITERAL_SYMBOLS;
export const L_STATES = 64;
export const M_STATES = 64;
export const D_STATES = 256;
export const LITERAL_STATES = 1024;

const MAX_MATCHES = 10_000;
export const MAX_LITERALS = 4 * MAX_MATCHES;
const V1_FREQUENCIES_AT = 50;
const V1_BYTES = V1_FREQUENCIES_AT + 2 * SYMBOLS + 2;
const V2_FREQUENCIES_AT = 32;

export interface BlockHeader {
  /** bytes that the block decompresses to */
  readonly rawBytes: number;
  readonly headerBytes: number;
  /** a multiple of four; the last ones may be unused */
  readonly literals: number;
  readonly literalBytes: number;
  readonly literalUnusedBits: number;
  readonly literalStates: readonly number[];
  readonly matches: number;
  readonly matchBytes: number;
  readonly matchUnusedBits: number;
  readonly lState: number;
  readonly mState: number;
  readonly dState: number;
  /** those of L, M, D and literals, one after the other */
  readonly frequencies: Uint16Array;
}

/** Bits `first` to `first + count - 1` of the 64 at `at`. */
function field(view: DataView, at: number, first: number, count: number): number {
  const word = first < 32 ? view.getUint32(at + (first >>> 3), true) : view.getUint32(at + 4, true);
  const shift = first < 32 ? first & 7 : first - 32;
  return (word >>> shift) & (2 ** count - 1);
}

/** @param view begins with the magic of version 1 */
export function readHeaderV1(view: DataView): BlockHeader {
  if (view.byteLength < V1_BYTES) throw cutOff();
  const u16 = (at: number): number => view.getUint16(at, true);
  const u32 = (at: number): number => view.getUint32(at, true);
  const frequencies = Uint16Array.from({ length: SYMBOLS }, (_, i) => u16(V1_FREQUENCIES_AT + 2 * i));
  return checked({
    rawBytes: u32(4),
    headerBytes: V1_BYTES,
    literals: u32(12),
    matches: u32(16),
    literalBytes: u32(20),
    matchBytes: u32(24),
    literalUnusedBits: -view.getInt32(28, true),
    literalStates: [u16(32), u16(34), u16(36), u16(38)],
    matchUnusedBits: -view.getInt32(40, true),
    lState: u16(44),
    mState: u16(46),
    dState: u16(48),
    frequencies,
  });
}

/** @param view begins with the magic of version 2 */
export function readHeaderV2(view: DataView): BlockHeader {
  if (view.byteLength < V2_FREQUENCIES_AT) throw cutOff();
  const headerBytes = view.getUint32(24, true);
  if (headerBytes < V2_FREQUENCIES_AT || headerBytes > view.byteLength) throw cutOff();
  return checked({
    rawBytes: view.getUint32(4, true),
    headerBytes,
    literals: field(view, 8, 0, 20),
    literalBytes: field(view, 8, 20, 20),
    matches: field(view, 8, 40, 20),
    literalUnusedBits: 7 - field(view, 8, 60, 3),
    literalStates: [0, 10, 20].map((first) => field(view, 16, first, 10)).concat(fourthState(view)),
    matchBytes: field(view, 16, 40, 20),
    matchUnusedBits: 7 - field(view, 16, 60, 3),
    lState: field(view, 24, 32, 10),
    mState: field(view, 24, 42, 10),
    dState: field(view, 24, 52, 10),
    frequencies: readFrequencies(view, headerBytes),
  });
}

/** It lies in both halves of its word. */
function fourthState(view: DataView): number {
  return (view.getUint32(16, true) >>> 30) | ((view.getUint32(20, true) & 0xff) << 2);
}

/** Numbers of 2 to 14 bits, the lowest bits first, to the end of the header. */
function readFrequencies(view: DataView, headerBytes: number): Uint16Array {
  const frequencies = new Uint16Array(SYMBOLS);
  if (headerBytes === V2_FREQUENCIES_AT) return frequencies;
  let at = V2_FREQUENCIES_AT;
  let buffer = 0;
  let available = 0;
  for (let i = 0; i < SYMBOLS; i++) {
    for (; available < 16 && at < headerBytes; at++, available += 8) buffer |= view.getUint8(at) << available;
    const { value, bits } = frequencyIn(buffer);
    if (bits > available) throw new DamagedData('ends inside the frequencies of an LZFSE block');
    frequencies[i] = value;
    buffer >>>= bits;
    available -= bits;
  }
  if (at !== headerBytes || available >= 8) throw new DamagedData('has bytes after the frequencies of an LZFSE block');
  return frequencies;
}

/** The frequency in the lowest bits of `buffer`: a prefix, then its value. */
function frequencyIn(buffer: number): { readonly value: number; readonly bits: number } {
  switch (buffer & 15) {
    case 15:
      return { value: 24 + ((buffer >>> 4) & 0x3ff), bits: 14 };
    case 7:
      return { value: 8 + ((buffer >>> 4) & 15), bits: 8 };
    case 3:
    case 11:
      return { value: 4 + ((buffer >>> 3) & 3), bits: 5 };
    default:
      break;
  }
  if ((buffer & 1) === 0) return { value: (buffer >>> 1) & 1, bits: 2 };
  return { value: 2 + ((buffer >>> 2) & 1), bits: 3 };
}

function checked(header: BlockHeader): BlockHeader {
  const { literals, matches, rawBytes, literalStates, lState, mState, dState } = header;
  const areStatesRight =
    literalStates.every((state) => state < LITERAL_STATES) &&
    lState < L_STATES &&
    mState < M_STATES &&
    dState < D_STATES;
  if (!areStatesRight) throw new DamagedData('has impossible states in an LZFSE block');
  // a match without bytes, or a literal that is not used, would cost time for nothing
  const isRight = literals <= MAX_LITERALS && literals <= rawBytes + 3 && matches <= MAX_MATCHES && matches <= rawBytes;
  if (!isRight || rawBytes === 0 || literals % 4 !== 0)
    throw new DamagedData(`has ${literals} literals and ${matches} matches in an LZFSE block of ${rawBytes} bytes`);
  for (const unused of [header.literalUnusedBits, header.matchUnusedBits])
    if (unused < 0 || unused > 7) throw new DamagedData(`has ${unused} unused bits in an LZFSE block`);
  return header;
}

function cutOff(): DamagedData {
  return new DamagedData('ends inside the header of an LZFSE block');
}
