// An open VHDX, read-only: the log is replayed in memory, and the file is not touched. All threads share what does not change after
// the open, and the cache of the tables, which needs the metadata lock.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { TABLES_OF } from '../../concurrency/hold-times.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import type { HostFile } from '../../host/host-file.ts';
import {
  type Extent,
  type ImageDetails,
  type ImageFile,
  onlyFile,
  type ReadableImage,
  type ReadOnlyImage,
  type SharedImage,
  type StatusRun,
  shareImage,
} from '../image-format.ts';
import { HostHoles } from '../mapped/host-holes.ts';
import { ImageMap } from '../mapped/image-map.ts';
import { type MappedState, METADATA_LOCK } from '../mapped/mapped-state.ts';
import { PendingLinks } from '../mapped/pending-links.ts';
import { PlainRunReader } from '../mapped/plain-run-reader.ts';
import { RangeReader } from '../mapped/run-reader.ts';
import { StatusScan } from '../mapped/status-scan.ts';
import { Bat } from './bat.ts';
import { Geometry } from './geometry.ts';
import { viewOf } from './header/layout.ts';
import type { DiskFacts } from './header/metadata.ts';
import type { Replay } from './log/replay.ts';
import { Mapper, type Run } from './mapping.ts';
import { Places, type Stretch } from './places.ts';
import { VhdxScannedTables } from './scanned-tables.ts';

/** What all threads share. Nothing of it but the cache changes after the open. */
export interface VhdxState extends MappedState {
  readonly disk: DiskFacts;
  readonly details: ImageDetails;
  readonly batOffset: number;
  readonly replay: Replay | null;
  /** with its log replayed */
  readonly fileLength: number;
  /** what is no place for a block */
  readonly taken: readonly Stretch[];
  readonly allocatedBlocks: number;
}

export class VhdxImage implements ReadOnlyImage {
  readonly format = 'vhdx';
  readonly readOnly = true;
  readonly file: HostFile;
  readonly files: readonly ImageFile[];
  readonly backing: ReadableImage | null;
  readonly clusterSize: number;
  readonly identity: string;
  private readonly state: VhdxState;
  private readonly lock: Mutex;
  private readonly ranges: RangeReader<Run>;
  private readonly imageMap: ImageMap;

  constructor(file: HostFile, state: VhdxState, backing: ReadableImage | null) {
    const { batOffset, details, disk, fileLength, replay, taken } = state;
    this.file = file;
    this.files = onlyFile(file);
    this.backing = backing;
    this.clusterSize = disk.blockBytes;
    this.identity = details.identity!;
    this.state = state;
    this.lock = new Mutex(new Int32Array(state.words), METADATA_LOCK, `${TABLES_OF}${file.path}`);
    const view = viewOf(file, replay);
    const geometry = new Geometry(disk);
    const bat = new Bat(view, new TableCache(state.cache), batOffset);
    const places = new Places(fileLength, taken);
    const mapper = new Mapper(file.path, geometry, bat, places, disk.parent !== null);
    this.ranges = new RangeReader<Run>(this.lock, mapper, new PlainRunReader(view, backing, 'block'));
    const scanned = new VhdxScannedTables(geometry, bat, new PendingLinks(state.pending), mapper, places);
    const scan = new StatusScan(scanned, new HostHoles(view), backing !== null);
    // the log may have bytes of a block, too
    const showsPlaces = replay === null;
    this.imageMap = new ImageMap({ lock: this.lock, scan, backing, showsPlaces, dataFile: null });
  }

  virtualSize(): number {
    return this.state.disk.virtualSize;
  }

  allocatedBytes(): number {
    return Math.min(this.state.allocatedBlocks * this.clusterSize, this.virtualSize());
  }

  read(target: Uint8Array, targetOffset: number, length: number, offset: GuestOffset): void {
    this.ranges.readReserved(target, targetOffset, length, offset);
  }

  map(offset: GuestOffset, length: number): Extent {
    return this.imageMap.map(offset, length);
  }

  mapStatus(offset: GuestOffset, length: number): StatusRun {
    return this.imageMap.mapStatus(offset, length);
  }

  mapContent(offset: GuestOffset, length: number): StatusRun {
    return this.imageMap.mapContent(offset, length);
  }

  close(): void {}

  abandon(thread: number): void {
    this.lock.abandon(thread);
  }

  details(): ImageDetails {
    return this.state.details;
  }

  share(): SharedImage {
    return shareImage(this, this.state);
  }
}
