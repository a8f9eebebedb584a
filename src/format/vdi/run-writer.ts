// Writes of one run of the guest's: in place where it has data, into new blocks where it has none. Called under the metadata
// lock, which is released while the guest's bytes move. A child of this image knows it by uuidModify, so that is changed, and
// durable, before the first byte.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { RunWriter } from '../mapped/reserved-runs.ts';
import type { AllocatingWrite } from './allocating-write.ts';
import type { Run } from './mapping.ts';
import type { ModifyUuid } from './modify-uuid.ts';

export class VdiRunWriter implements RunWriter<Run> {
  private readonly file: HostFile;
  private readonly lock: Mutex;
  private readonly modifyUuid: ModifyUuid;
  private readonly allocating: AllocatingWrite;

  constructor(file: HostFile, lock: Mutex, modifyUuid: ModifyUuid, allocating: AllocatingWrite) {
    this.file = file;
    this.lock = lock;
    this.modifyUuid = modifyUuid;
    this.allocating = allocating;
  }

  isInPlace(run: Run): boolean {
    return run.status === 'data';
  }

  writeRun(run: Run, source: Uint8Array, sourceOffset: number, offset: GuestOffset): number {
    if (run.status !== 'data') return this.allocating.writeNewClusters(source, sourceOffset, run, offset);
    const { hostOffset, length } = run;
    // the blocks are reserved, so they stay where they are while the lock is released
    this.modifyUuid.change();
    this.lock.unlock();
    failpoint('data-write');
    this.file.write(source, sourceOffset, length, hostOffset);
    return length;
  }

  punchRun(run: Run): boolean {
    if (run.status !== 'data') return false;
    const { hostOffset, length } = run;
    this.modifyUuid.change();
    this.lock.unlock();
    failpoint('discard');
    this.file.punchHole(hostOffset, length);
    return true;
  }
}
