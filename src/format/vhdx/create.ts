// A new VHDX: file identifier, headers, region tables, log, BAT, metadata, and the blocks of a fixed one as a hole, where QEMU puts
// them. The file identifier is written last, so that a file cut short by a crash is no image at all.

import { hostOffset, isPowerOfTwo, roundUp, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { refuseUnknownKeys } from '../create-option.ts';
import { NULL_UUID, newUuid } from '../guid.ts';
import type { BackingReference, CreateOptions, ParentFacts } from '../image-format.ts';
import { parseSize } from '../size.ts';
import { PAYLOAD_BLOCK_FULLY_PRESENT, PAYLOAD_BLOCK_NOT_PRESENT, PAYLOAD_BLOCK_ZERO, writeEntry } from './bat.ts';
import { VHDX_CREATE_HELP } from './create-help.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import { MIB } from './header/fields.ts';
import { serializeFileIdentifier } from './header/file-identifier.ts';
import { HEADER_OFFSETS, MAX_LOG_BYTES, serializeHeader } from './header/header.ts';
import { serializeLocator } from './header/locator.ts';
import { MAX_BLOCK_BYTES, MAX_DISK_BYTES, METADATA_BYTES, serializeMetadata } from './header/metadata.ts';
import { REGION_TABLE_OFFSETS, serializeRegionTable } from './header/region-table.ts';
import { newLocator } from './parent.ts';

const LOG_AT = MIB;
const CHUNK_ENTRIES = 128 * 1024;
const TIB = 2 ** 40;
const GIB = 2 ** 30;
/** Block size of a disk that is larger than this. */
const AUTOMATIC = [
  [32 * TIB, 64 * MIB],
  [100 * GIB, 32 * MIB],
  [GIB, 16 * MIB],
] as const;

/** The size is rounded up to whole sectors, which are those of the parent, or have 512 bytes. */
export function createVhdx(file: HostFile, { backing, options, parent, size }: CreateOptions): void {
  refuseUnknownKeys('vhdx', VHDX_CREATE_HELP, options);
  const locator = backing === undefined ? null : locatorOf(file, backing, parent);
  const sectorBytes = locator === null ? SECTOR_BYTES : (parent?.sectorSize ?? SECTOR_BYTES);
  const virtualSize = roundUp(size, sectorBytes);
  if (virtualSize === 0) throw usage('a VHDX cannot have 0 bytes: QEMU opens none without a sector');
  if (virtualSize > MAX_DISK_BYTES)
    throw usage(`a VHDX cannot hold ${size} bytes; its disk has ${MAX_DISK_BYTES} at most`);
  const blockBytes = blockSizeOption(options.get('block_size'), virtualSize);
  const logBytes = logSizeOption(options.get('log_size'));
  const isFixed = choice(options, 'subformat', ['dynamic', 'fixed']) === 'fixed';
  const isZero = choice(options, 'block_state_zero', ['off', 'on']) === 'on';
  if (isFixed && locator !== null) throw usage('a VHDX with a backing file cannot be fixed; leave out subformat=fixed');
  const disk = { virtualSize, blockBytes, sectorBytes };
  const geometry = new Geometry({ ...disk, parent: locator });
  const batAt = LOG_AT + logBytes;
  const batBytes = roundUp(Math.max(1, geometry.entryCount) * ENTRY_BYTES, MIB);
  const metadataAt = batAt + batBytes;
  const dataAt = metadataAt + METADATA_BYTES;
  file.truncate(dataAt + (isFixed ? geometry.blockCount * blockBytes : 0));
  const isNothing = locator !== null || !isZero;
  const state = isFixed ? PAYLOAD_BLOCK_FULLY_PRESENT : isNothing ? PAYLOAD_BLOCK_NOT_PRESENT : PAYLOAD_BLOCK_ZERO;
  writeBat(file, batAt, geometry, state, isFixed ? dataAt : null);
  const put = (bytes: Uint8Array, at: number): void => file.write(bytes, 0, bytes.length, hostOffset(at));
  put(serializeMetadata({ ...disk, isFixed, diskId: newUuid(), locator }), metadataAt);
  const table = serializeRegionTable({ batAt, batBytes, metadataAt, metadataBytes: METADATA_BYTES });
  for (const at of REGION_TABLE_OFFSETS) put(table, at);
  const guids = { fileWriteGuid: newUuid(), dataWriteGuid: newUuid(), logGuid: NULL_UUID };
  for (const [slot, at] of HEADER_OFFSETS.entries()) {
    put(serializeHeader({ ...guids, sequence: slot + 1, logOffset: LOG_AT, logLength: logBytes }), at);
  }
  file.sync();
  put(serializeFileIdentifier(), 0);
  file.sync();
}

function locatorOf(file: HostFile, backing: BackingReference, parent: ParentFacts | undefined): Uint8Array {
  const { format = 'vhdx' } = backing;
  if (format !== 'vhdx')
    throw usage(`the backing file of a VHDX is a VHDX, not ${format}; use an overlay of another format`);
  return serializeLocator(newLocator(file.path, 'is not made', backing, parent));
}

/**
 * Entries of state 0 (NOT_PRESENT) are a hole of the file: the BAT of 64 TiB in blocks of 1 MiB has 512 MiB.
 * @param dataAt where the blocks lie, one behind the other; null: nowhere
 */
function writeBat(file: HostFile, batAt: number, geometry: Geometry, state: number, dataAt: number | null): void {
  if (state === PAYLOAD_BLOCK_NOT_PRESENT) return;
  for (let first = 0; first < geometry.entryCount; first += CHUNK_ENTRIES) {
    const count = Math.min(CHUNK_ENTRIES, geometry.entryCount - first);
    const chunk = new Uint8Array(count * ENTRY_BYTES);
    const entries = new DataView(chunk.buffer);
    for (let i = 0; i < count; i++) {
      if (geometry.isBitmapEntry(first + i)) continue;
      const place = dataAt === null ? 0 : dataAt + geometry.blockOfEntry(first + i) * geometry.blockBytes;
      writeEntry(entries, i * ENTRY_BYTES, state, place);
    }
    file.write(chunk, 0, chunk.length, hostOffset(batAt + first * ENTRY_BYTES));
  }
}

function blockSizeOption(text: string | undefined, virtualSize: number): number {
  const size = text === undefined ? 0 : parseSize(text, 'block_size');
  if (size === 0) return AUTOMATIC.find(([above]) => virtualSize > above)?.[1] ?? 8 * MIB;
  if (isPowerOfTwo(size) && size >= MIB && size <= MAX_BLOCK_BYTES) return size;
  throw usage(
    `block_size=${text} is not valid; use a power of two from 1M to 256M, or 0 for a size that fits the disk`,
  );
}

/** Rounded up to whole MiB, as qemu-img does. */
function logSizeOption(text: string | undefined): number {
  const size = text === undefined ? 0 : parseSize(text, 'log_size');
  const bytes = Math.max(MIB, roundUp(size, MIB));
  if (bytes <= MAX_LOG_BYTES) return bytes;
  throw usage(`log_size=${text} is not valid; a log has 1 GiB at most`);
}

function choice(options: ReadonlyMap<string, string>, key: string, values: readonly [string, string]): string {
  const text = options.get(key) ?? values[0];
  if (values.includes(text)) return text;
  throw usage(`${key}=${text} is not valid; use ${values.join(' or ')}`);
}

function usage(sentence: string): ImgfuseError {
  return new ImgfuseError('usage', sentence);
}
