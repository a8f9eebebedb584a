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
import { isHostFull } from '../../errors/index.ts';
import { linkInOrder } from '../mapped/link-pieces.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import { SettlingFlush, type SettlingFlushParts } from '../mapped/settling.ts';
import type { Geometry } from './geometry.ts';
import type { Linker, NewTables } from './link.ts';

export type Flush = SettlingFlush;

export interface FlushParts extends Omit<SettlingFlushParts, 'linkHeldBack' | 'punch' | 'word'> {
  readonly geometry: Geometry;
  readonly pending: PendingLinks;
  readonly linker: Linker;
}

export function createFlush(parts: FlushParts): Flush {
  const { file, geometry } = parts;
  const flush: SettlingFlush = new SettlingFlush({
    ...parts,
    word: 'clusters',
    linkHeldBack: () => linkHeldBack(parts, () => flush.settleInside()),
    punch: ({ start, end }) => {
      failpoint('punch-hole');
      file.punchHole(geometry.startOf(start), (end - start) * geometry.clusterSize);
    },
  });
  return flush;
}

/** @param settle makes freed clusters free */
function linkHeldBack(parts: FlushParts, settle: () => void): void {
  const { linker, lock, pending, tracker } = parts;
  const count = lock.run(() => pending.count);
  if (count === 0) return;
  const created = takeTables(parts, count, settle);
  try {
    tracker.sync();
    failpoint('link');
    for (const [l1Index, table] of created) {
      lock.run(() => linker.showTable(l1Index, table));
      created.delete(l1Index);
    }
  } catch (error) {
    dropTables(parts, created);
    throw error;
  }
  linkInOrder(lock, pending, count, linker);
}

/** Places for the L2 tables that the first `count` links need: nobody else makes tables. */
function takeTables(parts: FlushParts, count: number, settle: () => void): NewTables {
  const { free, linker, lock } = parts;
  const created: NewTables = new Map();
  const take = (): HostOffset => lock.run(() => linker.takeTable());
  try {
    for (const l1Index of lock.run(() => linker.missingTables(count))) {
      try {
        created.set(l1Index, take());
      } catch (error) {
        // freed clusters make room, once their removal and their holes are durable (R5)
        if (!isHostFull(error) || lock.run(() => free.unsettledCount) === 0) throw error;
        settle();
        created.set(l1Index, take());
      }
    }
  } catch (error) {
    dropTables(parts, created);
    throw error;
  }
  return created;
}

function dropTables({ linker, lock }: FlushParts, created: NewTables): void {
  for (const table of created.values()) lock.run(() => linker.dropTable(table));
}
