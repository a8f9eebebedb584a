// The header of a sparseimage of macOS, big-endian, and the index nodes that list more bands. Sources: libmodi, apfs-fuse.
//
//   header, 4096 bytes                                     index node, 4096 bytes
//    0 magic "sprs"   12 flags u32                          12 next node u64, bytes; 0: none
//    4 version u32    16 sectors u32 (low half)             56 1010 band numbers u32
//    8 band u32       20 next node u64
//                     28 sectors u64   64 1008 band numbers u32
//
// The bands that a node lists follow it, in the order of the list: number n > 0 is band n - 1 of the disk, 0 is a free place.

import { hexWords, readU64BE } from '../../bytes/endian.ts';
import { hex, hostOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';

const SPRS = 0x73707273;
const VERSION = 3;
/** Of the header, and of an index node. */
export const NODE_BYTES = 4096;
const BAND_AT = 8;
const SECTORS_LOW_AT = 16;
const NEXT_AT = 20;
const SECTORS_AT = 28;
const NUMBERS_AT = 64;
const NODE_NEXT_AT = 12;
const NODE_NUMBERS_AT = 56;
/** A band is 1 MiB in what macOS makes. */
const MAX_BAND_SECTORS = 2 ** 21;

export interface SparseHeader {
  readonly bandBytes: number;
  /** virtual size in bytes */
  readonly diskBytes: number;
}

/** A list of bands that follow it. */
export interface BandList {
  readonly numbers: readonly number[];
  /** host offset of the first place */
  readonly bandsAt: number;
  /** host offset of the next node; 0: none */
  readonly next: number;
}

/** @throws ImgfuseError corrupt, unsupported: with field, value and what to do */
export function readHeader(file: HostFile): SparseHeader {
  const view = readNode(file, 0);
  if (view.getUint32(0, false) !== SPRS) throw invalid(file, 0, 'this is not a sparseimage');
  const version = view.getUint32(4, false);
  if (version !== VERSION) {
    const sentence = `${file.path}: the header of the sparseimage has version ${version}, and imgfuse knows ${VERSION}; convert it on a Mac`;
    throw new ImgfuseError('unsupported', sentence, { path: file.path, offset: 4 });
  }
  const band = view.getUint32(BAND_AT, false);
  if (band === 0 || band > MAX_BAND_SECTORS) {
    throw invalid(file, BAND_AT, `a band has ${band} sectors; it must have from 1 to ${MAX_BAND_SECTORS}`);
  }
  const sectors = readU64BE(view, SECTORS_AT);
  const low = view.getUint32(SECTORS_LOW_AT, false);
  if (view.getUint32(SECTORS_AT + 4, false) !== low || !(sectors * SECTOR_BYTES <= MAX_VIRTUAL_SIZE)) {
    const value = hexWords(view.getUint32(SECTORS_AT, false), view.getUint32(SECTORS_AT + 4, false));
    throw invalid(file, SECTORS_AT, `the disk has ${value} sectors, and its low half is said to be ${hex(low)}`);
  }
  return { bandBytes: band * SECTOR_BYTES, diskBytes: sectors * SECTOR_BYTES };
}

/** The list at a node; that of the header is at 0. @throws ImgfuseError corrupt */
export function readBandList(file: HostFile, at: number): BandList {
  const view = readNode(file, at);
  const [nextAt, numbersAt] = at === 0 ? [NEXT_AT, NUMBERS_AT] : [NODE_NEXT_AT, NODE_NUMBERS_AT];
  const numbers: number[] = [];
  for (let place = numbersAt; place < NODE_BYTES; place += 4) numbers.push(view.getUint32(place, false));
  return { numbers, bandsAt: at + NODE_BYTES, next: readU64BE(view, nextAt) };
}

function readNode(file: HostFile, at: number): DataView {
  const bytes = new Uint8Array(NODE_BYTES);
  const got = Number.isSafeInteger(at + NODE_BYTES) ? file.read(bytes, 0, NODE_BYTES, hostOffset(at)) : 0;
  if (got === NODE_BYTES) return new DataView(bytes.buffer);
  const what = at === 0 ? 'the header' : `the index node at ${hex(at)}`;
  throw invalid(
    file,
    at,
    `${what} has ${NODE_BYTES} bytes, and the file of ${file.size()} bytes ends before; it is truncated`,
  );
}

export function describeHeader({ bandBytes, diskBytes }: SparseHeader): ImageDetails {
  return { format: 'sparseimage', virtualSize: diskBytes, clusterSize: bandBytes, dirty: false, specific: {} };
}

export function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid sparseimage at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
