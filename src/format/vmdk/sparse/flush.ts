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
import { linkInOrder } from '../../mapped/link-pieces.ts';
import type { PendingLinks } from '../../mapped/pending-links.ts';
import { SettlingFlush, type SettlingFlushParts } from '../../mapped/settling.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';

export type Flush = SettlingFlush;

export interface FlushParts extends Omit<SettlingFlushParts, 'linkHeldBack' | 'punch' | 'word'> {
  readonly geometry: Geometry;
  readonly pending: PendingLinks;
  readonly linker: Linker;
}

export function createFlush(parts: FlushParts): Flush {
  const { file, geometry } = parts;
  return new SettlingFlush({
    word: 'grains',
    ...parts,
    linkHeldBack: () => linkHeldBack(parts),
    punch: ({ start, end }) => {
      failpoint('punch-hole');
      file.punchHole(geometry.offsetOf(start), (end - start) * geometry.grainBytes);
    },
  });
}

function linkHeldBack({ linker, lock, pending, tracker }: FlushParts): void {
  const count = lock.run(() => pending.count);
  if (count === 0) return;
  tracker.sync();
  failpoint('link');
  linkInOrder(lock, pending, count, linker);
}
