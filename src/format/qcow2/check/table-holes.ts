// Says which tables lie in holes of the file, so that the cost of a sparse file does not grow with its length. The first
// bytes of tables (READ_BYTES, or what the host has allocated if that is more) are read without asking. Only a file with more
// tables is asked for its holes, once. Devices and HTTP servers know no holes, and cannot claim more bytes than they have.

import { countBelow, withRoom } from '../../../bytes/number-index.ts';
import { hostOffset } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';

/**
 * Enough for ordinary images on a host that compresses or that reports allocated bytes late: 512 GiB of data in 64 KiB
 * clusters have this many bytes of L2 tables.
 */
const READ_BYTES = 64 * 1024 * 1024;

export class Holes {
  private readonly file: HostFile;
  /** bytes that may still be read before the file is asked for its holes */
  private unasked: number;
  /** start and end of each run of data; null until the file is asked */
  private data: { readonly starts: Float64Array; readonly ends: Float64Array } | null = null;

  constructor(file: HostFile) {
    this.file = file;
    this.unasked = file.isDevice ? Number.POSITIVE_INFINITY : Math.max(file.allocatedBytes(), READ_BYTES);
  }

  /** True if `length` bytes at `offset` lie in a hole and so read as zeros. False means nothing. */
  isHole(offset: number, length: number): boolean {
    this.unasked -= length;
    if (this.unasked >= 0) return false;
    this.data ??= findData(this.file);
    const { starts, ends } = this.data;
    const next = countBelow(ends, offset + 1);
    return next === starts.length || starts[next]! >= offset + length;
  }

  /** Call it after the file was written. */
  forget(): void {
    this.data = null;
  }
}

/** Asks twice per run of data, whatever the length of the file. */
function findData(file: HostFile): { readonly starts: Float64Array; readonly ends: Float64Array } {
  const size = file.size();
  let starts = new Float64Array(0);
  let ends = new Float64Array(0);
  let count = 0;
  for (let at = 0; at < size; ) {
    const start = file.seekData(hostOffset(at));
    if (start >= size) break;
    at = Math.max(file.seekHole(hostOffset(start)), start + 1);
    starts = withRoom(starts, count);
    ends = withRoom(ends, count);
    starts[count] = start;
    ends[count] = at;
    count++;
  }
  return { starts: starts.subarray(0, count), ends: ends.subarray(0, count) };
}
