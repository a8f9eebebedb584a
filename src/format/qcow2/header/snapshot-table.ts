// The snapshot table: entries of variable length, each aligned to 8 bytes. It is read entry by entry, so that a table with a
// false length costs no memory. The L1 tables of the snapshots are not read here.
//
//    0 l1_table_offset u64   12 id_str_size u16   16 date_sec u32    24 vm_clock_nsec u64   36 extra_data_size u32
//    8 l1_size u32           14 name_size u16     20 date_nsec u32   32 vm_state_size u32   40 extra data, id, name
//
// Extra data: 40 vm_state_size u64 (replaces the one at 32), 48 disk_size u64, 56 icount u64.

import { decimalWords, divideWords, readU64BE } from '../../../bytes/endian.ts';
import { nameOfBytes } from '../../../bytes/names.ts';
import { hostOffset, roundUp } from '../../../bytes/offsets.ts';
import { type ErrorContext, ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { SnapshotDetails } from '../../image-format.ts';
import { QCOW_MAX_L1_SIZE, QCOW_MAX_SNAPSHOTS, type Qcow2Header } from './header.ts';

/** 1 KiB per entry on average. */
const QCOW_MAX_SNAPSHOTS_SIZE = 1024 * QCOW_MAX_SNAPSHOTS;
const QCOW_MAX_SNAPSHOT_EXTRA_DATA = 1024;

const FIXED_BYTES = 40;
const KNOWN_EXTRA_BYTES = 24;
/** the value of icount for "none": all 64 bits set */
const NO_ICOUNT = '18446744073709551615';
const SECOND_NS = 1e9;

export interface Snapshot extends SnapshotDetails {
  /** as stored, NaN if it is not a safe integer; checkSnapshotL1() checks it */
  readonly l1TableOffset: number;
  /** entries */
  readonly l1Size: number;
  /** virtual size of the disk when the snapshot was taken, in bytes; NaN if it is not a safe integer */
  readonly diskSize: number;
  /** host offset of the entry, for messages */
  readonly entryOffset: number;
}

export interface SnapshotTable {
  readonly snapshots: readonly Snapshot[];
  /** bytes of the table from header.snapshotsOffset on */
  readonly length: number;
}

type SnapshotFields = Pick<Qcow2Header, 'snapshotCount' | 'snapshotsOffset' | 'clusterSize' | 'size'>;

/** @throws ImgfuseError corrupt if the table exceeds a limit or the end of the file */
export function readSnapshotTable(file: HostFile, header: SnapshotFields): SnapshotTable {
  const snapshots: Snapshot[] = [];
  let length = 0;
  for (const { snapshot, end } of snapshotEntries(file, header)) {
    snapshots.push(snapshot);
    length = end - header.snapshotsOffset;
  }
  return { snapshots, length };
}

/**
 * The entries of the table, each with the host offset of its end. Each is read when it is asked for.
 * @throws ImgfuseError corrupt if the table exceeds a limit or the end of the file
 */
export function* snapshotEntries(
  file: HostFile,
  header: SnapshotFields,
): Generator<{ readonly snapshot: Snapshot; readonly end: number }, void> {
  const { snapshotCount, snapshotsOffset, clusterSize } = header;
  if (snapshotCount === 0) return;
  if (snapshotCount > QCOW_MAX_SNAPSHOTS) {
    throw invalid(file, 60, `there are ${snapshotCount} snapshots; at most ${QCOW_MAX_SNAPSHOTS} are allowed`);
  }
  if (!Number.isSafeInteger(snapshotsOffset) || snapshotsOffset % clusterSize !== 0 || snapshotsOffset === 0) {
    throw invalid(file, 64, `it is not at a positive multiple of the cluster size ${clusterSize}`);
  }
  let at = snapshotsOffset;
  for (let index = 0; index < snapshotCount; index++) {
    at = roundUp(at, 8);
    const entry = readEntry(file, at, index, header.size);
    at += entry.length;
    if (at - snapshotsOffset > QCOW_MAX_SNAPSHOTS_SIZE) {
      throw invalid(file, at, `it is larger than ${QCOW_MAX_SNAPSHOTS_SIZE} bytes at snapshot ${index + 1}`);
    }
    yield { snapshot: entry.snapshot, end: at };
  }
}

/**
 * Checks that the L1 table of a snapshot can be read: its size, its alignment, and that it lies inside the file.
 * @throws ImgfuseError corrupt
 */
export function checkSnapshotL1(file: HostFile, clusterSize: number, snapshot: Snapshot): void {
  const { l1Size, l1TableOffset, entryOffset, name } = snapshot;
  if (l1Size * 8 > QCOW_MAX_L1_SIZE) {
    throw invalid(
      file,
      entryOffset + 8,
      `l1_size of snapshot "${printable(name)}" is ${l1Size} entries; at most ${QCOW_MAX_L1_SIZE / 8} are allowed`,
    );
  }
  const isAligned = Number.isSafeInteger(l1TableOffset) && l1TableOffset % clusterSize === 0;
  // the last cluster of the file may be incomplete: the rest reads as zeros
  const fileEnd = roundUp(file.size(), clusterSize);
  if (isAligned && (l1Size === 0 || (l1TableOffset > 0 && l1TableOffset + l1Size * 8 <= fileEnd))) return;
  throw invalid(
    file,
    entryOffset,
    `l1_table_offset of snapshot "${printable(name)}" is ${l1TableOffset}; ${l1Size} entries there must be aligned to ` +
      `${clusterSize} bytes and inside the file of ${file.size()} bytes`,
  );
}

function readEntry(file: HostFile, at: number, index: number, size: number): { snapshot: Snapshot; length: number } {
  const view = new DataView(readExactly(file, at, FIXED_BYTES, index).buffer);
  const extraBytes = view.getUint32(36, false);
  if (extraBytes > QCOW_MAX_SNAPSHOT_EXTRA_DATA) {
    throw invalid(
      file,
      at + 36,
      `extra_data_size of snapshot ${index + 1} is ${extraBytes}; at most ${QCOW_MAX_SNAPSHOT_EXTRA_DATA} are allowed`,
    );
  }
  const idBytes = view.getUint16(12, false);
  const nameBytes = view.getUint16(14, false);
  const rest = readExactly(file, at + FIXED_BYTES, extraBytes + idBytes + nameBytes, index);
  const extra = new DataView(rest.buffer, 0, Math.min(extraBytes, KNOWN_EXTRA_BYTES));
  const clock = divideWords(view.getUint32(24, false), view.getUint32(28, false), SECOND_NS);
  const snapshot: Snapshot = {
    id: nameOfBytes(rest.subarray(extraBytes, extraBytes + idBytes)),
    name: nameOfBytes(rest.subarray(extraBytes + idBytes)),
    l1TableOffset: readU64BE(view, 0),
    l1Size: view.getUint32(8, false),
    vmStateSize: extraBytes >= 8 ? digitsAt(extra, 0) : String(view.getUint32(32, false)),
    diskSize: extraBytes >= 16 ? readU64BE(extra, 8) : size,
    dateSeconds: view.getUint32(16, false),
    dateNanoseconds: view.getUint32(20, false),
    vmClockSeconds: clock.quotient,
    vmClockNanoseconds: clock.remainder,
    icount: extraBytes >= 24 && digitsAt(extra, 16) !== NO_ICOUNT ? digitsAt(extra, 16) : null,
    entryOffset: at,
  };
  return { snapshot, length: FIXED_BYTES + rest.length };
}

function digitsAt(view: DataView, offset: number): string {
  return decimalWords(view.getUint32(offset, false), view.getUint32(offset + 4, false));
}

function readExactly(file: HostFile, at: number, length: number, index: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  if (length === 0) return bytes;
  const got = file.read(bytes, 0, length, hostOffset(at));
  if (got === length) return bytes;
  const what = `snapshot ${index + 1} takes ${length} bytes there, but the file ends after ${got}; the file is truncated`;
  throw invalid(file, at, what, { isTruncated: true });
}

function printable(name: string): string {
  return name.replace(/\p{C}/gu, '?').slice(0, 80);
}

function invalid(file: HostFile, offset: number, what: string, context: ErrorContext = {}): ImgfuseError {
  return new ImgfuseError('corrupt', `${file.path}: invalid qcow2 snapshot table at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
    ...context,
  });
}
