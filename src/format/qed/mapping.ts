// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only, so
// it may be used after the lock is released as long as the range stays reserved (R2, R3).

import {
  after,
  type GuestCluster,
  type GuestOffset,
  type HostOffset,
  hex,
  hostOffset,
  remainder,
  UNSET,
} from '../../bytes/offsets.ts';
import { failpoint } from '../../concurrency/failpoints.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import { NOT_PENDING, type PendingLinks } from '../mapped/pending-links.ts';
import { type DataRun, MAX_LOOKS, type UnallocatedRun, type ZeroRun } from '../mapped/runs/run-mapper.ts';
import type { Geometry } from './geometry.ts';
import type { QedHeader } from './header.ts';
import type { QedNumbers } from './state.ts';
import { type Tables, UNALLOCATED_ENTRY, ZERO_ENTRY } from './table.ts';

export type Run = DataRun | ZeroRun | UnallocatedRun;
type Filled<R> = { -readonly [Field in keyof R]: R[Field] };

export class Mapper {
  /** the answers of map() */
  private readonly data: Filled<DataRun> = { status: 'data', hostOffset: UNSET, length: UNSET };
  private readonly zero: Filled<ZeroRun> = { status: 'zero', length: UNSET };
  private readonly unallocated: Filled<UnallocatedRun> = { status: 'unallocated', length: UNSET };
  private readonly path: string;
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly pending: PendingLinks;
  private readonly numbers: Pick<QedNumbers, 'fileEnd'>;
  private readonly l1Table: HostOffset;
  private readonly headerBytes: number;
  /** of a table, that must be in the file: in a truncated copy, which is only read, the rest of it reads as zeros */
  private readonly leastTableBytes: number;

  constructor(
    { path, readOnly }: HostFile,
    header: QedHeader,
    geometry: Geometry,
    tables: Tables,
    pending: PendingLinks,
    numbers: Pick<QedNumbers, 'fileEnd'>,
  ) {
    this.path = path;
    this.geometry = geometry;
    this.tables = tables;
    this.pending = pending;
    this.numbers = numbers;
    this.l1Table = hostOffset(header.l1TableOffset);
    this.headerBytes = header.headerSizeClusters * header.clusterSize;
    this.leastTableBytes = readOnly ? header.clusterSize : geometry.tableBytes;
  }

  /** The longest run of one status (and, for data, of adjoining host clusters) from `offset` on. */
  map(offset: GuestOffset, maxLength: number): Run {
    const { geometry } = this;
    const end = offset + maxLength;
    let cluster = geometry.clusterOf(offset);
    let l1Index = geometry.l1IndexOf(cluster);
    let l2Table = this.l2Table(l1Index);
    let entry = this.lookup(cluster, l2Table);
    const run = this.runOf(entry);
    if (run.status === 'data') run.hostOffset = hostOffset(entry + (offset - geometry.startOf(cluster)));
    let covered = geometry.startOf(cluster) + geometry.clusterSize;
    for (let looks = 0; covered < end && looks < MAX_LOOKS; looks++) {
      cluster++;
      if (geometry.l2IndexOf(cluster) === 0) {
        l1Index++;
        l2Table = this.l2Table(l1Index);
      }
      if (l2Table === 0 && run.status === 'unallocated' && this.pending.isEmpty) {
        cluster = after(geometry.firstClusterOf(l1Index), geometry.tableEntries - 1);
        covered = geometry.startOf(cluster) + geometry.clusterSize;
        continue;
      }
      const next = this.lookup(cluster, l2Table);
      if (run.status === 'data' ? next !== entry + geometry.clusterSize : next !== entry) break;
      entry = next;
      covered += geometry.clusterSize;
    }
    run.length = Math.min(covered, end) - offset;
    return run;
  }

  private runOf(entry: number): Filled<Run> {
    if (entry === UNALLOCATED_ENTRY) return this.unallocated;
    return entry === ZERO_ENTRY ? this.zero : this.data;
  }

  /** L2 entry of a guest cluster as it will be once every pending link is made: 0, 1 or a checked host offset. */
  lookup(guestCluster: GuestCluster, l2Table: HostOffset): number {
    const waiting = this.pending.find(guestCluster);
    if (waiting !== NOT_PENDING) return waiting;
    if (l2Table === 0) return UNALLOCATED_ENTRY;
    const index = this.geometry.l2IndexOf(guestCluster);
    failpoint('l2-load');
    const entry = this.tables.load(l2Table, index);
    if (entry === UNALLOCATED_ENTRY || entry === ZERO_ENTRY) return entry;
    if (this.isData(entry, l2Table)) return entry;
    throw this.badEntry('L2', l2Table, index, `guest offset ${hex(this.geometry.startOf(guestCluster))}`);
  }

  /** Host offset of the L2 table behind L1 entry `l1Index`, or 0. */
  l2Table(l1Index: number): HostOffset {
    failpoint('l1-load');
    const entry = this.tables.load(this.l1Table, l1Index);
    if (entry === UNALLOCATED_ENTRY || this.isInside(entry, this.leastTableBytes)) return hostOffset(entry);
    throw this.badEntry('L1', this.l1Table, l1Index, `guest offset ${hex(l1Index * this.geometry.l2Coverage)}`);
  }

  private isInside(entry: number, bytes: number): boolean {
    if (!(remainder(entry, this.geometry.clusterSize) === 0 && entry >= this.headerBytes)) return false;
    if (entry + bytes > this.numbers.fileEnd) return false;
    return entry + bytes <= this.l1Table || entry >= this.l1Table + this.geometry.tableBytes;
  }

  /** An entry of `l2Table` leads to a cluster of the file that is neither in the header, nor in the L1 table, nor in `l2Table`. */
  isData(entry: number, l2Table: HostOffset): boolean {
    if (!this.isInside(entry, this.geometry.clusterSize)) return false;
    return entry < l2Table || entry >= l2Table + this.geometry.tableBytes;
  }

  private badEntry(table: string, offset: HostOffset, index: number, guest: string): ImgfuseError {
    const value = this.tables.describe(offset, index);
    return new ImgfuseError(
      'corrupt',
      `${this.path}: ${table} entry ${index} at offset ${hex(offset + index * 8)} is ${value}, which is not a cluster of this file ` +
        `(${guest}); run imgfuse check -r all`,
      { path: this.path, offset: offset + index * 8 },
    );
  }
}
