// The flush of an image, and what waits for one: bits of sectors held back until their data is durable (R6), and freed blocks on their
// way to reuse (R5). One flush runs at a time, and its fdatasyncs never run under the metadata lock.
//
// S is a fdatasync, on the right is what a crash leaves from there on.
//
//   Sectors over the parent's data, whose bits are held back
//     request   data written, to a block that is linked without bits       the parent's data
//     flush
//         S     the data is durable; only if bits wait                     "
//               sectors of bitmaps                                         the parent's data or the new data
//         S     the bits are durable: the flush may return                 the new data
//
//   A block that a discard has freed
//     request   its entry is gone from the table (FREED)                   the old data, or zeros
//     flush 1   takes it (SETTLING)
//         S     the removal is durable                                     zeros; the block is unused space
//               punched: nothing leads there                               "
//     flush 2
//         S     the hole is durable: it reads as zeros, free for reuse     "

import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters, SettlingPhase } from '../mapped/free-clusters.ts';
import { linkInOrder } from '../mapped/link-pieces.ts';
import { Settling } from '../mapped/settling.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Bitmaps } from './bitmaps.ts';
import type { Geometry } from './geometry.ts';

/** Flushes that settle every freed block: two for those on their way, two for the others. */
const SETTLING_ROUNDS = 4;

export interface FlushParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly tracker: WriteTracker;
  readonly bitmaps: Bitmaps;
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

  /** Everything acknowledged before the call is durable, bits included, when it returns. Costs nothing when it is already. */
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

  /** Flushes until every freed block can be reused. */
  runUntilSettled(): void {
    const { free, lock, tracker } = this.parts;
    this.run();
    // a punch that fails puts its blocks back, so the rounds are bounded
    for (let round = 0; round < SETTLING_ROUNDS && lock.run(() => free.unsettledCount) > 0; round++) {
      tracker.noteWrite();
      this.run();
    }
  }

  /** Makes the data of held-back sectors durable and sets their bits, between two flushes. */
  linkEarly(): void {
    this.parts.tracker.betweenFlushes(() => this.linkHeldBack());
    this.parts.tracker.noteWrite();
  }

  private linkHeldBack(): void {
    const { bitmaps, lock, tracker } = this.parts;
    const count = lock.run(() => bitmaps.freeze());
    if (count === 0) return;
    tracker.sync();
    failpoint('link');
    linkInOrder(lock, bitmaps.waiting, count, bitmaps);
    lock.run(() => bitmaps.thaw());
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
        // block by block: something else may lie in what is padding here
        for (let place = start; place < end; place++) {
          failpoint('punch-hole');
          file.punchHole(geometry.offsetOf(place), geometry.blockBytes);
        }
      });
    } catch (error) {
      log(`${file.path}: freed blocks are not reused yet: ${(error as Error).message}`);
      return;
    }
    tracker.noteWrite();
  }
}
