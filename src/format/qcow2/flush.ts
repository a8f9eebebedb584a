// The flush of an image: what waits for a fdatasync is carried out in rounds. One round: take what waits, sync, then with
// that durable (1) write the L1 entries of new L2 tables, (2) lower the counters of references removed before and free what
// nothing refers to, with another sync in between if there is something for both, (3) write the L2 entries of new data. What
// (1) and (3) replace waits for the next round. One flush at a time; the metadata lock is not held during a fdatasync.

import { after, type HostCluster } from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ClusterRun, FreeClusters } from '../free-clusters.ts';
import { linkInPieces } from '../link-pieces.ts';
import type { PendingLinks } from '../pending-links.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { DeferredDecrement, DeferredDecrements } from './deferred-decrements.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { MetadataClusters } from './metadata-clusters.ts';
import type { Refcounts } from './refcount.ts';

export interface FlushParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly tracker: WriteTracker;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks;
  readonly decrements: DeferredDecrements;
  readonly refcounts: Refcounts;
  readonly linker: Linker;
  readonly free: FreeClusters;
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

  /** One round between two flushes. */
  linkEarly(): void {
    this.parts.tracker.betweenFlushes(() => this.round());
    this.parts.tracker.noteWrite();
  }

  /** Something is left for another round; the metadata lock is held. */
  waitsLocked(): boolean {
    const { pending, pendingTables, decrements } = this.parts;
    return !pending.isEmpty || !pendingTables.isEmpty || decrements.count > 0;
  }

  private waits(): boolean {
    return this.parts.lock.run(() => this.waitsLocked());
  }

  private round(): void {
    const { linker, lock, pending, pendingTables, decrements, tracker } = this.parts;
    const { clusters, tables, released } = lock.run(() => ({
      clusters: pending.count,
      tables: pendingTables.count,
      released: decrements.take(),
    }));
    if (clusters === 0 && tables === 0 && released.length === 0) return;
    tracker.sync();
    reach('link');
    if (tables > 0) {
      linkInPieces(lock, tables, (piece) => linker.linkTables(piece));
      // what was removed from the copy of a shared table is in the file as long as the L1 entry leads to the original
      if (released.length > 0) tracker.sync();
    }
    this.carryOut(released);
    linkInPieces(lock, clusters, (piece) => linker.linkClusters(piece));
  }

  /** Lowers counters whose references are durably gone; a cluster that reaches 0 is punched before it can be taken again. */
  private carryOut(released: readonly DeferredDecrement[]): void {
    const { file, free, geometry, lock, metadata, refcounts, decrements } = this.parts;
    const unused: ClusterRun[] = [];
    for (const [position, { start, count }] of released.entries()) {
      // the lock is not held for a whole run, which may be the whole disk
      for (let done = 0; done < count; ) {
        const lowered = lock.run(() => {
          try {
            return refcounts.decrement(after(start, done), count - done);
          } catch (error) {
            decrements.remove(position, done);
            throw error;
          }
        });
        for (const [i, uses] of lowered.entries()) {
          if (uses === 0) addToRuns(unused, after(start, done + i));
        }
        done += lowered.length;
      }
    }
    lock.run(() => decrements.remove(released.length));
    for (const { start, end } of unused) {
      try {
        reach('punch-hole');
        file.punchHole(geometry.startOf(start), (end - start) * geometry.clusterSize);
      } catch (error) {
        this.parts.log(`${file.path}: the space of freed clusters is not given back: ${(error as Error).message}`);
      }
      lock.run(() => {
        metadata.clear(start, end - start);
        free.markFree(start, end - start);
      });
    }
  }
}

function addToRuns(runs: ClusterRun[], cluster: HostCluster): void {
  const last = runs.at(-1);
  const end = after(cluster, 1);
  if (last?.end === cluster) runs[runs.length - 1] = { start: last.start, end };
  else runs.push({ start: cluster, end });
}
