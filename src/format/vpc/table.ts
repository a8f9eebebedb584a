// The block allocation table: decoded from cached slices of a sector, and written through to the file before the slice changes (R8).
// An entry is a big-endian u32: the sector at which the bitmap of a block begins, or all ones. Used under the metadata lock; nothing
// here keeps a slice across calls (R2).

import { type GuestCluster, type HostOffset, hex, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import type { TableCache } from '../../concurrency/table-cache.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES } from './header/header.ts';
import type { VpcNumbers } from './state.ts';

/** The entry of a block that is not in the file. */
export const UNUSED_ENTRY = 0xffffffff;
/** Everything in a VHD begins at a sector, and so do slices. */
export const SLICE_BYTES = SECTOR_BYTES;

export class Tables {
  readonly slices: TableSlices;
  private readonly file: HostFile;
  private readonly numbers: Pick<VpcNumbers, 'tableOffset'>;
  private readonly scratch = new Uint8Array(SLICE_BYTES);
  private readonly scratchView = new DataView(this.scratch.buffer);

  constructor(file: HostFile, cache: TableCache, numbers: Pick<VpcNumbers, 'tableOffset'>) {
    this.file = file;
    // what a truncated copy has lost of bitmaps reads as clear bits
    this.slices = new TableSlices(file, cache, file.readOnly ? Number.POSITIVE_INFINITY : 0);
    this.numbers = numbers;
  }

  /** Where the entry of a block is in the file. */
  placeOf(block: GuestCluster): HostOffset {
    return hostOffset(this.numbers.tableOffset + block * ENTRY_BYTES);
  }

  load(block: GuestCluster): number {
    return this.slices.view.getUint32(this.slices.load(this.placeOf(block)), false);
  }

  /** Blocks from this one on whose entries a single store may change. */
  span(block: GuestCluster): number {
    return this.slices.bytesInSlice(this.placeOf(block)) / ENTRY_BYTES;
  }

  describe(block: GuestCluster): string {
    return `BAT entry ${block} at offset ${hex(this.placeOf(block))} is ${hex(this.load(block))}`;
  }

  /** Writes the same entry for `count` blocks of one slice: one write inside a sector, so it happens or not. */
  store(block: GuestCluster, count: number, entry: number): void {
    assert(count > 0 && count <= this.span(block) && entry <= UNUSED_ENTRY, `store of ${count} entries at ${block}`);
    for (let i = 0; i < count; i++) this.scratchView.setUint32(i * ENTRY_BYTES, entry, false);
    const [start, bytes] = [this.placeOf(block), count * ENTRY_BYTES];
    this.file.write(this.scratch, 0, bytes, start);
    this.slices.written(start, this.scratch.subarray(0, bytes));
  }

  /** The file has these bytes of a bitmap or a table now. */
  rewritten(offset: number, length: number): void {
    this.slices.forget(offset, length);
  }
}
