// A partition, or a disk without a table, as bytes to look at. Invariant: no look goes outside it; one large read at its start answers
// most of them.

import type { PartitionSource } from '../source.ts';

/** Every magic at a fixed place lies in these, the superblock of btrfs at 64 KiB last. */
const HEAD_BYTES = 68 * 1024;

export class Volume {
  readonly size: number;
  private readonly source: PartitionSource;
  private readonly start: number;
  private readonly head: Uint8Array;

  /** The part [start, start + size) of the source, all of which is there. */
  constructor(source: PartitionSource, start: number, size: number) {
    this.source = source;
    this.start = start;
    this.size = size;
    this.head = new Uint8Array(Math.min(size, HEAD_BYTES));
    if (this.head.length > 0) source.read(this.head, start);
  }

  /** `length` bytes at `offset`; null if the volume ends before them. */
  bytes(offset: number, length: number): Uint8Array | null {
    if (!(Number.isSafeInteger(offset) && offset >= 0 && offset + length <= this.size)) return null;
    if (offset + length <= this.head.length) return this.head.subarray(offset, offset + length);
    const bytes = new Uint8Array(length);
    this.source.read(bytes, this.start + offset);
    return bytes;
  }

  /** The same with a view of its numbers. */
  view(offset: number, length: number): DataView | null {
    const bytes = this.bytes(offset, length);
    return bytes === null ? null : viewOf(bytes);
  }

  /** Whether these bytes stand at `offset`. */
  has(magic: string, offset: number): boolean {
    const bytes = this.bytes(offset, magic.length);
    return bytes !== null && startsWith(bytes, magic);
  }
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** @param magic one character for each byte */
export function startsWith(bytes: Uint8Array, magic: string, offset = 0): boolean {
  for (let index = 0; index < magic.length; index++) {
    if (bytes[offset + index] !== magic.charCodeAt(index)) return false;
  }
  return true;
}
