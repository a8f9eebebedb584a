// What an open image is made of, besides its own reads and writes: the objects of one thread over the state that all threads
// share, each given by name what it works with. Their order is the order in which they need each other.

import { type HostOffset, hostCluster, hostOffset } from '../../bytes/offsets.ts';
import { TABLES_OF } from '../../concurrency/hold-times.ts';
import { Mutex } from '../../concurrency/mutex.ts';
import { Reservations } from '../../concurrency/reservations.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import type { HostFile } from '../../host/host-file.ts';
import { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import { DiskNumbers } from '../mapped/disk-numbers.ts';
import { FreeClusters } from '../mapped/free-clusters.ts';
import { HostHoles } from '../mapped/host-holes.ts';
import { ImageMap } from '../mapped/image-map.ts';
import { METADATA_LOCK } from '../mapped/mapped-state.ts';
import { PendingLinks } from '../mapped/pending-links.ts';
import { PlainRunReader } from '../mapped/plain-run-reader.ts';
import { PlainRunWriter } from '../mapped/plain-run-writer.ts';
import { ReservedRuns } from '../mapped/reserved-runs.ts';
import { RangeReader } from '../mapped/run-reader.ts';
import { Allocator } from '../mapped/space/cluster-allocator.ts';
import { StatusScan } from '../mapped/status-scan.ts';
import { WriteTracker } from '../write-tracker.ts';
import { AllocatingWrite } from './allocating-write.ts';
import { Bat } from './bat.ts';
import { Deallocator } from './deallocate.ts';
import { createFlush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { MIB } from './header/fields.ts';
import { Linker } from './link.ts';
import { UnplacedSectors } from './log/unplaced-sectors.ts';
import { LogWriter } from './log/writer.ts';
import { Mapper, type Run } from './mapping.ts';
import { Places } from './places.ts';
import { VhdxScannedTables } from './scanned-tables.ts';
import { Session } from './session.ts';
import { VhdxNumbers, type VhdxState } from './state.ts';

export type Collaborators = ReturnType<typeof connect>;

/**
 * @param file with what its log holds, if the image is only read
 * @param slot this thread's reservation slot @param log called once per sentence
 */
export function connect(
  file: HostFile,
  backing: ReadableImage | null,
  state: VhdxState,
  slot: number,
  log: (sentence: string) => void,
) {
  const { disk: facts, replay, taken } = state;
  const geometry = new Geometry(facts);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `${TABLES_OF}${file.path}`);
  const shared = { numbers: state.numbers, lock, readOnly: file.readOnly };
  const disk = new DiskNumbers(shared);
  const numbers = new VhdxNumbers(shared);
  const reservations = new Reservations(state.reservations, lock, slot);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, disk);
  const unplaced = new UnplacedSectors(file, state.unplaced);
  const logGuid = new Uint8Array(state.logGuid);
  const { logLength, logOffset } = state;
  const logWriter = new LogWriter({ file, logOffset, logLength, logGuid, numbers, tracker, unplaced });
  const session = new Session({ file, lock, words, numbers, tracker, logWriter, state });
  const flush = createFlush({ file, lock, tracker, free, logWriter, unplaced, log });
  const bat = new Bat(unplaced.tableFile(), new TableCache(state.cache), state.batOffset);
  const places = new Places(() => numbers.fileEnd, taken);
  const mapper = new Mapper(file.path, geometry, bat, places, facts.parent !== null);
  const makeRoom = () => flush.placeAll();
  const linker = new Linker({ bat, geometry, lock, logWriter, numbers, session, makeRoom });
  const allocator = new Allocator(file, unitsOf(geometry), numbers, free, tracker);
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
    isFixed: facts.isFixed,
    linker,
    lock,
    mapper,
    numbers,
    reservations,
    reusable,
    session,
    state,
    tracker,
    unplaced,
  };
  const clusterSize = geometry.blockBytes;
  const ranges = new RangeReader<Run>(lock, mapper, new PlainRunReader(file, backing, 'block'));
  const allocating = new AllocatingWrite(parts);
  const writer = new PlainRunWriter<Run>({ file, lock, allocating, beforeChange: session });
  const runs = new ReservedRuns<Run>({ ...parts, clusterSize, readOnly: file.readOnly, ranges, writer });
  const deallocator = new Deallocator({ ...parts, runs, writer });
  const scanned = new VhdxScannedTables(geometry, bat, new PendingLinks(state.pending), mapper, places);
  const scan = new StatusScan(scanned, new HostHoles(file), backing !== null);
  // the log may have bytes of a block, too
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces: replay === null, dataFile: null });
  return { ...parts, allocating, deallocator, dirtyBit: session, imageMap, runs };
}

/** Space is counted in MiB, because blocks and bitmaps lie at any; a block is what others call a table. */
function unitsOf({ blockBytes }: Geometry) {
  return {
    clusterSize: MIB,
    tableSizeClusters: blockBytes / MIB,
    clusterOf: (offset: HostOffset) => hostCluster(offset / MIB),
    startOf: (unit: number) => hostOffset(unit * MIB),
  };
}
