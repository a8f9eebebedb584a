// The region table, which says where the BAT and the metadata are. It stands at 192 KiB and again at 256 KiB. 64 KiB, little-endian:
//
//   0 "regi"   4 CRC-32C   8 EntryCount u32   16 entries of 32 bytes: Guid, FileOffset u64, Length u32, Required u32
//
// A region has whole MiB, and overlaps neither another one nor the log nor the first MiB.

import { readU64LE, writeU64LE } from '../../../bytes/endian.ts';
import { hex } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { uuidBytes } from '../../guid.ts';
import { bytesAt, guidAt, hasChecksum, invalid, MIB, type Structure, seal, textAt } from './fields.ts';
import type { VhdxHeader } from './header.ts';

export const REGION_TABLE_OFFSETS = [192 * 1024, 256 * 1024] as const;
export const REGION_TABLE_BYTES = 64 * 1024;
const SIGNATURE = 'regi';
const COUNT_AT = 8;
const ENTRIES_AT = 16;
const ENTRY_BYTES = 32;
const MAX_ENTRIES = 2047;
const REQUIRED = 1;

const BAT_REGION = '2dc27766-f623-4200-9d64-115e9bfd4a08';
const METADATA_REGION = '8b7ca206-4790-4b9a-b8fe-575f050f886e';

/** Bytes [start, end) of the file, in whole MiB. */
export interface Region {
  readonly guid: string;
  readonly start: number;
  readonly end: number;
}

export interface Regions {
  readonly bat: Region;
  readonly metadata: Region;
  /** all of them, those that nobody here knows included */
  readonly all: readonly Region[];
  /** the table that is not as the other one, or damaged; null: both are the same */
  readonly damaged: 0 | 1 | null;
}

/** @param file as it is with its log replayed @throws ImgfuseError corrupt, unsupported */
export function readRegions(file: HostFile, header: VhdxHeader): Regions {
  const [first, second] = REGION_TABLE_OFFSETS.map((offset) => bytesAt(file, offset, REGION_TABLE_BYTES));
  const isFirstValid = isValid(first!);
  if (!isFirstValid && !isValid(second!)) {
    throw invalid(file, REGION_TABLE_OFFSETS[0], 'neither of its two region tables has a right checksum');
  }
  const all = parseTable(file, isFirstValid ? first! : second!, REGION_TABLE_OFFSETS[isFirstValid ? 0 : 1]);
  refuseOverlaps(file, all, header);
  const find = (guid: string, what: string): Region => {
    const region = all.find((each) => each.guid === guid);
    if (region !== undefined) return region;
    throw invalid(file, REGION_TABLE_OFFSETS[0], `its region table has no region of ${what}`);
  };
  const isSame = Buffer.compare(first!.bytes, second!.bytes) === 0;
  return {
    bat: find(BAT_REGION, 'the block allocation table'),
    metadata: find(METADATA_REGION, 'metadata'),
    all,
    damaged: isSame ? null : isFirstValid ? 1 : 0,
  };
}

function isValid(table: Structure): boolean {
  return textAt(table.bytes, 0, SIGNATURE.length) === SIGNATURE && hasChecksum(table);
}

function parseTable(file: HostFile, { bytes, view }: Structure, tableAt: number): Region[] {
  const count = view.getUint32(COUNT_AT, true);
  if (count > MAX_ENTRIES) {
    throw invalid(file, tableAt + COUNT_AT, `its region table has ${count} entries; it can have ${MAX_ENTRIES}`);
  }
  const regions: Region[] = [];
  for (let at = ENTRIES_AT; at < ENTRIES_AT + count * ENTRY_BYTES; at += ENTRY_BYTES) {
    const guid = guidAt(bytes, at);
    const start = readU64LE(view, at + 16);
    const length = view.getUint32(at + 24, true);
    const isKnown = guid === BAT_REGION || guid === METADATA_REGION;
    if (!isKnown && (view.getUint32(at + 28, true) & REQUIRED) !== 0) throw unknownRegion(file, guid, tableAt + at);
    if (!(start >= MIB) || start % MIB !== 0 || length === 0 || length % MIB !== 0) {
      throw invalid(
        file,
        tableAt + at,
        `the region ${guid} has ${length} bytes at offset ${hex(start)}; both must be multiples of 1 MiB`,
      );
    }
    if (regions.some((each) => each.guid === guid))
      throw invalid(file, tableAt + at, `the region ${guid} is there twice`);
    regions.push({ guid, start, end: start + length });
  }
  return regions;
}

function unknownRegion({ path }: HostFile, guid: string, offset: number): ImgfuseError {
  return new ImgfuseError(
    'unsupported',
    `${path} has the region ${guid}, which is not known here and without which the image must not be opened; open it with the ` +
      'program that wrote it',
    { path, offset },
  );
}

function refuseOverlaps(file: HostFile, regions: readonly Region[], { logLength, logOffset }: VhdxHeader): void {
  const log = { guid: 'log', start: logOffset, end: logOffset + logLength };
  const ordered = [...regions, log].sort((one, other) => one.start - other.start || one.end - other.end);
  for (const [i, region] of ordered.entries()) {
    const next = ordered[i + 1];
    if (next === undefined || region.end <= next.start) continue;
    throw invalid(
      file,
      region.start,
      `the regions ${region.guid} at ${hex(region.start)} and ${next.guid} at ${hex(next.start)} overlap`,
    );
  }
}

/** A table with the two regions that every image has. */
export function serializeRegionTable(regions: {
  readonly batAt: number;
  readonly batBytes: number;
  readonly metadataAt: number;
  readonly metadataBytes: number;
}): Uint8Array {
  const bytes = new Uint8Array(REGION_TABLE_BYTES);
  const view = new DataView(bytes.buffer);
  bytes.set(Buffer.from(SIGNATURE, 'latin1'));
  const entries = [
    [BAT_REGION, regions.batAt, regions.batBytes],
    [METADATA_REGION, regions.metadataAt, regions.metadataBytes],
  ] as const;
  view.setUint32(COUNT_AT, entries.length, true);
  for (const [i, [guid, start, length]] of entries.entries()) {
    const at = ENTRIES_AT + i * ENTRY_BYTES;
    bytes.set(uuidBytes(guid), at);
    writeU64LE(view, at + 16, start);
    view.setUint32(at + 24, length, true);
    view.setUint32(at + 28, REQUIRED, true);
  }
  seal({ bytes, view });
  return bytes;
}

/** A table whose BAT lies elsewhere, with its checksum. @param old all of it */
export function batMovedTo(old: Uint8Array, start: number, length: number): Uint8Array {
  const bytes = old.slice();
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < view.getUint32(COUNT_AT, true); i++) {
    const at = ENTRIES_AT + i * ENTRY_BYTES;
    if (guidAt(bytes, at) !== BAT_REGION) continue;
    writeU64LE(view, at + 16, start);
    view.setUint32(at + 24, length, true);
  }
  seal({ bytes, view });
  return bytes;
}
