// Where the directory of a streamed extent is: its header says so, or the copy of the header in the footer at the end of the file. The
// last three sectors are the marker of the footer, the footer, and the marker of the end of the stream, which is all zeros; other
// programs may have padded the file with more of these.
//
//   | header, gdOffset all ones | descriptor | grains, tables, directory, each with a marker | marker 3 | footer | zeros ...

import { hostOffset, roundDown, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import {
  COMPRESSION_DEFLATE,
  directoryEntriesOf,
  ENTRY_BYTES,
  GD_AT_END,
  parseHeader,
  readHeader,
  SPARSE_MAGIC,
  type SparseHeader,
} from '../sparse/header.ts';

/** Zeros behind the footer that are looked through. */
const MAX_PADDING_BYTES = 64 * 1024 * 1024;
const CHUNK_BYTES = 1024 * 1024;

export interface StreamHeader extends SparseHeader {
  readonly directoryOffset: number;
}

/** The header of a compressed extent, with the place of its directory. @throws ImgfuseError corrupt, unsupported */
export function readStreamHeader(file: HostFile): StreamHeader {
  const header = readHeader(file);
  const { path } = file;
  if (header.compression !== COMPRESSION_DEFLATE) {
    throw new ImgfuseError(
      'unsupported',
      `${path}: the VMDK header at offset 77 has compression ${header.compression}, and known is 1 (deflate); ` +
        'open the image with the program that made it',
      { path, offset: 77 },
    );
  }
  const { directoryOffset } = header;
  if (directoryOffset !== GD_AT_END) return { ...header, directoryOffset };
  return withFooter(file, header);
}

function withFooter(file: HostFile, header: SparseHeader): StreamHeader {
  const at = lastSectorWithData(file);
  const bytes = new Uint8Array(SECTOR_BYTES);
  const isThere = at >= SECTOR_BYTES && file.read(bytes, 0, bytes.length, hostOffset(at)) === SECTOR_BYTES;
  if (!isThere || Buffer.from(bytes.subarray(0, 4)).toString('latin1') !== SPARSE_MAGIC) {
    throw noFooter(file, at, 'no footer is there');
  }
  const footer = parseHeader(file, bytes, at);
  const { directoryOffset } = footer;
  if (directoryOffset === GD_AT_END) throw noFooter(file, at, 'the footer has no directory either');
  const isSame = ['capacity', 'grainBytes', 'tableEntries', 'flags'] as const;
  if (isSame.some((field) => footer[field] !== header[field]))
    throw noFooter(file, at, 'the footer is of another image');
  if (directoryOffset + directoryEntriesOf(footer) * ENTRY_BYTES > at) {
    throw noFooter(file, at, 'its grain directory ends behind it');
  }
  return { ...header, directoryOffset };
}

/** The last sector that is not all zeros; -1 if there is none. */
function lastSectorWithData(file: HostFile): number {
  const size = roundDown(file.size(), SECTOR_BYTES);
  const chunk = new Uint8Array(CHUNK_BYTES);
  const least = Math.max(0, size - MAX_PADDING_BYTES);
  for (let end = size; end > least; ) {
    const start = Math.max(least, end - CHUNK_BYTES);
    const got = file.read(chunk, 0, end - start, hostOffset(start));
    for (let at = got - 1; at >= 0; at--) if (chunk[at] !== 0) return roundDown(start + at, SECTOR_BYTES);
    end = start;
  }
  return -1;
}

function noFooter({ path }: HostFile, at: number, what: string): ImgfuseError {
  return new ImgfuseError(
    'corrupt',
    `${path}: the header says that the grain directory is found at the end of the file, and ${what}: the file is truncated, or its ` +
      'writer did not finish; copy or export it again',
    { path, offset: Math.max(0, at), isTruncated: true },
  );
}
