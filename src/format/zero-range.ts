// A range that shall read as zeros, cut at cluster borders: whole clusters can lose their data, parts of clusters are
// zeroed where they are. The last cluster of a disk counts as whole when the range reaches the disk's end.

import { roundUp } from '../bytes/offsets.ts';

export interface ZeroRangeActions {
  /** zeros [start, end) inside clusters that stay */
  readonly part: (start: number, end: number) => void;
  /** guest clusters [first, first + count), or fewer from the first on. @returns clusters done */
  readonly clusters: (first: number, count: number) => number;
}

export function zeroRange(
  offset: number,
  length: number,
  clusterSize: number,
  diskEnd: number,
  act: ZeroRangeActions,
): void {
  const end = offset + length;
  const wholeEnd = end === diskEnd ? roundUp(end, clusterSize) : end - (end % clusterSize);
  const wholeStart = roundUp(offset, clusterSize);
  if (wholeStart >= wholeEnd) {
    act.part(offset, end);
    return;
  }
  act.part(offset, wholeStart);
  const last = wholeEnd / clusterSize;
  for (let cluster = wholeStart / clusterSize; cluster < last; ) cluster += act.clusters(cluster, last - cluster);
  act.part(wholeEnd, end);
}
