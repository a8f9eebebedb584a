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
import { linkInOrder } from '../mapped/link-pieces.ts';
import type { SettlingFlushParts } from '../mapped/settling.ts';
import { SettlingFlush } from '../mapped/settling.ts';
import type { Bitmaps } from './bitmaps.ts';
import type { Geometry } from './geometry.ts';

export type Flush = SettlingFlush;

export interface FlushParts extends Omit<SettlingFlushParts, 'linkHeldBack' | 'punch' | 'word'> {
  readonly geometry: Geometry;
  readonly bitmaps: Bitmaps;
}

export function createFlush(parts: FlushParts): Flush {
  const { bitmaps, file, geometry, lock, tracker } = parts;
  return new SettlingFlush({
    word: 'blocks',
    ...parts,
    linkHeldBack: () => {
      const count = lock.run(() => bitmaps.freeze());
      if (count === 0) return;
      tracker.sync();
      failpoint('link');
      linkInOrder(lock, bitmaps.waiting, count, bitmaps);
      lock.run(() => bitmaps.thaw());
    },
    punch: ({ start, end }) => {
      // block by block: something else may lie in what is padding here
      for (let place = start; place < end; place++) {
        failpoint('punch-hole');
        file.punchHole(geometry.offsetOf(place), geometry.blockBytes);
      }
    },
  });
}
