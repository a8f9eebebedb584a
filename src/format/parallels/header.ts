// The header of a Parallels disk image (.hds, .hdd), little-endian, and its block allocation table (BAT). Source: QEMU
// docs/interop/parallels.
//
//    0 magic[16]       24 cylinders u32          36 sectors u64        48 data u32, sectors
//   16 version u32 = 2 28 cluster u32, sectors   44 in use u32         52 flags u32
//   20 heads u32       32 BAT entries u32                              56 extension u64, sectors
//
// "WithoutFreeSpace": an entry of the BAT counts sectors, and the disk has 2^32 sectors at most. "WithouFreSpacExt": it counts
// clusters. Entry 0 is no cluster. The BAT follows the header.

import { hexWords, readU64LE } from '../../bytes/endian.ts';
import { hostOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';

export const HEADER_MAGIC = 'WithoutFreeSpace';
export const HEADER_MAGIC2 = 'WithouFreSpacExt';
const HEADER_VERSION = 2;
/** "Ynot": a program has it open for writing, or has died with it. */
const HEADER_INUSE_MAGIC = 0x746f6e59;
export const HEADER_BYTES = 64;
const VERSION_AT = 16;
const CLUSTER_AT = 28;
const ENTRIES_AT = 32;
const SECTORS_AT = 36;
const IN_USE_AT = 44;
const DATA_AT = 48;
const MAX_CLUSTER_SECTORS = 2 ** 21;
/** 256 MiB of BAT, as many as a table of pieces has room for. */
const MAX_ENTRIES = 2 ** 26;

export interface ParallelsHeader {
  readonly clusterBytes: number;
  readonly batEntries: number;
  /** bytes that 1 in an entry stands for */
  readonly unitBytes: number;
  /** virtual size in bytes */
  readonly diskBytes: number;
  readonly isInUse: boolean;
  /** host offset of the first cluster */
  readonly dataOffset: number;
}

/** @throws ImgfuseError corrupt, unsupported: with field, value and what to do */
export function readHeader(file: HostFile): ParallelsHeader {
  const bytes = new Uint8Array(HEADER_BYTES);
  const got = file.read(bytes, 0, HEADER_BYTES, hostOffset(0));
  if (got < HEADER_BYTES) {
    throw invalid(
      file,
      0,
      `the file has ${got} bytes, but a Parallels header has ${HEADER_BYTES}; the file is truncated`,
    );
  }
  const view = new DataView(bytes.buffer);
  const isExtended = isOfSecondKind(file, bytes);
  const version = view.getUint32(VERSION_AT, true);
  if (version !== HEADER_VERSION) {
    const sentence = `${file.path}: the Parallels header has version ${version}, and imgfuse knows ${HEADER_VERSION}`;
    throw new ImgfuseError('unsupported', sentence, { path: file.path, offset: VERSION_AT });
  }
  const cluster = view.getUint32(CLUSTER_AT, true);
  if (cluster === 0 || cluster > MAX_CLUSTER_SECTORS) {
    throw invalid(file, CLUSTER_AT, `a cluster has ${cluster} sectors; it must have from 1 to ${MAX_CLUSTER_SECTORS}`);
  }
  const clusterBytes = cluster * SECTOR_BYTES;
  const batEntries = view.getUint32(ENTRIES_AT, true);
  const batEnd = HEADER_BYTES + batEntries * 4;
  if (batEntries > MAX_ENTRIES || batEnd > file.size()) {
    throw invalid(
      file,
      ENTRIES_AT,
      `the BAT of ${batEntries} entries ends behind the ${file.size()} bytes of the file, or is too long`,
    );
  }
  return {
    clusterBytes,
    batEntries,
    unitBytes: isExtended ? clusterBytes : SECTOR_BYTES,
    diskBytes: diskBytesOf(file, view, isExtended, batEntries * clusterBytes),
    isInUse: view.getUint32(IN_USE_AT, true) === HEADER_INUSE_MAGIC,
    dataOffset: Math.max(view.getUint32(DATA_AT, true) * SECTOR_BYTES, batEnd),
  };
}

function isOfSecondKind(file: HostFile, bytes: Uint8Array): boolean {
  const magic = Buffer.from(bytes.subarray(0, HEADER_MAGIC.length)).toString('latin1');
  if (magic === HEADER_MAGIC || magic === HEADER_MAGIC2) return magic === HEADER_MAGIC2;
  throw invalid(file, 0, `magic is ${JSON.stringify(magic)}; this is not a Parallels image`);
}

function diskBytesOf(file: HostFile, view: DataView, isExtended: boolean, mapped: number): number {
  const sectors = isExtended ? readU64LE(view, SECTORS_AT) : view.getUint32(SECTORS_AT, true);
  const diskBytes = sectors * SECTOR_BYTES;
  if (diskBytes <= Math.min(mapped, MAX_VIRTUAL_SIZE)) return diskBytes;
  const value = hexWords(view.getUint32(SECTORS_AT + 4, true), view.getUint32(SECTORS_AT, true));
  throw invalid(file, SECTORS_AT, `the disk has ${value} sectors; its BAT maps ${mapped} bytes`);
}

export function describeHeader({ clusterBytes, diskBytes, isInUse }: ParallelsHeader): ImageDetails {
  return { format: 'parallels', virtualSize: diskBytes, clusterSize: clusterBytes, dirty: isInUse, specific: {} };
}

export function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid Parallels image at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
