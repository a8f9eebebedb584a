// The table of a VHD as a scan for one status sees it: entries are judged where they lie in the cached slices. There is one table,
// which is always there. A block that is here in parts is left to the mapper.

import { type GuestCluster, type HostOffset, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { createPendingLinksState, PendingLinks } from '../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../mapped/status-scan.ts';
import type { TableSlices } from '../mapped/table-slices.ts';
import type { Geometry } from './geometry.ts';
import { ENTRY_BYTES, MAX_TABLE_ENTRIES } from './header/header.ts';
import type { Mapper } from './mapping.ts';
import type { VpcNumbers } from './state.ts';
import { UNUSED_ENTRY } from './table.ts';

export class VpcScannedTables implements ScannedTables {
  readonly clusterSize: number;
  readonly tableEntries = MAX_TABLE_ENTRIES;
  readonly entryBytes = ENTRY_BYTES;
  readonly showsFreeAsZeros = true;
  readonly slices: TableSlices;
  /** blocks wait for no link */
  readonly pending = new PendingLinks(createPendingLinksState(1));
  readonly mapper: Mapper;
  private readonly bitmapBytes: number;
  private readonly numbers: Pick<VpcNumbers, 'tableOffset'>;

  constructor(geometry: Geometry, slices: TableSlices, mapper: Mapper, numbers: Pick<VpcNumbers, 'tableOffset'>) {
    this.clusterSize = geometry.blockSize;
    this.bitmapBytes = geometry.bitmapBytes;
    this.slices = slices;
    this.mapper = mapper;
    this.numbers = numbers;
  }

  l2Table(): HostOffset {
    return this.numbers.tableOffset;
  }

  kindOf(at: number, _table: HostOffset, block: GuestCluster): EntryKind {
    const entry = this.slices.view.getUint32(at, false);
    if (entry === UNUSED_ENTRY) return 'unallocated';
    const isWhole = this.mapper.isPlace(hostOffset(entry * SECTOR_BYTES)) && this.mapper.isKnownFull(block);
    return isWhole ? 'data' : 'other';
  }

  hostOf(at: number): HostOffset {
    return hostOffset(this.slices.view.getUint32(at, false) * SECTOR_BYTES + this.bitmapBytes);
  }
}
