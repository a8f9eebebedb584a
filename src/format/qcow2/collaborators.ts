// What an open image is made of, besides its own reads and writes: the objects of one thread over the state that all threads
// share, each given by name what it works with. Their order is the order in which they need each other.

import { Mutex } from '../../concurrency/mutex.ts';
import { Reservations } from '../../concurrency/reservations.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import type { HostFile } from '../../host/host-file.ts';
import { FreeClusters } from '../free-clusters.ts';
import type { FullHostParts } from '../full-host.ts';
import { GuestAccess } from '../guest-access.ts';
import { METADATA_LOCK } from '../mapped-state.ts';
import { PendingLinks } from '../pending-links.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Allocator } from './allocate.ts';
import { DeferredDecrements } from './deferred-decrements.ts';
import { Flush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { GuestData } from './guest-data.ts';
import { HeaderBits } from './header-bits.ts';
import { Linker } from './link.ts';
import { Mapper } from './mapping.ts';
import { MetadataClusters } from './metadata-clusters.ts';
import { OverlapCheck } from './overlap.ts';
import { Refcounts } from './refcount.ts';
import { Qcow2Numbers, type Qcow2State } from './state.ts';
import { Tables } from './table.ts';

export interface Collaborators {
  readonly access: GuestAccess;
  readonly allocator: Allocator;
  readonly data: GuestData;
  readonly flush: Flush;
  readonly geometry: Geometry;
  readonly linker: Linker;
  readonly lock: Mutex;
  readonly mapper: Mapper;
  readonly headerBits: HeaderBits;
  readonly metadata: MetadataClusters;
  readonly numbers: Qcow2Numbers;
  readonly overlap: OverlapCheck;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks;
  readonly decrements: DeferredDecrements;
  readonly reservations: Reservations;
  readonly reusable: FullHostParts['reusable'];
  readonly tables: Tables;
  readonly tracker: WriteTracker;
}

/** @param slot this thread's reservation slot @param log takes one sentence a call */
export function connect(
  file: HostFile,
  dataFile: HostFile | null,
  state: Qcow2State,
  slot: number,
  log: (sentence: string) => void,
): Collaborators {
  const { header } = state;
  const { clusterBits, hasDataFile, version } = header;
  const geometry = new Geometry(clusterBits, header.refcountOrder, header.extendedL2);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `the tables of ${file.path}`);
  const numbers = new Qcow2Numbers({ numbers: state.numbers, lock, readOnly: file.readOnly });
  const reservations = new Reservations(state.reservations, lock, slot);
  const pending = new PendingLinks(state.pending);
  const pendingTables = new PendingLinks(state.pendingTables);
  const decrements = new DeferredDecrements(state.decrements);
  const free = new FreeClusters(state.free);
  const data = new GuestData(dataFile ?? file, state.volumeKey);
  const tracker = new WriteTracker(state.tracker, file, log, dataFile);
  const access = new GuestAccess(file, tracker, numbers);
  const tables = new Tables(file, new TableCache(state.cache), tracker, geometry.clusterSize);
  const headerBits = new HeaderBits({ file, header, lock, words, tracker, log });
  const metadata = new MetadataClusters(state.metadata);
  const overlap = new OverlapCheck(geometry, metadata, headerBits, numbers, dataFile !== null);
  const refcounts = new Refcounts({ geometry, tables, numbers, headerBits, overlap });
  const mapper = new Mapper({
    ...{ path: file.path, version, hasDataFile, geometry, tables, pending, pendingTables, numbers, headerBits },
  });
  const allocator = new Allocator({
    ...{ file, geometry, tables, refcounts, free, decrements, tracker, numbers, metadata, headerBits, overlap },
  });
  const linker = new Linker({
    ...{ file, clusterBits, geometry, tables, mapper, allocator, pending, pendingTables },
    ...{ decrements, numbers, metadata, overlap, hasDataFile },
  });
  const flush = new Flush({
    ...{ file, geometry, lock, tracker, pending, pendingTables, decrements, refcounts, linker, free, metadata, log },
  });
  return {
    ...{ access, allocator, data, flush, geometry, linker, lock, mapper, headerBits, metadata, numbers, overlap },
    ...{ pending, pendingTables, decrements, reservations, tables, tracker },
    reusable: () => ({ waiting: decrements.count + pending.count, free: free.freeCount }),
  };
}
