// A new hosted sparse extent. In the file, each part at a whole sector:
//
//   header | descriptor | redundant directory | its tables | directory | its tables | zeros up to a whole grain
//
// All tables are there from the start, because other programs take a directory entry of 0 for granted in no extent that they write to.

import { bytesOfName } from '../../../bytes/names.ts';
import { hostOffset, roundUp, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { MAX_FILE_BYTES } from '../../mapped/space/room-end.ts';
import type { CreateExtentOptions } from '../extent.ts';
import {
  directoryEntriesOf,
  ENTRY_BYTES,
  MAX_DIRECTORY_ENTRIES,
  SPARSE_HEADER_BYTES,
  SPARSEFLAG_USE_REDUNDANT,
  SPARSEFLAG_VALID_NEWLINE,
  SPARSEFLAG_ZERO_GRAINS,
  type SparseHeader,
  serializeHeader,
} from './header.ts';

/** What other programs make; the first grain in the file is aligned to it in any case. */
export const GRAIN_BYTES = 128 * SECTOR_BYTES;
export const TABLE_ENTRIES = 512;
const CHUNK_ENTRIES = 16 * 1024;

/** @throws ImgfuseError limit, io, no-space */
export function createSparse(file: HostFile, options: CreateExtentOptions): void {
  const header = headerFor(file, options);
  const tableBytes = header.tableEntries * ENTRY_BYTES;
  const entries = directoryEntriesOf(header);
  const directoryBytes = roundUp(entries * ENTRY_BYTES, SECTOR_BYTES);
  // tables of zeros are holes
  file.truncate(header.overheadBytes);
  const { descriptor } = options;
  if (descriptor !== null) {
    const bytes = bytesOfName(descriptor);
    file.write(bytes, 0, bytes.length, hostOffset(header.descriptorOffset));
  }
  for (const offset of [header.redundantOffset, header.directoryOffset as number]) {
    writeDirectory(file, offset, offset + directoryBytes, entries, tableBytes);
  }
  file.sync();
  // a file without a header is no image yet
  file.write(serializeHeader(header), 0, SPARSE_HEADER_BYTES, hostOffset(0));
  file.sync();
}

function headerFor({ path }: HostFile, options: CreateExtentOptions): SparseHeader {
  const { capacity, descriptorBytes, grainBytes, zeroedGrain } = options;
  const sizes = { capacity, grainBytes, tableEntries: TABLE_ENTRIES };
  const entries = directoryEntriesOf(sizes);
  const copyBytes = roundUp(entries * ENTRY_BYTES, SECTOR_BYTES) + entries * TABLE_ENTRIES * ENTRY_BYTES;
  const redundantOffset = SPARSE_HEADER_BYTES + descriptorBytes;
  const directoryOffset = redundantOffset + copyBytes;
  const overheadBytes = roundUp(directoryOffset + copyBytes, Math.max(grainBytes, GRAIN_BYTES));
  if (entries > MAX_DIRECTORY_ENTRIES || overheadBytes + capacity > MAX_FILE_BYTES) {
    throw new ImgfuseError(
      'limit',
      `${path} cannot hold ${capacity} bytes of a disk: a sparse extent has at most 2 TiB, its tables included; ` +
        'use a subformat of several extents (twoGbMaxExtentSparse)',
      { path },
    );
  }
  const zeroFlag = zeroedGrain ? SPARSEFLAG_ZERO_GRAINS : 0;
  return {
    ...sizes,
    version: zeroedGrain ? 2 : 1,
    flags: SPARSEFLAG_VALID_NEWLINE | SPARSEFLAG_USE_REDUNDANT | zeroFlag,
    descriptorOffset: descriptorBytes === 0 ? 0 : SPARSE_HEADER_BYTES,
    descriptorBytes,
    ...{ redundantOffset, directoryOffset, overheadBytes },
    ...{ isUnclean: false, compression: 0 },
  };
}

/** Entries of tables that follow each other. */
function writeDirectory(file: HostFile, offset: number, firstTable: number, entries: number, tableBytes: number): void {
  for (let start = 0; start < entries; start += CHUNK_ENTRIES) {
    const part = Math.min(CHUNK_ENTRIES, entries - start);
    const bytes = new Uint8Array(part * ENTRY_BYTES);
    const view = new DataView(bytes.buffer);
    for (let i = 0; i < part; i++) {
      view.setUint32(i * ENTRY_BYTES, (firstTable + (start + i) * tableBytes) / SECTOR_BYTES, true);
    }
    file.write(bytes, 0, bytes.length, hostOffset(offset + start * ENTRY_BYTES));
  }
}
