// The flush of an image, and what waits for one: links held back until their data is durable (R6), and freed blocks on
// their way to reuse (R5). One flush runs at a time, and its fdatasyncs never run under the metadata lock.
//
// S is a fdatasync, on the right is what a crash leaves from there on. The blocks that are written to were reserved before.
//
//   A write over a parent's data, whose link is held back
//     request   data written, around it what the parent has            the parent's data; the new block leaks
//     flush
//         S     the data is durable; only if links wait                "
//               entries of the map                                     the parent's data or the new data
//         S     the links are durable: the flush may return            the new data
//
//   A block that a discard has freed
//     request   its entry says "discarded" (FREED)                     the old data, or zeros
//     flush 1   takes it (SETTLING)
//         S     the removal is durable                                 zeros; the block leaks
//               punched: nothing leads there, so no guest sees it      "
//     flush 2
//         S     the hole is durable: it reads as zeros, and is free for reuse  "

import { failpoint } from '../../concurrency/failpoints.ts';
import { linkInOrder } from '../mapped/link-pieces.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { SettlingFlushParts } from '../mapped/settling.ts';
import { SettlingFlush } from '../mapped/settling.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { VdiNumbers } from './state.ts';

export type Flush = SettlingFlush;

export interface FlushParts extends Omit<SettlingFlushParts, 'linkHeldBack' | 'punch' | 'word'> {
  readonly geometry: Geometry;
  readonly pending: PendingLinks;
  readonly linker: Linker;
  readonly numbers: Pick<VdiNumbers, 'dataOffset'>;
}

export function createFlush(parts: FlushParts): Flush {
  const { file, geometry, linker, lock, numbers, pending, tracker } = parts;
  return new SettlingFlush({
    word: 'blocks',
    ...parts,
    linkHeldBack: () => {
      const count = lock.run(() => pending.count);
      if (count === 0) return;
      tracker.sync();
      failpoint('link');
      linkInOrder(lock, pending, count, linker);
    },
    punch: ({ start, end }) => {
      // nothing moves the blocks while one of them is on its way
      const dataOffset = lock.run(() => numbers.dataOffset);
      failpoint('punch-hole');
      file.punchHole(geometry.hostStartOf(start, dataOffset), (end - start) * geometry.stride);
    },
  });
}
