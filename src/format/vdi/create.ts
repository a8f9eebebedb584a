// A new VDI image: header, map, and, for a static one, all of its blocks as a hole. Map and blocks begin at multiples of 1 MiB,
// as in VirtualBox, so that blocks lie well on the host and the map has room to grow. The header is written last, so that a file
// cut short by a crash is no image at all.

import { hostOffset, isPowerOfTwo, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { refuseUnknownKeys } from '../create-option.ts';
import { newUuid } from '../guid.ts';
import type { CreateOptions } from '../image-format.ts';
import { parseSize } from '../size.ts';
import { VDI_CREATE_HELP } from './create-help.ts';
import { ENTRY_BYTES } from './geometry.ts';
import {
  serializeHeader,
  VDI_IMAGE_BLOCK_ZERO,
  VDI_IMAGE_TYPE_DIFF,
  VDI_IMAGE_TYPE_FIXED,
  VDI_IMAGE_TYPE_NORMAL,
} from './header.ts';
import { sayWhereParentIs, uuidsOf } from './parent.ts';

const DEFAULT_BLOCK_SIZE = 1024 * 1024;
const MIN_BLOCK_SIZE = 4096;
const MAX_BLOCK_SIZE = 256 * 1024 * 1024;
const ALIGNMENT = 1024 * 1024;
/** offData is 32 bits wide. */
const MAX_MAP_END = 2 ** 32 - ALIGNMENT;
const CHUNK_ENTRIES = 256 * 1024;

/** The size is rounded up to a multiple of 512 bytes. */
export function createVdi(file: HostFile, { size: wanted, options, backing, log, parent }: CreateOptions): void {
  refuseUnknownKeys('vdi', VDI_CREATE_HELP, options);
  const diskSize = roundUp(wanted, SECTOR_BYTES);
  const blockSize = blockSizeOption(options);
  const isStatic = switchOption(options, 'static');
  const blockCount = Math.ceil(diskSize / blockSize);
  const mapEnd = ALIGNMENT + blockCount * ENTRY_BYTES;
  if (blockCount > VDI_IMAGE_BLOCK_ZERO || mapEnd > MAX_MAP_END) {
    throw usage(`a VDI image with block_size=${blockSize} cannot hold ${diskSize} bytes; use larger blocks`);
  }
  if (isStatic && backing !== undefined)
    throw usage('a VDI image with a backing file cannot be static; leave out static=on');
  if (blockSize !== DEFAULT_BLOCK_SIZE)
    log?.(`${file.path} has block_size=${blockSize}, which is legal, but QEMU opens images with 1M only`);
  const uuidsOfParent = uuidsOf(backing ?? null, parent);
  sayWhereParentIs(file.path, parent, log);
  const dataOffset = roundUp(mapEnd, ALIGNMENT);
  const dynamic = backing === undefined ? VDI_IMAGE_TYPE_NORMAL : VDI_IMAGE_TYPE_DIFF;
  const header = serializeHeader({
    ...{ type: isStatic ? VDI_IMAGE_TYPE_FIXED : dynamic, flags: 0, mapOffset: ALIGNMENT, dataOffset },
    ...{ diskSize, blockSize, blockExtra: 0, blockCount, allocated: isStatic ? blockCount : 0 },
    ...{ uuidCreate: newUuid(), uuidModify: newUuid(), ...uuidsOfParent },
  });
  file.truncate(dataOffset + (isStatic ? blockCount * blockSize : 0));
  writeMap(file, blockCount, isStatic);
  file.sync();
  file.write(header, 0, header.length, hostOffset(0));
  file.sync();
}

function writeMap(file: HostFile, blockCount: number, isStatic: boolean): void {
  const chunk = new Uint8Array(Math.min(blockCount, CHUNK_ENTRIES) * ENTRY_BYTES).fill(0xff);
  const words = new DataView(chunk.buffer);
  for (let start = 0; start < blockCount; start += CHUNK_ENTRIES) {
    const count = Math.min(CHUNK_ENTRIES, blockCount - start);
    for (let i = 0; isStatic && i < count; i++) words.setUint32(i * ENTRY_BYTES, start + i, true);
    file.write(chunk, 0, count * ENTRY_BYTES, hostOffset(ALIGNMENT + start * ENTRY_BYTES));
  }
}

function blockSizeOption(options: ReadonlyMap<string, string>): number {
  const text = options.get('block_size');
  const size = text === undefined ? DEFAULT_BLOCK_SIZE : parseSize(text, 'block_size');
  if (isPowerOfTwo(size) && size >= MIN_BLOCK_SIZE && size <= MAX_BLOCK_SIZE) return size;
  throw usage(`block_size=${text} is not valid; use a power of two from 4k to 256M`);
}

function switchOption(options: ReadonlyMap<string, string>, key: string): boolean {
  const text = options.get(key) ?? 'off';
  if (text === 'on' || text === 'off') return text === 'on';
  throw usage(`${key}=${text} is not valid; use on or off`);
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
