// The map of a disk whose guest offsets are the offsets of its file: data where the file has some, zeros in its holes.

import { type GuestOffset, hostOffset } from '../bytes/offsets.ts';
import type { HostFile } from '../host/host-file.ts';
import type { Extent } from './image-format.ts';

export class PlainMap {
  private readonly file: HostFile;
  /**
   * Of a file that is only read, the last run of data that was looked for. tmpfs looks at every page up to the next hole, and a write
   * that allocates over a backing file asks each time. Should somebody punch a hole there, it is shown as data.
   */
  private known = { start: 0, end: 0 };

  constructor(file: HostFile) {
    this.file = file;
  }

  /** The first extent of a range of the disk. */
  map(offset: GuestOffset, length: number): Extent {
    const { file, known } = this;
    const end = offset + length;
    if (offset >= known.start && offset < known.end) {
      return { start: offset, length: Math.min(known.end, end) - offset, status: 'data', hostOffset: offset };
    }
    const data = Math.min(file.seekData(hostOffset(offset), end), end);
    if (data > offset) return { start: offset, length: data - offset, status: 'zero', hostOffset: offset };
    // a file may end before its disk does
    if (offset >= file.size()) return { start: offset, length, status: 'zero' };
    const hole = file.seekHole(hostOffset(offset), end);
    if (file.readOnly) this.known = { start: offset, end: hole };
    return { start: offset, length: Math.max(Math.min(hole, end) - offset, 1), status: 'data', hostOffset: offset };
  }
}
