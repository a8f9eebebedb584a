// Reads of one run of the guest's, and of what new clusters show before the guest writes to them, in formats whose data lies in the
// file as the guest wrote it. Without the metadata lock; the clusters are reserved.

import { type GuestOffset, type HostOffset, hex } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ReadableImage } from '../../image-format.ts';
import { readBackingData } from '../backing.ts';
import type { OldContent } from '../cow-buffer.ts';
import type { RunReader } from './run-reader.ts';

export type PlainRun =
  | { readonly status: 'data'; readonly length: number; readonly hostOffset: HostOffset }
  | { readonly status: 'zero' | 'unallocated'; readonly length: number };

export class PlainRunReader implements RunReader<PlainRun>, OldContent {
  private readonly file: HostFile;
  private readonly backing: ReadableImage | null;
  private readonly word: 'block' | 'cluster' | 'grain';

  /** @param word of the specification, for the sentence of an error */
  constructor(file: HostFile, backing: ReadableImage | null, word: 'block' | 'cluster' | 'grain') {
    this.file = file;
    this.backing = backing;
    this.word = word;
  }

  readRun(run: PlainRun, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    const { length } = run;
    if (run.status === 'data') this.readData(target, targetOffset, length, run.hostOffset);
    else if (run.status === 'unallocated') this.readReserved(target, targetOffset, length, offset);
    else target.fill(0, targetOffset, targetOffset + length);
  }

  /** Clusters that have no data. */
  readReserved(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    if (this.backing === null) target.fill(0, targetOffset, targetOffset + length);
    else readBackingData(this.backing, target, targetOffset, length, offset);
  }

  private readData(target: Uint8Array, targetOffset: number, length: number, host: HostOffset): void {
    failpoint('data-read');
    const got = this.file.read(target, targetOffset, length, host);
    if (got === length) return;
    // the last cluster of a truncated copy; an image that is written to always has whole clusters
    if (!this.file.readOnly) throw this.beyondFile(host);
    target.fill(0, targetOffset + got, targetOffset + length);
  }

  private beyondFile(host: HostOffset): ImgfuseError {
    const { path } = this.file;
    return new ImgfuseError('corrupt', `${path}: the ${this.word} at offset ${hex(host)} ends beyond the file`, {
      path,
      offset: host,
    });
  }
}
