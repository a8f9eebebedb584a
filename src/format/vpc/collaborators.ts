// What an open image is made of, besides its own reads and writes: the objects of one thread over the state that all threads
// share, each given by name what it works with. Their order is the order in which they need each other.

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
import { PlainRunReader } from '../mapped/runs/plain-run-reader.ts';
import { PlainRunWriter } from '../mapped/runs/plain-run-writer.ts';
import { ReservedRuns } from '../mapped/runs/reserved-runs.ts';
import { RangeReader } from '../mapped/runs/run-reader.ts';
import { StatusScan } from '../mapped/status-scan.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Allocator } from './allocate.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { Bitmaps } from './bitmaps.ts';
import { Deallocator } from './deallocate.ts';
import { createFlush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { Linker } from './link.ts';
import { Mapper, type Run } from './mapping.ts';
import { VpcScannedTables } from './scanned-tables.ts';
import { VpcNumbers, type VpcState } from './state.ts';
import { Tables } from './table.ts';
import { XenBatmap } from './xen-batmap.ts';

export type Collaborators = ReturnType<typeof connect>;

/** @param slot this thread's reservation slot @param log called once per sentence */
export function connect(
  file: HostFile,
  backing: ReadableImage | null,
  state: VpcState,
  slot: number,
  log: (sentence: string) => void,
) {
  const { bits, creator, footer, full, grid, header } = state;
  const geometry = new Geometry(header.blockSize, grid);
  const lock = new Mutex(new Int32Array(state.words), METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const shared = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(shared);
  const numbers = new VpcNumbers(shared);
  const reservations = new Reservations(state.reservations, lock, slot);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, disk);
  const tables = new Tables(file, new TableCache(state.cache), numbers);
  const bitmaps = new Bitmaps({ file, geometry, slices: tables.slices, tracker }, bits);
  const mapper = new Mapper(file, header, geometry, tables, bitmaps, numbers, full);
  const allocator = new Allocator(file, geometry, lock, numbers, free, tracker, footer);
  const linker = new Linker(tables, mapper, tracker, bitmaps);
  const flush = createFlush({ file, geometry, lock, tracker, bitmaps, free, log });
  const batmap = new XenBatmap({ file, geometry, mapper, numbers, tracker, disk }, creator);
  const reusable = () => ({ waiting: free.unsettledCount, free: free.freeCount });
  const parts = {
    file,
    backing,
    access,
    allocator,
    batmap,
    bitmaps,
    dirtyBit: null,
    disk,
    flush,
    footer: new Uint8Array(footer),
    hasStrays: state.hasStrays,
    free,
    geometry,
    linker,
    lock,
    mapper,
    numbers,
    reservations,
    reusable,
    tables,
    tracker,
  };

  const clusterSize = header.blockSize;
  const reader = new PlainRunReader(file, backing, 'block');
  const ranges = new RangeReader<Run>(lock, mapper, reader);
  const allocating = new AllocatingWrite({ cow: new CowBuffer(reader, file), ...parts });
  const writer = new PlainRunWriter<Run>({ file, lock, allocating });
  const runs = new ReservedRuns({ clusterSize, readOnly: file.readOnly, ranges, writer, ...parts });
  const deallocator = new Deallocator({ allocating, runs, writer, ...parts });
  const copier = backing && new CopyUp({ clusterSize, allocating, deallocator, ...parts, backing });
  const scanned = new VpcScannedTables(geometry, tables.slices, mapper, numbers);
  const scan = new StatusScan(scanned, new HostHoles(file), backing !== null);
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces: true, dataFile: null });
  return { allocating, copier, deallocator, imageMap, runs, ...parts };
}
