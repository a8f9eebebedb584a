// The trailer of a dmg image (UDIF): the last 512 bytes of the file, but for zeros that fill its last sector up, big-endian.
//
//    0 "koly"   4 version u32   8 trailer bytes u32
//   24 data fork, host offset u64    40 resource fork, host offset u64, bytes u64
//   56 segment u32, segments u32    216 property list, host offset u64, bytes u64    492 disk u64, sectors
//
// The block tables are in the property list, or in the resource fork if there is no list. Invariant: what holds them lies
// inside the file, and is not too long for memory.

import { readU64BE } from '../../bytes/endian.ts';
import { type HostOffset, hex, hostOffset, isSafeOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { MAX_XML_BYTES } from '../../codec/xml.ts';
import { type ErrorKind, ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { endsOf } from '../file-ends.ts';
import { MOST_PADDING, TRAILER_BYTES, TRAILER_MAGIC } from './signature.ts';

const VERSION = 4;

const VERSION_AT = 4;
const BYTES_AT = 8;
const DATA_FORK_AT = 24;
const FORK_AT = 40;
const FORK_BYTES_AT = 48;
const SEGMENTS_AT = 60;
const LIST_AT = 216;
const LIST_BYTES_AT = 224;
const SECTORS_AT = 492;

/** What holds the block tables. */
export interface TablesPlace {
  /** for messages */
  readonly name: 'property list' | 'resource fork';
  readonly offset: HostOffset;
  readonly bytes: number;
}

export interface Trailer {
  /** the host offset that the runs count from */
  readonly dataFork: number;
  readonly tables: TablesPlace;
  /** virtual size in bytes */
  readonly diskBytes: number;
}

/** Reads and checks the trailer of `file`. @throws ImgfuseError corrupt, unsupported: with field, value and what to do */
export function readTrailer(file: HostFile): Trailer {
  const size = trailerEnd(file);
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
  return { dataFork, tables: tablesPlace(file, view, size), diskBytes };
}

/** The end of the last trailer in the file; the end of the file if there is none. */
function trailerEnd(file: HostFile): number {
  const size = file.size();
  const { tail } = endsOf(file);
  const last = tail.length - TRAILER_BYTES;
  const first = Math.max(0, last - MOST_PADDING);
  const starts = tail.subarray(first, Math.max(first, last + TRAILER_MAGIC.length));
  const at = Buffer.from(starts).toString('latin1').lastIndexOf(TRAILER_MAGIC);
  return at < 0 ? size : size - (last - first - at);
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

function tablesPlace(file: HostFile, view: DataView, size: number): TablesPlace {
  const hasList = readU64BE(view, LIST_BYTES_AT) !== 0;
  const name = hasList ? 'property list' : 'resource fork';
  const [at, bytesAt] = hasList ? [LIST_AT, LIST_BYTES_AT] : [FORK_AT, FORK_BYTES_AT];
  const [offset, bytes] = [readU64BE(view, at), readU64BE(view, bytesAt)];
  if (bytes === 0)
    throw invalid(file, LIST_BYTES_AT, 'there is no property list and no resource fork, so there is no block table');
  const end = offset + bytes;
  if (!isSafeOffset(end) || end > size - TRAILER_BYTES) {
    const place = `the ${name} has ${bytes} bytes at ${hex(offset)}`;
    throw invalid(file, at, `${place}; it must end before the trailer, at ${hex(size - TRAILER_BYTES)}`);
  }
  if (bytes > MAX_XML_BYTES)
    throw invalid(file, bytesAt, `the ${name} has ${bytes} bytes; the limit is ${MAX_XML_BYTES}`);
  return { name, offset: hostOffset(offset), bytes };
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
