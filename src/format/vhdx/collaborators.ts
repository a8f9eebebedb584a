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
import { AllocatingWrite } from './allocating-write.ts';
import { Bat } from './bat.ts';
import { Bitmaps } from './bitmaps.ts';
import { Deallocator } from './deallocate.ts';
import { createFlush } from './flush.ts';
import { ENTRY_BYTES, Geometry } from './geometry.ts';
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
  const bat = new Bat(unplaced.tableFile(), new TableCache(state.cache), numbers);
  const bitmaps = new Bitmaps(bat, geometry, new PendingLinks<number>(state.waitingBits));
  const flush = createFlush({ bitmaps, file, lock, tracker, free, logWriter, unplaced, log, linker: () => linker });
  const batEnd = () => numbers.batOffset + numbers.batEntries * ENTRY_BYTES;
  const places = new Places(
    () => numbers.fileEnd,
    taken,
    () => ({ start: numbers.batOffset, end: batEnd() }),
  );
  const sectorCount = () => disk.virtualSizeOutsideLock() / facts.sectorBytes;
  const hasParent = facts.parent !== null;
  const mapper = new Mapper({ bat, bitmaps, geometry, hasParent, path: file.path, places, sectorCount });
  const makeRoom = () => flush.placeAll();
  const linker: Linker = new Linker({
    ...{ bat, bitmaps, geometry, lock, logWriter, mapper, numbers, session, unplaced, makeRoom },
  });
  const allocatorOf = (units: number) => new Allocator(file, unitsOf(units), numbers, free, tracker);
  const allocator = allocatorOf(geometry.blockBytes / MIB);
  const reusable = () => ({ waiting: free.unsettledCount, free: free.freeCount });
  const parts = {
    file,
    backing,
    access,
    allocator,
    allocatorOf,
    bat,
    bitmaps,
    disk,
    flush,
    free,
    geometry,
    // over a parent blocks come and go
    isFixed: facts.isFixed && !hasParent,
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
  const reader = new PlainRunReader(file, backing, 'block');
  const ranges = new RangeReader<Run>(lock, mapper, reader);
  const allocating = new AllocatingWrite({ cow: new CowBuffer(reader, file), ...parts });
  const writer = new PlainRunWriter<Run>({ file, lock, allocating, beforeChange: session });
  const runs = new ReservedRuns<Run>({ clusterSize, readOnly: file.readOnly, ranges, writer, ...parts });
  const deallocator = new Deallocator({ runs, writer, ...parts });
  const copier = backing && new CopyUp<Run>({ clusterSize, allocating, deallocator, ...parts, backing });
  const scanned = new VhdxScannedTables(geometry, bat, new PendingLinks(state.pending), mapper, places);
  const scan = new StatusScan(scanned, new HostHoles(file), backing !== null);
  // the log may have bytes of a block, too
  const imageMap = new ImageMap({ lock, scan, backing, showsPlaces: replay === null, dataFile: null });
  return { allocating, copier, deallocator, dirtyBit: session, imageMap, runs, ...parts };
}

/** Space is counted in MiB, because blocks and bitmaps lie at any; a block, or a BAT, is what others call a table. */
function unitsOf(tableSizeClusters: number) {
  return {
    clusterSize: MIB,
    tableSizeClusters,
    clusterOf: (offset: HostOffset) => hostCluster(offset / MIB),
    startOf: (unit: number) => hostOffset(unit * MIB),
  };
}
