// A range that shall read as zeros, cut at cluster borders: whole clusters can lose their data, parts of clusters are
// zeroed where they are. The last cluster of a disk counts as whole when the range reaches the disk's end.

import { after, type GuestCluster, type GuestOffset, guestCluster, roundDown, roundUp } from '../../bytes/offsets.ts';

export interface ZeroRangeActions {
  /** zeros [start, end) inside clusters that stay */
  readonly part: (start: GuestOffset, end: number) => void;
  /** guest clusters [first, first + count), or fewer from the first on. @returns clusters done */
  readonly clusters: (first: GuestCluster, count: number) => number;
}

export function zeroRange(
  offset: GuestOffset,
  length: number,
  clusterSize: number,
  diskEnd: number,
  act: ZeroRangeActions,
): void {
  const end = after(offset, length);
  const wholeEnd = end === diskEnd ? roundUp(end, clusterSize) : roundDown(end, clusterSize);
  const wholeStart = roundUp(offset, clusterSize);
  if (wholeStart >= wholeEnd) {
    act.part(offset, end);
    return;
  }
  act.part(offset, wholeStart);
  const last = wholeEnd / clusterSize;
  for (let cluster = guestCluster(wholeStart / clusterSize); cluster < last; ) {
    cluster = after(cluster, act.clusters(cluster, last - cluster));
  }
  act.part(wholeEnd, end);
}
