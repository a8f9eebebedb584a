// The disk of an internal snapshot: a mapper of its own over the snapshot's L1 table. All else is the image's: the cache of
// tables, the metadata lock, the backing chain. Why reads need no reservation: the reference counts keep every cluster of a
// snapshot above 0, so the active layer copies it before it changes anything, and no flush frees it. Nothing here
// deletes a snapshot, and the image lock keeps other programs from it. So a mapping stays true after the lock is released.

import { type GuestOffset, type HostOffset, hostOffset } from '../../../bytes/offsets.ts';
import type { GuestData } from '../../../codec/guest-data.ts';
import type { Mutex } from '../../../concurrency/mutex.ts';
import { ImgfuseError } from '../../../errors/index.ts';
import type { HostFile } from '../../../host/host-file.ts';
import type { ReadableImage, SnapshotImage, Snapshots, StatusRun } from '../../image-format.ts';
import { possibleClusters } from '../../mapped/host-clusters.ts';
import { HostHoles } from '../../mapped/host-holes.ts';
import { ImageMap } from '../../mapped/image-map.ts';
import { createPendingLinksState, PendingLinks } from '../../mapped/pending-links.ts';
import { GuestDataReader } from '../../mapped/runs/guest-data-reader.ts';
import { RangeReader } from '../../mapped/runs/run-reader.ts';
import { StatusScan } from '../../mapped/status-scan.ts';
import type { CompressedReader } from '../compressed.ts';
import { type Geometry, L1_ENTRY_BYTES } from '../geometry.ts';
import { Mapper, type MapperParts, type Run } from '../mapping.ts';
import { Qcow2ScannedTables } from '../scanned-tables.ts';
import type { PlacedSnapshot } from '../state.ts';
import type { Tables } from '../table.ts';
import { calledSnapshot } from './readable-snapshots.ts';

/** Of the image that has the snapshots: the objects of this thread. */
export interface SnapshotParts {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly version: 2 | 3;
  readonly geometry: Geometry;
  readonly lock: Mutex;
  readonly numbers: MapperParts['numbers'];
  readonly tables: Tables;
  readonly data: GuestData;
  readonly compressed: CompressedReader;
}

export class Qcow2Snapshots implements Snapshots {
  readonly list: readonly PlacedSnapshot[];
  private readonly parts: SnapshotParts;

  constructor(list: readonly PlacedSnapshot[], parts: SnapshotParts) {
    this.list = list;
    this.parts = parts;
  }

  open(position: number): SnapshotImage {
    return new Qcow2SnapshotImage(this.list[position]!, this.parts);
  }
}

/** The L1 table of a snapshot, and where the tables below it may lie. */
class SnapshotTables {
  readonly l1Offset: HostOffset;
  readonly l1Entries: number;
  private readonly image: MapperParts['numbers'];

  constructor({ l1Table }: PlacedSnapshot, image: MapperParts['numbers']) {
    this.l1Offset = hostOffset(l1Table.offset);
    this.l1Entries = l1Table.entries;
    this.image = image;
  }

  isPlace(offset: HostOffset, bytes: number): boolean {
    const inL1 = offset - this.l1Offset;
    return (inL1 < 0 || inL1 >= this.l1Entries * L1_ENTRY_BYTES) && this.image.isPlace(offset, bytes);
  }
}

class Qcow2SnapshotImage implements SnapshotImage {
  readonly backing: ReadableImage | null;
  private readonly size: number;
  private readonly parts: SnapshotParts;
  private readonly ranges: RangeReader<Run>;
  private readonly map: ImageMap;

  constructor(snapshot: PlacedSnapshot, parts: SnapshotParts) {
    const { backing, compressed, data, file, geometry, lock, tables, version } = parts;
    this.backing = backing;
    this.size = snapshot.virtualSize;
    this.parts = parts;
    // links that wait are those of the active layer
    const pending = new PendingLinks(createPendingLinksState(1));
    const pendingTables = new PendingLinks<number>(createPendingLinksState(1));
    const numbers = new SnapshotTables(snapshot, parts.numbers);
    const headerBits = { damaged: (sentence: string, at: HostOffset) => damaged(file, snapshot, sentence, at) };
    const common = { version, geometry, pending, hasDataFile: false };
    const mapper = new Mapper({ path: file.path, ...common, tables, pendingTables, numbers, headerBits });
    this.ranges = new RangeReader<Run>(lock, mapper, new GuestDataReader(data, compressed, backing));
    const scanned = new Qcow2ScannedTables({ slices: tables.slices, ...common, mapper });
    const holes = data.isEncrypted ? null : new HostHoles(file);
    const scan = new StatusScan(scanned, holes, backing !== null);
    this.map = new ImageMap({ lock, scan, backing, showsPlaces: !data.isEncrypted, dataFile: null });
  }

  virtualSize(): number {
    return this.size;
  }

  /** An upper bound. */
  allocatedBytes(): number {
    const { file, geometry } = this.parts;
    return possibleClusters(file, this.size, geometry.clusterSize) * geometry.clusterSize;
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    this.ranges.readReserved(target, targetOffset, length, offset);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.map.mapContent(offset, length);
  }
}

/** Damage in the tables of a snapshot is no danger for the disk, which does not use them: the image goes on, the read fails. */
function damaged({ path }: HostFile, snapshot: PlacedSnapshot, sentence: string, offset: HostOffset): ImgfuseError {
  return new ImgfuseError('corrupt', `${path}: snapshot "${calledSnapshot(snapshot)}": ${sentence}`, { path, offset });
}
