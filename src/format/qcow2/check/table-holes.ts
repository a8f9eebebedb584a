// Where tables lie in holes of the file, so that a sparse file of any length costs what is in it. As many bytes as the file
// has on its host, and a good many more, are read like those of any image, without a question: only a file that claims more is
// asked where its data is, once for all of it. Devices and HTTP servers, which know no holes, claim no more than they have.

import { countBelow, withRoom } from '../../../bytes/number-index.ts';
import { hostOffset } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';

/**
 * Read in any case: a host that compresses, or that says late what it has allocated, is not asked for the holes of an ordinary
 * image. 512 GiB of data in 64 KiB clusters have as many bytes of L2 tables.
 */
const READ_BYTES = 64 * 1024 * 1024;

export class Holes {
  private readonly file: HostFile;
  /** bytes that are read before the file is asked */
  private unasked: number;
  /** where each stretch of data begins, and where the holes between them begin; null until the file is asked */
  private data: { readonly starts: Float64Array; readonly ends: Float64Array } | null = null;

  constructor(file: HostFile) {
    this.file = file;
    this.unasked = file.isDevice ? Number.POSITIVE_INFINITY : Math.max(file.allocatedBytes(), READ_BYTES);
  }

  /** `length` bytes at `offset` read as zeros, as a hole of the file shows; false says nothing. */
  isHole(offset: number, length: number): boolean {
    this.unasked -= length;
    if (this.unasked >= 0) return false;
    this.data ??= findData(this.file);
    const { starts, ends } = this.data;
    const next = countBelow(ends, offset + 1);
    return next === starts.length || starts[next]! >= offset + length;
  }

  /** The file was written to. */
  forget(): void {
    this.data = null;
  }
}

/** As many questions as the file has stretches of data, whatever its length. */
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
