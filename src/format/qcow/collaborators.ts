// What an open image is made of: the objects of one thread over the state that all threads share, each given by name what it
// works with. Their order is the order in which they need each other.

import { hostOffset } from '../../bytes/offsets.ts';
import { GuestData } from '../../codec/guest-data.ts';
import { TABLES_OF } from '../../concurrency/hold-times.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import { Reservations } from '../../concurrency/reservations.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import type { HostFile } from '../../host/host-file.ts';
import { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import { CopyUp } from '../mapped/copy-up.ts';
import { CowBuffer } from '../mapped/cow-buffer.ts';
import { DiskNumbers } from '../mapped/disk-numbers.ts';
import { FreeClusters } from '../mapped/free-clusters.ts';
import { HostHoles } from '../mapped/host-holes.ts';
import { ImageMap } from '../mapped/image-map.ts';
import { METADATA_LOCK } from '../mapped/mapped-state.ts';
import { PendingLinks } from '../mapped/pending-links.ts';
import { GuestDataReader } from '../mapped/runs/guest-data-reader.ts';
import { ReservedRuns } from '../mapped/runs/reserved-runs.ts';
import { RangeReader } from '../mapped/runs/run-reader.ts';
import { Allocator } from '../mapped/space/cluster-allocator.ts';
import { FileEnd } from '../mapped/space/file-end.ts';
import { StatusScan } from '../mapped/status-scan.ts';
import { WriteTracker } from '../write-tracker.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { CompressedReader } from './compressed.ts';
import { Deallocator } from './deallocate.ts';
import { createFlush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { Linker } from './link.ts';
import { Mapper, type Run } from './mapping.ts';
import { QcowRunWriter } from './run-writer.ts';
import { QcowScannedTables } from './scanned-tables.ts';
import type { QcowState } from './state.ts';
import { Tables } from './table.ts';

export type Collaborators = ReturnType<typeof connect>;

/** @param slot this thread's reservation slot @param log called once per sentence */
export function connect(
  file: HostFile,
  backing: ReadableImage | null,
  state: QcowState,
  slot: number,
  log: (sentence: string) => void,
) {
  const { header } = state;
  const geometry = new Geometry(header);
  const { clusterSize } = geometry;
  const lock = new Mutex(new Int32Array(state.words), METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const shared = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(shared);
  const numbers = new FileEnd(shared);
  const reservations = new Reservations(state.reservations, lock, slot);
  const pending = new PendingLinks(state.pending);
  const pendingTables = new PendingLinks<number>(state.pendingTables);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, disk);
  const tables = new Tables(file, hostOffset(header.l1TableOffset), geometry, new TableCache(state.cache));
  const mapped = { file, geometry, numbers, pending, tables };
  const mapper = new Mapper(mapped);
  const allocator = new Allocator(file, geometry, numbers, free, tracker);
  const linker = new Linker({ allocator, geometry, mapper, pending, pendingTables, tables, tracker });
  const flush = createFlush({ file, geometry, lock, tracker, pending, pendingTables, linker, free, log });
  const reusable = () => ({ waiting: free.unsettledCount, free: free.freeCount });
  const data = new GuestData(file, state.volumeKey);
  const ground = { access, ...mapped, allocator, backing, data, disk, flush, free, linker, lock, mapper, reservations };
  const parts = { pendingTables, ...ground, reusable, tracker };

  const reader = new GuestDataReader(data, new CompressedReader(file, clusterSize), backing);
  const ranges = new RangeReader<Run>(lock, mapper, reader);
  const allocating = new AllocatingWrite({ cow: new CowBuffer(ranges, data), ...parts });
  const writer = new QcowRunWriter({ allocating, data, lock });
  const runs = new ReservedRuns<Run>({ clusterSize, readOnly: file.readOnly, ranges, writer, ...parts });
  const deallocator = new Deallocator({ runs, writer, ...parts });
  const copier = backing && new CopyUp<Run>({ clusterSize, allocating, deallocator, ...parts, backing });
  const showsPlaces = !data.isEncrypted;
  const holes = showsPlaces ? new HostHoles(file) : null;
  const scan = new StatusScan(new QcowScannedTables(mapped, mapper), holes, backing !== null);
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces, dataFile: null });
  return { allocating, copier, deallocator, imageMap, runs, ...parts };
}
