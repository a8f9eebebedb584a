// A disk for the parsers of partitions that lies in memory: sparse, so that it may be as large as disks are, and it counts reads.

import type { PartitionSource } from '../../src/guest/partitions/index.ts';

const PAGE_BYTES = 4096;

export class BufferDisk implements PartitionSource {
  readonly size: number;
  reads = 0;
  bytesRead = 0;
  private readonly pages = new Map<number, Uint8Array>();

  constructor(size: number) {
    this.size = size;
  }

  read(target: Uint8Array, offset: number): void {
    if (!Number.isSafeInteger(offset) || offset < 0 || offset + target.length > this.size) {
      throw new Error(`read of ${target.length} bytes at ${offset}, outside of ${this.size}`);
    }
    this.reads++;
    this.bytesRead += target.length;
    target.fill(0);
    this.pieces(offset, target.length, (page, at, from, length) => {
      const bytes = this.pages.get(page);
      if (bytes !== undefined) target.set(bytes.subarray(at, at + length), from);
    });
  }

  write(offset: number, source: Uint8Array | string): this {
    const bytes = typeof source === 'string' ? Buffer.from(source, 'latin1') : source;
    this.pieces(offset, bytes.length, (page, at, from, length) => {
      const held = this.pages.get(page) ?? new Uint8Array(PAGE_BYTES);
      held.set(bytes.subarray(from, from + length), at);
      this.pages.set(page, held);
    });
    return this;
  }

  /** The same bytes in a disk of another size. */
  resized(size: number): BufferDisk {
    const disk = new BufferDisk(size);
    for (const [page, bytes] of this.pages) disk.pages.set(page, bytes.slice());
    return disk;
  }

  /** What was written, in pieces of a page, with their offsets. */
  chunks(): (readonly [number, Uint8Array])[] {
    return [...this.pages].map(([page, bytes]) => {
      const offset = page * PAGE_BYTES;
      return [offset, bytes.subarray(0, Math.min(PAGE_BYTES, this.size - offset))] as const;
    });
  }

  private pieces(
    offset: number,
    length: number,
    piece: (page: number, at: number, from: number, length: number) => void,
  ): void {
    for (let from = 0; from < length; ) {
      const page = Math.floor((offset + from) / PAGE_BYTES);
      const at = (offset + from) % PAGE_BYTES;
      const step = Math.min(PAGE_BYTES - at, length - from);
      piece(page, at, from, step);
      from += step;
    }
  }
}
