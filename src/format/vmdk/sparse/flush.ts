// The flush of an extent, and what waits for one: links held back until their data is durable (R6), and freed grains on their way to
// reuse (R5). One flush runs at a time, and its fdatasyncs never run under the metadata lock.
//
// S is a fdatasync, on the right is what a crash leaves from there on; the unclean mark is durable before the first line.
//
//   A write over the parent's data, whose link is held back
//     request   data written, around it what the parent has            the parent's data; the new grain leaks
//     flush
//         S     the data is durable; only if links wait                "
//               entries of both tables                                 the parent's data or the new data
//         S     the links are durable: the flush may return            the new data
//
//   A grain that a discard has freed
//     request   its entry is gone from both tables (FREED)             the old data, or zeros
//     flush 1   takes it (SETTLING)
//         S     the removal is durable                                 zeros; the grain leaks
//               punched: nothing leads there                           "
//     flush 2
//         S     the hole is durable: it reads as zeros, free for reuse "

import { failpoint } from '../../../concurrency/failpoints.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { FreeClusters, SettlingPhase } from '../../mapped/free-clusters.ts';
import { linkInOrder } from '../../mapped/link-pieces.ts';
import type { PendingLinks } from '../../mapped/pending-links.ts';
import { Settling } from '../../mapped/settling.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';

/** Flushes that settle every freed grain: two for those on their way, two for the others. */
const SETTLING_ROUNDS = 4;

export interface FlushParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly tracker: WriteTracker;
  readonly pending: PendingLinks;
  readonly linker: Linker;
  readonly free: FreeClusters;
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

  /** Flushes until every freed grain can be reused. */
  runUntilSettled(): void {
    const { free, lock, tracker } = this.parts;
    this.run();
    // a punch that fails puts its grains back, so the rounds are bounded
    for (let round = 0; round < SETTLING_ROUNDS && lock.run(() => free.unsettledCount) > 0; round++) {
      tracker.noteWrite();
      this.run();
    }
  }

  /** Makes the data of held-back grains durable and links them, between two flushes. */
  linkEarly(): void {
    const { tracker } = this.parts;
    tracker.betweenFlushes(() => this.linkHeldBack());
    tracker.noteWrite();
  }

  private linkHeldBack(): void {
    const { linker, lock, pending, tracker } = this.parts;
    const count = lock.run(() => pending.count);
    if (count === 0) return;
    tracker.sync();
    failpoint('link');
    linkInOrder(lock, pending, count, linker);
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
        file.punchHole(geometry.offsetOf(start), (end - start) * geometry.grainBytes);
      });
    } catch (error) {
      log(`${file.path}: freed grains are not reused yet: ${(error as Error).message}`);
      return;
    }
    tracker.noteWrite();
  }
}
