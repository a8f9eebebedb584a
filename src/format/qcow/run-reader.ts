// Reads of one run of the guest's: from its host clusters, from the compressed cluster, from the backing file. Without the
// metadata lock; the clusters are reserved.

import type { GuestOffset } from '../../bytes/offsets.ts';
import type { GuestData } from '../../codec/guest-data.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { ReadableImage } from '../image-format.ts';
import { readBackingData } from '../mapped/backing.ts';
import type { RunReader } from '../mapped/run-reader.ts';
import type { CompressedReader } from './compressed.ts';
import type { Run } from './mapping.ts';

export class QcowRunReader implements RunReader<Run> {
  private readonly data: GuestData;
  private readonly compressed: CompressedReader;
  private readonly backing: ReadableImage | null;

  constructor(data: GuestData, compressed: CompressedReader, backing: ReadableImage | null) {
    this.data = data;
    this.compressed = compressed;
    this.backing = backing;
  }

  readRun(run: Run, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    const { length } = run;
    if (run.status === 'data') {
      failpoint('data-read');
      this.data.read(target, targetOffset, length, run.hostOffset, offset);
    } else if (run.status === 'compressed') {
      this.compressed.readPart(run, target, targetOffset, offset);
    } else if (this.backing !== null) {
      readBackingData(this.backing, target, targetOffset, length, offset);
    } else {
      target.fill(0, targetOffset, targetOffset + length);
    }
  }
}
