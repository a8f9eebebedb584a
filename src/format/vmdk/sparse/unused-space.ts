// Places of the grid that nothing refers to, as a walk of the tables finds them: what an open takes back, and the directories and tables
// that a resize has left, which share grains with tables that stay.

import { hostCluster, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import { type FreeClusters, MAX_TRACKED_CLUSTERS } from '../../mapped/free-clusters.ts';
import { type TableWalk, walkTables } from './check/table-walk.ts';
import type { Collaborators } from './collaborators.ts';
import type { Geometry } from './geometry.ts';

/** Grains between grains in use that one walk takes back; a hostile file may have any number. */
const MAX_RECLAIMED_GRAINS = 2 ** 24;

/** Frees what is not in use; that its last reference is gone need not be durable (R5). The lock is held, or nobody else there. */
export function reclaimUnused(
  free: FreeClusters,
  geometry: Geometry,
  { used, usedEnd }: Pick<TableWalk, 'used' | 'usedEnd'>,
): void {
  let room = MAX_RECLAIMED_GRAINS;
  for (const gap of used.gaps(usedEnd / SECTOR_BYTES)) {
    const start = geometry.placeOf(geometry.nextOnGrid(gap.start * SECTOR_BYTES));
    const end = Math.min(geometry.placeOf(gap.end * SECTOR_BYTES), MAX_TRACKED_CLUSTERS);
    const count = Math.min(end - start, room);
    if (count <= 0) continue;
    free.markFreed(hostCluster(start), count);
    room -= count;
    if (room === 0) return;
  }
}

/**
 * Frees what the last resize has left. Nothing is written meanwhile, so what the tables in the file do not refer to is free; what cannot
 * be told stays a leak, which the next open takes back.
 */
export function reclaimLeftTables(parts: Collaborators): void {
  const { disk, file, flush, free, geometry, layout, lock, numbers, pending, reservations, tracker } = parts;
  if (!lock.run(() => numbers.hasLeftTables)) return;
  flush.runUntilSettled();
  reservations.exclusively(0, Number.POSITIVE_INFINITY, () => {
    numbers.noteLeftTables(false);
    const { directoryOffset, redundantOffset } = numbers;
    const now = { ...layout, capacity: disk.virtualSizeOutsideLock(), directoryOffset, redundantOffset };
    lock.unlock();
    let walk: TableWalk;
    try {
      // a flush of another thread needs no reservation for links that wait
      flush.linkEarly();
      walk = tracker.betweenFlushes(() => walkTables(file, now, { log: () => undefined }));
    } finally {
      lock.lock();
    }
    if (walk.report.corruptions > 0 || !pending.isEmpty || free.unsettledCount > 0) return;
    // a place that the end of the file cuts is in no list
    const end = geometry.offsetOf(geometry.placeOf(numbers.fileEnd));
    if (walk.usedEnd <= end && end < numbers.fileEnd) numbers.lowerFileEnd(end);
    const sectors = geometry.grainBytes / SECTOR_BYTES;
    free.forEachFreeRun((start, count) => walk.used.addRun(geometry.offsetOf(start) / SECTOR_BYTES, count * sectors));
    reclaimUnused(free, geometry, { used: walk.used, usedEnd: numbers.fileEnd });
    // the next two flushes have something to do
    tracker.noteWrite();
  });
}
