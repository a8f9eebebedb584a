// What the mappers of the formats have in common: they map a guest range to its first run, and how far they look in one
// hold of the metadata lock. A run of data ends where its host clusters do not adjoin, so after random writes there is one a
// cluster; who asks for the status only gets the runs put together, without an object for each.

import { isCorrupt } from '../errors/index.ts';
import type { ExtentStatus, StatusRun } from './image-format.ts';

/** Maps a guest range to its first run; the mapper may reuse one object for all its answers. */
export interface RunMapper<Run> {
  map(offset: number, length: number): Run;
}

/** Entries that one call looks at under the lock; a longer run is cut, and the caller goes on from there. */
export const MAX_LOOKS = 65536;

/**
 * The first run of one status in [offset, offset + length), wherever its data lies; the lock is held. May be cut. Ends before
 * a damaged entry: that is an error for whoever asks about the entry itself. A table that cannot be read is an error here.
 */
export function statusRun(
  mapper: RunMapper<{ readonly status: string; readonly length: number }>,
  offset: number,
  length: number,
  clusterSize: number,
): StatusRun {
  const first = mapper.map(offset, length);
  const status = extentStatus(first.status);
  const limit = Math.min(length, MAX_LOOKS * clusterSize);
  let done = first.length;
  try {
    for (let looks = 0; done < limit && looks < MAX_LOOKS; looks++) {
      const next = mapper.map(offset + done, limit - done);
      if (extentStatus(next.status) !== status) break;
      done += next.length;
    }
  } catch (error) {
    if (!isCorrupt(error)) throw error;
  }
  return { status, length: done };
}

/** A compressed cluster is data like any other. */
function extentStatus(status: string): ExtentStatus {
  return status === 'zero' || status === 'unallocated' ? status : 'data';
}
