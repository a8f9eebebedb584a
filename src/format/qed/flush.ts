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
import { isHostFull } from '../../errors/index.ts';
import { linkInOrder } from '../mapped/link-pieces.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import { SettlingFlush, type SettlingFlushParts } from '../mapped/settling.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { QedNumbers, ReachedLength } from './state.ts';

export type Flush = SettlingFlush;

export interface FlushParts extends Pick<SettlingFlushParts, 'file' | 'free' | 'lock' | 'log' | 'tracker'> {
  readonly geometry: Geometry;
  readonly pending: PendingLinks;
  readonly linker: Linker;
  readonly numbers: Pick<QedNumbers, 'noteDurable' | 'reachedLength'>;
}

export function createFlush(parts: FlushParts): Flush {
  const { file, free, geometry, linker, lock, numbers, pending, tracker } = parts;
  let reached: ReachedLength;
  const noteReached = (): void => {
    reached = lock.run(() => numbers.reachedLength());
  };
  const noteDurable = (): void => lock.run(() => numbers.noteDurable(reached));
  const flush = new SettlingFlush({
    word: 'clusters',
    ...parts,
    linkHeldBack: () => {
      const count = lock.run(() => pending.count);
      if (count === 0) return;
      noteReached();
      tracker.sync();
      noteDurable();
      const link = (): void => linkInOrder(lock, pending, count, linker);
      failpoint('link');
      try {
        link();
      } catch (error) {
        // a new table does not fit: freed clusters make room, once their removal and their holes are durable (R5)
        if (!isHostFull(error) || lock.run(() => free.unsettledCount) === 0) throw error;
        flush.settleInside();
        link();
      }
    },
    beforeSync: noteReached,
    afterSync: noteDurable,
    punch: ({ start, end }) => {
      failpoint('punch-hole');
      file.punchHole(geometry.startOf(start), (end - start) * geometry.clusterSize);
    },
  });
  return flush;
}
