// What an idle image and a clean close do with free clusters: QED has no place to note them, so each one that stays would
// be a leak to every other program. Free clusters at the end are cut off (cluster-allocator.ts); the others become the clusters of
// guest clusters that read as zeros, which costs metadata only; and at a close, where there are not enough of those, the last
// clusters of the file move into the gaps. An idle image does its part slice by slice, beside its requests; the rest runs under
// the metadata lock with the dirty bit set and all clusters reserved.

import { after, type GuestCluster, guestCluster, type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import type { Mutex } from '../../concurrency/mutex.ts';
import type { Reservations } from '../../concurrency/reservations.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { ReadableImage } from '../image-format.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { FreeClusters } from '../mapped/free-clusters.ts';
import { eachAdjoiningInOrder } from '../mapped/space/adjoining.ts';
import type { Allocator } from '../mapped/space/cluster-allocator.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { DirtyBit } from './dirty-bit.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import type { QedNumbers } from './state.ts';
import { UNALLOCATED_ENTRY, ZERO_ENTRY } from './table.ts';

export interface CompactParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly dirtyBit: DirtyBit;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly reservations: Reservations;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly free: FreeClusters;
  readonly tracker: WriteTracker;
  readonly disk: Pick<DiskNumbers, 'addAllocated' | 'virtualSize'>;
  readonly numbers: QedNumbers;
}

/** The first half: tables without entries are given up. Their clusters need two more flushes until they are free. */
export function removeEmptyTables(parts: CompactParts): void {
  const { geometry, linker, mapper } = parts;
  forEachTable(parts, (l1Index, table) => {
    const first = geometry.firstClusterOf(l1Index);
    for (let index = 0; index < geometry.tableEntries; index++) {
      if (mapper.lookup(after(first, index), table) !== UNALLOCATED_ENTRY) return;
    }
    linker.removeTable(l1Index);
  });
}

/**
 * All that an idle image gets: it costs a few table writes and moves no data. Takes the lock and reserves what it changes
 * itself. A search that found too few entries that read as zeros is not repeated before there are new ones.
 */
export function giveFreeClustersAway(parts: CompactParts): void {
  const { allocator, free, geometry, lock, mapper, numbers, reservations } = parts;
  allocator.trimInPieces(lock);
  const epoch = lock.run(() => (numbers.isSearchedForZeroEntries ? null : numbers.zeroEntryEpoch));
  if (epoch === null) return;
  for (let cluster: GuestCluster | null = guestCluster(0); cluster !== null; lock.giveWay()) {
    const first: GuestCluster = cluster;
    const last = after(first, parts.linker.span(first));
    cluster = reservations.exclusively(first, last, () => {
      if (free.freeCount === 0) return null;
      if (first >= diskEnd(parts)) {
        numbers.noteSearched(epoch);
        return null;
      }
      const l1Index = geometry.l1IndexOf(first);
      if (mapper.l2Table(l1Index) === 0) return geometry.firstClusterOf(l1Index + 1);
      giveToZeroClusters(parts, first, Math.min(last, diskEnd(parts)));
      return last;
    });
  }
}

/** The rest: a table may be too large for every gap, so what lies before it cannot be cut off; entries behind the end of
 * the disk take it. @returns clusters that found no owner even there */
export function giveAwayRest(parts: CompactParts): number {
  parts.allocator.trim();
  const { geometry } = parts;
  forEachTable(parts, (l1Index) => {
    giveToZeroClusters(parts, geometry.firstClusterOf(l1Index), geometry.firstClusterOf(l1Index + 1));
  });
  return parts.free.freeCount;
}

/**
 * FREE clusters read as zeros, so linking one to a guest cluster that reads as zeros changes nothing for the guest. For the
 * guest clusters [start, last) of one table; under the lock, with them reserved exclusively.
 */
