// The flush of an image, and what waits for one: sectors of metadata that the log holds on their way to their places, bits held back
// until their data is durable (R6), and freed blocks on their way to reuse (R5). One flush runs at a time, and its fdatasyncs never run under the metadata lock.
//
// S is a fdatasync, on the right is what a crash leaves from there on.
//
//   A write into a block that has no place
//     request   data written, to a block that reads as zeros      zeros, as before; the block is unused space
//               log entry                                         zeros, or the new data; a replay makes the link
//     flush 1
//         S     data and log are durable: the flush may return    the new data, by a replay
//               the sector of the BAT in its place                "
//     flush 2
//         S     the place is durable                              the new data; later entries leave the sector out
//
//   Sectors over the parent's data, whose bits are held back
//     request   log entry: a block without bits, if it has no place   the parent's data
//               data written                                          "
//     flush
//         S     the data is durable; only if bits wait                "
//               log entry with the bits                               the parent's data, or the new data
//         S     the bits are durable: the flush may return            the new data
//
//   A block that a discard has freed
//     request   log entry without it (FREED)                      the old data, or zeros
//     flush 1   takes it (SETTLING)
//         S     the removal is durable, in the log                zeros; the block is unused space
//               punched: nothing leads there                      "
//     flush 2
//         S     the hole is durable: free for reuse               "

import { hostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { isHostFull } from '../../errors/index.ts';
import type { SettlingFlushParts } from '../mapped/settling.ts';
import { SettlingFlush } from '../mapped/settling.ts';
import type { Bitmaps } from './bitmaps.ts';
import { MIB } from './header/fields.ts';
import type { Linker } from './link.ts';
import type { UnplacedSectors } from './log/unplaced-sectors.ts';
import type { LogMoment, LogWriter } from './log/writer.ts';
import { logWaitingBits } from './waiting-bits.ts';

/** Sectors that one hold of the metadata lock writes to their places. */
const SECTORS_PER_HOLD = 16;

export interface FlushParts extends Omit<SettlingFlushParts, 'linkHeldBack' | 'punch' | 'word'> {
  readonly bitmaps: Bitmaps;
  /** for the bits that wait; asked for when some do */
  readonly linker: () => Linker;
  readonly logWriter: LogWriter;
  readonly unplaced: UnplacedSectors;
}

export interface Flush {
  /** Everything acknowledged before the call is durable when it returns. */
  run(): void;
  /** Flushes until every freed block can be reused. */
  runUntilSettled(): void;
  /** Writes the bits that are held back into the log, between two flushes. */
  linkEarly(): void;
  /** What the log holds is in its places, and that is durable. @throws no-space: some places have none */
  placeAll(): void;
  /** The same for whoever keeps flushes from running. */
  placeAllAlone(): void;
}

export function createFlush(parts: FlushParts): Flush {
  const { bitmaps, file, linker, lock, logWriter, tracker } = parts;
  let moment: LogMoment | null = null;
  const placeAllAlone = (): void => {
    for (let round = 0; round < 2; round++) {
      const now = lock.run(() => logWriter.moment());
      tracker.sync();
      place(parts, now);
    }
  };
  const flush = new SettlingFlush({
    word: 'blocks',
    ...parts,
    linkHeldBack: () => {
      const { before, count } = lock.run(() => ({ before: logWriter.moment(), count: bitmaps.waiting.count }));
      if (count > 0) {
        tracker.sync();
        placeIfRoom(parts, before);
        failpoint('link');
        logWaitingBits({ lock, bitmaps, linker: linker() }, count, placeAllAlone);
      }
      moment = lock.run(() => logWriter.moment());
    },
    afterSync: () => placeIfRoom(parts, moment!),
    punch: ({ start, end }) => {
      failpoint('punch-hole');
      file.punchHole(hostOffset(start * MIB), (end - start) * MIB);
    },
  });
  return {
    run: () => flush.run(),
    runUntilSettled: () => flush.runUntilSettled(),
    linkEarly: () => flush.linkEarly(),
    placeAll: () => {
      tracker.betweenFlushes(placeAllAlone);
      tracker.noteWrite();
    },
    placeAllAlone,
  };
}

/** place(), if the host has space for it. */
function placeIfRoom(parts: FlushParts, moment: LogMoment): void {
  try {
    place(parts, moment);
  } catch (error) {
    // everything is durable in the log, and the next flush tries again
    if (!isHostFull(error)) throw error;
  }
}

/** A fdatasync that began after `moment` is done. */
function place({ lock, logWriter, tracker, unplaced }: FlushParts, moment: LogMoment): void {
  lock.run(() => logWriter.noteDurable(moment));
  const placeSome = (): boolean => {
    let isMore = false;
    tracker.writeMetadata('l1-update', () => {
      isMore = unplaced.place(moment.sequence, SECTORS_PER_HOLD);
    });
    return isMore;
  };
  while (lock.run(() => unplaced.count > 0 && placeSome())) lock.giveWay();
}
