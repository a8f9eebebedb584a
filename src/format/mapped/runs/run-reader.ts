// Reads of guest ranges that are reserved already, run by run: a run is mapped under the metadata lock, and its bytes move
// without the lock (R1). How the bytes of one run are read is the format's: its RunReader.

import { after, type GuestOffset } from '../../../bytes/offsets.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { AnyRun, RunMapper } from './run-mapper.ts';

export interface RunReader<Run> {
  /** Reads all of a run, which begins at `offset`; without the lock. */
  readRun(run: Run, target: Uint8Array, targetOffset: number, offset: GuestOffset): void;
}

export class RangeReader<Run extends AnyRun> {
  private readonly lock: Mutex;
  private readonly mapper: RunMapper<Run>;
  private readonly reader: RunReader<Run>;

  constructor(lock: Mutex, mapper: RunMapper<Run>, reader: RunReader<Run>) {
    this.lock = lock;
    this.mapper = mapper;
    this.reader = reader;
  }

  /** For a request that holds its reservation, and not the lock. */
  readReserved(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    const { lock } = this;
    lock.lock();
    try {
      this.readReleasing(target, targetOffset, length, offset);
    } finally {
      if (lock.held) lock.unlock();
    }
  }

  /** The lock is held, and is released while data moves. It is not taken again for the return, and may be held or not then. */
  readReleasing(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    const { lock, mapper, reader } = this;
    for (let done = 0; done < length; ) {
      if (!lock.held) lock.lock();
      const at = after(offset, done);
      const run = mapper.map(at, length - done);
      const part = run.length;
      lock.unlock();
      reader.readRun(run, target, targetOffset + done, at);
      done += part;
    }
  }
}
