// Bits that waited for their data: in the order of the disk, so that bits of one sector of a bitmap share an entry of the log, and in
// pieces, so that other requests get the metadata lock in between. The data of all of them is durable, so any part of them may be there
// when a crash comes (R6). A block whose last sector comes so is fully present from then on.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import { NOT_PENDING } from '../mapped/pending-links.ts';
import { type Bitmaps, WORD_BYTES } from './bitmaps.ts';
import type { CommitHow, Linker } from './link.ts';
import { LOG_SECTOR_BYTES } from './log/ring.ts';

/** One hold of the metadata lock takes so many words, and of so many sectors of bitmaps. */
const MOST_WORDS = 1024;
const MOST_SECTORS = 16;
const SECTOR_WORDS = LOG_SECTOR_BYTES / WORD_BYTES;

export interface WaitingBitsParts {
  readonly lock: Mutex;
  readonly bitmaps: Bitmaps;
  readonly linker: Linker;
}

/** @param count of the entries that wait: those whose data is durable @param makeRoom of CommitHow */
export function logWaitingBits(parts: WaitingBitsParts, count: number, makeRoom: () => void): void {
  const { lock, bitmaps } = parts;
  const { waiting } = bitmaps;
  const words = lock.run(() => waiting.indicesOfFirst(count)).sort();
  for (let done = 0; done < words.length; ) {
    if (done > 0) {
      failpoint('link-pause');
      lock.giveWay();
    }
    const end = endOfPiece(words, done);
    const piece = words.subarray(done, end);
    lock.run(() => logPiece(parts, piece, count, { makeRoom }));
    done = end;
  }
  lock.run(() => waiting.removeFirst(count));
}

/** Words that lie in a few sectors, from `start` on. */
function endOfPiece(words: Float64Array, start: number): number {
  const most = Math.min(words.length, start + MOST_WORDS);
  let sectors = 0;
  let last = -1;
  for (let at = start; at < most; at++) {
    const sector = Math.floor(words[at]! / SECTOR_WORDS);
    if (sector === last) continue;
    if (++sectors > MOST_SECTORS) return at;
    last = sector;
  }
  return most;
}

function logPiece({ bitmaps, linker }: WaitingBitsParts, words: Float64Array, count: number, how: CommitHow): void {
  const { waiting } = bitmaps;
  const blocks = new Set<GuestCluster>();
  linker.setWords(() => {
    blocks.clear();
    const found: { place: HostOffset; bits: number }[] = [];
    for (let i = 0; i < words.length; i++) {
      const word = words[i]!;
      // one that came twice
      if (i > 0 && word === words[i - 1]) continue;
      const place = waiting.find(word, count);
      // a discard has dropped it
      if (place === NOT_PENDING) continue;
      found.push({ place, bits: waiting.allocated });
      blocks.add(bitmaps.blockOf(word));
    }
    return found;
  }, how);
  for (const word of words) waiting.drop(word, count);
  linker.completeBlocks([...blocks], how);
}
