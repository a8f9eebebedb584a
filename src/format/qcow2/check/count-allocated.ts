// Counts the clusters of the disk that have data in the image. A read-only open shows the result as the size on disk; it runs
// no check. Each L2 table is read at most once, whatever the number of L1 entries that lead to it; a table in a hole never.

import { hostOffset, roundUp } from '../../../bytes/offsets.ts';
import { type HostFile, readPadded } from '../../../host/host-file.ts';
import { COUNTED_TABLE_BYTES } from '../../mapped/host-clusters.ts';
import type { DataInFile } from '../../truncated-copy.ts';
import type { Geometry } from '../geometry.ts';
import type { Qcow2Header } from '../header/header.ts';
import { isCompressed, isCopied, offsetOf, readTable } from '../table.ts';
import { Holes } from './table-holes.ts';
import { TableUses } from './table-uses.ts';

/**
 * Data clusters of the active layer, compressed ones included. An L1 entry that does not lead to a valid table is skipped, as
 * reads skip it.
 * @returns null if there are so many tables that counting would take a noticeable time
 */
export function dataIn(file: HostFile, header: Qcow2Header, geometry: Geometry): DataInFile | null {
  const { clusterSize } = geometry;
  const tables = activeTables(file, header, clusterSize);
  if (tables.size * clusterSize > COUNTED_TABLE_BYTES) return null;
  const holes = new Holes(file);
  const l2 = new Uint8Array(clusterSize);
  const view = new DataView(l2.buffer);
  let [clusters, last] = [0, 0];
  for (let place = 0; place < tables.size; place++) {
    const table = tables.tableAt(place);
    if (holes.isHole(table, clusterSize)) continue;
    readPadded(file, l2, 0, clusterSize, hostOffset(table));
    const found = dataInTable(view, header, geometry);
    clusters += found.clusters * tables.referencesAt(place);
    last = Math.max(last, found.last);
  }
  return { clusters, end: last === 0 || header.hasExternalData ? 0 : last + clusterSize };
}

function activeTables(file: HostFile, { l1Size, l1TableOffset }: Qcow2Header, clusterSize: number): TableUses {
  const tables = new TableUses();
  // the last cluster of the file may be incomplete
  const lastTable = roundUp(file.size(), clusterSize) - clusterSize;
  const l1 = readTable(file, l1TableOffset, l1Size * 8);
  for (let at = 0; at < l1.byteLength; at += 8) {
    const table = offsetOf(l1.getUint32(at), l1.getUint32(at + 4));
    if (table > 0 && table % clusterSize === 0 && table <= lastTable) tables.add(table, 1, 0);
  }
  return tables;
}

/** @returns the clusters with data, and the host offset of the last one that is not compressed */
function dataInTable(
  l2: DataView,
  { extendedL2, hasExternalData }: Qcow2Header,
  { l2EntryBytes }: Geometry,
): { readonly clusters: number; readonly last: number } {
  let [clusters, last] = [0, 0];
  for (let entry = 0; entry < l2.byteLength; entry += l2EntryBytes) {
    const high = l2.getUint32(entry);
    const low = l2.getUint32(entry + 4);
    const host = offsetOf(high, low);
    const hasHost = host !== 0 || (hasExternalData && isCopied(high));
    if (!isCompressed(high) && !(hasHost && (extendedL2 || (low & 1) === 0))) continue;
    clusters++;
    if (!isCompressed(high)) last = Math.max(last, host);
  }
  return { clusters, last };
}
