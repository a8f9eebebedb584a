// The steps of a flush for all freed clusters (R5), which may be millions: each in many short holds of the metadata lock. Only
// a flush makes them, one at a time. A cluster that is freed meanwhile joins this flush or waits for the next: either is right,
// because its entry was removed before the fdatasync that this flush still has to make.

import type { Mutex } from '../../concurrency/mutex.ts';
import type { ClusterRun, FreeClusters, SettlingMove, SettlingPhase } from './free-clusters.ts';

export class Settling {
  private readonly free: FreeClusters;
  private readonly lock: Mutex;

  constructor(free: FreeClusters, lock: Mutex) {
    this.free = free;
    this.lock = lock;
  }

  /** A flush begins: FREED clusters join it, unless earlier ones are still on their way. @returns what its fdatasync will achieve */
  begin(): SettlingPhase {
    const { free, lock } = this;
    const isFirst = lock.run(() => {
      if (free.phase !== 'none' || free.unsettledCount === 0) return false;
      free.phase = 'removal-durable-next';
      return true;
    });
    if (isFirst) this.move('join');
    return lock.run(() => free.phase);
  }

  /**
   * The removal is durable: each run is punched, without the lock; nobody else touches SETTLING clusters. If that fails they go
   * back, and the next flush tries again. @throws what `punch` throws
   */
  punch(punch: (run: ClusterRun) => void): void {
    const { free, lock } = this;
    try {
      for (let start: number | null = 0; start !== null; ) {
        const from: number = start;
        const { runs, next } = lock.run(() => free.settlingRuns(from));
        for (const run of runs) punch(run);
        start = next;
      }
    } catch (error) {
      this.move('goBack');
      this.setPhase('none');
      throw error;
    }
    this.setPhase('hole-durable-next');
  }

  /** The holes are durable. */
  settled(): void {
    this.move('free');
    this.setPhase('none');
  }

  private setPhase(phase: SettlingPhase): void {
    this.lock.run(() => {
      this.free.phase = phase;
    });
  }

  private move(step: SettlingMove): void {
    for (let start: number | null = 0; start !== null; ) {
      const from: number = start;
      start = this.lock.run(() => this.free.move(step, from));
      this.lock.giveWay();
    }
  }
}
