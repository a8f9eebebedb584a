// The disk as the partition table sees it: reads of bounded pieces, and a list of the pieces that were read. Invariant: no read
// goes beyond the end of the disk, and every byte that an answer depends on lies in one of the recorded ranges.

/** A disk that can be read: a virtual disk, a file, a buffer. `read` fills the whole target; all of it lies inside `size`. */
export interface PartitionSource {
  /** in bytes */
  readonly size: number;
  /** @throws ImgfuseError if the bytes cannot be read */
  read(target: Uint8Array, offset: number): void;
}

/** Bytes of the disk; `end` is exclusive. */
export interface ByteRange {
  readonly start: number;
  readonly end: number;
}

/** A source that remembers which bytes were read. */
export class RecordedSource {
  readonly size: number;
  private readonly source: PartitionSource;
  private readonly ranges: ByteRange[] = [];

  constructor(source: PartitionSource) {
    this.source = source;
    this.size = source.size;
  }

  /** `length` bytes at `offset`; null if the disk ends before them. */
  bytes(offset: number, length: number): Uint8Array | null {
    if (!(Number.isSafeInteger(offset) && offset >= 0 && offset + length <= this.size)) return null;
    const bytes = new Uint8Array(length);
    this.source.read(bytes, offset);
    this.ranges.push({ start: offset, end: offset + length });
    return bytes;
  }

  /** What was read so far: sorted, disjoint, not adjacent. */
  looked(): ByteRange[] {
    const merged: { start: number; end: number }[] = [];
    for (const { start, end } of [...this.ranges].sort((a, b) => a.start - b.start)) {
      const last = merged.at(-1);
      if (last !== undefined && start <= last.end) last.end = Math.max(last.end, end);
      else merged.push({ start, end });
    }
    return merged;
  }
}
