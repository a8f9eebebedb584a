// Reads of one run of the guest's, and of what new blocks show before the guest writes to them. Without the metadata lock;
// the blocks are reserved.

import { type GuestOffset, type HostOffset, hex } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ReadableImage } from '../image-format.ts';
import { readBackingData } from '../mapped/backing.ts';
import type { OldContent } from '../mapped/cow-buffer.ts';
import type { RunReader } from '../mapped/run-reader.ts';
import type { Run } from './mapping.ts';

export class VdiRunReader implements RunReader<Run>, OldContent {
  private readonly file: HostFile;
  private readonly parent: ReadableImage | null;

  constructor(file: HostFile, parent: ReadableImage | null) {
    this.file = file;
    this.parent = parent;
  }

  readRun(run: Run, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    const { length } = run;
    if (run.status === 'data') this.readData(target, targetOffset, length, run.hostOffset);
    else if (run.status === 'unallocated') this.readReserved(target, targetOffset, length, offset);
    else target.fill(0, targetOffset, targetOffset + length);
  }

  /** Blocks that have no data. */
  readReserved(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    if (this.parent === null) target.fill(0, targetOffset, targetOffset + length);
    else readBackingData(this.parent, target, targetOffset, length, offset);
  }

  private readData(target: Uint8Array, targetOffset: number, length: number, host: HostOffset): void {
    failpoint('data-read');
    const got = this.file.read(target, targetOffset, length, host);
    if (got === length) return;
    // the last block of a truncated copy; an image that is written to always has whole blocks
    if (!this.file.readOnly) throw this.beyondFile(host);
    target.fill(0, targetOffset + got, targetOffset + length);
  }

  private beyondFile(host: HostOffset): ImgfuseError {
    const { path } = this.file;
    return new ImgfuseError('corrupt', `${path}: the block at offset ${hex(host)} ends beyond the file`, {
      path,
      offset: host,
    });
  }
}
