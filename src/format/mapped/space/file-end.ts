// Where the clusters in use end, and the file, which is extended ahead of them: of an image that appends to its file, the first numbers
// behind those of its disk. Each needs the metadata lock.

import { type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import { assert } from '../../../errors/index.ts';
import { FIRST_OWN_NUMBER } from '../disk-numbers.ts';
import { LockedNumbers, type LockedNumbersParts } from '../locked-numbers.ts';

const FILE_END = FIRST_OWN_NUMBER;
const FILE_LENGTH = FIRST_OWN_NUMBER + 1;
/** The place of the first number that is the format's own. */
export const FIRST_AFTER_FILE_END = FIRST_OWN_NUMBER + 2;

/** Before any thread shares them. */
export function initializeFileEnd(numbers: SharedArrayBuffer, fileEnd: number, fileLength: number): void {
  const values = new Float64Array(numbers);
  values[FILE_END] = fileEnd;
  values[FILE_LENGTH] = fileLength;
}

export class FileEnd {
  protected readonly numbers: LockedNumbers;

  constructor(parts: LockedNumbersParts) {
    this.numbers = new LockedNumbers(parts);
  }

  /** First byte behind the last cluster in use, where the next one is appended. */
  get fileEnd(): HostOffset {
    return hostOffset(this.numbers.get(FILE_END));
  }

  /** Clusters up to `end` are in use. */
  advanceFileEnd(end: number): void {
    assert(end >= this.fileEnd && end <= this.fileLength, 'clusters are appended inside the file');
    this.numbers.set(FILE_END, end);
  }

  /** The clusters from `end` on are not in use any more. */
  lowerFileEnd(end: number): void {
    assert(end <= this.fileEnd, 'only an append moves the end of the clusters in use up');
    this.numbers.set(FILE_END, end);
  }

  /** Length of the file. One that nobody has written to may end within its last cluster. */
  get fileLength(): number {
    return this.numbers.get(FILE_LENGTH);
  }

  /** The file was made longer. */
  noteExtended(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
  }

  /** The file was made shorter. */
  noteCut(length: number): void {
    this.numbers.set(FILE_LENGTH, length);
  }
}
