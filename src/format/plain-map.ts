// The map of a disk whose bytes lie in its file in one piece: data where the file has some, zeros in its holes.

import { after, type GuestOffset, type HostOffset, hostOffset } from '../bytes/offsets.ts';
import type { HostFile } from '../host/host-file.ts';
import type { Extent } from './image-format.ts';

export class PlainMap {
  private readonly file: HostFile;
  private readonly start: HostOffset;
  /**
   * Of a file that is only read, the last run of data that was looked for. tmpfs looks at every page up to the next hole, and a write
   * that allocates over a backing file asks each time. Should somebody punch a hole there, it is shown as data.
   */
  private known = { start: 0, end: 0 };

  /** @param start where the disk begins in its file */
  constructor(file: HostFile, start = hostOffset(0)) {
    this.file = file;
    this.start = start;
  }

  /** The first extent of a range of the disk. */
  map(offset: GuestOffset, length: number): Extent {
    const { file, known } = this;
    const place = after(this.start, offset);
    const end = place + length;
    const run = (status: 'data' | 'zero', until: number): Extent => {
      return { start: offset, length: Math.min(until, end) - place, status, hostOffset: place };
    };
    if (place >= known.start && place < known.end) return run('data', known.end);
    const data = Math.min(file.seekData(place, end), end);
    if (data > place) return run('zero', data);
    // a file may end before its disk does
    if (place >= file.size()) return { start: offset, length, status: 'zero' };
    const hole = file.seekHole(place, end);
    if (file.readOnly) this.known = { start: place, end: hole };
    return run('data', Math.max(hole, place + 1));
  }
}
