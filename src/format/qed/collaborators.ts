// What an open image is made of, besides its own reads and writes: the objects of one thread over the state that all threads
// share, each given by name what it works with. Their order is the order in which they need each other.

import { hostOffset } from '../../bytes/offsets.ts';
import { TABLES_OF } from '../../concurrency/hold-times.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import { Reservations } from '../../concurrency/reservations.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import type { HostFile } from '../../host/host-file.ts';
import { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import { AllocatingWrite } from '../mapped/allocating-write.ts';
import { CopyUp } from '../mapped/copy-up.ts';
import { CowBuffer } from '../mapped/cow-buffer.ts';
import { DiskNumbers } from '../mapped/disk-numbers.ts';
import { FreeClusters } from '../mapped/free-clusters.ts';
import { HostHoles } from '../mapped/host-holes.ts';
import { ImageMap } from '../mapped/image-map.ts';
import { METADATA_LOCK } from '../mapped/mapped-state.ts';
import { PendingLinks } from '../mapped/pending-links.ts';
import { PlainRunReader } from '../mapped/runs/plain-run-reader.ts';
import { PlainRunWriter } from '../mapped/runs/plain-run-writer.ts';
import { ReservedRuns } from '../mapped/runs/reserved-runs.ts';
import { RangeReader } from '../mapped/runs/run-reader.ts';
import { Allocator } from '../mapped/space/cluster-allocator.ts';
import { StatusScan } from '../mapped/status-scan.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Deallocator } from './deallocate.ts';
import { DirtyBit } from './dirty-bit.ts';
import { createFlush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { Linker } from './link.ts';
import { Mapper } from './mapping.ts';
import { QedNewClusters } from './new-clusters.ts';
import { QedScannedTables } from './scanned-tables.ts';
import { QedNumbers, type QedState } from './state.ts';
import { Tables } from './table.ts';

export type Collaborators = ReturnType<typeof connect>;

/** @param slot this thread's reservation slot @param log called once per sentence */
export function connect(
  file: HostFile,
  backing: ReadableImage | null,
  state: QedState,
  slot: number,
  log: (sentence: string) => void,
) {
  const { header } = state;
  const geometry = new Geometry(header.clusterSize, header.tableSizeClusters);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const shared = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(shared);
  const numbers = new QedNumbers(shared);
  const reservations = new Reservations(state.reservations, lock, slot);
  const pending = new PendingLinks(state.pending);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, disk);
  const dirtyBit = new DirtyBit(file, header, lock, words, numbers, tracker);
  const tables = new Tables(file, new TableCache(state.cache), geometry);
  const mapper = new Mapper(file, header, geometry, tables, pending, numbers);
  const allocator = new Allocator(file, geometry, numbers, free, tracker);
  const l1Table = hostOffset(header.l1TableOffset);
  const linker = new Linker(l1Table, geometry, tables, mapper, allocator, tracker, pending, numbers);
  const flush = createFlush({ file, free, geometry, linker, lock, log, numbers, pending, tracker });
  const reusable = () => ({ waiting: free.unsettledCount, free: free.freeCount });
  const parts = {
    file,
    backing,
    access,
    allocator,
    dirtyBit,
    disk,
    flush,
    free,
    geometry,
    linker,
    lock,
    mapper,
    numbers,
    pending,
    reservations,
    reusable,
    tracker,
  };

  const { clusterSize } = header;
  const reader = new PlainRunReader(file, backing, 'cluster');
  const ranges = new RangeReader(lock, mapper, reader);
  const newClusters = new QedNewClusters(parts);
  const below = backing && { backing, cow: new CowBuffer(reader, file), pending };
  const allocating = new AllocatingWrite({ below, clusterSize, newClusters, ...parts });
  const writer = new PlainRunWriter({ file, lock, allocating });
  const runs = new ReservedRuns({ clusterSize, readOnly: file.readOnly, ranges, writer, ...parts });
  const deallocator = new Deallocator({ runs, writer, ...parts });
  const copier = backing && new CopyUp({ clusterSize, allocating, deallocator, ...parts, backing });
  const scanned = new QedScannedTables(geometry, tables.slices, pending, mapper);
  const scan = new StatusScan(scanned, new HostHoles(file), backing !== null);
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces: true, dataFile: null });
  return { allocating, copier, deallocator, imageMap, runs, ...parts };
}
