// The flush of an image. Data and new tables reach the file at once, but nothing in the file refers to them before a fdatasync
// has made them durable, and what they replace is given up one fdatasync after that. So the flush works in rounds, and a crash
// at any point leaves the old content or the new one, and clusters that nothing refers to (leaks). One flush runs at a time, on
// the worker that needs it or on the keeper thread, and its fdatasyncs never run under the metadata lock.
//
// The life of a write that replaces a cluster. S is a fdatasync, on the right is what a crash leaves from there on:
//
//   request   counter of the new cluster = 1, data written; the link waits     the old content; the new cluster leaks
//   round 1   take what waits
//       S     counters, data, new L2 tables and earlier removals are durable
//             new refcount blocks are shown, durably (counters/)                "
//             L1 entries of new L2 tables: each table says what it said before  the old content
//       S     those L1 entries are durable; only if something was removed       "
//             counters of earlier removals go down; unused clusters are         "
//             punched, and only then free for reuse (R5)
//             L2 entries of the new data (R6); what they replace is logged      the old content or the new one
//   flush
//       S     the links are durable: the flush may return                       the new content; the old cluster leaks
//   round 2
//       S     (the next flush)
//             the counter of the old cluster goes down, punch, free for reuse   the new content, no leak

import { after, type HostCluster } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import { CLUSTERS_PER_HOLD, type ClusterRun, type FreeClusters } from '../mapped/free-clusters.ts';
import { linkInOrder, linkInPieces } from '../mapped/link-pieces.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { DeferredDecrements } from './counters/deferred-decrements.ts';
import type { NewCounters } from './counters/new-counters.ts';
import type { Refcounts } from './counters/refcount.ts';
import { STRETCH_CLUSTERS, type UnreadFree } from './counters/unread-free.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { MetadataClusters } from './metadata-clusters.ts';

export interface FlushParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly tracker: WriteTracker;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks<number>;
  readonly decrements: DeferredDecrements;
  readonly refcounts: Refcounts;
  readonly newCounters: NewCounters;
  readonly linker: Linker;
  readonly free: FreeClusters;
  readonly unread: UnreadFree;
  readonly metadata: MetadataClusters;
  readonly log: (sentence: string) => void;
}

export class Flush {
  private readonly parts: FlushParts;

  constructor(parts: FlushParts) {
    this.parts = parts;
  }

  /** Everything acknowledged before the call is durable, links included, when it returns. */
  run(): void {
    this.parts.tracker.flush(
      () => this.round(),
      () => undefined,
    );
  }

  /** Flushes until nothing waits any more. */
  runUntilSettled(): void {
    this.run();
    // links cause deferred decrements and those cause nothing further, so a few rounds are enough unless the host fails
    for (let round = 0; round < 4 && this.waits(); round++) {
      this.parts.tracker.noteWrite();
      this.run();
    }
  }

  /** A round without the fdatasync of a flush: for links that are overdue, and for a request whose links find no room. */
  linkEarly(): void {
    this.parts.tracker.betweenFlushes(() => this.round());
    this.parts.tracker.noteWrite();
  }

  /** Runs `action` while no round changes L1 entries. What was allocated before is counted by what the file shows, durably. */
  betweenRounds(action: () => void): void {
    const { lock, newCounters, tracker } = this.parts;
    tracker.betweenFlushes(() => {
      const unshown = lock.run(() => newCounters.unshown());
      tracker.sync();
      newCounters.show(unshown, (step) => lock.run(step));
      action();
    });
  }

  /** Something is left for another round; the metadata lock is held. */
  waitsLocked(): boolean {
    const { pending, pendingTables, decrements, newCounters } = this.parts;
    if (!newCounters.isEmpty) return true;
    return !pending.isEmpty || !pendingTables.isEmpty || decrements.count > 0;
  }

  private waits(): boolean {
    return this.parts.lock.run(() => this.waitsLocked());
  }

  private round(): void {
    const { linker, lock, newCounters, pending, pendingTables, decrements, tracker } = this.parts;
    const { clusters, tables, released, unshown } = lock.run(() => ({
      unshown: newCounters.unshown(),
      clusters: pending.count,
      tables: pendingTables.count,
      released: decrements.beginRound(),
    }));
    const isNothingNew = unshown.blocks === 0 && unshown.table === null;
    if (clusters === 0 && tables === 0 && released === 0 && isNothingNew) return;
    tracker.sync();
    failpoint('link');
    newCounters.show(unshown, (step) => lock.run(step));
    if (tables > 0) {
      linkInPieces(lock, tables, (piece) => linker.linkTables(piece));
      // what was removed from the copy of a shared table is in the file as long as the L1 entry leads to the original
      if (released > 0) tracker.sync();
    }
    this.carryOut(released);
    linkInOrder(lock, pending, clusters, linker);
  }

  /**
   * Lowers the counters of the first `released` runs of the log, whose references are durably gone. A cluster that reaches 0 is
   * punched before it can be taken again. The lock is not held for a whole run, which may be the whole disk.
   */
  private carryOut(released: number): void {
    const { geometry, lock, refcounts, decrements, unread } = this.parts;
    const unused: ClusterRun[] = [];
    for (let position = 0; position < released; position++) {
      const { start, count } = decrements.taken(position);
      for (let done = 0; done < count; ) {
        const lowered = lock.run(() => {
          try {
            const part = Math.min(count - done, STRETCH_CLUSTERS);
            unread.read(after(start, done), part);
            return refcounts.decrement(after(start, done), part);
          } catch (error) {
            decrements.remove(position, done);
            throw error;
          }
        });
        lock.giveWay();
        for (const [i, uses] of lowered.entries()) {
          if (uses === 0) addToRuns(unused, after(start, done + i));
        }
        done += lowered.length;
      }
    }
    lock.run(() => decrements.remove(released));
    for (const { start, end } of unused) {
      try {
        failpoint('punch-hole');
        this.parts.file.punchHole(geometry.startOf(start), (end - start) * geometry.clusterSize);
      } catch (error) {
        this.parts.log(
          `${this.parts.file.path}: the space of freed clusters is not given back: ${(error as Error).message}`,
        );
      }
      this.markFree(start, end);
    }
  }

  private markFree(start: HostCluster, end: HostCluster): void {
    const { free, lock, metadata } = this.parts;
    for (let first = start; first < end; first = after(first, CLUSTERS_PER_HOLD)) {
      const count = Math.min(CLUSTERS_PER_HOLD, end - first);
      lock.run(() => {
        metadata.clear(first, count);
        free.markFree(first, count);
      });
      lock.giveWay();
    }
  }
}

function addToRuns(runs: ClusterRun[], cluster: HostCluster): void {
  const last = runs.at(-1);
  const end = after(cluster, 1);
  if (last?.end === cluster) runs[runs.length - 1] = { start: last.start, end };
  else runs.push({ start: cluster, end });
}
