// What an open image is made of, besides its own reads and writes: the objects of one thread over the state that all threads
// share, each given by name what it works with. Their order is the order in which they need each other.

import { Mutex } from '../../concurrency/mutex.ts';
import { Reservations } from '../../concurrency/reservations.ts';
import { TableCache } from '../../concurrency/table-cache.ts';
import type { HostFile } from '../../host/host-file.ts';
import { FreeClusters } from '../free-clusters.ts';
import type { FullHostParts } from '../full-host.ts';
import { GuestAccess } from '../guest-access.ts';
import type { ReadableImage } from '../image-format.ts';
import { METADATA_LOCK } from '../mapped-state.ts';
import { PendingLinks } from '../pending-links.ts';
import { WriteTracker } from '../write-tracker.ts';
import { Allocator } from './allocate.ts';
import { DirtyBit } from './dirty-bit.ts';
import { Flush } from './flush.ts';
import { Geometry } from './geometry.ts';
import { Linker } from './link.ts';
import { Mapper } from './mapping.ts';
import { QedNumbers, type QedState } from './state.ts';
import { Tables } from './table.ts';

export interface Collaborators {
  readonly file: HostFile;
  readonly backing: ReadableImage | null;
  readonly access: GuestAccess;
  readonly allocator: Allocator;
  readonly dirtyBit: DirtyBit;
  readonly flush: Flush;
  readonly free: FreeClusters;
  readonly geometry: Geometry;
  readonly linker: Linker;
  readonly lock: Mutex;
  readonly mapper: Mapper;
  readonly numbers: QedNumbers;
  readonly pending: PendingLinks;
  readonly reservations: Reservations;
  readonly reusable: FullHostParts['reusable'];
  readonly tables: Tables;
  readonly tracker: WriteTracker;
}

/** @param slot this thread's reservation slot @param log takes one sentence a call */
export function connect(
  file: HostFile,
  backing: ReadableImage | null,
  state: QedState,
  slot: number,
  log: (sentence: string) => void,
): Collaborators {
  const { header } = state;
  const geometry = new Geometry(header.clusterSize, header.tableSizeClusters);
  const words = new Int32Array(state.words);
  const lock = new Mutex(words, METADATA_LOCK, `the tables of ${file.path}`);
  const numbers = new QedNumbers({ numbers: state.numbers, lock, readOnly: file.readOnly });
  const reservations = new Reservations(state.reservations, lock, slot);
  const pending = new PendingLinks(state.pending);
  const free = new FreeClusters(state.free);
  const tracker = new WriteTracker(state.tracker, file, log);
  const access = new GuestAccess(file, tracker, numbers);
  const dirtyBit = new DirtyBit(file, header, lock, words, numbers, tracker);
  const tables = new Tables(file, new TableCache(state.cache), geometry);
  const mapper = new Mapper(file, header, geometry, tables, pending, numbers);
  const allocator = new Allocator(file, geometry, numbers, free);
  const linker = new Linker(header.l1TableOffset, geometry, tables, mapper, allocator, tracker);
  const flush = new Flush(file, geometry, lock, tracker, pending, linker, free, numbers, log);
  return {
    ...{ file, backing, access, allocator, dirtyBit, flush, free, geometry, linker, lock, mapper, numbers, pending },
    ...{ reservations, tables, reusable: () => ({ waiting: free.unsettledCount, free: free.freeCount }), tracker },
  };
}
