// Writes of one run of the guest's: in place where its sectors are here, else into a new block, or into one that is completed first.
// Called under the metadata lock, which is released while the guest's bytes move.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { RunWriter } from '../mapped/reserved-runs.ts';
import type { AllocatingWrite } from './allocating-write.ts';
import type { Run } from './mapping.ts';

export class VpcRunWriter implements RunWriter<Run> {
  private readonly file: HostFile;
  private readonly lock: Mutex;
  private readonly allocating: AllocatingWrite;

  constructor(file: HostFile, lock: Mutex, allocating: AllocatingWrite) {
    this.file = file;
    this.lock = lock;
    this.allocating = allocating;
  }

  isInPlace(run: Run): boolean {
    return run.status === 'data';
  }

  writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: GuestOffset): number {
    if (run.status !== 'data') return this.allocating.writeNewClusters(source, sourceOffset, run, offset);
    const { hostOffset, length } = run;
    this.lock.unlock();
    failpoint('data-write');
    this.file.write(source, sourceOffset, length, hostOffset);
    return length;
  }

  punchRun(run: Run): boolean {
    if (run.status !== 'data') return false;
    const { hostOffset, length } = run;
    this.lock.unlock();
    failpoint('discard');
    this.file.punchHole(hostOffset, length);
    return true;
  }
}
