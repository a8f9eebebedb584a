// How far one status of the guest's clusters reaches: entries are looked at where they lie in the cached slices, without an
// object for each, so that terabytes of zero clusters take moments. Under the metadata lock; a run is cut after MAX_LOOKS
// entries or MAX_LOADS reads, and its caller goes on from there in another hold of the lock.

import {
  after,
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  guestOffset,
  type HostOffset,
  hostOffset,
} from '../../bytes/offsets.ts';
import { isCorrupt } from '../../errors/index.ts';
import type { Extent, ExtentStatus, StatusRun } from '../image-format.ts';
import type { HostHoles } from './host-holes.ts';
import type { PendingLinks } from './pending-links.ts';
import { type DataRun, MAX_LOOKS, type RunMapper } from './runs/run-mapper.ts';
import type { TableSlices } from './table-slices.ts';

/** What one L2 entry says; 'other' is for what the mapper must decide: subclusters that differ, and damage. */
export type EntryKind = ExtentStatus | 'compressed' | 'other';

/** The tables of one format. */
export interface ScannedTables {
  readonly clusterSize: number;
  /** entries of an L2 table */
  readonly tableEntries: number;
  readonly entryBytes: number;
  readonly slices: TableSlices;
  readonly pending: PendingLinks;
  readonly mapper: RunMapper<MappedRun>;
  /** a map shows what is unallocated as zeros of the image where no backing file shows through, as QEMU does; absent: it does not */
  readonly showsFreeAsZeros?: boolean;
  /** Offset of the L2 table of an L1 entry, 0 for none. Throws corrupt. */
  l2Table(l1Index: number): HostOffset;
  /** @param at where the entry lies in the memory of the slices @param table offset of its L2 table */
  kindOf(at: number, table: HostOffset, cluster: GuestCluster): EntryKind;
  /** Host offset in an entry that kindOf calls data. */
  hostOf(at: number): HostOffset;
}

type MappedRun = DataRun | { readonly status: Exclude<EntryKind, 'data' | 'other'>; readonly length: number };

/**
 * What belongs to one run. status: clusters of one status, wherever their data lies. content: the same, but data in a hole of
 * the host file is zero, and so is what is unallocated where no backing file shows through. extent: data that adjoins in the host file and is a hole there, or is none.
 */
export type ScanMode = 'status' | 'content' | 'extent';

/** The scan reuses a single one. */
export interface ScannedRun {
  status: ExtentStatus;
  /** bytes; the run may go on behind them */
  length: number;
  /** of a run of data in mode extent; -1 for compressed data */
  hostOffset: HostOffset;
  /** data that lies in a hole of the host file; mode extent */
  isHole: boolean;
}

/** Slices that one call reads from the file under the lock; a longer run is cut. */
const MAX_LOADS = 16;
const NO_PLACE = hostOffset(-1);

export class StatusScan {
  private readonly run: ScannedRun = { status: 'zero', length: 0, hostOffset: NO_PLACE, isHole: false };
  private readonly tables: ScannedTables;
  private readonly holes: HostHoles | null;
  private readonly hasBacking: boolean;
  private mode: ScanMode = 'status';
  /** what is unallocated counts as zero */
  private nothingIsZero = false;
  /** where the data of the next cluster of an extent has to lie */
  private nextHost = NO_PLACE;
  /** entries that may still be looked at */
  private looks = 0;
  /** of `slices.loads`: what is read from the file may have to come from its disk */
  private mostLoads = 0;

  /**
   * @param holes null where a hole of the host file does not read as zeros
   * @param hasBacking what is unallocated need not read as zeros
   */
  constructor(tables: ScannedTables, holes: HostHoles | null, hasBacking: boolean) {
    this.tables = tables;
    this.holes = holes;
    this.hasBacking = hasBacking;
  }

  /** The last scan ended because it had looked at enough. */
  get isCut(): boolean {
    return this.looks <= 0;
  }

  /** The run that begins at `offset`, at most `length` bytes long. It ends before a damaged entry, unless that is the first. */
  scan(offset: GuestOffset, length: number, mode: ScanMode): ScannedRun {
    const { run } = this;
    const { clusterSize } = this.tables;
    this.mode = mode;
    const isShown = mode === 'extent' && this.tables.showsFreeAsZeros === true;
    this.nothingIsZero = !this.hasBacking && (mode === 'content' || isShown);
    this.looks = MAX_LOOKS;
    this.mostLoads = this.tables.slices.loads + MAX_LOADS;
    // a map is one look; a search for data is asked again and again, also beside a writer with share
    if (mode === 'extent' && this.holes?.isReadOnly === true) this.holes.goOn();
    else if (mode !== 'status') this.holes?.restart();
    run.length = 0;
    run.length = this.addMapped(offset, Math.min(length, clusterSize - (offset % clusterSize)));
    try {
      while (run.length < length && this.looks > 0 && (offset + run.length) % clusterSize === 0) {
        const cluster = guestCluster((offset + run.length) / clusterSize);
        if (!this.addClusters(cluster, length - run.length)) break;
      }
    } catch (error) {
      if (!isCorrupt(error)) throw error;
    }
    run.length = Math.min(run.length, length);
    return run;
  }

