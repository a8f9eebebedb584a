// The header fields with the offsets and sizes of the tables, and the size of the disk. Each table must be aligned, lie inside
// the file, and be small enough to hold in memory. Nothing here writes.

import { readU64BE } from '../../../bytes/endian.ts';
import { MAX_VIRTUAL_SIZE } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { L1_ENTRY_BYTES, l1EntriesFor } from '../geometry.ts';
import { FIELD, QCOW_MAX_L1_SIZE, QCOW_MAX_REFTABLE_SIZE, QCOW_MAX_SNAPSHOTS } from './header.ts';
import { invalid, showU64 } from './header-extension.ts';

const SNAPSHOT_ENTRY_BYTES = 40;

export interface ReadHeaderOptions {
  readonly readOnly: boolean;
  /** for check and repair: accepts the corrupt bit and, as `readOnly` does, any refcount table and snapshot table */
  readonly check?: boolean;
}

/** Cluster 0 of an image as bytes and as a view. Bytes beyond the end of the file are zero. */
export interface HeaderCluster {
  readonly file: HostFile;
  readonly bytes: Uint8Array;
  readonly view: DataView;
  readonly options: ReadHeaderOptions;
}

/** Parses and checks the fields of all tables, and the size of the disk. */
export function parseTables(cluster: HeaderCluster, extendedL2: boolean) {
  const { file, bytes, view, options } = cluster;
  // reading needs neither counters nor snapshots, and a repair can write new counters
  const lenient = options.readOnly || options.check === true;
  const refcountTableClusters = view.getUint32(FIELD.refcountTableClusters, false);
  if (refcountTableClusters === 0 && !lenient) {
    throw invalid(
      file,
      FIELD.refcountTableClusters,
      'refcount_table_clusters is 0, but every image has a refcount table; rebuild it with imgfuse check -r all',
    );
  }
  const refcountTableOffset = lenient
    ? readU64BE(view, FIELD.refcountTableOffset)
    : parseTableOffset(cluster, 'refcount_table', FIELD.refcountTableOffset, {
        count: refcountTableClusters,
        unit: bytes.length,
        limit: QCOW_MAX_REFTABLE_SIZE,
      });
  const snapshotCount = view.getUint32(FIELD.snapshotCount, false);
  const snapshotsOffset = lenient
    ? readU64BE(view, FIELD.snapshotsOffset)
    : parseTableOffset(cluster, 'snapshots', FIELD.snapshotsOffset, {
        count: snapshotCount,
        unit: SNAPSHOT_ENTRY_BYTES,
        limit: SNAPSHOT_ENTRY_BYTES * QCOW_MAX_SNAPSHOTS,
      });
  const l1Size = view.getUint32(FIELD.l1Size, false);
  const l1TableOffset = parseTableOffset(cluster, 'l1_table', FIELD.l1TableOffset, {
    count: l1Size,
    unit: L1_ENTRY_BYTES,
    limit: QCOW_MAX_L1_SIZE,
    // missing entries read as zeros
    mayBeTruncated: lenient,
  });
  const size = parseSize(cluster, l1Size, extendedL2);
  return { size, l1Size, l1TableOffset, refcountTableOffset, refcountTableClusters, snapshotCount, snapshotsOffset };
}

interface TableBounds {
  /** number of entries */
  readonly count: number;
  /** bytes of an entry */
  readonly unit: number;
  /** largest table, in bytes */
  readonly limit: number;
  /** the file may end before or inside the table */
  readonly mayBeTruncated?: boolean;
}

function parseTableOffset({ file, bytes, view }: HeaderCluster, name: string, at: number, bounds: TableBounds): number {
  const { count, unit, limit } = bounds;
  const length = count * unit;
  if (length > limit) {
    throw invalid(
      file,
      at,
      `the table at ${name}_offset has ${count} times ${unit} bytes; at most ${limit / unit} times are allowed`,
    );
  }
  const offset = readU64BE(view, at);
  if (Number.isNaN(offset) || offset % bytes.length !== 0 || (count > 0 && offset === 0)) {
    throw invalid(
      file,
      at,
      `${name}_offset is ${showU64(view, at)}; it must be a positive multiple of the cluster size ${bytes.length}`,
    );
  }
  if (count > 0 && bounds.mayBeTruncated !== true && offset + length > file.size()) {
    throw invalid(
      file,
      at,
      `${name}_offset is ${showU64(view, at)}; ${length} bytes there end beyond the file of ${file.size()} bytes, which is truncated: ` +
        'copy it again, mount the rest of it with -o ro, or lengthen it with imgfuse check -r all',
    );
  }
  return offset;
}

function parseSize({ file, bytes, view }: HeaderCluster, l1Size: number, extendedL2: boolean): number {
  const size = readU64BE(view, FIELD.size);
  if (!(size <= MAX_VIRTUAL_SIZE)) {
    throw unsupported(
      file,
      FIELD.size,
      `size is ${showU64(view, FIELD.size)}; imgfuse opens disks of up to ${MAX_VIRTUAL_SIZE} bytes (8 PiB - 512)`,
    );
  }
  const needed = l1EntriesFor(size, bytes.length, extendedL2);
  if (l1Size < needed) {
    throw invalid(
      file,
      FIELD.l1Size,
      `l1_size is ${l1Size} entries, but a disk of ${size} bytes needs ${needed}; the header is damaged`,
    );
  }
  return size;
}

export function unsupported(file: HostFile, offset: number, what: string): ImgfuseError {
  return new ImgfuseError('unsupported', `${file.path}: qcow2 header at offset ${offset}: ${what}`, {
    path: file.path,
    offset,
  });
}
