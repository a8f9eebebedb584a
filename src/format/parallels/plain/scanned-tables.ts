// The BAT of an image as a scan for one status sees it: entries are judged where they lie in the cached slices. It counts as one L2
// table, which is always there.

import { type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import type { PendingLinks } from '../../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../../mapped/status-scan.ts';
import type { TableSlices } from '../../mapped/table-slices.ts';
import { HEADER_BYTES } from '../header.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';

export class PlainScannedTables implements ScannedTables {
  readonly clusterSize: number;
  /** more than any BAT has: what lies behind the end of the disk is not asked for */
  readonly tableEntries = 2 ** 32;
  readonly entryBytes = ENTRY_BYTES;
  readonly slices: TableSlices;
  /** without backing files no link waits */
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  private readonly geometry: Geometry;

  constructor(geometry: Geometry, slices: TableSlices, pending: PendingLinks, mapper: Mapper) {
    this.clusterSize = geometry.clusterSize;
    this.slices = slices;
    this.pending = pending;
    this.mapper = mapper;
    this.geometry = geometry;
  }

  l2Table(): HostOffset {
    return hostOffset(HEADER_BYTES);
  }

  kindOf(at: number): EntryKind {
    const host = this.hostOf(at);
    if (host === 0) return 'unallocated';
    return this.mapper.isData(host) ? 'data' : 'other';
  }

  hostOf(at: number): HostOffset {
    return this.geometry.placeOf(this.slices.view.getUint32(at, true));
  }
}
