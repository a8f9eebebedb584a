// The steps of a flush for all freed clusters (R5), which may be millions: each in many short holds of the metadata lock. Only
// a flush makes them, one at a time. A cluster that is freed meanwhile joins this flush or waits for the next: either is right,
// because its entry was removed before the fdatasync that this flush still has to make. SettlingFlush is the flush of every format
// with tables but qcow2, whose counters come in between.

import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { WriteTracker } from '../write-tracker.ts';
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

/** Flushes that settle every freed cluster: two for those on their way, two for the others. */
const SETTLING_ROUNDS = 4;

/** What a format does in the steps of a flush. */
export interface SettlingFlushParts {
  readonly file: HostFile;
  readonly lock: Mutex;
  readonly tracker: WriteTracker;
  readonly free: FreeClusters;
  /** as the specification calls them, for the sentence of an error */
  readonly word: 'blocks' | 'clusters' | 'grains';
  /** Makes durable what links or bits wait for, and writes these. One thread at a time calls it. */
  readonly linkHeldBack: () => void;
  /** Right before the fdatasync of a flush. Absent: nothing. */
  readonly beforeSync?: () => void;
  /** What that fdatasync has made possible, before freed clusters go on. Absent: nothing. */
  readonly afterSync?: () => void;
  /** Makes freed clusters, which nothing leads to, a hole. */
  readonly punch: (run: ClusterRun) => void;
  /** called once per sentence */
  readonly log: (sentence: string) => void;
}

/** The flush of an image: what is held back -> fdatasync -> freed clusters go on. */
export class SettlingFlush {
  private readonly parts: SettlingFlushParts;
  private readonly settling: Settling;

  constructor(parts: SettlingFlushParts) {
    this.parts = parts;
    this.settling = new Settling(parts.free, parts.lock);
  }

  /** Everything acknowledged before the call is durable, links included, when it returns. Costs nothing when it is already. */
  run(): void {
    const { linkHeldBack, tracker } = this.parts;
    let phase: SettlingPhase = 'none';
    tracker.flush(
      () => {
        linkHeldBack();
        phase = this.settling.begin();
        this.parts.beforeSync?.();
      },
      () => {
        this.parts.afterSync?.();
        this.settle(phase);
      },
    );
  }

  /** Makes every freed cluster free, inside a flush: for a linkHeldBack() that needs clusters. What is held back has no part in it. */
  settleInside(): void {
    for (let round = 0; round < SETTLING_ROUNDS; round++) {
      const phase = this.settling.begin();
      if (phase === 'none') return;
      this.parts.beforeSync?.();
      this.parts.tracker.sync();
      this.parts.afterSync?.();
      this.settle(phase);
    }
  }

  /** Flushes until every freed cluster can be reused. */
  runUntilSettled(): void {
    const { free, lock, tracker } = this.parts;
    this.run();
    // a punch that fails puts its clusters back, so the rounds are bounded
    for (let round = 0; round < SETTLING_ROUNDS && lock.run(() => free.unsettledCount) > 0; round++) {
      tracker.noteWrite();
      this.run();
    }
  }

  /** Writes what is held back, between two flushes. */
  linkEarly(): void {
    const { linkHeldBack, tracker } = this.parts;
    tracker.betweenFlushes(linkHeldBack);
    tracker.noteWrite();
  }

  /** After the fdatasync of a flush: punch what is durably removed, or free what is durably punched. */
  private settle(phase: SettlingPhase): void {
    if (phase === 'none') return;
    if (phase === 'hole-durable-next') {
      this.settling.settled();
      return;
    }
    const { file, log, punch, tracker, word } = this.parts;
    try {
      this.settling.punch(punch);
    } catch (error) {
      log(`${file.path}: freed ${word} are not reused yet: ${(error as Error).message}`);
      return;
    }
    tracker.noteWrite();
  }
}
