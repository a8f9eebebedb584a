// What an idle image and a clean close do with free clusters: QED has no place to note them, so each one that stays would
// be a leak to every other program. Free clusters at the end are cut off (allocate.ts); the others become the clusters of
// guest clusters that read as zeros, which costs metadata only; and at a close, where there are not enough of those, the last
// clusters of the file move into the gaps. Runs under the metadata lock with the dirty bit set and all clusters reserved.

import { hostOffset } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { FreeClusters } from '../free-clusters.ts';
import type { WriteTracker } from '../write-tracker.ts';
import type { Allocator } from './allocate.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import type { Mapper } from './mapping.ts';
import { ALLOCATED_CLUSTERS, FILE_END, IMAGE_SIZE } from './state.ts';
import { UNALLOCATED_ENTRY, ZERO_ENTRY } from './table.ts';

export interface CompactParts {
  readonly file: HostFile;
  readonly hasBacking: boolean;
  readonly geometry: Geometry;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly free: FreeClusters;
  readonly tracker: WriteTracker;
  readonly numbers: Float64Array;
}

/** The first half: tables without entries are given up. Their clusters need two more flushes until they are free. */
export function removeEmptyTables(parts: CompactParts): void {
  const { geometry, linker, mapper } = parts;
  forEachTable(parts, (l1Index, table) => {
    const first = l1Index * geometry.tableEntries;
    for (let index = 0; index < geometry.tableEntries; index++) {
      if (mapper.lookup(first + index, table) !== UNALLOCATED_ENTRY) return;
    }
    linker.removeTable(l1Index);
  });
}

/** All that an idle image gets: it costs a few table writes and moves no data. */
export function giveFreeClustersAway(parts: CompactParts): void {
  parts.allocator.trim();
  giveToZeroClusters(parts, Math.ceil(parts.numbers[IMAGE_SIZE]! / parts.geometry.clusterSize));
}

/** The second half: FREE clusters get an owner, or clusters from the end move into the gaps and become free in turn. */
export function fillGaps(parts: CompactParts): void {
  giveFreeClustersAway(parts);
  if (parts.free.freeCount > 0) moveIntoGaps(parts);
}

/** The rest: a table may be too large for every gap, so what lies before it cannot be cut off; entries behind the end of
 * the disk take it. @returns clusters that found no owner even there */
export function giveAwayRest(parts: CompactParts): number {
  parts.allocator.trim();
  giveToZeroClusters(parts, Number.POSITIVE_INFINITY);
  return parts.free.freeCount;
}

/** FREE clusters read as zeros, so linking one to a guest cluster that reads as zeros changes nothing for the guest. */
function giveToZeroClusters(parts: CompactParts, endCluster: number): void {
  const { geometry, hasBacking, linker, free, mapper, numbers } = parts;
  if (free.freeCount === 0) return;
  const diskEnd = Math.ceil(numbers[IMAGE_SIZE]! / geometry.clusterSize);
  const readsZero = (cluster: number, entry: number) =>
    entry === ZERO_ENTRY || (entry === UNALLOCATED_ENTRY && (!hasBacking || cluster >= diskEnd));
  forEachTable(parts, (l1Index, table) => {
    const first = l1Index * geometry.tableEntries;
    const last = Math.min(first + geometry.tableEntries, endCluster);
    for (let cluster = first; cluster < last && free.freeCount > 0; ) {
      const limit = Math.min(linker.span(cluster), last - cluster);
      let run = 0;
      while (run < limit && readsZero(cluster + run, mapper.lookup(cluster + run, table))) run++;
      if (run === 0) {
        cluster++;
        continue;
      }
      const taken = free.take(run, false)!;
      const count = taken.end - taken.start;
      linker.link(cluster, taken.start * geometry.clusterSize, count);
      numbers[ALLOCATED_CLUSTERS] = numbers[ALLOCATED_CLUSTERS]! + count;
      cluster += count;
    }
  });
}

/** Moves data clusters, then tables, that lie where the file could end into free clusters before that. */
function moveIntoGaps(parts: CompactParts): void {
  const { geometry, free, linker, mapper, numbers } = parts;
  const { clusterSize } = geometry;
  const newEnd = numbers[FILE_END]! - free.freeCount * clusterSize;
  const data: { guestCluster: number; host: number }[] = [];
  const tables: { l1Index: number; table: number }[] = [];
  forEachTable(parts, (l1Index, table) => {
    if (table >= newEnd) tables.push({ l1Index, table });
    for (let index = 0; index < geometry.tableEntries; index++) {
      const guestCluster = l1Index * geometry.tableEntries + index;
      const host = mapper.lookup(guestCluster, table);
      if (host > ZERO_ENTRY && host >= newEnd) data.push({ guestCluster, host });
    }
  });
  const moves: (() => void)[] = [];
  for (const { l1Index, table } of tables) {
    const run = free.take(geometry.tableSizeClusters, true);
    if (run === null) break;
    copy(parts, table, run.start * clusterSize, geometry.tableBytes);
    moves.push(() => linker.moveTable(l1Index, run.start * clusterSize));
  }
  for (const { guestCluster, host } of data) {
    const run = free.take(1, true);
    if (run === null) break;
    copy(parts, host, run.start * clusterSize, clusterSize);
    moves.push(() => {
      linker.link(guestCluster, run.start * clusterSize, 1);
      parts.allocator.release(host, 1);
    });
  }
  // the copies are durable before anything refers to them; a data cluster's entry is written into its table's new place
  parts.tracker.sync();
  for (const move of moves) move();
}

function copy({ file }: CompactParts, from: number, to: number, length: number): void {
  const buffer = new Uint8Array(Math.min(length, 1024 * 1024));
  for (let done = 0; done < length; done += buffer.length) {
    file.read(buffer, 0, buffer.length, hostOffset(from + done));
    file.write(buffer, 0, buffer.length, hostOffset(to + done));
  }
}

function forEachTable(parts: CompactParts, visit: (l1Index: number, table: number) => void): void {
  const tables = Math.ceil(parts.numbers[IMAGE_SIZE]! / parts.geometry.l2Coverage);
  for (let l1Index = 0; l1Index < tables; l1Index++) {
    const table = parts.mapper.l2Table(l1Index);
    if (table !== 0) visit(l1Index, table);
  }
}
