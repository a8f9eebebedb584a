// Writes of one run of the guest's: in place where it has plain data, else into new clusters. Called under the metadata lock, which
// is released while the guest's bytes move.

import type { GuestOffset } from '../../bytes/offsets.ts';
import type { GuestData } from '../../codec/guest-data.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { RunWriter } from '../mapped/runs/reserved-runs.ts';
import type { AllocatingWrite } from './allocating-write.ts';
import type { Run } from './mapping.ts';

export interface QcowRunWriterParts {
  readonly allocating: AllocatingWrite;
  readonly data: GuestData;
  readonly lock: Mutex;
}

export class QcowRunWriter implements RunWriter<Run> {
  private readonly parts: QcowRunWriterParts;

  constructor(parts: QcowRunWriterParts) {
    this.parts = parts;
  }

  isInPlace(run: Run, offset: GuestOffset): boolean {
    return run.status === 'data' && this.parts.data.isWhole(offset, run.length);
  }

  writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: GuestOffset): number {
    const { allocating, data, lock } = this.parts;
    if (run.status !== 'data') return allocating.writeNewClusters(source, sourceOffset, run, offset);
    const { hostOffset, length } = run;
    lock.unlock();
    failpoint('data-write');
    data.write(source, sourceOffset, length, hostOffset, offset);
    return length;
  }

  /** Not if the data is encrypted, because a hole does not decrypt to zeros. */
  punchRun(run: Run): boolean {
    const { data, lock } = this.parts;
    if (run.status !== 'data' || data.isEncrypted) return false;
    const { hostOffset, length } = run;
    lock.unlock();
    failpoint('discard');
    data.punch(length, hostOffset);
    return true;
  }
}
