// Reads of places of a file that are known ahead, such as its tables. While they are in memory nothing else is done. A read that
// takes its time has the host fetch the places after it, so that a disk is asked for many of them at once.

import { hostOffset } from '../bytes/offsets.ts';
import { type HostFile, readPadded } from './host-file.ts';

/** A read of a table takes a tenth of that from memory, and more from any disk. */
const SLOW_MS = 0.1;
/** Places that are fetched at once. */
const PLACES = 128;

export class ReadAhead {
  private readonly file: HostFile;
  private readonly placeAt: (index: number) => number;
  private readonly count: number;
  private readonly placeBytes: number;
  /** index of the first place that nobody has asked for */
  private next = 0;

  /** @param placeAt host offset of each of `count` places of `placeBytes` bytes, in the order of the reads */
  constructor(file: HostFile, placeBytes: number, count: number, placeAt: (index: number) => number) {
    this.file = file;
    this.placeBytes = placeBytes;
    this.count = count;
    this.placeAt = placeAt;
  }

  /** Like readPadded(), from the place `index` on. */
  read(target: Uint8Array, length: number, index: number): void {
    const begin = performance.now();
    readPadded(this.file, target, 0, length, hostOffset(this.placeAt(index)));
    if (performance.now() - begin > SLOW_MS) this.fetchAfter(index + length / this.placeBytes);
  }

  private fetchAfter(index: number): void {
    const end = Math.min(this.count, index + PLACES);
    for (let next = Math.max(this.next, index); next < end; next++)
      this.file.prefetch?.(hostOffset(this.placeAt(next)), this.placeBytes);
    this.next = Math.max(this.next, end);
  }
}
