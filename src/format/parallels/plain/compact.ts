// What a clean close does with free clusters: nothing in the format notes them, so each one that stays would be a leak to other
// programs. Those at the end are cut off (cluster-allocator.ts), and the last clusters move into the other gaps:
//
//   copied -> fdatasync -> entries -> [the old places are freed: two flushes] -> the file is cut
//
// A crash on the way leaves an entry that leads to one of two equal copies. Under the metadata lock, with all clusters reserved.

import { after, type GuestCluster, guestCluster, type HostOffset } from '../../../bytes/offsets.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { FreeClusters } from '../../mapped/free-clusters.ts';
import { eachAdjoiningInOrder } from '../../mapped/space/adjoining.ts';
import type { Allocator } from '../../mapped/space/cluster-allocator.ts';
import { copyBytes } from '../../mapped/space/copy-bytes.ts';
import type { WriteTracker } from '../../write-tracker.ts';
import type { Geometry } from './geometry.ts';
import type { Linker } from './link.ts';
import { type Mapper, NO_CLUSTER } from './mapping.ts';
import type { PlainNumbers } from './state.ts';

export interface CompactParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly mapper: Mapper;
  readonly linker: Linker;
  readonly allocator: Allocator;
  readonly free: FreeClusters;
  readonly tracker: WriteTracker;
  readonly numbers: PlainNumbers;
}

/** A cluster on its way to another place. */
export interface Move {
  readonly cluster: GuestCluster;
  readonly from: HostOffset;
  readonly to: HostOffset;
}

/** Moves clusters from the end of the file into FREE ones, which are durable holes. Throws no-space; what has not moved stays. */
export function moveIntoGaps(parts: CompactParts): void {
  const { file, free, geometry, linker, numbers, tracker } = parts;
  if (free.freeCount === 0) return;
  const newEnd = numbers.fileEnd - free.freeCount * geometry.clusterSize;
  const all = clustersIn(parts, newEnd, Number.POSITIVE_INFINITY, guestCluster(0), numbers.batEntries);
  const moves: Move[] = [];
  for (const { cluster, host } of all) {
    const gap = free.take(1, true);
    // two entries lead to one cluster, and no walk has found it
    if (gap === null) break;
    moves.push({ cluster, from: host, to: geometry.hostStartOf(gap.start) });
  }
  try {
    for (const { from, to } of moves) copyBytes(file, from, to, geometry.clusterSize);
    tracker.sync();
  } catch (error) {
    releaseAll(
      parts,
      moves.map(({ to }) => to),
    );
    throw error;
  }
  let linked = 0;
  try {
    for (; linked < moves.length; linked++) linker.link(moves[linked]!.cluster, moves[linked]!.to, 1);
  } finally {
    // a full host may stop it on the way
    releaseAll(parts, leftOf(moves, linked));
  }
}

/** The places that nothing leads to when the first `linked` moves are done. */
export function leftOf(moves: readonly Move[], linked: number): HostOffset[] {
  return moves.map(({ from, to }, i) => (i < linked ? from : to));
}

/** Clusters that nothing leads to any more, or never did; under the lock. */
export function releaseAll(
  { allocator, geometry }: Pick<CompactParts, 'allocator' | 'geometry'>,
  places: readonly HostOffset[],
): void {
  eachAdjoiningInOrder(places, geometry.clusterSize, (place, count) => allocator.release(place, count));
}

/** Guest clusters, of those from `first` to before `last`, whose host clusters begin in [start, end) of the file. */
export function clustersIn(
  { mapper }: Pick<CompactParts, 'mapper'>,
  start: number,
  end: number,
  first: GuestCluster,
  last: number,
): { readonly cluster: GuestCluster; readonly host: HostOffset }[] {
  const found: { cluster: GuestCluster; host: HostOffset }[] = [];
  for (let cluster = first; cluster < last; cluster = after(cluster, 1)) {
    const host = mapper.lookup(cluster);
    if (host !== NO_CLUSTER && host >= start && host < end) found.push({ cluster, host });
  }
  return found;
}
