// The header of an ASIF image (Apple Sparse Image Format, macOS 26), big-endian. There is no specification; what is known comes
// from dissect.hypervisor, which took macOS apart, and from asif-format, which looked at its images.
//
//    0 magic "shdw"   16 directories 2 * u64   48 sectors u64        64 chunk u32, bytes
//    4 version u32    32 guid[16]              56 most sectors u64   68 block u16, bytes
//
// The chunk number in an entry counts chunks from the start of the file.

import { hexWords, readU64BE } from '../../bytes/endian.ts';
import { hostOffset, isPowerOfTwo, MAX_VIRTUAL_SIZE } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';

const SHDW = 0x73686477;
const HEADER_BYTES = 72;
const DIRECTORIES_AT = 16;
const SECTORS_AT = 48;
const MOST_SECTORS_AT = 56;
const CHUNK_AT = 64;
const BLOCK_AT = 68;
/** macOS makes chunks of 1 MiB and blocks of 512 bytes. */
const MIN_CHUNK = 64 * 1024;
const MAX_CHUNK = 64 * 1024 * 1024;
const MIN_BLOCK = 512;
const MAX_BLOCK = 4096;

export interface AsifHeader {
  /** host offsets */
  readonly directories: readonly [number, number];
  /** virtual size in bytes */
  readonly diskBytes: number;
  /** what it may grow to: the directories have entries for so much */
  readonly mostBytes: number;
  readonly chunkBytes: number;
  readonly blockBytes: number;
}

/** @throws ImgfuseError corrupt, unsupported: with field, value and what to do */
export function readHeader(file: HostFile): AsifHeader {
  const bytes = new Uint8Array(HEADER_BYTES);
  const got = file.read(bytes, 0, HEADER_BYTES, hostOffset(0));
  if (got < HEADER_BYTES) {
    throw invalid(file, 0, `the file has ${got} bytes, but an ASIF header has ${HEADER_BYTES}; the file is truncated`);
  }
  const view = new DataView(bytes.buffer);
  if (view.getUint32(0, false) !== SHDW) throw invalid(file, 0, 'this is not an ASIF image');
  const chunkBytes = sizeOf(file, CHUNK_AT, 'a chunk', view.getUint32(CHUNK_AT, false), MIN_CHUNK, MAX_CHUNK);
  const blockBytes = sizeOf(file, BLOCK_AT, 'a block', view.getUint16(BLOCK_AT, false), MIN_BLOCK, MAX_BLOCK);
  const mostBytes = bytesOf(file, view, MOST_SECTORS_AT, blockBytes);
  const diskBytes = bytesOf(file, view, SECTORS_AT, blockBytes);
  if (diskBytes > mostBytes)
    throw invalid(file, SECTORS_AT, `the disk has ${diskBytes} bytes; ${mostBytes} are the most`);
  const directories = [readU64BE(view, DIRECTORIES_AT), readU64BE(view, DIRECTORIES_AT + 8)] as const;
  return { directories, diskBytes, mostBytes, chunkBytes, blockBytes };
}

function sizeOf(file: HostFile, at: number, what: string, value: number, least: number, most: number): number {
  if (isPowerOfTwo(value) && value >= least && value <= most) return value;
  throw invalid(file, at, `${what} has ${value} bytes; it must be a power of two from ${least} to ${most}`);
}

function bytesOf(file: HostFile, view: DataView, at: number, blockBytes: number): number {
  const bytes = readU64BE(view, at) * blockBytes;
  if (bytes <= MAX_VIRTUAL_SIZE) return bytes;
  const value = hexWords(view.getUint32(at, false), view.getUint32(at + 4, false));
  throw invalid(file, at, `the disk has ${value} blocks; at most ${MAX_VIRTUAL_SIZE} bytes can be shown`);
}

export function describeHeader({ chunkBytes, diskBytes }: AsifHeader): ImageDetails {
  return { format: 'asif', virtualSize: diskBytes, clusterSize: chunkBytes, dirty: false, specific: {} };
}

export function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid ASIF image at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
