// What an open image is made of, besides its own reads and writes: the objects of one thread over the state that all threads
// share, each given by name what it works with. Their order is the order in which they need each other.

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
import { StatusScan } from '../mapped/status-scan.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Allocator } from './allocate.ts';
import { AllocatedCount } from './allocated-count.ts';
import { Deallocator } from './deallocate.ts';
import { createFlush } from './flush.ts';
import { geometryOf, VDI_IMAGE_TYPE_FIXED } from './header.ts';
import { Linker } from './link.ts';
import { Mapper } from './mapping.ts';
import { ModifyUuid } from './modify-uuid.ts';
import { VdiNewClusters } from './new-clusters.ts';
import { VdiScannedTables } from './scanned-tables.ts';
import { VdiNumbers, type VdiState } from './state.ts';
import { BlockMap } from './table.ts';

export type Collaborators = ReturnType<typeof connect>;

/** @param slot this thread's reservation slot @param log called once per sentence */
export function connect(
  file: HostFile,
  backing: ReadableImage | null,
  state: VdiState,
  slot: number,
  log: (sentence: string) => void,
) {
  const geometry = geometryOf(state.header);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const shared = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(shared);
  const numbers = new VdiNumbers(shared);
  const reservations = new Reservations(state.reservations, lock, slot);
  const pending = new PendingLinks(state.pending);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, disk);
  const modifyUuid = new ModifyUuid(file, state.nextModify, lock, words, tracker);
  const blockMap = new BlockMap(file, new TableCache(state.cache), numbers);
  const mapped = { file, geometry, blockMap, pending, numbers };
  const mapper = new Mapper(mapped);
  const linker = new Linker({ blockMap, geometry, numbers, pending, tracker });
  const flush = createFlush({ file, geometry, lock, tracker, pending, linker, free, numbers, log });
  const settle = () => flush.runUntilSettled();
  const allocatedCount = new AllocatedCount({ file, geometry, lock, words, numbers, free, tracker, settle });
  const allocator = new Allocator(geometry, numbers, free, allocatedCount, tracker);
  const reusable = () => ({ waiting: free.unsettledCount, free: free.freeCount });
  const parts = {
    file,
    backing,
    access,
    allocatedCount,
    allocator,
    blockMap,
    disk,
    flush,
    free,
    geometry,
    isStatic: state.header.type === VDI_IMAGE_TYPE_FIXED,
    linker,
    lock,
    mapper,
    modifyUuid,
    numbers,
    pending,
    reservations,
    reusable,
    tracker,
  };

  const { clusterSize } = geometry;
  const reader = new PlainRunReader(file, backing, 'block');
  const ranges = new RangeReader(lock, mapper, reader);
  const newClusters = new VdiNewClusters(parts);
  const below = backing && { backing, cow: new CowBuffer(reader, file), pending };
  const allocating = new AllocatingWrite({ below, clusterSize, newClusters, ...parts });
  const writer = new PlainRunWriter({ file, lock, allocating, beforeChange: modifyUuid });
  const runs = new ReservedRuns({ clusterSize, readOnly: file.readOnly, ranges, writer, ...parts });
  const deallocator = new Deallocator({ runs, writer, ...parts });
  const copier = backing && new CopyUp({ clusterSize, allocating, deallocator, ...parts, backing });
  const scan = new StatusScan(new VdiScannedTables(mapped, mapper), new HostHoles(file), backing !== null);
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces: true, dataFile: null });
  const dirtyBit = {
    abandon: (thread: number) => {
      modifyUuid.abandon(thread);
      allocatedCount.abandon(thread);
    },
  };
  return { allocating, copier, deallocator, dirtyBit, imageMap, runs, ...parts };
}
