// The trailer of a dmg image (UDIF): the last 512 bytes of the file, big-endian.
//
//    0 "koly"   4 version u32   8 trailer bytes u32
//   24 data fork, host offset u64    40 resource fork, host offset u64, bytes u64
//   56 segment u32, segments u32    216 property list, host offset u64, bytes u64    492 disk u64, sectors
//
// Invariant: the property list of a Trailer lies inside the file, and is not too long for memory.

import { readU64BE } from '../../bytes/endian.ts';
import { type HostOffset, hex, hostOffset, isSafeOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { MAX_XML_BYTES } from '../../codec/xml.ts';
import { type ErrorKind, ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';

export const TRAILER_MAGIC = 'koly';
export const TRAILER_BYTES = 512;
const VERSION = 4;

const VERSION_AT = 4;
const BYTES_AT = 8;
const DATA_FORK_AT = 24;
const RESOURCE_FORK_BYTES_AT = 48;
const SEGMENTS_AT = 60;
const LIST_AT = 216;
const LIST_BYTES_AT = 224;
const SECTORS_AT = 492;

export interface Trailer {
  /** the host offset that the runs count from */
  readonly dataFork: number;
  readonly listOffset: HostOffset;
  readonly listBytes: number;
  /** virtual size in bytes */
  readonly diskBytes: number;
}

/** Reads and checks the trailer of `file`. @throws ImgfuseError corrupt, unsupported: with field, value and what to do */
export function readTrailer(file: HostFile): Trailer {
  const size = file.size();
  if (size < TRAILER_BYTES)
    throw invalid(file, 0, `the file has ${size} bytes, but the trailer alone has ${TRAILER_BYTES}`);
  const bytes = new Uint8Array(TRAILER_BYTES);
  file.read(bytes, 0, TRAILER_BYTES, hostOffset(size - TRAILER_BYTES));
  const magic = Buffer.from(bytes.subarray(0, TRAILER_MAGIC.length)).toString('latin1');
  if (magic !== TRAILER_MAGIC) throw invalid(file, 0, `magic is ${JSON.stringify(magic)}; this is not a dmg image`);
  const view = new DataView(bytes.buffer);
  checkKind(file, view);
  const dataFork = readU64BE(view, DATA_FORK_AT);
  if (!isSafeOffset(dataFork) || dataFork > size)
    throw invalid(file, DATA_FORK_AT, `the data fork begins at ${dataFork}; the file has ${size} bytes`);
  const diskBytes = readU64BE(view, SECTORS_AT) * SECTOR_BYTES;
  if (!(diskBytes <= MAX_VIRTUAL_SIZE)) throw invalid(file, SECTORS_AT, 'the disk has more than 8 PiB');
  return { dataFork, ...listOf(file, view, size), diskBytes };
}

function checkKind(file: HostFile, view: DataView): void {
  const version = view.getUint32(VERSION_AT);
  if (version !== VERSION) {
    const known = `version ${version}, and imgfuse knows version ${VERSION}`;
    throw refusal(file, VERSION_AT, `has ${known}; convert it with hdiutil convert -format UDZO on a Mac`);
  }
  const trailerBytes = view.getUint32(BYTES_AT);
  if (trailerBytes !== TRAILER_BYTES)
    throw invalid(file, BYTES_AT, `the trailer has ${trailerBytes} bytes; it must have ${TRAILER_BYTES}`);
  const segments = view.getUint32(SEGMENTS_AT);
  if (segments > 1) {
    const part = `is one of ${segments} segments of a disk`;
    throw refusal(file, SEGMENTS_AT, `${part}; join them with hdiutil convert -format UDZO on a Mac`);
  }
}

function listOf(file: HostFile, view: DataView, size: number): Pick<Trailer, 'listOffset' | 'listBytes'> {
  const [listOffset, listBytes] = [readU64BE(view, LIST_AT), readU64BE(view, LIST_BYTES_AT)];
  if (listBytes === 0 && readU64BE(view, RESOURCE_FORK_BYTES_AT) !== 0) {
    const old = 'has its block table in a resource fork, as macOS 10.1 wrote it';
    throw refusal(file, LIST_BYTES_AT, `${old}; convert it with hdiutil convert -format UDZO on a Mac`);
  }
  if (listBytes === 0) throw invalid(file, LIST_BYTES_AT, 'there is no property list, so there is no block table');
  const end = listOffset + listBytes;
  if (!isSafeOffset(end) || end > size - TRAILER_BYTES) {
    const place = `the property list has ${listBytes} bytes at ${hex(listOffset)}`;
    throw invalid(file, LIST_AT, `${place}; it must end before the trailer, at ${hex(size - TRAILER_BYTES)}`);
  }
  if (listBytes > MAX_XML_BYTES)
    throw invalid(file, LIST_BYTES_AT, `the property list has ${listBytes} bytes; the limit is ${MAX_XML_BYTES}`);
  return { listOffset: hostOffset(listOffset), listBytes };
}

function refusal(file: HostFile, offset: number, what: string): ImgfuseError {
  return failure('unsupported', file, offset, `${file.path} is a dmg image that ${what}`);
}

/** @param offset in the trailer */
function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return failure('corrupt', file, offset, `${file.path}: dmg trailer at offset ${offset}: ${what}`);
}

function failure(kind: ErrorKind, file: HostFile, offset: number, sentence: string): ImgfuseError {
  return new ImgfuseError(kind, sentence, {
    path: file.path,
    offset: Math.max(0, file.size() - TRAILER_BYTES) + offset,
  });
}
