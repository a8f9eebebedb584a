// What an open extent is made of, besides its own reads and writes: the objects of one thread over the state that all threads share,
// each given by name what it works with. Their order is the order in which they need each other.

import { TABLES_OF } from '../../../concurrency/hold-times.ts';
import { Mutex } from '../../../concurrency/mutex.ts';
import { Reservations } from '../../../concurrency/reservations.ts';
import { TableCache } from '../../../concurrency/table-cache.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { GuestAccess } from '../../guest-access.ts';
import type { ReadableImage } from '../../image-format.ts';
import { AllocatingWrite } from '../../mapped/allocating-write.ts';
import { CopyUp } from '../../mapped/copy-up.ts';
import { CowBuffer } from '../../mapped/cow-buffer.ts';
import { DiskNumbers } from '../../mapped/disk-numbers.ts';
import { FreeClusters } from '../../mapped/free-clusters.ts';
import { HostHoles } from '../../mapped/host-holes.ts';
import { ImageMap } from '../../mapped/image-map.ts';
import { METADATA_LOCK } from '../../mapped/mapped-state.ts';
import { PendingLinks } from '../../mapped/pending-links.ts';
import { PlainRunReader } from '../../mapped/runs/plain-run-reader.ts';
import { PlainRunWriter } from '../../mapped/runs/plain-run-writer.ts';
import { ReservedRuns } from '../../mapped/runs/reserved-runs.ts';
import { RangeReader } from '../../mapped/runs/run-reader.ts';
import { StatusScan } from '../../mapped/status-scan.ts';
import { WriteTracker } from '../../write-tracker.ts';
import { Allocator } from './allocate.ts';
import { Deallocator } from './deallocate.ts';
import { createFlush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { GrainTables } from './grain-tables.ts';
import { Linker } from './link.ts';
import { Mapper, type Run } from './mapping.ts';
import { SparseNewClusters } from './new-clusters.ts';
import { SparseScannedTables } from './scanned-tables.ts';
import { SecondTables } from './second-tables.ts';
import { SparseNumbers, type SparseState } from './state.ts';
import { Tables } from './table.ts';
import { Unclean } from './unclean.ts';

export type Collaborators = ReturnType<typeof connect>;

/** @param slot this thread's reservation slot @param log called once per sentence */
export function connect(
  file: HostFile,
  backing: ReadableImage | null,
  state: SparseState,
  slot: number,
  log: (sentence: string) => void,
) {
  const { layout } = state;
  const geometry = new Geometry(layout, state.phase);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const shared = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(shared);
  const numbers = new SparseNumbers(shared);
  const reservations = new Reservations(state.reservations, lock, slot);
  const pending = new PendingLinks(state.pending);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, disk);
  const unclean = new Unclean(file, layout, lock, words, numbers, tracker);
  const tables = new Tables(file, new TableCache(state.cache));
  const mapper = new Mapper(file, layout, geometry, tables, pending, numbers);
  const allocator = new Allocator({ file, layout, geometry, lock, words, numbers, free, tracker });
  const second = new SecondTables({ geometry, lock, words, tables, mapper, allocator, disk, numbers, tracker });
  const grainTables = new GrainTables({ geometry, tables, mapper, allocator, numbers, tracker, second });
  const linker = new Linker(geometry, tables, mapper, tracker, pending, second);
  const flush = createFlush({ file, geometry, lock, tracker, pending, linker, free, log });
  const reusable = () => ({ waiting: free.unsettledCount, free: free.freeCount });
  const parts = {
    file,
    backing,
    access,
    allocator,
    disk,
    flush,
    free,
    geometry,
    grainTables,
    hasZeroGrains: layout.hasZeroGrains,
    layout,
    linker,
    lock,
    mapper,
    numbers,
    pending,
    reservations,
    reusable,
    second,
    tables,
    tracker,
    unclean,
  };

  const clusterSize = geometry.grainBytes;
  const reader = new PlainRunReader(file, backing, 'grain');
  const ranges = new RangeReader<Run>(lock, mapper, reader);
  const newClusters = new SparseNewClusters(parts);
  const below = backing && { backing, cow: new CowBuffer(reader, file), pending };
  const allocating = new AllocatingWrite({ below, clusterSize, newClusters, ...parts });
  const writer = new PlainRunWriter<Run>({ file, lock, allocating, beforeChange: unclean });
  const runs = new ReservedRuns({ clusterSize, readOnly: file.readOnly, ranges, writer, ...parts });
  const deallocator = new Deallocator({ allocating, runs, writer, ...parts });
  const copier = backing && new CopyUp({ clusterSize, allocating, deallocator, ...parts, backing });
  const scanned = new SparseScannedTables(geometry, tables.slices, pending, mapper);
  const scan = new StatusScan(scanned, new HostHoles(file), backing !== null);
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces: true, dataFile: null });
  const dirtyBit = {
    abandon: (thread: number) => {
      unclean.abandon(thread);
      allocator.abandon(thread);
    },
  };
  return { allocating, copier, deallocator, dirtyBit, imageMap, runs, ...parts };
}
