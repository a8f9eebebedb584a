// What an open image is made of: the objects of one thread over the state that all threads share, each given by name what it
// works with. Their order is the order in which they need each other: no object calls one that is made after it.

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
import { StatusScan } from '../mapped/status-scan.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Allocator, dataFileClusters, imageClusters } from './allocate.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { CompressedReader } from './compressed.ts';
import { DeferredDecrements } from './counters/deferred-decrements.ts';
import { NewCounters } from './counters/new-counters.ts';
import { Refcounts } from './counters/refcount.ts';
import { UnreadFree } from './counters/unread-free.ts';
import { Deallocator } from './deallocate.ts';
import { Flush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { HeaderBits } from './header-bits.ts';
import { Linker } from './link.ts';
import { Mapper, type Run } from './mapping.ts';
import { MetadataClusters } from './metadata-clusters.ts';
import { OverlapCheck } from './overlap.ts';
import { Qcow2RunWriter } from './run-writer.ts';
import { Qcow2ScannedTables } from './scanned-tables.ts';
import { Qcow2Snapshots } from './snapshots/snapshot-image.ts';
import { type PlacedSnapshot, Qcow2Numbers, type Qcow2State } from './state.ts';
import { Tables } from './table.ts';

/** The files of an open image. */
export interface Qcow2Files {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  /** the file that holds the guest's data; null: the image file does */
  readonly dataFile: HostFile | null;
}

export type Collaborators = ReturnType<typeof connect>;

/** @param slot this thread's reservation slot @param log called once per sentence */
export function connect(files: Qcow2Files, state: Qcow2State, slot: number, log: (sentence: string) => void) {
  const tables = connectTables(files, state, slot, log);
  return { ...tables, ...connectRuns(tables, state.snapshots) };
}

/** The engine below the guest's reads and writes: tables, counters, links, and the flush. */
function connectTables(files: Qcow2Files, state: Qcow2State, slot: number, log: (sentence: string) => void) {
  const { file, dataFile } = files;
  const { header } = state;
  const { clusterBits, hasDataFile, version } = header;
  const geometry = new Geometry(clusterBits, header.refcountOrder, header.extendedL2);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const places = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(places);
  const numbers = new Qcow2Numbers(places);
  const reservations = new Reservations(state.reservations, lock, slot);
  const tracker = new WriteTracker(state.tracker, file, log, dataFile);
  const access = new GuestAccess(file, tracker, disk);
  const headerBits = new HeaderBits({ file, header, lock, words, tracker, log });
  const ground = { header, ...files, clusterBits, hasDataFile, version, geometry, lock, log, numbers, headerBits };
  const shared = { disk, ...ground, reservations, tracker, access, ...connectLists(state) };

  const { free, decrements, metadata, pending } = shared;
  const tables = new Tables(file, new TableCache(state.cache), tracker, geometry.clusterSize);
  const overlap = new OverlapCheck(geometry, metadata, headerBits, numbers, hasDataFile);
  const refcounts = new Refcounts({ tables, ...shared, overlap });
  const unread = new UnreadFree(state.unreadFree, { refcounts, ...shared });
  const mapper = new Mapper({ path: file.path, ...shared, tables });
  const newCounters = new NewCounters({ tables, ...shared });
  const allocator = new Allocator({ tables, ...shared, refcounts, newCounters, unread, overlap });
  const linker = new Linker({ tables, ...shared, mapper, allocator, overlap });
  const flush = new Flush({ refcounts, ...shared, newCounters, unread, linker });
  const reusable = () => ({ waiting: decrements.count + pending.count, free: free.freeCount + unread.count });
  return { tables, ...shared, overlap, mapper, allocator, unread, linker, flush, reusable };
}

/** What is known of clusters beside the tables. */
function connectLists(state: Qcow2State) {
  return {
    pending: new PendingLinks(state.pending),
    pendingTables: new PendingLinks(state.pendingTables),
    newBlocks: new PendingLinks<number>(state.newBlocks),
    decrements: new DeferredDecrements(state.decrements),
    free: new FreeClusters(state.free),
    metadata: new MetadataClusters(state.metadata),
    key: state.volumeKey,
  };
}

/** The guest's reads and writes. */
function connectRuns(shared: ReturnType<typeof connectTables>, snapshots: readonly PlacedSnapshot[]) {
  const { allocator, backing, dataFile, file, geometry, header, key, lock, mapper, tables } = shared;
  const { clusterSize } = geometry;
  const data = new GuestData(dataFile ?? file, key);
  const showsPlaces = !data.isEncrypted;
  const compressed = new CompressedReader(file, header.compressionType, header.clusterBits);
  const ranges = new RangeReader<Run>(lock, mapper, new GuestDataReader(data, compressed, backing));
  const scanned = new Qcow2ScannedTables({ slices: tables.slices, ...shared });
  const holes = showsPlaces ? new HostHoles(dataFile ?? file) : null;
  const scan = new StatusScan(scanned, holes, backing !== null);
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces, dataFile });

  const clusters = dataFile === null ? imageClusters(allocator) : dataFileClusters(geometry);
  const cow = new CowBuffer(ranges, data);
  const allocating = new AllocatingWrite({ data, ...shared, clusters, cow, imageMap });
  const writer = new Qcow2RunWriter({ allocating, ...shared, data });
  const runs = new ReservedRuns<Run>({ clusterSize, ...shared, readOnly: file.readOnly, ranges, writer });
  const isRaw = header.dataFileRaw && !data.isEncrypted;
  const deallocator = new Deallocator({ data, ...shared, isRaw, runs, writer });
  const copier = backing && new CopyUp<Run>({ clusterSize, ...shared, backing, allocating, deallocator });
  const readable =
    snapshots.length === 0 ? {} : { snapshots: new Qcow2Snapshots(snapshots, { data, ...shared, compressed }) };
  return { allocating, clusterSize, copier, deallocator, imageMap, runs, ...readable };
}
