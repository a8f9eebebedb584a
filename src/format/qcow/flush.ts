// The flush of an image, and what waits for one: all links, which are held back until their data is durable (R6), and freed
// clusters on their way to reuse (R5). One flush runs at a time, and its fdatasyncs never run under the metadata lock.
//
// S is a fdatasync, on the right is what a crash leaves from there on.
//
//   A write into a new cluster
//     request   place taken for an L2 table that is missing, and data          the old content; what was taken leaks
//               written behind the clusters in use, or into a free one
//     flush
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

import { failpoint } from '../../concurrency/failpoints.ts';
import { linkInOrder, linkInPieces } from '../mapped/link-pieces.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import { SettlingFlush, type SettlingFlushParts } from '../mapped/settling.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';

export type Flush = SettlingFlush;

export interface FlushParts extends Omit<SettlingFlushParts, 'linkHeldBack' | 'punch' | 'word'> {
  readonly geometry: Geometry;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks<number>;
  readonly linker: Linker;
}

export function createFlush(parts: FlushParts): Flush {
  const { file, geometry } = parts;
  return new SettlingFlush({
    word: 'clusters',
    ...parts,
    linkHeldBack: () => linkHeldBack(parts),
    punch: ({ start, end }) => {
      failpoint('punch-hole');
      file.punchHole(geometry.startOf(start), (end - start) * geometry.clusterSize);
    },
  });
}

function linkHeldBack({ linker, lock, pending, pendingTables, tracker }: FlushParts): void {
  // a link comes after its table, so that the table is among these
  const { clusters, tables } = lock.run(() => ({ clusters: pending.count, tables: pendingTables.count }));
  if (clusters === 0 && tables === 0) return;
  tracker.sync();
  failpoint('link');
  linkInPieces(lock, tables, (piece) => linker.linkTables(piece));
  linkInOrder(lock, pending, clusters, linker);
}
