// The slices of an image's tables: read from the file where the cache has not got them, changed after the file was (R8).
// Used under the metadata lock; a position in the cache's memory is for use at once (R2).

import { hex, hostOffset, remainder } from '../../bytes/offsets.ts';
import type { TableCache } from '../../concurrency/table-cache.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';

/** What tables are read from: the image file, or what shows it with changes. */
export type TableFile = Pick<HostFile, 'path' | 'read' | 'size'>;

export class TableSlices {
  readonly sliceBytes: number;
  /** slices that this thread has read from the file so far */
  loads = 0;
  /** the memory of the cache, for decoding entries */
  readonly view: DataView;
  /** the same as bytes */
  readonly bytes: Uint8Array;
  private readonly file: TableFile;
  private readonly cache: TableCache;
  private readonly cutBytes: number;

  /**
   * @param cutBytes tables lie in units of so many bytes, and the file may end within one, which reads as zeros from there on;
   * 0 where a table must not be cut
   */
  constructor(file: TableFile, cache: TableCache, cutBytes: number) {
    this.file = file;
    this.cache = cache;
    this.cutBytes = cutBytes;
    this.sliceBytes = cache.sliceBytes;
    this.view = cache.view;
    this.bytes = cache.bytes;
  }

  /** Where the byte at `offset` of the file, and what follows it up to the end of its slice, lies in the cache's memory. */
  load(offset: number): number {
    const inSlice = remainder(offset, this.sliceBytes);
    const key = offset - inSlice;
    let slot = this.cache.find(key);
    if (slot < 0) {
      this.loads++;
      slot = this.cache.insert(key);
      try {
        this.fill(slot, key);
      } catch (error) {
        this.cache.remove(key);
        throw error;
      }
    }
    return slot * this.sliceBytes + inSlice;
  }

  /** Bytes from `offset` to the end of its slice: what a single store may change. */
  bytesInSlice(offset: number): number {
    return this.sliceBytes - remainder(offset, this.sliceBytes);
  }

  /** The file holds `bytes` at `offset` now, all of them in one slice. */
  written(offset: number, bytes: Uint8Array): void {
    const inSlice = remainder(offset, this.sliceBytes);
    const slot = this.cache.find(offset - inSlice);
    if (slot >= 0) this.bytes.set(bytes, slot * this.sliceBytes + inSlice);
  }

  /** Forgets the slices of a range whose clusters are given up or rewritten whole. */
  forget(offset: number, length: number): void {
    for (let at = offset; at < offset + length; at += this.sliceBytes) this.cache.remove(at);
  }

  private fill(slot: number, key: number): void {
    const { bytes, sliceBytes } = this;
    const got = this.file.read(bytes, slot * sliceBytes, sliceBytes, hostOffset(key));
    if (got === sliceBytes) return;
    if (this.cutBytes === 0 || key - (key % this.cutBytes) >= this.file.size()) {
      const { path } = this.file;
      throw new ImgfuseError(
        'corrupt',
        `${path}: the table at offset ${hex(key)} ends beyond the file; run imgfuse check`,
        {
          path,
          offset: key,
        },
      );
    }
    bytes.fill(0, slot * sliceBytes + got, (slot + 1) * sliceBytes);
  }
}
