// Directories and grain tables: entries decoded from cached slices, and written to the file before the slice changes (R8). An entry
// is a little-endian u32, the sector of a table or of a grain:
//
//   grain directory   0: no table, all its grains are unallocated
//   grain table       0: unallocated; 1: zeros, where the header allows that
//
// Used under the metadata lock; nothing here keeps a slice across calls (R2).

import { after, type HostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { TableCache } from '../../../concurrency/table-cache.ts';
import { assert } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { PendingLink } from '../../mapped/pending-links.ts';
import { TableSlices } from '../../mapped/table-slices.ts';
import { ENTRY_BYTES } from './header.ts';

/** What an entry means as a place in the file: bytes, or one of these two. */
export const UNALLOCATED = 0;
export const ZEROS = 1;

export class Tables {
  readonly slices: TableSlices;
  private readonly file: HostFile;
  private readonly scratch: Uint8Array;
  private readonly scratchView: DataView;

  constructor(file: HostFile, cache: TableCache) {
    this.file = file;
    // the last slice of a file may be cut, because tables lie at any sector
    this.slices = new TableSlices(file, cache, Number.POSITIVE_INFINITY);
    this.scratch = new Uint8Array(cache.sliceBytes);
    this.scratchView = new DataView(this.scratch.buffer);
  }

  /** The entry as it is stored. */
  load(table: HostOffset, index: number): number {
    const at = this.slices.load(table + index * ENTRY_BYTES);
    return this.slices.view.getUint32(at, true);
  }

  /** Entries of one slice from `index` on, that is how many a single store may change. */
  entriesInSlice(table: HostOffset, index: number): number {
    return this.slices.bytesInSlice(table + index * ENTRY_BYTES) / ENTRY_BYTES;
  }

  /** Writes entries `first`, `first + step`, ... in one host write; only then the cached slice. */
  store(table: HostOffset, index: number, count: number, first: number, step: number): void {
    assert(count > 0 && count <= this.entriesInSlice(table, index), `store of ${count} entries at index ${index}`);
    for (let i = 0; i < count; i++) this.scratchView.setUint32(i * ENTRY_BYTES, first + i * step, true);
    this.write(table, index, count);
  }

  /** Writes the entries of grains of one slice, in one host write with what stands between them. @param index of the first */
  storeLinks(table: HostOffset, index: number, links: readonly PendingLink[]): void {
    const first = links[0]!.guestCluster;
    const count = links.at(-1)!.guestCluster - first + 1;
    assert(count <= this.entriesInSlice(table, index), `links beyond the slice of index ${index}`);
    const at = this.slices.load(table + index * ENTRY_BYTES);
    this.scratch.set(this.slices.bytes.subarray(at, at + count * ENTRY_BYTES));
    for (const { guestCluster, hostOffset } of links) {
      this.scratchView.setUint32((guestCluster - first) * ENTRY_BYTES, hostOffset / SECTOR_BYTES, true);
    }
    this.write(table, index, count);
  }

  /** Whether `count` entries of two tables, each in one slice, are the same. */
  isSame(table: HostOffset, other: HostOffset, index: number, count: number): boolean {
    for (let i = index; i < index + count; i++) if (this.load(table, i) !== this.load(other, i)) return false;
    return true;
  }

  /** Copies `count` entries from one table to another, in both of them in one slice. */
  copy(from: HostOffset, to: HostOffset, index: number, count: number): void {
    for (let i = 0; i < count; i++) this.scratchView.setUint32(i * ENTRY_BYTES, this.load(from, index + i), true);
    this.write(to, index, count);
  }

  private write(table: HostOffset, index: number, count: number): void {
    const bytes = this.scratch.subarray(0, count * ENTRY_BYTES);
    const start = after(table, index * ENTRY_BYTES);
    this.file.write(bytes, 0, bytes.length, start);
    this.slices.written(start, bytes);
  }

  /** Forgets the cached slices of bytes that were something else before. */
  forget(offset: HostOffset, bytes: number): void {
    const { sliceBytes } = this.slices;
    const start = offset - (offset % sliceBytes);
    this.slices.forget(start, offset + bytes - start);
  }
}
