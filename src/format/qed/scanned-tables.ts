// The tables of a QED image as a scan for one status sees them: entries are judged where they lie in the cached slices.

import { combine } from '../../bytes/endian.ts';
import { type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../mapped/status-scan.ts';
import type { TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import { UNALLOCATED_ENTRY, ZERO_ENTRY } from './table.ts';

export class QedScannedTables implements ScannedTables {
  readonly clusterSize: number;
  readonly tableEntries: number;
  readonly entryBytes = ENTRY_BYTES;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;

  constructor(geometry: Geometry, slices: TableSlices, pending: PendingLinks, mapper: Mapper) {
    this.clusterSize = geometry.clusterSize;
    this.tableEntries = geometry.tableEntries;
    this.slices = slices;
    this.pending = pending;
    this.mapper = mapper;
  }

  l2Table(l1Index: number): HostOffset {
    return this.mapper.l2Table(l1Index);
  }

  kindOf(at: number, table: HostOffset): EntryKind {
    const { view } = this.slices;
    const low = view.getUint32(at, true);
    const high = view.getUint32(at + 4, true);
    if (high === 0 && low <= ZERO_ENTRY) return low === UNALLOCATED_ENTRY ? 'unallocated' : 'zero';
    return this.mapper.isData(combine(high, low), table) ? 'data' : 'other';
  }

  hostOf(at: number): HostOffset {
    const { view } = this.slices;
    return hostOffset(combine(view.getUint32(at + 4, true), view.getUint32(at, true)));
  }
}
