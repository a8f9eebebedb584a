// How many clusters of the disk have data in the image: what a read-only open, which checks nothing, shows as the size on
// disk. Holes of the file are passed over, and a table is read once, as is what two tables overlap in. An image with many
// tables is not counted.

import { combine } from '../../bytes/endian.ts';
import { hostOffset, roundDown, roundUp } from '../../bytes/offsets.ts';
import { SparseBitmap } from '../../bytes/sparse-bitmap.ts';
import type { HostFile } from '../../host/host-file.ts';
import { COUNTED_TABLE_BYTES } from '../mapped/host-clusters.ts';
import type { DataInFile } from '../truncated-copy.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
import type { QedHeader } from './header.ts';
import { ZERO_ENTRY } from './table.ts';

const CHUNK_BYTES = 64 * 1024;

/**
 * Data clusters of the disk. An L1 entry that leads to no table of the file is skipped.
 * @returns null if there are so many tables that counting would take a noticeable time
 */
export function dataIn(file: HostFile, header: QedHeader): DataInFile | null {
  const { clusterSize, tableBytes } = new Geometry(header.clusterSize, header.tableSizeClusters);
  const fileEnd = roundUp(file.size(), clusterSize);
  const seen = new SparseBitmap(fileEnd / clusterSize);
  const tables: number[] = [];
  forEachPart(file, header.l1TableOffset, tableBytes, (l1) => {
    for (let at = 0; at < l1.byteLength; at += ENTRY_BYTES) {
      if (tables.length * tableBytes > COUNTED_TABLE_BYTES) return;
      const table = combine(l1.getUint32(at + 4, true), l1.getUint32(at, true));
      if (!(table > 0 && table % clusterSize === 0 && table + clusterSize <= fileEnd)) continue;
      if (seen.hasAny(table / clusterSize, tableBytes / clusterSize)) continue;
      seen.addRun(table / clusterSize, tableBytes / clusterSize);
      tables.push(table);
    }
  });
  if (tables.length * tableBytes > COUNTED_TABLE_BYTES) return null;
  let [clusters, last] = [0, 0];
  for (const table of tables) {
    forEachPart(file, table, tableBytes, (l2) => {
      for (let at = 0; at < l2.byteLength; at += ENTRY_BYTES) {
        const [low, high] = [l2.getUint32(at, true), l2.getUint32(at + 4, true)];
        if (low <= ZERO_ENTRY && high === 0) continue;
        clusters++;
        last = Math.max(last, combine(high, low));
      }
    });
  }
  return { clusters, end: last === 0 ? 0 : last + clusterSize };
}

/** Visits what of a table the file has, in order; bytes that the file has not got are passed over. */
function forEachPart(file: HostFile, table: number, tableBytes: number, visit: (part: DataView) => void): void {
  const chunk = new Uint8Array(Math.min(CHUNK_BYTES, tableBytes));
  for (let start = 0; start < tableBytes; start += chunk.length) {
    const data = file.seekData(hostOffset(table + start)) - table;
    if (data >= tableBytes) return;
    start = Math.max(start, roundDown(data, chunk.length));
    const got = file.read(chunk, 0, chunk.length, hostOffset(table + start));
    visit(new DataView(chunk.buffer, 0, got - (got % ENTRY_BYTES)));
  }
}
