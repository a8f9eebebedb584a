// More room for the BAT: a new region for it, because behind the old one something else may lie. The table is copied there, durably, while
// no request is in flight and no flush runs; then one entry of the log changes both region tables (S is a fdatasync):
//
//   log placed -> S -> the entries, and zeros behind them, where nothing is -> S -> log entry of both region tables
//
// A crash leaves the old table or the new one, which say the same. The old region is freed as a block is.

import { type HostOffset, hostOffset, roundUp } from '../../bytes/offsets.ts';
import { assert } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { Collaborators } from './collaborators.ts';
import { ENTRY_BYTES } from './geometry.ts';
import { bytesAt, MIB } from './header/fields.ts';
import { batMovedTo, REGION_TABLE_BYTES, REGION_TABLE_OFFSETS } from './header/region-table.ts';
import { LOG_SECTOR_BYTES } from './log/ring.ts';
import type { Patch } from './log/writer.ts';

export type MoveBatParts = Pick<
  Collaborators,
  | 'allocator'
  | 'allocatorOf'
  | 'bat'
  | 'file'
  | 'flush'
  | 'linker'
  | 'lock'
  | 'numbers'
  | 'reservations'
  | 'session'
  | 'tracker'
  | 'unplaced'
>;

/** Without the lock, and without a reservation. The entries beyond those that there were are 0. @throws no-space: nothing has changed */
export function makeRoomInBat(parts: MoveBatParts, entries: number): void {
  const { lock, numbers, reservations, session } = parts;
  if (lock.run(() => numbers.batEntries) >= entries) return;
  // before all blocks are reserved, because it may wait for the disk
  lock.run(() => session.startLog());
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    if (numbers.batEntries < entries) moveBat(parts, roundUp(entries * ENTRY_BYTES, MIB));
  });
}

/** The lock is held, and released meanwhile. */
function moveBat(parts: MoveBatParts, bytes: number): void {
  const { allocator, allocatorOf, flush, lock, numbers, session, tracker } = parts;
  // in the same hold as the allocation: while the headers name the log nobody cuts the file
  session.startLog();
  const [old, oldBytes] = [numbers.batOffset, numbers.batEntries * ENTRY_BYTES];
  const place = allocatorOf(bytes / MIB).allocateTable();
  try {
    lock.unlock();
    tracker.betweenFlushes(() => {
      flush.placeAllAlone();
      copyEntries(parts.file, old, oldBytes, place);
      tracker.sync();
      lock.run(() => use(parts, place, bytes));
    });
    lock.lock();
  } catch (error) {
    if (!lock.held) lock.lock();
    allocator.release(place, bytes / MIB);
    throw error;
  }
  allocator.release(old, oldBytes / MIB);
}

/** To a place that reads as zeros. */
function copyEntries(file: HostFile, from: HostOffset, bytes: number, to: HostOffset): void {
  const chunk = Buffer.alloc(MIB);
  const zeros = Buffer.alloc(MIB);
  for (let done = 0; done < bytes; done += MIB) {
    file.read(chunk, 0, MIB, hostOffset(from + done));
    if (!chunk.equals(zeros)) file.write(chunk, 0, MIB, hostOffset(to + done));
  }
}

function use({ bat, file, flush, linker, numbers, unplaced }: MoveBatParts, place: HostOffset, bytes: number): void {
  assert(unplaced.count === 0, 'the log holds nothing of a BAT that moves');
  linker.commit(() => tablePatches(file, place, bytes), { makeRoom: flush.placeAllAlone });
  bat.slices.forget(place, bytes);
  numbers.moveBat(place, bytes / ENTRY_BYTES);
}

/** The sectors of both region tables that change. */
function tablePatches(file: HostFile, place: HostOffset, bytes: number): Patch[] {
  const patches: Patch[] = [];
  for (const at of REGION_TABLE_OFFSETS) {
    const old = bytesAt(file, at, REGION_TABLE_BYTES).bytes;
    const table = batMovedTo(old, place, bytes);
    for (let sector = 0; sector < table.length; sector += LOG_SECTOR_BYTES) {
      const content = table.subarray(sector, sector + LOG_SECTOR_BYTES);
      if (Buffer.compare(content, old.subarray(sector, sector + LOG_SECTOR_BYTES)) === 0) continue;
      patches.push({ offset: at + sector, bytes: content });
    }
  }
  return patches;
}
