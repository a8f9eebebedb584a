// The header of a Parallels disk image (.hds, .hdd), little-endian, and its block allocation table (BAT). Source: QEMU
// docs/interop/parallels.
//
//    0 magic[16]       24 cylinders u32          36 sectors u64        48 data u32, sectors
//   16 version u32 = 2 28 cluster u32, sectors   44 in use u32         52 flags u32
//   20 heads u32       32 BAT entries u32                              56 extension u64, sectors
//
// "WithoutFreeSpace": an entry of the BAT counts sectors, and the disk has 2^32 sectors at most. "WithouFreSpacExt": it counts
// clusters. Entry 0 is no cluster. The BAT follows the header. The header lies in one sector, so that one write changes it as a whole.

import { combine, hexWords, readU64LE } from '../../bytes/endian.ts';
import { hostOffset, MAX_VIRTUAL_SIZE, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ImageDetails } from '../image-format.ts';
import { HEADER_MAGIC, HEADER_MAGIC2 } from './signature.ts';

const HEADER_VERSION = 2;
/** "Ynot": a program has it open for writing, or has died with it. */
const HEADER_INUSE_MAGIC = 0x746f6e59;
/** "v2.1": closed clean. */
const HEADER_CLOSED_MAGIC = 0x312e3276;
export const HEADER_BYTES = 64;
/** Of the flags: the disk has no data. */
const EMPTY_FLAG = 1;
/** What the guest of a new disk is told. */
const HEADS = 16;
const SECTORS_PER_TRACK = 32;
const MAX_CLUSTER_SECTORS = 2 ** 21;
export const MAX_CLUSTER_BYTES = MAX_CLUSTER_SECTORS * SECTOR_BYTES;
/** 256 MiB of BAT, as many as a table of pieces has room for. */
export const MAX_ENTRIES = 2 ** 26;

/** Places of the fields that are u32. */
const FIELDS = {
  version: 16,
  heads: 20,
  cylinders: 24,
  cluster: 28,
  batEntries: 32,
  sectors: 36,
  sectorsHigh: 40,
  inUse: 44,
  data: 48,
  flags: 52,
  extension: 56,
  extensionHigh: 60,
} as const;

/** A field of the header and what it becomes. */
export interface HeaderField {
  readonly at: keyof typeof FIELDS;
  readonly value: number;
}

export interface ParallelsHeader {
  /** an entry of the BAT counts clusters */
  readonly isExtended: boolean;
  readonly clusterBytes: number;
  readonly batEntries: number;
  /** bytes that 1 in an entry stands for */
  readonly unitBytes: number;
  /** virtual size in bytes */
  readonly diskBytes: number;
  readonly isInUse: boolean;
  /** host offset of the first cluster; null: behind the BAT */
  readonly data: number | null;
  /** the same, behind the BAT in any case */
  readonly dataOffset: number;
  readonly isMarkedEmpty: boolean;
  /** host offset of the format extension; 0: none */
  readonly extension: number;
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
  const field = (name: keyof typeof FIELDS): number => view.getUint32(FIELDS[name], true);
  const isExtended = isOfSecondKind(file, bytes);
  if (field('version') !== HEADER_VERSION) {
    const sentence = `${file.path}: the Parallels header has version ${field('version')}, and imgfuse knows ${HEADER_VERSION}`;
    throw new ImgfuseError('unsupported', sentence, { path: file.path, offset: FIELDS.version });
  }
  const cluster = field('cluster');
  if (cluster === 0 || cluster > MAX_CLUSTER_SECTORS) {
    throw invalid(
      file,
      FIELDS.cluster,
      `a cluster has ${cluster} sectors; it must have from 1 to ${MAX_CLUSTER_SECTORS}`,
    );
  }
  const clusterBytes = cluster * SECTOR_BYTES;
  const batEntries = field('batEntries');
  const batEnd = HEADER_BYTES + batEntries * 4;
  if (batEntries > MAX_ENTRIES || batEnd > file.size()) {
    throw invalid(
      file,
      FIELDS.batEntries,
      `the BAT of ${batEntries} entries ends behind the ${file.size()} bytes of the file, or is too long`,
    );
  }
  const data = field('data') * SECTOR_BYTES;
  return {
    isExtended,
    clusterBytes,
    batEntries,
    unitBytes: isExtended ? clusterBytes : SECTOR_BYTES,
    diskBytes: diskBytesOf(file, view, isExtended, batEntries * clusterBytes),
    isInUse: field('inUse') === HEADER_INUSE_MAGIC,
    data: data === 0 ? null : data,
    dataOffset: Math.max(data, batEnd),
    isMarkedEmpty: (field('flags') & EMPTY_FLAG) !== 0,
    extension: combine(field('extensionHigh'), field('extension')) * SECTOR_BYTES,
  };
}

