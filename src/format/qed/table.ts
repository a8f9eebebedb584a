// L1 and L2 tables: entries decoded from cached slices, and written through to the file before the slice changes (R8).
// An entry is a little-endian u64: 0 unallocated, 1 zero cluster (L2 only), otherwise the host offset of a table (L1) or
// of a data cluster (L2). Used under the metadata lock; nothing here keeps a slice across calls (R2).

import { combine, hexWords, writeU64LE } from '../../bytes/endian.ts';
import { after, type HostOffset } from '../../bytes/offsets.ts';
import type { TableCache } from '../../concurrency/table-cache.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { PendingLink } from '../mapped/pending-links.ts';
import { TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';

export const UNALLOCATED_ENTRY = 0;
export const ZERO_ENTRY = 1;

export class Tables {
  private readonly file: HostFile;
  readonly slices: TableSlices;
  private readonly geometry: Geometry;
  private readonly scratch: Uint8Array;
  private readonly scratchView: DataView;

  constructor(file: HostFile, cache: TableCache, geometry: Geometry) {
    this.file = file;
    // a read-only image may be a truncated copy: the rest of a table whose start is there reads as zeros
    this.slices = new TableSlices(file, cache, file.readOnly ? Number.POSITIVE_INFINITY : 0);
    this.geometry = geometry;
    this.scratch = new Uint8Array(cache.sliceBytes);
    this.scratchView = new DataView(this.scratch.buffer);
  }

  /** Entry `index` of the table at `table`; NaN when it is no safe integer. */
  load(table: HostOffset, index: number): number {
    const at = this.slices.load(table + index * ENTRY_BYTES);
    return combine(this.slices.view.getUint32(at + 4, true), this.slices.view.getUint32(at, true));
  }

  /** The entry as hexadecimal text, for messages about values that load() could not represent. */
  describe(table: HostOffset, index: number): string {
    const at = this.slices.load(table + index * ENTRY_BYTES);
    return hexWords(this.slices.view.getUint32(at + 4, true), this.slices.view.getUint32(at, true));
  }

  /** Entries of one slice from `index` on, that is how many a single store may change. */
  entriesInSlice(index: number): number {
    return this.slices.bytesInSlice(index * ENTRY_BYTES) / ENTRY_BYTES;
  }

  /**
   * Writes `count` entries `first`, `first + step`, ... that lie in one slice: one host write inside one 4 KiB page, so it
   * either happens or not; only then the cached slice.
   */
  store(table: HostOffset, index: number, count: number, first: number, step: number): void {
    assert(count > 0 && count <= this.entriesInSlice(index), `store of ${count} entries at index ${index}`);
    assert(index + count <= this.geometry.tableEntries, 'store beyond the end of a table');
    for (let i = 0; i < count; i++) writeU64LE(this.scratchView, i * ENTRY_BYTES, first + i * step);
    const start = after(table, index * ENTRY_BYTES);
    this.file.write(this.scratch, 0, count * ENTRY_BYTES, start);
    this.slices.written(start, this.scratch.subarray(0, count * ENTRY_BYTES));
  }

  /** Writes the entries of clusters in one slice, in one host write with what stands between them. @param index of the first */
  storeLinks(table: HostOffset, index: number, links: readonly PendingLink[]): void {
    const first = links[0]!.guestCluster;
    const bytes = this.scratch.subarray(0, (links.at(-1)!.guestCluster - first + 1) * ENTRY_BYTES);
    assert(bytes.length <= this.entriesInSlice(index) * ENTRY_BYTES, `links beyond the slice of index ${index}`);
    const start = after(table, index * ENTRY_BYTES);
    const at = this.slices.load(start);
    bytes.set(this.slices.bytes.subarray(at, at + bytes.length));
    for (const { guestCluster, hostOffset } of links) {
      writeU64LE(this.scratchView, (guestCluster - first) * ENTRY_BYTES, hostOffset);
    }
    this.file.write(bytes, 0, bytes.length, start);
    this.slices.written(start, bytes);
  }

  /** Forgets the cached slices of a table whose clusters are given up. */
  forget(table: HostOffset): void {
    this.slices.forget(table, this.geometry.tableBytes);
  }
}
