// L1 and L2 tables: entries decoded from cached slices, and written through to the file before the slice changes (R8). An
// entry is a big-endian u64. Used under the metadata lock; nothing here keeps a slice across calls (R2).
//
//   L1: 0, or the host offset of an L2 table
//   L2: 0, or the host offset of a data cluster, or, with bit 63 set, a compressed cluster, x = 63 - cluster_bits:
//     bits 0 .. x-1  host offset of the data in bytes, not aligned
//     bits x .. 62   length of the data in bytes

import { combine, hexWords, writeU64BE } from '../../bytes/endian.ts';
import { after, type GuestCluster, type HostOffset } from '../../bytes/offsets.ts';
import type { TableCache } from '../../concurrency/table-cache.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { PendingLink } from '../mapped/pending-links.ts';
import { TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';

export const UNALLOCATED_ENTRY = 0;
/** Of the high word. */
const QCOW_OFLAG_COMPRESSED = 0x80000000;

export function isCompressed(high: number): boolean {
  return (high & QCOW_OFLAG_COMPRESSED) !== 0;
}

/** Where the data of a compressed cluster begins; NaN if that is no safe integer. */
export function compressedOffset(high: number, low: number, clusterBits: number): number {
  return combine(high & (2 ** (31 - clusterBits) - 1), low);
}

/** Bytes of that data. */
export function compressedLength(high: number, clusterBits: number): number {
  return (high >>> (31 - clusterBits)) & (2 ** clusterBits - 1);
}

export class Tables {
  readonly slices: TableSlices;
  private readonly file: HostFile;
  private readonly l1Table: HostOffset;
  private readonly geometry: Geometry;
  private readonly scratch: Uint8Array;
  private readonly scratchView: DataView;

  constructor(file: HostFile, l1Table: HostOffset, geometry: Geometry, cache: TableCache) {
    this.file = file;
    this.l1Table = l1Table;
    this.geometry = geometry;
    // the file may end within the slice that a table ends in, and a read-only one within a table: the rest reads as zeros
    this.slices = new TableSlices(file, cache, Number.POSITIVE_INFINITY);
    this.scratch = new Uint8Array(cache.sliceBytes);
    this.scratchView = new DataView(this.scratch.buffer);
  }

  /** Where an L1 entry lies in the memory of the slices. */
  loadL1(l1Index: number): number {
    return this.slices.load(this.l1Table + l1Index * ENTRY_BYTES);
  }

  /** Where an entry of an L2 table lies in the memory of the slices. */
  loadL2(table: HostOffset, index: number): number {
    return this.slices.load(table + index * ENTRY_BYTES);
  }

  /** The entry at that place; NaN if it is no safe integer. */
  entryAt(at: number): number {
    return combine(this.slices.view.getUint32(at, false), this.slices.view.getUint32(at + 4, false));
  }

  /** The same as hexadecimal text. */
  describe(at: number): string {
    return hexWords(this.slices.view.getUint32(at, false), this.slices.view.getUint32(at + 4, false));
  }

  /** Clusters from this one on whose entries share a slice of an L2 table. */
  span(cluster: GuestCluster): number {
    const entries = Math.min(this.slices.sliceBytes, this.geometry.tableBytes) / ENTRY_BYTES;
    return entries - (cluster % entries);
  }

  storeL1(l1Index: number, table: HostOffset): void {
    writeU64BE(this.scratchView, 0, table);
    this.write(after(this.l1Table, l1Index * ENTRY_BYTES), ENTRY_BYTES);
  }

  /** Sets `count` entries of one slice from `index` on to 0. */
  clear(table: HostOffset, index: number, count: number): void {
    this.scratch.fill(0, 0, count * ENTRY_BYTES);
    this.write(after(table, index * ENTRY_BYTES), count * ENTRY_BYTES);
  }

  /** Writes the entries of clusters in one slice, in one host write with what stands between them. @param index of the first */
  storeLinks(table: HostOffset, index: number, links: readonly PendingLink[]): void {
    const first = links[0]!.guestCluster;
    const bytes = (links.at(-1)!.guestCluster - first + 1) * ENTRY_BYTES;
    const at = this.loadL2(table, index);
    this.scratch.set(this.slices.bytes.subarray(at, at + bytes));
    for (const { guestCluster, hostOffset } of links) {
      writeU64BE(this.scratchView, (guestCluster - first) * ENTRY_BYTES, hostOffset);
    }
    this.write(after(table, index * ENTRY_BYTES), bytes);
  }

  /** Forgets what the cache has of clusters that become an L2 table. */
  forget(table: HostOffset): void {
    this.slices.forget(table, this.geometry.tableBytes);
  }

  private write(start: HostOffset, length: number): void {
    assert(length > 0 && length <= this.slices.bytesInSlice(start), `a store of ${length} bytes at ${start}`);
    this.file.write(this.scratch, 0, length, start);
    this.slices.written(start, this.scratch.subarray(0, length));
  }
}
