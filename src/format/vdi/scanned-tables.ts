// The map of a VDI image as a scan for one status sees it: entries are judged where they lie in the cached slices. It counts
// as one L2 table, which is always there.

import { type HostOffset, hostOffset } from '../../bytes/offsets.ts';
import type { PendingLinks } from '../mapped/pending-links.ts';
import type { EntryKind, ScannedTables } from '../mapped/status-scan.ts';
import type { TableSlices } from '../mapped/table-slices.ts';
import { ENTRY_BYTES } from './geometry.ts';
import { VDI_IMAGE_BLOCK_FREE, VDI_IMAGE_BLOCK_ZERO } from './header.ts';
import type { Mapper, MapperParts } from './mapping.ts';

export class VdiScannedTables implements ScannedTables {
  readonly clusterSize: number;
  /** more than any map has: what lies behind the end of the disk is not asked for */
  readonly tableEntries = 2 ** 32;
  readonly entryBytes = ENTRY_BYTES;
  readonly showsFreeAsZeros = true;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: Mapper;
  private readonly parts: MapperParts;

  constructor(parts: MapperParts, mapper: Mapper) {
    this.clusterSize = parts.geometry.clusterSize;
    this.slices = parts.blockMap.slices;
    this.pending = parts.pending;
    this.mapper = mapper;
    this.parts = parts;
  }

  l2Table(): HostOffset {
    return this.parts.numbers.mapOffset;
  }

  kindOf(at: number): EntryKind {
    const entry = this.entryAt(at);
    if (entry < VDI_IMAGE_BLOCK_ZERO) return this.mapper.isData(entry) ? 'data' : 'other';
    return entry === VDI_IMAGE_BLOCK_FREE ? 'unallocated' : 'zero';
  }

  hostOf(at: number): HostOffset {
    const { geometry, numbers } = this.parts;
    return hostOffset(geometry.hostDataOf(this.entryAt(at), numbers.dataOffset));
  }

  private entryAt(at: number): number {
    return this.slices.view.getUint32(at, true);
  }
}
