// A new VHD. The footer at the end is written last, so that a file cut short by a crash is no image at all:
//
//   fixed      zeros, footer
//   others     copy of the footer, header, block allocation table, name of the parent, padding, footer

import { randomBytes } from 'node:crypto';
import { hostOffset, isPowerOfTwo, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { refuseUnknownKeys } from '../create-option.ts';
import type { CreateOptions } from '../image-format.ts';
import { parseSize } from '../size.ts';
import { VPC_CREATE_HELP } from './create-help.ts';
import { Geometry, paddedGrid } from './geometry.ts';
import {
  bytesOfGeometry,
  DIFFERENCING,
  type DiskGeometry,
  type DiskType,
  DYNAMIC,
  FIXED,
  FOOTER_BYTES,
  geometryOf,
  MAX_DISK_BYTES,
  makeFooter,
  timestampOf,
} from './header/footer.ts';
import { HEADER_BYTES, MAX_BLOCK_SIZE, MAX_TABLE_ENTRIES, makeHeader, tableBytesOf } from './header/header.ts';
import { storeParent } from './header/stored-parent.ts';

const DEFAULT_BLOCK_SIZE = 2 * 1024 * 1024;
const LEAST_BLOCK_SIZE = 4096;
/** Written at once. */
const CHUNK_BYTES = 64 * 1024;

/** The size is rounded up to a multiple of 512 bytes. */
export function createVpc(file: HostFile, options: CreateOptions): void {
  refuseUnknownKeys('vpc', VPC_CREATE_HELP, options.options);
  const { backing } = options;
  const isFixed = oneOf(options.options, 'subformat', ['dynamic', 'fixed']) === 'fixed';
  const isExact = oneOf(options.options, 'force_size', ['on', 'off']) === 'on';
  const asked = options.options.get('block_size');
  if (isFixed && backing !== undefined) throw usage('a fixed VHD has no backing file; leave out subformat=fixed or -b');
  if (isFixed && asked !== undefined) throw usage('a fixed VHD has no blocks; leave out block_size');
  const blockSize = asked === undefined ? DEFAULT_BLOCK_SIZE : parseSize(asked, 'block_size');
  if (!isPowerOfTwo(blockSize) || blockSize < LEAST_BLOCK_SIZE || blockSize > MAX_BLOCK_SIZE) {
    throw usage(`block_size=${asked} is not valid; use a power of two from 4k to 256M`);
  }
  const type = isFixed ? FIXED : backing === undefined ? DYNAMIC : DIFFERENCING;
  const shape = shapeOf(roundUp(options.size, SECTOR_BYTES), isExact);
  checkSize(shape.size, isFixed ? Number.POSITIVE_INFINITY : blockSize);
  if (isFixed) createFixed(file, shape);
  else createSparse(file, options, type, shape, blockSize);
}

interface Shape {
  readonly size: number;
  readonly geometry: DiskGeometry | 'exact';
}

/** Without force_size, as QEMU: the smallest geometry that covers the size is the size. */
function shapeOf(size: number, isExact: boolean): Shape {
  if (isExact || size === 0) return { size, geometry: 'exact' };
  for (let sectors = size / SECTOR_BYTES; ; sectors++) {
    const geometry = geometryOf(sectors);
    const bytes = bytesOfGeometry(geometry);
    // at the most that cylinders can say, and beyond
    if (geometry.cylinders === 65535 && geometry.sectors === 255) return { size, geometry: 'exact' };
    if (bytes >= size) return { size: bytes, geometry };
  }
}

function checkSize(size: number, blockSize: number): void {
  const most = Math.min(MAX_DISK_BYTES, MAX_TABLE_ENTRIES * blockSize);
  if (size <= most) return;
  throw usage(
    `a VHD${blockSize < Number.POSITIVE_INFINITY ? ` with block_size=${blockSize}` : ''} holds at most ${most} bytes, not ${size}`,
  );
}

function createFixed(file: HostFile, { size, geometry }: Shape): void {
  const footer = makeFooter({ ...identity(), type: FIXED, size, geometry, headerOffset: null });
  file.truncate(size);
  file.sync();
  file.write(footer, 0, FOOTER_BYTES, hostOffset(size));
  file.sync();
}

function createSparse(file: HostFile, options: CreateOptions, type: DiskType, shape: Shape, blockSize: number): void {
  const { size, geometry } = shape;
  const entries = Math.max(1, Math.ceil(size / blockSize));
  const tableOffset = FOOTER_BYTES + HEADER_BYTES;
  const nameOffset = tableOffset + tableBytesOf(entries);
  const parent =
    options.backing === undefined
      ? undefined
      : storeParent(file.path, 'is not made', options.backing, options.parent, () => nameOffset);
  const table = { tableOffset, maxTableEntries: entries, blockSize };
  const header = makeHeader(parent === undefined ? table : { ...table, parent });
  const footer = makeFooter({ ...identity(), type, size, geometry, headerOffset: FOOTER_BYTES });
  const end = nameOffset + (parent?.data.length ?? 0);
  const length = new Geometry(blockSize, paddedGrid(blockSize, end)).lengthFor(end);
  file.truncate(length);
  const ones = new Uint8Array(CHUNK_BYTES).fill(0xff);
  for (let at = tableOffset; at < nameOffset; at += CHUNK_BYTES) {
    file.write(ones, 0, Math.min(CHUNK_BYTES, nameOffset - at), hostOffset(at));
  }
  if (parent !== undefined) file.write(parent.data, 0, parent.data.length, hostOffset(nameOffset));
  file.write(header, 0, HEADER_BYTES, hostOffset(FOOTER_BYTES));
  file.write(footer, 0, FOOTER_BYTES, hostOffset(0));
  file.sync();
  file.write(footer, 0, FOOTER_BYTES, hostOffset(length - FOOTER_BYTES));
  file.sync();
}

function identity(): { readonly uuid: Uint8Array; readonly timestamp: number } {
  return { uuid: Uint8Array.from(randomBytes(16)), timestamp: timestampOf(Date.now()) };
}

/** The value of an option; the first one by default. */
function oneOf(options: ReadonlyMap<string, string>, key: string, values: readonly string[]): string {
  const value = options.get(key) ?? values[0]!;
  if (values.includes(value)) return value;
  throw usage(`${key}=${value} is not valid; use ${values.join(' or ')}`);
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
