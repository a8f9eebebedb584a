// The flush of an image, and what waits for one: all links, which are held back until their data is durable (R6), and freed
// clusters on their way to reuse (R5). One flush runs at a time, and its fdatasyncs never run under the metadata lock.
//
// S is a fdatasync, on the right is what a crash leaves from there on.
//
//   A write into a new cluster
//     request   data written behind the clusters in use, or into a free one    the old content; the cluster leaks
//     flush     places taken for L2 tables that are missing                    "
//         S     data, zeros of the tables, and length of the file are durable  "
//               L1 entries of the new tables                                   " (an empty table changes nothing)
//               L2 entries                                                     the old content or the new one
//         S     the links are durable: the flush may return                    the new content
//
//   A cluster that a discard has freed
//     request   its entry is 0 (FREED)                                         the old data, or zeros
//     flush 1   takes it (SETTLING)
//         S     the removal is durable                                         zeros; the cluster leaks
//               punched: nothing leads there, so no guest sees it              "
//     flush 2
//         S     the hole is durable: it reads as zeros, free for reuse         "

import type { HostOffset } from '../../bytes/offsets.ts';
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
import type { Linker, NewTables } from './link.ts';

/** Flushes that settle every freed cluster: two for those on their way, two for the others. */
const SETTLING_ROUNDS = 4;

export interface FlushParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly tracker: WriteTracker;
  readonly pending: PendingLinks;
  readonly linker: Linker;
  readonly free: FreeClusters;
  /** called once per sentence */
  readonly log: (sentence: string) => void;
}

export class Flush {
  private readonly parts: FlushParts;
  private readonly settling: Settling;

  constructor(parts: FlushParts) {
    this.parts = parts;
    this.settling = new Settling(parts.free, parts.lock);
  }

  /** Everything acknowledged before the call is durable, links included, when it returns. Costs nothing when it is already. */
  run(): void {
    let phase: SettlingPhase = 'none';
    this.parts.tracker.flush(
      () => {
        this.linkHeldBack();
        phase = this.settling.begin();
      },
      () => this.settle(phase),
    );
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

  /** Makes the data of held-back clusters durable and links them, between two flushes. */
  linkEarly(): void {
    const { tracker } = this.parts;
    tracker.betweenFlushes(() => this.linkHeldBack());
    tracker.noteWrite();
  }

  private linkHeldBack(): void {
    const { linker, lock, pending, tracker } = this.parts;
    const count = lock.run(() => pending.count);
    if (count === 0) return;
    const created = this.takeTables(count);
    try {
      tracker.sync();
      failpoint('link');
      for (const [l1Index, table] of created) {
        lock.run(() => linker.showTable(l1Index, table));
        created.delete(l1Index);
      }
    } catch (error) {
      this.dropTables(created);
      throw error;
    }
    linkInOrder(lock, pending, count, linker);
  }

  /** Places for the L2 tables that the first `count` links need: nobody else makes tables. */
  private takeTables(count: number): NewTables {
    const { free, linker, lock } = this.parts;
    const created: NewTables = new Map();
    const take = (): HostOffset => lock.run(() => linker.takeTable());
    try {
      for (const l1Index of lock.run(() => linker.missingTables(count))) {
        try {
          created.set(l1Index, take());
        } catch (error) {
          // freed clusters make room, once their removal and their holes are durable (R5)
          if (!isHostFull(error) || lock.run(() => free.unsettledCount) === 0) throw error;
          this.settleAll();
          created.set(l1Index, take());
        }
      }
    } catch (error) {
      this.dropTables(created);
      throw error;
    }
    return created;
  }

  private dropTables(created: NewTables): void {
    const { linker, lock } = this.parts;
    for (const table of created.values()) lock.run(() => linker.dropTable(table));
  }

  /** Makes every freed cluster free, inside a flush. Links that are held back have no part in it: nothing leads to those. */
  private settleAll(): void {
    for (let round = 0; round < SETTLING_ROUNDS; round++) {
      const phase = this.settling.begin();
      if (phase === 'none') return;
      this.parts.tracker.sync();
      this.settle(phase);
    }
  }

  /** After the fdatasync of a flush: punch what is durably removed, or free what is durably punched. */
  private settle(phase: SettlingPhase): void {
    if (phase === 'none') return;
    if (phase === 'hole-durable-next') {
      this.settling.settled();
      return;
    }
    const { file, geometry, log, tracker } = this.parts;
    try {
      this.settling.punch(({ start, end }) => {
        failpoint('punch-hole');
        file.punchHole(geometry.startOf(start), (end - start) * geometry.clusterSize);
      });
    } catch (error) {
      log(`${file.path}: freed clusters are not reused yet: ${(error as Error).message}`);
      return;
    }
    tracker.noteWrite();
  }
}
