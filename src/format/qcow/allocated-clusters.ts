// How many clusters of the disk have data in the image: what a read-only open, which checks nothing, shows as the size on disk.

import { combine } from '../../bytes/endian.ts';
import type { HostFile } from '../../host/host-file.ts';
import { COUNTED_TABLE_BYTES } from '../mapped/host-clusters.ts';
import type { DataInFile } from '../truncated-copy.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import type { QcowHeader } from './header.ts';
import { isCompressed } from './table.ts';
import { forEachEntry } from './table-parts.ts';

/**
 * An L1 entry that leads to no table of the file is skipped, and a table is counted once.
 * @returns null if there are so many tables that counting would take a noticeable time
 */
export function dataIn(file: HostFile, header: QcowHeader): DataInFile | null {
  const { clusterSize, l1Entries, l1End, tableBytes } = new Geometry(header);
  const size = file.size();
  const most = Math.floor(COUNTED_TABLE_BYTES / tableBytes);
  const tables = new Set<number>();
  if (l1Entries * ENTRY_BYTES > COUNTED_TABLE_BYTES) return null;
  forEachEntry(file, header.l1TableOffset, l1Entries * ENTRY_BYTES, (_, high, low) => {
    const table = combine(high, low);
    if (table >= l1End && table < size && tables.size <= most) tables.add(table);
  });
  if (tables.size > most) return null;
  let [clusters, end] = [0, 0];
  for (const table of tables) {
    forEachEntry(file, table, tableBytes, (_, high, low) => {
      clusters++;
      if (!isCompressed(high)) end = Math.max(end, combine(high, low) + clusterSize);
    });
  }
  return { clusters, end };
}
