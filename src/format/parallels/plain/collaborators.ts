// What an open image is made of, besides its own reads and writes: the objects of one thread over the state that all threads share,
// each given by name what it works with. Their order is the order in which they need each other.

import { failpoint } from '../../../concurrency/failpoints.ts';
import { TABLES_OF } from '../../../concurrency/hold-times.ts';
import { Mutex } from '../../../concurrency/mutex.ts';
import { Reservations } from '../../../concurrency/reservations.ts';
import { TableCache } from '../../../concurrency/table-cache.ts';
import type { HostFile } from '../../../host/host-file.ts';
import { GuestAccess } from '../../guest-access.ts';
import { AllocatingWrite } from '../../mapped/allocating-write.ts';
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
import { SettlingFlush } from '../../mapped/settling.ts';
import { Allocator } from '../../mapped/space/cluster-allocator.ts';
import { StatusScan } from '../../mapped/status-scan.ts';
import { WriteTracker } from '../../write-tracker.ts';
import { Deallocator } from './deallocate.ts';
import { Geometry } from './geometry.ts';
import { InUse } from './in-use.ts';
import { Linker } from './link.ts';
import { Mapper, type Run } from './mapping.ts';
import { PlainNewClusters } from './new-clusters.ts';
import { PlainScannedTables } from './scanned-tables.ts';
import { PlainNumbers, type PlainState } from './state.ts';
import { Bat } from './table.ts';

export type Collaborators = ReturnType<typeof connect>;

/** @param slot this thread's reservation slot @param log called once per sentence */
export function connect(file: HostFile, state: PlainState, slot: number, log: (sentence: string) => void) {
  const { clusterBytes, unitBytes } = state.header;
  const geometry = new Geometry(clusterBytes, unitBytes, state.phase);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const shared = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(shared);
  const numbers = new PlainNumbers(shared);
  const reservations = new Reservations(state.reservations, lock, slot);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, disk);
  const inUse = new InUse(file, lock, words, numbers, tracker);
  const bat = new Bat(file, new TableCache(state.cache), geometry, numbers);
  const mapper = new Mapper({ file, geometry, bat, numbers });
  const places = {
    clusterSize: clusterBytes,
    tableSizeClusters: 1,
    clusterOf: (offset: number) => geometry.hostClusterOf(offset),
    startOf: (cluster: number) => geometry.hostStartOf(cluster),
  };
  const allocator = new Allocator(file, places, numbers, free, tracker);
  const linker = new Linker(bat, numbers, tracker);
  // nothing is held back: there is no data below that a crash could show zeros in place of (R6)
  const flush = new SettlingFlush({
    file,
    free,
    lock,
    log,
    tracker,
    word: 'clusters',
    linkHeldBack: () => undefined,
    punch: ({ start, end }) => {
      failpoint('punch-hole');
      file.punchHole(geometry.hostStartOf(start), (end - start) * clusterBytes);
    },
  });
  const reusable = () => ({ waiting: free.unsettledCount, free: free.freeCount });
  const parts = {
    access,
    allocator,
    bat,
    disk,
    file,
    flush,
    free,
    geometry,
    inUse,
    linker,
    lock,
    mapper,
    numbers,
    ...{ reservations, reusable, tracker },
  };

  const ranges = new RangeReader<Run>(lock, mapper, new PlainRunReader(file, null, 'cluster'));
  const newClusters = new PlainNewClusters(parts);
  const allocating = new AllocatingWrite({ below: null, clusterSize: clusterBytes, newClusters, ...parts });
  const writer = new PlainRunWriter<Run>({ file, lock, allocating, beforeChange: inUse });
  const runs = new ReservedRuns<Run>({ clusterSize: clusterBytes, readOnly: file.readOnly, ranges, writer, ...parts });
  const deallocator = new Deallocator({ runs, writer, ...parts });
  const scanned = new PlainScannedTables(geometry, bat.slices, new PendingLinks(state.pending), mapper);
  const scan = new StatusScan(scanned, new HostHoles(file), false);
  const imageMap = new ImageMap({ lock, scan, backing: null, showsPlaces: true, dataFile: null });
  return { allocating, backing: null, copier: null, deallocator, dirtyBit: inUse, imageMap, runs, ...parts };
}
