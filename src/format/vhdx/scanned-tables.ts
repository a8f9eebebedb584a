// The block allocation table as a scan for one status sees it: the payload entries of a chunk are one of its tables. A block that is
// here in parts, and an entry that cannot be, is left to the mapper.

import type { GuestCluster, HostOffset } from '../../bytes/offsets.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../mapped/status-scan.ts';
import type { TableSlices } from '../mapped/table-slices.ts';
import {
  type Bat,
  isZeroState,
  offsetOf,
  PAYLOAD_BLOCK_FULLY_PRESENT,
  PAYLOAD_BLOCK_NOT_PRESENT,
  stateOf,
} from './bat.ts';
import { ENTRY_BYTES, type Geometry } from './geometry.ts';
import type { Mapper } from './mapping.ts';
import type { Places } from './places.ts';

export class VhdxScannedTables implements ScannedTables {
  readonly clusterSize: number;
  readonly tableEntries: number;
  readonly entryBytes = ENTRY_BYTES;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  private readonly bat: Bat;
  private readonly places: Places;

  constructor(geometry: Geometry, bat: Bat, pending: PendingLinks, mapper: Mapper, places: Places) {
    this.clusterSize = geometry.blockBytes;
    this.tableEntries = geometry.chunkRatio;
    this.slices = bat.slices;
    this.bat = bat;
    this.pending = pending;
    this.mapper = mapper;
    this.places = places;
  }

  l2Table(chunk: number): HostOffset {
    return this.bat.placeOf(chunk * (this.tableEntries + 1));
  }

  kindOf(at: number, _table: HostOffset, _block: GuestCluster): EntryKind {
    const state = stateOf(this.slices.view.getUint32(at, true));
    if (state === PAYLOAD_BLOCK_NOT_PRESENT) return 'unallocated';
    if (isZeroState(state)) return 'zero';
    const isPlace = this.places.hasRoomAt(this.hostOf(at), this.clusterSize);
    return state === PAYLOAD_BLOCK_FULLY_PRESENT && isPlace ? 'data' : 'other';
  }

  hostOf(at: number): HostOffset {
    const { view } = this.slices;
    return offsetOf(view.getUint32(at, true), view.getUint32(at + 4, true));
  }
}
