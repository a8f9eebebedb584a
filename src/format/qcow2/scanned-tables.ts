// The tables of a qcow2 image as a scan for one status sees them: entries are judged where they lie in the cached slices, and
// what is not plain is left to the mapper.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../mapped/status-scan.ts';
import type { TableSlices } from '../mapped/table-slices.ts';
import type { Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import { isCompressed, isCopied, offsetOf, QCOW_OFLAG_ZERO } from './table.ts';

const ALL_SUBCLUSTERS = 0xffffffff;

export interface Qcow2ScannedTablesParts {
  readonly version: 2 | 3;
  /** guest data lies in a file of its own */
  readonly hasDataFile: boolean;
  readonly geometry: Geometry;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
}

export class Qcow2ScannedTables implements ScannedTables {
  readonly clusterSize: number;
  readonly tableEntries: number;
  readonly entryBytes: number;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  private readonly version: 2 | 3;
  private readonly hasDataFile: boolean;
  private readonly extendedL2: boolean;

  constructor({ version, hasDataFile, geometry, slices, pending, mapper }: Qcow2ScannedTablesParts) {
    this.clusterSize = geometry.clusterSize;
    this.tableEntries = geometry.l2Entries;
    this.entryBytes = geometry.l2EntryBytes;
    this.slices = slices;
    this.pending = pending;
    this.mapper = mapper;
    this.version = version;
    this.hasDataFile = hasDataFile;
    this.extendedL2 = geometry.extendedL2;
  }

  l2Table(l1Index: number): HostOffset {
    return this.mapper.l2Table(l1Index);
  }

  kindOf(at: number, table: HostOffset, guestCluster: GuestCluster): EntryKind {
    const { view } = this.slices;
    const high = view.getUint32(at, false);
    const low = view.getUint32(at + 4, false);
    if (isCompressed(high)) return this.hasDataFile ? 'other' : 'compressed';
    if (this.extendedL2) return this.kindOfExtended(at, high, low, table, guestCluster);
    if ((low & QCOW_OFLAG_ZERO) !== 0) return this.version === 2 ? 'other' : 'zero';
    const host = offsetOf(high, low);
    // the first cluster of a data file is at 0
    if (host === 0 && !(this.hasDataFile && isCopied(high))) return 'unallocated';
    return this.mapper.isData(host, table, guestCluster) ? 'data' : 'other';
  }

  private kindOfExtended(
    at: number,
    high: number,
    low: number,
    table: HostOffset,
    guestCluster: GuestCluster,
  ): EntryKind {
    const { view } = this.slices;
    const zero = view.getUint32(at + 8, false);
    const allocated = view.getUint32(at + 12, false);
    const host = offsetOf(high, low);
    const hasHost = host !== 0 || (this.hasDataFile && isCopied(high));
    if (allocated === 0 && zero === 0 && !hasHost) return 'unallocated';
    if (allocated === 0 && zero === ALL_SUBCLUSTERS && !hasHost) return 'zero';
    const isData = allocated === ALL_SUBCLUSTERS && zero === 0 && hasHost;
    return isData && this.mapper.isData(host, table, guestCluster) ? 'data' : 'other';
  }

  hostOf(at: number): HostOffset {
    const { view } = this.slices;
    return offsetOf(view.getUint32(at, false), view.getUint32(at + 4, false));
  }
}
