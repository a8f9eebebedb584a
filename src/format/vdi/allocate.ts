// New blocks and freed blocks. A new block always reads as zeros: it is one of those that were reserved behind all others
// (allocated-count.ts), or a freed one whose hole is durable (free-clusters.ts). So an allocating write transfers the
// guest's bytes only. Used under the metadata lock.

import { hostCluster } from '../../bytes/offsets.ts';
import { steadyMs } from '../../concurrency/clock.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { AllocatedCount } from './allocated-count.ts';
import type { Geometry } from './geometry.ts';
import type { VdiNumbers } from './state.ts';

export interface Allocation {
  /** of the first host block */
  readonly index: number;
  /** blocks in a row */
  readonly count: number;
}

export class Allocator {
  private readonly geometry: Geometry;
  private readonly numbers: VdiNumbers;
  private readonly free: FreeClusters;
  private readonly allocatedCount: Pick<AllocatedCount, 'ensure'>;
  private readonly tracker: WriteTracker;

  constructor(
    geometry: Geometry,
    numbers: VdiNumbers,
    free: FreeClusters,
    allocatedCount: Pick<AllocatedCount, 'ensure'>,
    tracker: WriteTracker,
  ) {
    this.geometry = geometry;
    this.numbers = numbers;
    this.free = free;
    this.allocatedCount = allocatedCount;
    this.tracker = tracker;
  }

  /** One to `count` blocks whose data adjoins; the lock may be released meanwhile. Throws no-space, and nothing has changed. */
  allocate(count: number): Allocation {
    const { free, numbers } = this;
    const most = this.geometry.adjoining(count);
    this.allocatedCount.ensure(count);
    failpoint('cluster-allocate');
    numbers.noteChange(steadyMs());
    const run = free.take(most, false);
    if (run !== null) return { index: run.start, count: run.end - run.start };
    const index = numbers.end;
    const got = Math.min(most, numbers.reserved - index);
    numbers.advanceEnd(index + got);
    return { index, count: got };
  }

  /**
   * Blocks whose last reference is gone, or which were never linked. They wait for two flushes (R5). A block that is not in use
   * turns the image read-only: another entry may still refer to it, and it must not be used again.
   */
  release(index: number, count: number): void {
    if (count === 0) return;
    try {
      this.numbers.noteChange(steadyMs());
      this.free.markFreed(hostCluster(index), count);
    } catch (error) {
      this.tracker.fail(error);
      throw error;
    }
  }
}