  /** Adds what belongs to the run from a cluster on, in one table. @returns whether the run may go on behind it */
  private addClusters(cluster: GuestCluster, length: number): boolean {
    const { tables, run } = this;
    const { clusterSize, tableEntries } = tables;
    const index = cluster % tableEntries;
    const table = tables.l2Table((cluster - index) / tableEntries);
    const left = Math.min(tableEntries - index, Math.ceil(length / clusterSize));
    const free = tables.pending.countFree(cluster, Math.min(left, this.looks));
    if (free === 0) return this.addOne(cluster, length);
    if (table !== 0) return this.addEntries(cluster, table, free, length);
    if (run.status !== 'unallocated' && !(this.nothingIsZero && run.status === 'zero')) return false;
    const none = tables.pending.isEmpty ? left : free;
    this.looks -= tables.pending.isEmpty ? 1 : free;
    run.length += none * clusterSize;
    return true;
  }

  /** Entries of one slice that wait for no link. */
  private addEntries(cluster: GuestCluster, table: HostOffset, count: number, length: number): boolean {
    const { tables, run, mode, nothingIsZero } = this;
    const { clusterSize, entryBytes, slices } = tables;
    const offset = table + (cluster % tables.tableEntries) * entryBytes;
    const start = slices.load(offset);
    const end = Math.min(count, slices.bytesInSlice(offset) / entryBytes);
    const { status } = run;
    for (let i = 0, at = start; i < end; i++, at += entryBytes) {
      const kind = tables.kindOf(at, table, after(cluster, i));
      if (kind === status && (kind !== 'data' || mode === 'status')) continue;
      if (kind === 'unallocated' && status === 'zero' && nothingIsZero) continue;
      if (kind === 'compressed' && status === 'data' && mode !== 'extent') continue;
      if (kind === 'data' && (status === 'data' || status === 'zero') && mode !== 'status') {
        const bytes = this.bytesOfData(tables.hostOf(at), clusterSize);
        if (bytes === clusterSize) continue;
        run.length += i * clusterSize + bytes;
        return false;
      }
      run.length += i * clusterSize;
      this.looks -= i;
      return kind === 'other' && this.addOne(after(cluster, i), length - i * clusterSize);
    }
    run.length += end * clusterSize;
    this.looks = slices.loads < this.mostLoads ? this.looks - end : 0;
    return true;
  }

  /** Asks the mapper about one cluster. @returns whether all of it belongs to the run */
  private addOne(cluster: GuestCluster, length: number): boolean {
    const { clusterSize } = this.tables;
    this.looks--;
    const wanted = Math.min(clusterSize, length);
    const bytes = this.addMapped(guestOffset(cluster * clusterSize), wanted);
    this.run.length += bytes;
    // what the mapper has to look up may take a read for each cluster
    if (this.tables.slices.loads >= this.mostLoads) this.looks = 0;
    return bytes === wanted;
  }

  /** @returns how many of these bytes, which lie in one cluster, belong to the run; they begin it when it is empty */
  private addMapped(offset: GuestOffset, length: number): number {
    const { run, mode } = this;
    const mapped = this.tables.mapper.map(offset, length);
    const { length: part } = mapped;
    const status = mapped.status === 'unallocated' && this.nothingIsZero ? 'zero' : mapped.status;
    const isFirst = run.length === 0;
    if (mapped.status !== 'data' || mode === 'status') {
      if (isFirst) this.begin(status === 'zero' || status === 'unallocated' ? status : 'data', NO_PLACE);
      else if (status === 'compressed' ? mode === 'extent' || run.status !== 'data' : status !== run.status) return 0;
      return part;
    }
    const host = mapped.hostOffset;
    if (!isFirst) return this.bytesOfData(host, part);
    const bytes = this.holes === null ? part : this.holes.look(host, part);
    const isHole = this.holes?.isHole ?? false;
    this.begin(isHole && mode === 'content' ? 'zero' : 'data', host);
    run.isHole = isHole;
    this.nextHost = after(host, bytes);
    return bytes;
  }

  private begin(status: ExtentStatus, host: HostOffset): void {
    const { run } = this;
    run.status = status;
    run.hostOffset = host;
    run.isHole = false;
    this.nextHost = NO_PLACE;
  }

  /** How many bytes of data at `host` belong to the run, which is not empty; modes content and extent. */
  private bytesOfData(host: HostOffset, length: number): number {
    const { holes, mode, run } = this;
    if (mode === 'extent' && host !== this.nextHost) return 0;
    const bytes = holes === null ? length : holes.look(host, length);
    const isHole = holes?.isHole ?? false;
    if (mode === 'extent' ? isHole !== run.isHole : run.status !== (isHole ? 'zero' : 'data')) return 0;
    this.nextHost = after(host, bytes);
    return bytes;
  }
}

/** @param showsPlaces the bytes at the host offset are the guest's as they are */
export function extentOf(start: number, run: ScannedRun, showsPlaces: boolean): Extent {
  const { status, length, hostOffset, isHole } = run;
  // no spreads: a map of millions of extents calls this for each
  const extent: { -readonly [Field in keyof Extent]: Extent[Field] } = { start, length, status };
  if (showsPlaces && hostOffset !== NO_PLACE) extent.hostOffset = hostOffset;
  if (isHole) extent.isHole = true;
  return extent;
}

export function statusOf({ status, length }: ScannedRun): StatusRun {
  return { status, length };
}
