// Writes of one run of the guest's: in place where the data is this layer's alone, else into new clusters. Called under the
// metadata lock, which is released while the guest's bytes move.

import type { GuestOffset } from '../../bytes/offsets.ts';
import type { GuestData } from '../../codec/guest-data.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { RunWriter } from '../mapped/runs/reserved-runs.ts';
import type { AllocatingWrite } from './allocating-write.ts';
import type { DataRun, Run } from './mapping.ts';
import type { OverlapCheck } from './overlap.ts';

export interface Qcow2RunWriterParts {
  readonly allocating: AllocatingWrite;
  readonly data: GuestData;
  readonly lock: Mutex;
  readonly overlap: OverlapCheck;
}

export class Qcow2RunWriter implements RunWriter<Run> {
  private readonly parts: Qcow2RunWriterParts;

  constructor(parts: Qcow2RunWriterParts) {
    this.parts = parts;
  }

  isInPlace(run: Run, offset: GuestOffset): boolean {
    return isOwnData(run) && this.parts.data.isWhole(offset, run.length);
  }

  writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: GuestOffset): number {
    const { allocating, data, lock, overlap } = this.parts;
    if (!isOwnData(run)) return allocating.writeNewClusters(source, sourceOffset, run, offset);
    const { hostOffset, length } = run;
    overlap.assertData(hostOffset, length);
    lock.unlock();
    failpoint('data-write');
    data.write(source, sourceOffset, length, hostOffset, offset);
    return length;
  }

  /** Not if the data is encrypted, because a hole does not decrypt to zeros. */
  punchRun(run: Run): boolean {
    const { data, lock, overlap } = this.parts;
    if (!isOwnData(run) || data.isEncrypted) return false;
    const { hostOffset, length } = run;
    overlap.assertData(hostOffset, length);
    lock.unlock();
    failpoint('discard');
    data.punch(length, hostOffset);
    return true;
  }
}

/** Data that no snapshot shares. */
function isOwnData(run: Run): run is DataRun {
  return run.status === 'data' && run.copied;
}