function giveToZeroClusters(parts: CompactParts, start: GuestCluster, last: number): void {
  const { allocator, backing, dirtyBit, disk, geometry, linker, free, mapper, tracker } = parts;
  const table = mapper.l2Table(geometry.l1IndexOf(start));
  if (table === 0) return;
  const end = diskEnd(parts);
  const readsZero = (cluster: GuestCluster, entry: number) =>
    entry === ZERO_ENTRY || (entry === UNALLOCATED_ENTRY && (backing === null || cluster >= end));
  for (let cluster = start; cluster < last && free.freeCount > 0; ) {
    const limit = Math.min(linker.span(cluster), last - cluster);
    let run = 0;
    while (run < limit && readsZero(after(cluster, run), mapper.lookup(after(cluster, run), table))) run++;
    if (run === 0) {
      cluster++;
      continue;
    }
    if (dirtyBit.set()) {
      // the lock was released: table and free clusters are looked at anew
      giveToZeroClusters(parts, start, last);
      return;
    }
    const taken = free.take(run, false)!;
    const count = taken.end - taken.start;
    const host = geometry.startOf(taken.start);
    try {
      linker.link(cluster, host, count);
      free.markGiven(taken.start, count);
    } catch (error) {
      allocator.release(host, count);
      throw error;
    }
    disk.addAllocated(count);
    cluster = after(cluster, count);
    tracker.noteWrite();
  }
}

/** Guest clusters of the disk, the last one perhaps a part. */
function diskEnd({ disk, geometry }: CompactParts): number {
  return geometry.clustersFor(disk.virtualSize);
}

/** The second half: data clusters, then tables, that lie where the file could end move into FREE clusters before that, and
 * become free in turn. */
export function moveIntoGaps(parts: CompactParts): void {
  const { allocator, geometry, free, linker, mapper, numbers } = parts;
  if (free.freeCount === 0) return;
  const { clusterSize } = geometry;
  const newEnd = numbers.fileEnd - free.freeCount * clusterSize;
  const data: { guestCluster: GuestCluster; host: HostOffset }[] = [];
  const tables: { l1Index: number; table: HostOffset }[] = [];
  forEachTable(parts, (l1Index, table) => {
    if (table >= newEnd) tables.push({ l1Index, table });
    for (let index = 0; index < geometry.tableEntries; index++) {
      const guestCluster = after(geometry.firstClusterOf(l1Index), index);
      const entry = mapper.lookup(guestCluster, table);
      if (entry > ZERO_ENTRY && entry >= newEnd) data.push({ guestCluster, host: hostOffset(entry) });
    }
  });
  const moves: (() => void)[] = [];
  const left: HostOffset[] = [];
  for (const { l1Index, table } of tables) {
    const run = free.take(geometry.tableSizeClusters, true);
    if (run === null) break;
    const place = geometry.startOf(run.start);
    copy(parts, table, place, geometry.tableBytes);
    moves.push(() => linker.moveTable(l1Index, place));
  }
  for (const { guestCluster, host } of data) {
    const run = free.take(1, true);
    if (run === null) break;
    const place = geometry.startOf(run.start);
    copy(parts, host, place, clusterSize);
    moves.push(() => linker.link(guestCluster, place, 1));
    left.push(host);
  }
  // the copies are durable before anything refers to them; a data cluster's entry is written into its table's new place
  parts.tracker.sync();
  for (const move of moves) move();
  eachAdjoiningInOrder(left, clusterSize, (host, count) => allocator.release(host, count));
}

function copy({ file }: CompactParts, from: HostOffset, to: HostOffset, length: number): void {
  const buffer = new Uint8Array(Math.min(length, 1024 * 1024));
  for (let done = 0; done < length; done += buffer.length) {
    file.read(buffer, 0, buffer.length, after(from, done));
    file.write(buffer, 0, buffer.length, after(to, done));
  }
}

function forEachTable(parts: CompactParts, visit: (l1Index: number, table: HostOffset) => void): void {
  const tables = Math.ceil(parts.disk.virtualSize / parts.geometry.l2Coverage);
  for (let l1Index = 0; l1Index < tables; l1Index++) {
    const table = parts.mapper.l2Table(l1Index);
    if (table !== 0) visit(l1Index, table);
  }
}
