// A longer BAT. If it needs more room than there is up to the first cluster, the clusters in its way move to the end first:
//
//   copied -> fdatasync -> entries -> fdatasync -> the room reads as zeros -> fdatasync -> header: entries and first cluster -> fdatasync
//
// A crash leaves the old header, to which the places that were left are leaks, or the new one. All clusters are reserved, so no request
// runs, and no fdatasync and no copy is made under the metadata lock.

import { type GuestCluster, guestCluster, type HostOffset, hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import { LINKS_PER_HOLD } from '../../mapped/link-pieces.ts';
import { copyBytes } from '../../mapped/space/copy-bytes.ts';
import { HEADER_BYTES, writeHeaderFields } from '../header.ts';
import type { Collaborators } from './collaborators.ts';
import { clustersIn, leftOf, type Move, releaseAll } from './compact.ts';
import { ENTRY_BYTES } from './geometry.ts';
import { entryAt } from './table.ts';

const ZEROS = new Uint8Array(64 * 1024);
/** Entries that are looked at in one hold of the lock. */
const ENTRIES_PER_HOLD = 16_384;

/** The BAT has `entries` entries, durably, when it returns; the new ones lead nowhere. */
export function growBat(parts: Collaborators, entries: number): void {
  const { inUse, lock, reservations, tracker } = parts;
  lock.run(() => inUse.change());
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    lock.unlock();
    try {
      growAlone(parts, entries);
    } finally {
      lock.lock();
      tracker.noteWrite();
    }
  });
}

function growAlone(parts: Collaborators, entries: number): void {
  const { bat, file, geometry, lock, numbers, tracker } = parts;
  const { dataStart, present } = lock.run(() => ({ dataStart: numbers.dataStart, present: numbers.batEntries }));
  const end = HEADER_BYTES + entries * ENTRY_BYTES;
  const start = Math.max(dataStart, geometry.hostStartOf(geometry.hostClusterFrom(end)));
  const left = start > dataStart ? leave(parts, start) : [];
  try {
    for (let at = entryAt(present) as number; at < end; at += ZEROS.length)
      file.write(ZEROS, 0, Math.min(ZEROS.length, end - at), hostOffset(at));
    tracker.sync();
    lock.run(() => {
      const { sliceBytes } = bat.slices;
      const first = entryAt(present) - (entryAt(present) % sliceBytes);
      bat.slices.forget(first, end - first);
      const fields = [
        { at: 'batEntries', value: entries },
        { at: 'data', value: start / SECTOR_BYTES },
      ] as const;
      tracker.writeMetadata('header-update', () => writeHeaderFields(file, fields));
      numbers.noteLayout(entries, start);
    });
  } catch (error) {
    lock.run(() => releaseAll(parts, left));
    throw error;
  }
  tracker.sync();
}

/** Nothing lies below `start` of the file, durably. @returns the places below that nobody has now, and nobody is given */
function leave(parts: Collaborators, start: number): readonly HostOffset[] {
  const { file, flush, free, geometry, linker, lock, tracker } = parts;
  tracker.noteWrite();
  flush.runUntilSettled();
  // a flush that comes later would punch them, wherever the BAT lies by then
  if (lock.run(() => free.unsettledCount) > 0) {
    const message = `${file.path} cannot have a longer table now: the host has not freed clusters yet, which the guest has given up; try again`;
    throw new ImgfuseError('no-space', message, { path: file.path });
  }
  const taken: HostOffset[] = [];
  const moves: Move[] = [];
  try {
    for (const { cluster, host } of clustersBelow(parts, start))
      moves.push({ cluster, from: host, to: takeFrom(parts, start, taken) });
    takeRest(parts, start, taken);
    for (const { from, to } of moves) copyBytes(file, from, to, geometry.clusterSize);
    tracker.sync();
  } catch (error) {
    lock.run(() => releaseAll(parts, [...taken, ...moves.map(({ to }) => to)]));
    throw error;
  }
  let linked = 0;
  try {
    while (linked < moves.length) {
      const end = Math.min(moves.length, linked + LINKS_PER_HOLD);
      lock.run(() => {
        for (; linked < end; linked++) linker.link(moves[linked]!.cluster, moves[linked]!.to, 1);
      });
      lock.giveWay();
    }
    tracker.sync();
  } catch (error) {
    lock.run(() => releaseAll(parts, [...taken, ...leftOf(moves, linked)]));
    throw error;
  }
  return [...taken, ...leftOf(moves, linked)];
}

function clustersBelow(
  parts: Collaborators,
  start: number,
): { readonly cluster: GuestCluster; readonly host: HostOffset }[] {
  const { lock, numbers } = parts;
  const entries = lock.run(() => numbers.batEntries);
  const found: { readonly cluster: GuestCluster; readonly host: HostOffset }[] = [];
  for (let first = guestCluster(0); first < entries; first = guestCluster(first + ENTRIES_PER_HOLD)) {
    const last = Math.min(entries, first + ENTRIES_PER_HOLD);
    found.push(...lock.run(() => clustersIn(parts, 0, start, first, last)));
    lock.giveWay();
  }
  return found;
}

/** A place that is not below `start`; those below that are given instead go to `taken`. */
function takeFrom({ allocator, lock }: Collaborators, start: number, taken: HostOffset[]): HostOffset {
  return lock.run(() => {
    for (;;) {
      const place = allocator.allocate(1).offset;
      if (place >= start) return place;
      taken.push(place);
    }
  });
}

/** Whatever is free below `start`, and what of it the file has not got yet. */
function takeRest(
  { file, free, geometry, allocator, lock, numbers }: Collaborators,
  start: number,
  taken: HostOffset[],
): void {
  lock.run(() => {
    for (let run = free.take(1, true); run !== null; run = free.take(1, true)) {
      const place = geometry.hostStartOf(run.start);
      if (place >= start) {
        allocator.release(place, 1);
        break;
      }
      taken.push(place);
    }
    if (numbers.fileEnd >= start) return;
    for (let at: number = numbers.fileEnd; at < start; at += geometry.clusterSize) taken.push(hostOffset(at));
    if (numbers.fileLength < start) {
      file.truncate(start);
      numbers.noteExtended(start);
    }
    numbers.advanceFileEnd(hostOffset(start));
  });
}
