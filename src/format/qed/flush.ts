// The flush of an image, and what waits for one: links held back until their data is durable (R6), and freed clusters on
// their way to reuse (R5). One flush runs at a time, and its fdatasyncs never run under the metadata lock.
//
// S is a fdatasync, on the right is what a crash leaves from there on; the dirty bit is durable before the first line, so that
// the next open checks the image.
//
//   A write over backing data, whose link is held back
//     request   data written, around it what the backing file has             the backing file's data; the new cluster leaks
//     flush
//         S     data and length of the file are durable; only if links wait    "
//               L2 entries, L1 entries of new L2 tables                        the backing file's data or the new data
//         S     the links are durable: the flush may return                    the new data
//
//   A cluster that a discard has freed
//     request   its L2 entry is gone from the table (FREED)                    the old data, or what a discard leaves
//     flush 1   takes it (SETTLING)
//         S     the removal is durable                                         what a discard leaves; the cluster leaks
//               punched: nothing leads there, so no guest sees the hole        "
//     flush 2
//         S     the hole is durable: it reads as zeros, and is free for reuse  "

import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { isHostFull } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters, SettlingPhase } from '../mapped/free-clusters.ts';
import { linkInOrder } from '../mapped/link-pieces.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import { Settling } from '../mapped/settling.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { QedNumbers, ReachedLength } from './state.ts';

/** Flushes that settle every freed cluster: two for those on their way, two for the others. */
const SETTLING_ROUNDS = 4;

export class Flush {
  private readonly file: HostFile;
  private readonly geometry: Geometry;
  private readonly lock: Mutex;
  private readonly tracker: WriteTracker;
  private readonly pending: PendingLinks;
  private readonly linker: Linker;
  private readonly free: FreeClusters;
  private readonly settling: Settling;
  private readonly numbers: Pick<QedNumbers, 'noteDurable' | 'reachedLength'>;
  private readonly log: (sentence: string) => void;

  constructor(
    file: HostFile,
    geometry: Geometry,
    lock: Mutex,
    tracker: WriteTracker,
    pending: PendingLinks,
    linker: Linker,
    free: FreeClusters,
    numbers: Pick<QedNumbers, 'noteDurable' | 'reachedLength'>,
    log: (sentence: string) => void,
  ) {
    this.file = file;
    this.geometry = geometry;
    this.lock = lock;
    this.tracker = tracker;
    this.pending = pending;
    this.linker = linker;
    this.free = free;
    this.settling = new Settling(free, lock);
    this.numbers = numbers;
    this.log = log;
  }

  /** Everything acknowledged before the call is durable, links included, when it returns. Costs nothing when it is already. */
  run(): void {
    let phase: SettlingPhase = 'none';
    let reached: ReachedLength;
    this.tracker.flush(
      () => {
        this.linkHeldBack();
        phase = this.settling.begin();
        reached = this.lock.run(() => this.numbers.reachedLength());
      },
      () => {
        this.noteDurable(reached);
        this.settle(phase);
      },
    );
  }

  /** Flushes until every freed cluster can be reused. */
  runUntilSettled(): void {
    this.run();
    // a punch that fails puts its clusters back, so the rounds are bounded
    for (let round = 0; round < SETTLING_ROUNDS && this.lock.run(() => this.free.unsettledCount) > 0; round++) {
      this.tracker.noteWrite();
      this.run();
    }
  }

  /** Makes the data of held-back clusters durable and links them, between two flushes. */
  linkEarly(): void {
    this.tracker.betweenFlushes(() => this.linkHeldBack());
    this.tracker.noteWrite();
  }

  private linkHeldBack(): void {
    const { count, reached } = this.lock.run(() => ({
      count: this.pending.count,
      reached: this.numbers.reachedLength(),
    }));
    if (count === 0) return;
    this.tracker.sync();
    this.noteDurable(reached);
    const link = () => linkInOrder(this.lock, this.pending, count, this.linker);
    failpoint('link');
    try {
      link();
    } catch (error) {
      // a new table does not fit: freed clusters make room, once their removal and their holes are durable (R5)
      if (!isHostFull(error) || this.lock.run(() => this.free.unsettledCount) === 0) throw error;
      this.settleAll();
      link();
    }
  }

  /** Makes every freed cluster free, inside a flush. Links that are held back have no part in it: nothing leads to those. */
  private settleAll(): void {
    for (let round = 0; round < SETTLING_ROUNDS; round++) {
      const phase = this.settling.begin();
      if (phase === 'none') return;
      const reached = this.lock.run(() => this.numbers.reachedLength());
      this.tracker.sync();
      this.noteDurable(reached);
      this.settle(phase);
    }
  }

  /** A sync that began when the file had reached this length is done. */
  private noteDurable(reached: ReachedLength): void {
    this.lock.run(() => this.numbers.noteDurable(reached));
  }

  /** After the fdatasync of a flush: punch what is durably removed, or free what is durably punched. */
  private settle(phase: SettlingPhase): void {
    if (phase === 'none') return;
    if (phase === 'hole-durable-next') {
      this.settling.settled();
      return;
    }
    const { clusterSize } = this.geometry;
    try {
      this.settling.punch(({ start, end }) => {
        failpoint('punch-hole');
        this.file.punchHole(this.geometry.startOf(start), (end - start) * clusterSize);
      });
    } catch (error) {
      this.log(`${this.file.path}: freed clusters are not reused yet: ${(error as Error).message}`);
      return;
    }
    this.tracker.noteWrite();
  }
}
