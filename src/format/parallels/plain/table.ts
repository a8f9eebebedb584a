// The block allocation table (BAT): entries decoded from cached slices, and written through to the file before the slice changes (R8).
// An entry is a little-endian u32, 0 for no cluster; here it is the host offset of its cluster. Used under the metadata lock; nothing
// here keeps a slice across calls (R2).

import { after, type GuestCluster, type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import type { TableCache } from '../../../concurrency/table-cache.ts';
import { assert } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { TableSlices } from '../../mapped/table-slices.ts';
import { HEADER_BYTES } from '../header.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import type { PlainNumbers } from './state.ts';

export class Bat {
  readonly slices: TableSlices;
  private readonly file: HostFile;
  private readonly geometry: Geometry;
  private readonly numbers: Pick<PlainNumbers, 'batEntries'>;
  private readonly scratch: Uint8Array;
  private readonly scratchView: DataView;

  constructor(file: HostFile, cache: TableCache, geometry: Geometry, numbers: Pick<PlainNumbers, 'batEntries'>) {
    this.file = file;
    // the BAT lies inside the file, but the file of an empty image may end within the slice that the BAT ends in
    this.slices = new TableSlices(file, cache, Number.POSITIVE_INFINITY);
    this.geometry = geometry;
    this.numbers = numbers;
    this.scratch = new Uint8Array(cache.sliceBytes);
    this.scratchView = new DataView(this.scratch.buffer);
  }

  /** Host offset of the cluster that the entry leads to, which is not checked; 0: none. */
  load(cluster: GuestCluster): HostOffset {
    const at = this.slices.load(entryAt(cluster));
    return this.geometry.placeOf(this.slices.view.getUint32(at, true));
  }

  /** No cluster of `count` from `cluster` on, whose entries lie in one slice, has data. */
  isEmpty(cluster: GuestCluster, count: number): boolean {
    const at = this.slices.load(entryAt(cluster));
    const { view } = this.slices;
    for (let i = 0; i < count; i++) if (view.getUint32(at + i * ENTRY_BYTES, true) !== 0) return false;
    return true;
  }

  /** Entries of one slice from `cluster` on, that is how many a single store may change. */
  entriesInSlice(cluster: GuestCluster): number {
    return this.slices.bytesInSlice(entryAt(cluster)) / ENTRY_BYTES;
  }

  /** Writes entries of one slice, to clusters in a row from `host` on, in one host write; only then the cached slice. */
  link(cluster: GuestCluster, host: HostOffset, count: number): void {
    const { clusterSize } = this.geometry;
    for (let i = 0; i < count; i++) {
      const entry = this.geometry.entryFor(host + i * clusterSize);
      assert(entry !== null, 'a cluster was allocated where no entry can lead to');
      this.scratchView.setUint32(i * ENTRY_BYTES, entry, true);
    }
    this.write(cluster, count);
  }

  /** The same for entries that lead nowhere. */
  clear(cluster: GuestCluster, count: number): void {
    this.scratch.fill(0, 0, count * ENTRY_BYTES);
    this.write(cluster, count);
  }

  private write(cluster: GuestCluster, count: number): void {
    assert(count > 0 && count <= this.entriesInSlice(cluster), `store of ${count} entries at cluster ${cluster}`);
    assert(cluster + count <= this.numbers.batEntries, 'store beyond the end of the BAT');
    const bytes = this.scratch.subarray(0, count * ENTRY_BYTES);
    const start = hostOffset(entryAt(cluster));
    this.file.write(bytes, 0, bytes.length, start);
    this.slices.written(start, bytes);
  }
}

/** Host offset of the entry of a guest cluster. */
export function entryAt(cluster: number): HostOffset {
  return after(hostOffset(HEADER_BYTES), cluster * ENTRY_BYTES);
}
