// The block map: entries decoded from cached slices, and written through to the file before the slice changes (R8). An entry
// is a little-endian u32: VDI_IMAGE_BLOCK_FREE, VDI_IMAGE_BLOCK_ZERO, otherwise the index of a host block. Used under the
// metadata lock; nothing here keeps a slice across calls (R2).

import { after, type GuestCluster } from '../../bytes/offsets.ts';
import type { TableCache } from '../../concurrency/table-cache.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES } from './geometry.ts';
import type { VdiNumbers } from './state.ts';

export class BlockMap {
  readonly slices: TableSlices;
  private readonly file: HostFile;
  private readonly numbers: Pick<VdiNumbers, 'blockCount' | 'mapOffset'>;
  private readonly scratch: Uint8Array;
  private readonly scratchView: DataView;

  constructor(file: HostFile, cache: TableCache, numbers: Pick<VdiNumbers, 'blockCount' | 'mapOffset'>) {
    this.file = file;
    // the map lies inside the file, but the file of an empty image may end within the slice that the map ends in
    this.slices = new TableSlices(file, cache, Number.POSITIVE_INFINITY);
    this.numbers = numbers;
    this.scratch = new Uint8Array(cache.sliceBytes);
    this.scratchView = new DataView(this.scratch.buffer);
  }

  load(block: GuestCluster): number {
    const at = this.slices.load(this.numbers.mapOffset + block * ENTRY_BYTES);
    return this.slices.view.getUint32(at, true);
  }

  /** Entries of one slice from `block` on, that is how many a single store may change. */
  entriesInSlice(block: GuestCluster): number {
    return this.slices.bytesInSlice(this.numbers.mapOffset + block * ENTRY_BYTES) / ENTRY_BYTES;
  }

  /** Writes `count` entries `first`, `first + step`, ... that lie in one slice: one host write; only then the cached slice. */
  store(block: GuestCluster, count: number, first: number, step: 0 | 1): void {
    for (let i = 0; i < count; i++) this.scratchView.setUint32(i * ENTRY_BYTES, first + i * step, true);
    this.write(block, count);
  }

  /** Writes entries of one slice in one host write, with what stands between them. */
  storeEach(entries: readonly { readonly block: GuestCluster; readonly index: number }[]): void {
    const first = entries[0]!.block;
    const count = entries.at(-1)!.block - first + 1;
    const at = this.slices.load(this.numbers.mapOffset + first * ENTRY_BYTES);
    this.scratch.set(this.slices.bytes.subarray(at, at + count * ENTRY_BYTES));
    for (const { block, index } of entries) this.scratchView.setUint32((block - first) * ENTRY_BYTES, index, true);
    this.write(first, count);
  }

  private write(block: GuestCluster, count: number): void {
    assert(count > 0 && count <= this.entriesInSlice(block), `store of ${count} entries at block ${block}`);
    assert(block + count <= this.numbers.blockCount, 'store beyond the end of the map');
    const bytes = this.scratch.subarray(0, count * ENTRY_BYTES);
    const start = after(this.numbers.mapOffset, block * ENTRY_BYTES);
    this.file.write(bytes, 0, bytes.length, start);
    this.slices.written(start, bytes);
  }
}
