// The tables of a sparse extent as a scan for one status sees them: entries are judged where they lie in the cached slices.

import { type HostOffset, hostOffset, SECTOR_BYTES } from '../../../bytes/offsets.ts';
import type { PendingLinks } from '../../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../../mapped/status-scan.ts';
import type { TableSlices } from '../../mapped/table-slices.ts';
import type { Geometry } from './geometry.ts';
import { ENTRY_BYTES } from './header.ts';
import type { Mapper } from './mapping.ts';
import { UNALLOCATED, ZEROS } from './table.ts';

export class SparseScannedTables implements ScannedTables {
  readonly clusterSize: number;
  readonly tableEntries: number;
  readonly entryBytes = ENTRY_BYTES;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;

  constructor(geometry: Geometry, slices: TableSlices, pending: PendingLinks, mapper: Mapper) {
    this.clusterSize = geometry.grainBytes;
    this.tableEntries = geometry.tableEntries;
    this.slices = slices;
    this.pending = pending;
    this.mapper = mapper;
  }

  l2Table(directoryIndex: number): HostOffset {
    return this.mapper.table(directoryIndex);
  }

  kindOf(at: number, table: HostOffset): EntryKind {
    const place = this.mapper.placeOf(this.slices.view.getUint32(at, true), table);
    if (place === null) return 'other';
    if (place === UNALLOCATED) return 'unallocated';
    return place === ZEROS ? 'zero' : 'data';
  }

  hostOf(at: number): HostOffset {
    return hostOffset(this.slices.view.getUint32(at, true) * SECTOR_BYTES);
  }
}
