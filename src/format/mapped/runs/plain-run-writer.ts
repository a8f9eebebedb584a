// Writes of one run of the guest's, in formats whose data lies in the file as the guest wrote it: in place where it has data, into
// new clusters where it has none. Called under the metadata lock, which is released while the guest's bytes move.

import type { GuestOffset } from '../../../bytes/offsets.ts';
import { failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { PlainRun } from './plain-run-reader.ts';
import type { RunWriter } from './reserved-runs.ts';

export interface PlainRunWriterParts<Run extends PlainRun> {
  readonly file: HostFile;
  readonly lock: Mutex;
  readonly allocating: {
    /** A run without data; the lock is held. @returns bytes written */
    writeNewClusters(
      source: Uint8Array,
      sourceOffset: number,
      run: Exclude<Run, { readonly status: 'data' }>,
      offset: GuestOffset,
    ): number;
  };
  /**
   * What has to be durable before a byte of the guest changes in its place. Called under the lock, which may be released meanwhile:
   * the clusters are reserved, so they stay where they are. Absent: nothing.
   */
  readonly beforeChange?: { change(): void };
}

export class PlainRunWriter<Run extends PlainRun> implements RunWriter<Run> {
  private readonly parts: PlainRunWriterParts<Run>;

  constructor(parts: PlainRunWriterParts<Run>) {
    this.parts = parts;
  }

  isInPlace(run: Run): boolean {
    return run.status === 'data';
  }

  writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: GuestOffset): number {
    const { allocating, beforeChange, file, lock } = this.parts;
    if (run.status !== 'data') {
      return allocating.writeNewClusters(source, sourceOffset, run as Exclude<Run, { status: 'data' }>, offset);
    }
    const { hostOffset, length } = run;
    beforeChange?.change();
    lock.unlock();
    failpoint('data-write');
    file.write(source, sourceOffset, length, hostOffset);
    return length;
  }

  punchRun(run: Run): boolean {
    if (run.status !== 'data') return false;
    const { beforeChange, file, lock } = this.parts;
    const { hostOffset, length } = run;
    beforeChange?.change();
    lock.unlock();
    failpoint('discard');
    file.punchHole(hostOffset, length);
    return true;
  }
}
