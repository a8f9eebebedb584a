// The header of a COWD extent (VMFSSPARSE): bytes <-> fields, every limit checked. Little-endian u32, 2048 bytes:
//
//    0 "COWD"         16 grainSize        28 freeSector
//    4 version: 1     20 gdOffset         32 geometry, or the name of the parent [1024]
//    8 flags: 3       24 GD entries     1636 savedGeneration
//   12 capacity                         1648 uncleanShutdown
//
// Sizes and offsets are in sectors there, and in bytes here. Grain tables have 4096 entries, come into being when they are needed, and
// have no second copy. The next grain of other programs goes to freeSector.

import { hex, hostOffset, isPowerOfTwo, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { ENTRY_BYTES } from '../sparse/header.ts';
import type { NewPlaces, TableLayout } from '../sparse/layout.ts';

export const COWD_MAGIC = 'COWD';
export const COWD_HEADER_BYTES = 2048;
export const COWD_TABLE_ENTRIES = 4096;
const CAPACITY_AT = 12;
const GD_OFFSET_AT = 20;
const GD_ENTRIES_AT = 24;
export const FREE_SECTOR_AT = 28;
const UNCLEAN_AT = 1648;
const MAX_GRAIN_SECTORS = 2048;
/** What a table maps at least divides 2 TiB, so no header needs more. */
const MAX_DIRECTORY_ENTRIES = 2 ** 20;

export function matchesCowd(head: Uint8Array): boolean {
  return head.length >= 4 && Buffer.from(head.subarray(0, 4)).toString('latin1') === COWD_MAGIC;
}

/** Reads and checks the header. @throws ImgfuseError corrupt, unsupported */
export function readCowdLayout(file: HostFile): TableLayout {
  const { view, bytes } = readBytes(file);
  const word = (at: number): number => view.getUint32(at, true);
  if (!matchesCowd(bytes)) throw invalid(file, 0, 'the magic is not "COWD"');
  if (word(4) !== 1) {
    const { path } = file;
    const what = `${path}: the COWD header at offset 4 has version ${word(4)}, and known is 1; open the image with the program that made it`;
    throw new ImgfuseError('unsupported', what, { path, offset: 4 });
  }
  const grainSectors = word(16);
  if (!isPowerOfTwo(grainSectors) || grainSectors > MAX_GRAIN_SECTORS) {
    throw invalid(
      file,
      16,
      `grainSize is ${grainSectors} sectors; it must be a power of two up to ${MAX_GRAIN_SECTORS}`,
    );
  }
  const capacity = word(CAPACITY_AT) * SECTOR_BYTES;
  if (capacity === 0) throw invalid(file, CAPACITY_AT, 'capacity is 0; an extent has one sector at least');
  const grainBytes = grainSectors * SECTOR_BYTES;
  const needed = Math.ceil(capacity / (COWD_TABLE_ENTRIES * grainBytes));
  const entries = word(GD_ENTRIES_AT);
  if (entries < needed || entries > MAX_DIRECTORY_ENTRIES) {
    const limits = `from ${needed}, which the capacity needs, to ${MAX_DIRECTORY_ENTRIES}`;
    throw invalid(file, GD_ENTRIES_AT, `the grain directory has ${entries} entries; it must have ${limits}`);
  }
  const directoryOffset = word(GD_OFFSET_AT) * SECTOR_BYTES;
  const end = directoryOffset + needed * ENTRY_BYTES;
  if (directoryOffset < COWD_HEADER_BYTES || end > file.size()) {
    throw invalid(
      file,
      GD_OFFSET_AT,
      `the grain directory at ${hex(directoryOffset)} ends at ${hex(end)}; it must lie behind the header, in the file of ${file.size()} bytes`,
    );
  }
  return {
    kind: 'VMFSSPARSE',
    ...{ capacity, grainBytes, directoryOffset },
    tableEntries: COWD_TABLE_ENTRIES,
    redundantOffset: 0,
    hasZeroGrains: false,
    isUnclean: word(UNCLEAN_AT) !== 0,
    uncleanAt: UNCLEAN_AT,
    freeSectorAt: FREE_SECTOR_AT,
    fixed: [{ start: 0, end: COWD_HEADER_BYTES }],
    leastBytes: COWD_HEADER_BYTES,
  };
}

/** A freeSector below what is in use makes other programs overwrite it. @returns the sentence; null: it is right */
export function freeSectorFault(file: HostFile, usedEnd: number): string | null {
  const free = readBytes(file).view.getUint32(FREE_SECTOR_AT, true);
  const used = Math.ceil(usedEnd / SECTOR_BYTES);
  return free >= used ? null : `freeSector is ${free}, and sectors up to ${used} are in use`;
}

export function writeFreeSector(file: HostFile, usedEnd: number): void {
  writeWords(file, [[FREE_SECTOR_AT, Math.ceil(usedEnd / SECTOR_BYTES)]]);
}

/** One write of the first sector. */
export function writeCowdPlaces(file: HostFile, { capacity, directoryEntries, directoryOffset }: NewPlaces): void {
  writeWords(file, [
    [CAPACITY_AT, capacity / SECTOR_BYTES],
    [GD_OFFSET_AT, directoryOffset / SECTOR_BYTES],
    [GD_ENTRIES_AT, directoryEntries],
  ]);
}

function writeWords(file: HostFile, words: readonly (readonly [at: number, value: number])[]): void {
  const { bytes, view } = readBytes(file);
  for (const [at, value] of words) view.setUint32(at, value, true);
  file.write(bytes, 0, SECTOR_BYTES, hostOffset(0));
}

function readBytes(file: HostFile): { readonly bytes: Uint8Array; readonly view: DataView } {
  const bytes = new Uint8Array(COWD_HEADER_BYTES);
  const got = file.read(bytes, 0, bytes.length, hostOffset(0));
  if (got < bytes.length) {
    throw invalid(file, 0, `the file has ${got} bytes, and the header takes ${bytes.length}; the file is truncated`);
  }
  return { bytes, view: new DataView(bytes.buffer) };
}

function invalid(file: HostFile, offset: number, what: string): ImgfuseError {
  const { path } = file;
  return new ImgfuseError('corrupt', `${path}: invalid COWD header at offset ${offset}: ${what}`, { path, offset });
}
