// The two headers, at 64 KiB and 128 KiB. The valid one with the higher sequence number is current; a change is written into the
// other one first, so a crash leaves one of them whole. 4 KiB, little-endian:
//
//    0 "head"              16 FileWriteGuid    64 LogVersion u16 = 0    72 LogOffset u64
//    4 CRC-32C             32 DataWriteGuid    66 Version u16 = 1
//    8 SequenceNumber u64  48 LogGuid          68 LogLength u32
//
// A LogGuid that is not null says that the log may hold changes that are not in their places yet.

import { readU64LE, writeU64LE } from '../../../bytes/endian.ts';
import { hex } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { NULL_UUID, uuidBytes } from '../../guid.ts';
import {
  bytesAt,
  compareSequences,
  guidAt,
  hasChecksum,
  invalid,
  MIB,
  type Sequence,
  type Structure,
  seal,
  sequenceAt,
  textAt,
} from './fields.ts';

export const HEADER_OFFSETS = [64 * 1024, 128 * 1024] as const;
export const HEADER_BYTES = 4096;
const SIGNATURE = 'head';
export const SEQUENCE_AT = 8;
export const FILE_WRITE_GUID_AT = 16;
export const DATA_WRITE_GUID_AT = 32;
export const LOG_GUID_AT = 48;
const LOG_VERSION_AT = 64;
const VERSION_AT = 66;
const LOG_LENGTH_AT = 68;
const LOG_OFFSET_AT = 72;

const LOG_VERSION = 0;
const VERSION = 1;
/** Far above what any program gives a log: its search must not take minutes. */
export const MAX_LOG_BYTES = 1024 * MIB;

export interface VhdxHeader {
  /** which of HEADER_OFFSETS it stands at */
  readonly slot: 0 | 1;
  /** all of it as it is in the file */
  readonly bytes: Uint8Array;
  readonly sequence: Sequence;
  /** changes whenever what the guest sees may change */
  readonly dataWriteGuid: string;
  /** null: there is nothing to replay */
  readonly logGuid: string | null;
  readonly logOffset: number;
  readonly logLength: number;
}

export interface Headers {
  readonly current: VhdxHeader;
  /** the one that is no valid header; null: both are */
  readonly damaged: 0 | 1 | null;
}

/** @throws ImgfuseError corrupt, unsupported */
export function readHeaders(file: HostFile): Headers {
  const first = validHeaderAt(file, HEADER_OFFSETS[0]);
  const second = validHeaderAt(file, HEADER_OFFSETS[1]);
  if (first === null) {
    if (second !== null) return { current: parseHeader(file, second, 1), damaged: 0 };
    throw invalid(
      file,
      HEADER_OFFSETS[0],
      'neither of its two headers has a right checksum; the file is damaged, or was cut',
    );
  }
  if (second === null) return { current: parseHeader(file, first, 0), damaged: 1 };
  const order = compareSequences(sequenceAt(first.view, SEQUENCE_AT), sequenceAt(second.view, SEQUENCE_AT));
  if (order === 0 && Buffer.compare(first.bytes, second.bytes) !== 0) {
    throw invalid(
      file,
      HEADER_OFFSETS[0],
      'its two headers have the same sequence number and are not the same, so neither is the current one',
    );
  }
  return { current: order < 0 ? parseHeader(file, second, 1) : parseHeader(file, first, 0), damaged: null };
}

function validHeaderAt(file: HostFile, offset: number): Structure | null {
  const structure = bytesAt(file, offset, HEADER_BYTES);
  return textAt(structure.bytes, 0, SIGNATURE.length) === SIGNATURE && hasChecksum(structure) ? structure : null;
}

function parseHeader(file: HostFile, { bytes, view }: Structure, slot: 0 | 1): VhdxHeader {
  const at = HEADER_OFFSETS[slot];
  const version = view.getUint16(VERSION_AT, true);
  if (version !== VERSION) throw unknownVersion(file, at, `its header has version ${version}, and ${VERSION} is known`);
  const guid = guidAt(bytes, LOG_GUID_AT);
  const logGuid = guid === NULL_UUID ? null : guid;
  const logVersion = view.getUint16(LOG_VERSION_AT, true);
  if (logVersion !== LOG_VERSION && logGuid !== null) {
    throw unknownVersion(file, at, `its log has version ${logVersion}, and ${LOG_VERSION} is known`);
  }
  const logLength = view.getUint32(LOG_LENGTH_AT, true);
  const logOffset = readU64LE(view, LOG_OFFSET_AT);
  if (!(logOffset >= MIB) || logOffset % MIB !== 0 || logLength % MIB !== 0 || logLength > MAX_LOG_BYTES) {
    throw invalid(
      file,
      at,
      `its header says that the log has ${logLength} bytes at offset ${hex(logOffset)}; both must be multiples of 1 MiB, with ` +
        `${MAX_LOG_BYTES} bytes at most`,
    );
  }
  if (logLength === 0 && logGuid !== null) throw invalid(file, at, 'its header has a log GUID and no log');
  return {
    slot,
    bytes,
    logGuid,
    logOffset,
    logLength,
    sequence: sequenceAt(view, SEQUENCE_AT),
    dataWriteGuid: guidAt(bytes, DATA_WRITE_GUID_AT),
  };
}

function unknownVersion({ path }: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('unsupported', `${path}: ${what}; open it with the program that wrote it`, { path, offset });
}

/** A header of a new image. */
export function serializeHeader(facts: {
  readonly sequence: number;
  readonly fileWriteGuid: string;
  readonly dataWriteGuid: string;
  readonly logGuid: string;
  readonly logOffset: number;
  readonly logLength: number;
}): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(SIGNATURE, 'latin1'));
  writeU64LE(view, SEQUENCE_AT, facts.sequence);
  bytes.set(uuidBytes(facts.fileWriteGuid), FILE_WRITE_GUID_AT);
  bytes.set(uuidBytes(facts.dataWriteGuid), DATA_WRITE_GUID_AT);
  bytes.set(uuidBytes(facts.logGuid), LOG_GUID_AT);
  view.setUint16(LOG_VERSION_AT, LOG_VERSION, true);
  view.setUint16(VERSION_AT, VERSION, true);
  view.setUint32(LOG_LENGTH_AT, facts.logLength, true);
  writeU64LE(view, LOG_OFFSET_AT, facts.logOffset);
  seal({ bytes, view });
  return bytes;
}
