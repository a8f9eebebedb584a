// The batmap of an image that is open for writing: its bits are true at any time. A bit goes, durably, before the block that it
// speaks of loses its entry; bits of blocks that have become full are set when the image is closed. Used under the metadata lock, and
// the caller syncs without it.

import { after, type GuestCluster } from '../../bytes/offsets.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { DiskNumbers } from '../mapped/disk-numbers.ts';
import type { WriteTracker } from '../write-tracker.ts';
import { Batmap, findBatmap } from './batmap.ts';
import type { Geometry } from './geometry.ts';
import { type Mapper, NO_BLOCK } from './mapping.ts';
import type { VpcNumbers } from './state.ts';

export interface XenBatmapParts {
  readonly file: HostFile;
  readonly geometry: Geometry;
  readonly mapper: Mapper;
  readonly numbers: VpcNumbers;
  readonly tracker: WriteTracker;
  readonly disk: Pick<DiskNumbers, 'virtualSize'>;
}

export class XenBatmap {
  private readonly parts: XenBatmapParts;
  private readonly creator: string;

  constructor(parts: XenBatmapParts, creator: string) {
    this.parts = parts;
    this.creator = creator;
  }

  /** Blocks are about to lose their entries. @returns whether that has to wait for a fdatasync */
  clear(first: GuestCluster, count: number): boolean {
    const batmap = this.load();
    if (batmap === null) return false;
    let changes = false;
    for (let i = 0; i < count; i++) {
      if (!batmap.has(first + i)) continue;
      batmap.set(first + i, false);
      changes = true;
    }
    if (changes) this.parts.tracker.writeMetadata('header-update', () => batmap.store());
    return changes;
  }

  /** At a clean close: each bit says what the bitmap of its block does. @returns whether anything was written */
  setAll(): boolean {
    const { disk, geometry, mapper, tracker } = this.parts;
    const batmap = this.load();
    if (batmap === null) return false;
    let changes = !batmap.isSound();
    const end = geometry.blocksFor(disk.virtualSize);
    for (let block = 0 as GuestCluster; block < end; block = after(block, 1)) {
      const host = mapper.lookup(block);
      const isFull = host !== NO_BLOCK && mapper.isFull(block, host);
      if (batmap.has(block) === isFull) continue;
      batmap.set(block, isFull);
      changes = true;
    }
    if (changes) tracker.writeMetadata('header-update', () => batmap.store());
    return changes;
  }

  private load(): Batmap | null {
    const { file, numbers } = this.parts;
    if (!numbers.hasBatmap) return null;
    const place = findBatmap(file, this.creator, numbers.tableOffset, numbers.tableEntries);
    return place === null ? null : new Batmap(file, place);
  }
}
