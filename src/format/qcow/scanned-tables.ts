// The tables of a qcow image as a scan for one status sees them: entries are judged where they lie in the cached slices.

import { type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../mapped/status-scan.ts';
import type { TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES } from './geometry.ts';
import type { Mapper, MapperParts } from './mapping.ts';
import { isCompressed, type Tables, UNALLOCATED_ENTRY } from './table.ts';

export class QcowScannedTables implements ScannedTables {
  readonly clusterSize: number;
  readonly tableEntries: number;
  readonly entryBytes = ENTRY_BYTES;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  private readonly tables: Tables;

  constructor({ geometry, pending, tables }: MapperParts, mapper: Mapper) {
    this.clusterSize = geometry.clusterSize;
    this.tableEntries = geometry.l2Entries;
    this.slices = tables.slices;
    this.pending = pending;
    this.mapper = mapper;
    this.tables = tables;
  }

  l2Table(l1Index: number): HostOffset {
    return this.mapper.l2Table(l1Index);
  }

  kindOf(at: number, table: HostOffset): EntryKind {
    // whether compressed data lies in the file is for the mapper to say
    if (isCompressed(this.slices.view.getUint32(at, false))) return 'other';
    const entry = this.tables.entryAt(at);
    if (entry === UNALLOCATED_ENTRY) return 'unallocated';
    return this.mapper.isData(entry, table) ? 'data' : 'other';
  }

  hostOf(at: number): HostOffset {
    return hostOffset(this.tables.entryAt(at));
  }
}
