// Reads of one run of the guest's, and of what blocks show before the guest writes to them. Without the metadata lock; the range is
// reserved.

import type { GuestOffset, HostOffset } from '../../bytes/offsets.ts';
import { hex } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ReadableImage } from '../image-format.ts';
import { readBackingData } from '../mapped/backing.ts';
import type { OldContent } from '../mapped/cow-buffer.ts';
import type { RunReader } from '../mapped/run-reader.ts';
import type { Run } from './mapping.ts';

export class VpcRunReader implements RunReader<Run>, OldContent {
  private readonly file: HostFile;
  private readonly backing: ReadableImage | null;

  constructor(file: HostFile, backing: ReadableImage | null) {
    this.file = file;
    this.backing = backing;
  }

  readRun(run: Run, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    if (run.status === 'data') this.readData(target, targetOffset, run.length, run.hostOffset);
    else this.readReserved(target, targetOffset, run.length, offset);
  }

  /** Sectors that are not here. */
  readReserved(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    if (this.backing === null) target.fill(0, targetOffset, targetOffset + length);
    else readBackingData(this.backing, target, targetOffset, length, offset);
  }

  private readData(target: Uint8Array, targetOffset: number, length: number, host: HostOffset): void {
    failpoint('data-read');
    const got = this.file.read(target, targetOffset, length, host);
    if (got === length) return;
    const { path, readOnly } = this.file;
    // the last block of a truncated copy; an image that is written to always has whole blocks
    if (!readOnly) {
      throw new ImgfuseError('corrupt', `${path}: the block with offset ${hex(host)} ends beyond the file`, {
        path,
        offset: host,
      });
    }
    target.fill(0, targetOffset + got, targetOffset + length);
  }
}
