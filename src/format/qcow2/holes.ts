// Where tables lie in holes of the file, so that a sparse file of any length costs what is in it. As many bytes as the file
// has on its host are read like those of any image, without a question: only a file that claims more is asked where its
// data is. Devices and HTTP servers, which know no holes, claim no more than they have.

import { hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';

export class Holes {
  private readonly file: HostFile;
  /** bytes that are read before the file is asked */
  private unasked: number;
  /** the hole that was found last */
  private start = 0;
  private end = 0;

  constructor(file: HostFile) {
    this.file = file;
    this.unasked = file.isDevice ? Number.POSITIVE_INFINITY : file.allocatedBytes();
  }

  /** `length` bytes at `offset` read as zeros, as a hole of the file shows; false says nothing. */
  isHole(offset: number, length: number): boolean {
    this.unasked -= length;
    if (this.unasked >= 0) return false;
    if (offset >= this.start && offset + length <= this.end) return true;
    const data = this.file.seekData(hostOffset(offset));
    if (data < offset + length) return false;
    // the hole that ends there may begin before the table
    this.start = data === this.end ? Math.min(offset, this.start) : offset;
    this.end = data;
    return true;
  }

  /** The file was written to. */
  forget(): void {
    this.start = 0;
    this.end = 0;
  }
}
