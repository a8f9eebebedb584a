// The header of a cloop image of version 2, big-endian, and the table of its blocks:
//
//     0 text[128], a shell script that mounts the image      136 host offsets u64, one more than there are blocks
//   128 block size u32, bytes   132 blocks u32
//
// A block goes from its offset to the next one. Invariant: the table of a CloopHeader lies inside the file.

import { readU64BE } from '../../bytes/endian.ts';
import { hex, hostOffset, isSafeOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { type CompressedPiece, MAX_PIECE_BYTES } from '../../codec/compressed-pieces.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { ANY_VERSION, HEADER_MAGIC } from './signature.ts';

const BLOCK_SIZE_AT = 128;
const BLOCKS_AT = 132;
const TABLE_AT = 136;
const ENTRY_BYTES = 8;

export interface CloopHeader {
  /** bytes of each block, of the last one, too */
  readonly blockSize: number;
  readonly blocks: number;
  /** the host offset after the table, where the first block may begin */
  readonly tableEnd: number;
}

/** Reads and checks the header of `file`. @throws ImgfuseError corrupt: with field, value and limit */
export function readHeader(file: HostFile): CloopHeader {
  const bytes = new Uint8Array(TABLE_AT);
  const got = file.read(bytes, 0, TABLE_AT, hostOffset(0));
  if (got < TABLE_AT)
    throw invalid(file, 0, `the file has ${got} bytes, but a cloop header has ${TABLE_AT}; the file is truncated`);
  const text = Buffer.from(bytes).toString('latin1');
  const version = ANY_VERSION.exec(text)?.[1];
  if (version !== undefined && version !== '2.0') {
    const sentence = `${file.path} is a cloop image of version ${version}, and imgfuse reads version 2.0; unpack it with extract_compressed_fs`;
    throw new ImgfuseError('unsupported', sentence, { path: file.path });
  }
  const magic = text.slice(0, HEADER_MAGIC.length);
  if (magic !== HEADER_MAGIC)
    throw invalid(file, 0, `text begins with ${JSON.stringify(magic)}; this is not a cloop image of version 2`);
  const view = new DataView(bytes.buffer);
  const blockSize = view.getUint32(BLOCK_SIZE_AT);
  if (blockSize === 0 || blockSize % SECTOR_BYTES !== 0 || blockSize > MAX_PIECE_BYTES) {
    const limits = `a multiple of ${SECTOR_BYTES} up to ${MAX_PIECE_BYTES}`;
    throw invalid(file, BLOCK_SIZE_AT, `block size is ${blockSize} bytes; it must be ${limits}`);
  }
  const blocks = view.getUint32(BLOCKS_AT);
  const tableEnd = TABLE_AT + (blocks + 1) * ENTRY_BYTES;
  if (tableEnd > file.size()) {
    const sentence = `the image has ${blocks} blocks, whose table would end at ${hex(tableEnd)}`;
    throw invalid(file, BLOCKS_AT, `${sentence}; the file has ${file.size()} bytes`);
  }
  return { blockSize, blocks, tableEnd };
}

/** Reads and checks the table entry of block `index`. @throws ImgfuseError corrupt */
export function readBlock(file: HostFile, { blockSize, tableEnd }: CloopHeader, index: number): CompressedPiece {
  const bytes = new Uint8Array(2 * ENTRY_BYTES);
  const at = TABLE_AT + index * ENTRY_BYTES;
  file.read(bytes, 0, bytes.length, hostOffset(at));
  const view = new DataView(bytes.buffer);
  const [start, end] = [readU64BE(view, 0), readU64BE(view, ENTRY_BYTES)];
  if (!isSafeOffset(start) || start < tableEnd || !(end > start) || end > file.size()) {
    const place = `block ${index} goes from ${start} to ${end}`;
    throw invalid(file, at, `${place}; it must lie between the table, which ends at ${tableEnd}, and ${file.size()}`);
  }
  const storedBytes = end - start;
  // zlib makes a block larger by a few bytes at most
  if (storedBytes > 2 * blockSize)
    throw invalid(file, at, `block ${index} has ${storedBytes} compressed bytes for ${blockSize} bytes`);
  return { hostOffset: hostOffset(start), storedBytes, bytes: blockSize };
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: cloop header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