function isOfSecondKind(file: HostFile, bytes: Uint8Array): boolean {
  const magic = Buffer.from(bytes.subarray(0, HEADER_MAGIC.length)).toString('latin1');
  if (magic === HEADER_MAGIC || magic === HEADER_MAGIC2) return magic === HEADER_MAGIC2;
  throw invalid(file, 0, `magic is ${JSON.stringify(magic)}; this is not a Parallels image`);
}

function diskBytesOf(file: HostFile, view: DataView, isExtended: boolean, mapped: number): number {
  const sectors = isExtended ? readU64LE(view, FIELDS.sectors) : view.getUint32(FIELDS.sectors, true);
  const diskBytes = sectors * SECTOR_BYTES;
  if (diskBytes <= Math.min(mapped, MAX_VIRTUAL_SIZE)) return diskBytes;
  const value = hexWords(view.getUint32(FIELDS.sectorsHigh, true), view.getUint32(FIELDS.sectors, true));
  throw invalid(file, FIELDS.sectors, `the disk has ${value} sectors; its BAT maps ${mapped} bytes`);
}

/** Sectors that a disk of this kind can have. */
export function mostSectors({ isExtended }: Pick<ParallelsHeader, 'isExtended'>): number {
  return isExtended ? MAX_VIRTUAL_SIZE / SECTOR_BYTES : 2 ** 32 - 1;
}

/** The header of a new image, whose first cluster lies at `data`. */
export function serializeHeader(clusterBytes: number, diskBytes: number, data: number): Uint8Array {
  const bytes = new Uint8Array(HEADER_BYTES);
  bytes.set(Buffer.from(HEADER_MAGIC2, 'latin1'));
  setFields(bytes, [
    { at: 'version', value: HEADER_VERSION },
    { at: 'heads', value: HEADS },
    { at: 'cluster', value: clusterBytes / SECTOR_BYTES },
    { at: 'batEntries', value: Math.ceil(diskBytes / clusterBytes) },
    { at: 'inUse', value: HEADER_CLOSED_MAGIC },
    { at: 'data', value: data / SECTOR_BYTES },
    ...sizeFields(diskBytes),
  ]);
  return bytes;
}

/** The fields that say the size of a disk. The guest's cylinders follow it as in QEMU. */
export function sizeFields(diskBytes: number): readonly HeaderField[] {
  const sectors = diskBytes / SECTOR_BYTES;
  return [
    { at: 'cylinders', value: Math.min(Math.floor(sectors / HEADS / SECTORS_PER_TRACK), 2 ** 32 - 1) },
    { at: 'sectors', value: sectors % 2 ** 32 },
    { at: 'sectorsHigh', value: Math.floor(sectors / 2 ** 32) },
  ];
}

export function writeInUse(file: HostFile, isInUse: boolean): void {
  writeHeaderFields(file, [{ at: 'inUse', value: isInUse ? HEADER_INUSE_MAGIC : HEADER_CLOSED_MAGIC }]);
}

/** What a changed disk must not say any more: that it is empty, and what an extension says of it. */
export function dropExtension(file: HostFile): void {
  writeHeaderFields(
    file,
    (['flags', 'extension', 'extensionHigh'] as const).map((at) => ({ at, value: 0 })),
  );
}

/** Changes fields with one write of the header. */
export function writeHeaderFields(file: HostFile, fields: readonly HeaderField[]): void {
  const bytes = new Uint8Array(HEADER_BYTES);
  file.read(bytes, 0, HEADER_BYTES, hostOffset(0));
  setFields(bytes, fields);
  file.write(bytes, 0, HEADER_BYTES, hostOffset(0));
}

function setFields(bytes: Uint8Array, fields: readonly HeaderField[]): void {
  const view = new DataView(bytes.buffer);
  for (const { at, value } of fields) view.setUint32(FIELDS[at], value, true);
}

export function describeHeader(header: ParallelsHeader, virtualSize = header.diskBytes): ImageDetails {
  const { clusterBytes, isInUse } = header;
  return { format: 'parallels', virtualSize, clusterSize: clusterBytes, dirty: isInUse, specific: {} };
}

export function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid Parallels image at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
