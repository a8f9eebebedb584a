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
import type { ImgfuseError } from '../../errors/index.ts';
import { NOT_PENDING, type PendingLinks } from '../mapped/pending-links.ts';
import { MAX_LOOKS } from '../mapped/runs/run-mapper.ts';
import { type Geometry, placeInDataFile } from './geometry.ts';
import type { HeaderBits } from './header-bits.ts';
import type { Qcow2Numbers } from './state.ts';
import {
  checkSubclusters,
  DATA_BITMAP,
  SUBCLUSTERS_PER_CLUSTER,
  type SubclusterBitmap,
  subclusterRunLength,
  subclusterStatus,
  UNALLOCATED_BITMAP,
  ZERO_BITMAP,
} from './subcluster.ts';
import { entryAt, isCompressed, isCopied, offsetOf, QCOW_OFLAG_ZERO, type Tables } from './table.ts';

/** No host cluster. 0 cannot mean that: it is a valid cluster of a data file. */
export const NO_HOST = hostOffset(-1);
/** No L2 table. */
const NO_TABLE = hostOffset(0);

/** What one run of a guest range is. The mapper reuses one object for each status. */
export type Run = DataRun | ZeroRun | UnallocatedRun | CompressedRun;

export type ClusterStatus = Run['status'];

export interface DataRun {
  readonly status: 'data';
  length: number;
  /** of the first byte; the others follow it */
  hostOffset: HostOffset;
  /** no snapshot shares the data: it may be written in place */
  copied: boolean;
}

interface RunWithoutData {
  length: number;
  /**
   * With extended L2 entries the cluster in which the first byte would have its data, because other subclusters have theirs
   * there; else NO_HOST.
   */
  home: HostOffset;
  /** no snapshot shares `home` */
  copied: boolean;
}

export interface ZeroRun extends RunWithoutData {
  readonly status: 'zero';
}

/** Unallocated: the backing file shows through. */
export interface UnallocatedRun extends RunWithoutData {
  readonly status: 'unallocated';
}

/** Bytes of one compressed cluster. */
export interface CompressedRun {
  readonly status: 'compressed';
  length: number;
  /** the words of the L2 entry, which hold the descriptor */
  high: number;
  low: number;
}

/** What one L2 entry says; the mapper reuses a single object. */
export interface Cluster {
  /** of the whole cluster; with extended L2 entries only "compressed" or not: `subclusters` says the rest */
  status: ClusterStatus;
  /** the host cluster, or NO_HOST */
  host: HostOffset;
  copied: boolean;
  subclusters: SubclusterBitmap;
  high: number;
  low: number;
}

export interface MapperParts {
  readonly path: string;
  readonly version: 2 | 3;
  /** guest data lies in a file of its own */
  readonly hasDataFile: boolean;
  readonly geometry: Geometry;
  readonly tables: Tables;
  readonly pending: PendingLinks;
  readonly pendingTables: PendingLinks<number>;
  readonly numbers: Pick<Qcow2Numbers, 'isPlace' | 'l1Entries' | 'l1Offset'>;
  readonly headerBits: Pick<HeaderBits, 'damaged'>;
}

export class Mapper {
  private readonly dataRun: DataRun = { status: 'data', length: UNSET, hostOffset: UNSET, copied: false };
  private readonly zeroRun: ZeroRun = { status: 'zero', length: UNSET, home: UNSET, copied: false };
  private readonly unallocatedRun: UnallocatedRun = {
    status: 'unallocated',
    length: UNSET,
    home: UNSET,
    copied: false,
  };
  private readonly compressedRun: CompressedRun = { status: 'compressed', length: UNSET, high: UNSET, low: UNSET };
  private readonly cluster: Cluster = {
    status: 'unallocated',
    host: UNSET,
    copied: false,
    subclusters: UNALLOCATED_BITMAP,
    high: UNSET,
    low: UNSET,
  };
  private readonly path: string;
  private readonly version: 2 | 3;
  private readonly hasDataFile: boolean;
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly pending: PendingLinks;
  private readonly pendingTables: PendingLinks<number>;
  private readonly numbers: MapperParts['numbers'];
  private readonly headerBits: MapperParts['headerBits'];

  constructor({
    path,
    version,
    hasDataFile,
    geometry,
    tables,
    pending,
    pendingTables,
    numbers,
    headerBits,
  }: MapperParts) {
    this.path = path;
    this.headerBits = headerBits;
    this.version = version;
    this.hasDataFile = hasDataFile;
    this.geometry = geometry;
    this.tables = tables;
    this.pending = pending;
    this.pendingTables = pendingTables;
    this.numbers = numbers;
  }

  /** The longest run of one status (and, for data, of adjoining host clusters) from `offset` on. */
  map(offset: GuestOffset, maxLength: number): Run {
    if (this.geometry.extendedL2) return this.mapSubclusters(offset, maxLength);
    const { geometry, cluster } = this;
    const { clusterSize } = geometry;
    const end = offset + maxLength;
    let number = geometry.clusterOf(offset);
    let table = this.l2Table(geometry.l1IndexOf(number));
    this.lookup(number, table);
    const { status, copied } = cluster;
    const run = this.begin(status, geometry.inCluster(offset));
    let { host } = cluster;
    let covered = (number + 1) * clusterSize;
    for (let looks = 0; covered < end && looks < MAX_LOOKS && status !== 'compressed'; looks++) {
      number = after(number, 1);
      if (geometry.l2IndexOf(number) === 0) table = this.l2Table(geometry.l1IndexOf(number));
      if (table === NO_TABLE && status === 'unallocated' && this.pending.isEmpty) {
        number = after(geometry.firstClusterOf(geometry.l1IndexOf(number) + 1), -1);
        covered = (number + 1) * clusterSize;
        continue;
      }
      this.lookup(number, table);
      if (cluster.status !== status || cluster.copied !== copied) break;
      if (status === 'data' && cluster.host !== host + clusterSize) break;
      host = cluster.host;
      covered += clusterSize;
    }
    run.length = Math.min(covered, end) - offset;
    return run;
  }

  /** The same with extended L2 entries: runs of subclusters. Where a host cluster has no data, the run ends with it. */
  private mapSubclusters(offset: GuestOffset, maxLength: number): Run {
    const { geometry, cluster } = this;
    const { clusterSize, subclusterSize } = geometry;
    const end = offset + maxLength;
    let number = geometry.clusterOf(offset);
    let table = this.l2Table(geometry.l1IndexOf(number));
    this.lookup(number, table);
    const inCluster = geometry.inCluster(offset);
    const first = Math.floor(inCluster / subclusterSize);
    const status = statusOf(cluster, first);
    const run = this.begin(status, inCluster);
    const { copied, host: home } = cluster;
    let host = home;
    let next = first + lengthOf(cluster, first);
    for (let looks = 0; next * subclusterSize === clusterSize && looks < MAX_LOOKS; looks++) {
      if ((number + 1) * clusterSize >= end || status === 'compressed') break;
      if (status !== 'data' && home !== NO_HOST) break;
      const following = after(number, 1);
      if (geometry.l2IndexOf(following) === 0) table = this.l2Table(geometry.l1IndexOf(following));
      this.lookup(following, table);
      if (statusOf(cluster, 0) !== status || cluster.copied !== copied) break;
      if (cluster.host !== (status === 'data' ? host + clusterSize : NO_HOST)) break;
      host = cluster.host;
      number = following;
      next = lengthOf(cluster, 0);
    }
    run.length = Math.min(number * clusterSize + next * subclusterSize, end) - offset;
    return run;
  }

  /** The run of a status that begins in `cluster`, so many bytes from its start; its length is not known yet. */
  private begin(status: ClusterStatus, inCluster: number): Run {
    const { cluster } = this;
    if (status === 'data') {
      this.dataRun.hostOffset = after(cluster.host, inCluster);
      this.dataRun.copied = cluster.copied;
      return this.dataRun;
    }
    if (status === 'compressed') {
      this.compressedRun.high = cluster.high;
      this.compressedRun.low = cluster.low;
      return this.compressedRun;
    }
    const run = status === 'zero' ? this.zeroRun : this.unallocatedRun;
    run.home = this.geometry.extendedL2 ? cluster.host : NO_HOST;
    run.copied = cluster.copied;
    return run;
  }

  /** Fills `cluster` with what a guest cluster will be once every pending link is made. */
  lookup(guestCluster: GuestCluster, l2Table: HostOffset): Readonly<Cluster> {
    const { cluster, geometry, pending } = this;
    const waiting = pending.find(guestCluster);
    if (waiting !== NOT_PENDING) {
      cluster.high = 0;
      cluster.low = 0;
      cluster.status = 'data';
      cluster.host = waiting;
      cluster.copied = true;
      cluster.subclusters = geometry.extendedL2 ? { allocated: pending.allocated, zero: pending.zero } : DATA_BITMAP;
      return cluster;
    }
    if (l2Table === NO_TABLE) return this.classify(0, 0, UNALLOCATED_BITMAP);
    const index = geometry.l2IndexOf(guestCluster);
    this.load(l2Table, index);
    // as QEMU has it: version 2 knows no zero flag
    if (this.version === 2 && cluster.status !== 'compressed' && (cluster.low & QCOW_OFLAG_ZERO) !== 0) {
      throw this.badEntry('L2', l2Table, index, geometry.startOf(guestCluster));
    }
    // the place that a zero cluster keeps is not read
    this.assertPlace(cluster, l2Table, index, guestCluster);
    if (geometry.extendedL2 && cluster.status !== 'compressed') {
      const at = l2Table + index * geometry.l2EntryBytes;
      checkSubclusters(cluster.subclusters, cluster.host !== NO_HOST, { path: this.path, offset: at });
    }
    return cluster;
  }

  /** Fills `cluster` with entry `index` of an L2 table as it stands; the offset is not checked. */
  load(l2Table: HostOffset, index: number): Readonly<Cluster> {
    const { geometry, tables } = this;
    failpoint('l2-load');
    if (!geometry.extendedL2) {
      const { high, low } = tables.load(l2Table, index);
      return this.classify(high, low, UNALLOCATED_BITMAP);
    }
    const bitmap = tables.load(l2Table, index * 2 + 1);
    const subclusters = { allocated: bitmap.low, zero: bitmap.high };
    const { high, low } = tables.load(l2Table, index * 2);
    return this.classify(high, low, subclusters);
  }

  private classify(high: number, low: number, subclusters: SubclusterBitmap): Readonly<Cluster> {
    const { cluster, geometry } = this;
    cluster.high = high;
    cluster.low = low;
    cluster.copied = false;
    cluster.subclusters = subclusters;
    const offset = offsetOf(high, low);
    // the first cluster of a data file is at 0; what tells it from none is the flag
    const hasHost = !isCompressed(high) && (offset !== 0 || (this.hasDataFile && isCopied(high)));
    cluster.host = hasHost ? offset : NO_HOST;
    if (isCompressed(high)) {
      cluster.status = 'compressed';
      cluster.subclusters = UNALLOCATED_BITMAP;
    } else if (this.version === 3 && !geometry.extendedL2 && (low & QCOW_OFLAG_ZERO) !== 0) {
      // a zero cluster may keep a host cluster, which its next write frees
      cluster.status = 'zero';
      cluster.subclusters = ZERO_BITMAP;
    } else if (!hasHost) {
      cluster.status = 'unallocated';
    } else {
      cluster.status = 'data';
      cluster.copied = isCopied(high);
      if (!geometry.extendedL2) cluster.subclusters = DATA_BITMAP;
    }
    return cluster;
  }

  /** The L2 table that L1 entry `l1Index` leads to, or will lead to once its link is made; 0 if there is none. */
  l2Table(l1Index: number): HostOffset {
    const waiting = this.pendingTables.find(l1Index);
    if (waiting !== NOT_PENDING) return waiting;
    if (l1Index >= this.numbers.l1Entries) return NO_TABLE;
    failpoint('l1-load');
    const { high, low } = this.tables.load(this.numbers.l1Offset, l1Index);
    const table = offsetOf(high, low);
    if (table === NO_TABLE || this.isPlace(table)) return table;
    throw this.badEntry(
      'L1',
      this.numbers.l1Offset,
      l1Index,
      this.geometry.startOf(this.geometry.firstClusterOf(l1Index)),
    );
  }

  /** The L2 table of `l1Index` belongs to the active layer alone and may be changed. */
  isTableWritable(l1Index: number): boolean {
    if (this.pendingTables.find(l1Index) !== NOT_PENDING) return true;
    if (l1Index >= this.numbers.l1Entries) return false;
    return isCopied(this.tables.load(this.numbers.l1Offset, l1Index).high);
  }

  private assertPlace({ status, host }: Cluster, table: HostOffset, index: number, guestCluster: GuestCluster): void {
    const isSound =
      status === 'data' ? this.isData(host, table, guestCluster) : status !== 'compressed' || !this.hasDataFile;
    if (!isSound) throw this.badEntry('L2', table, index, this.geometry.startOf(guestCluster));
  }

  /** Data lies in a cluster of this file; in a data file it is the one that belongs to the guest cluster. */
  isData(host: HostOffset, table: HostOffset, guestCluster: GuestCluster): boolean {
    if (this.hasDataFile) return host === placeInDataFile(this.geometry.startOf(guestCluster));
    return host !== table && this.isPlace(host);
  }

  /**
   * A whole, aligned cluster of the file that is no part of the active L1 table or of the refcount table. What else there is of
   * metadata is known only where all tables were walked.
   */
  private isPlace(offset: HostOffset): boolean {
    const { clusterSize } = this.geometry;
    return remainder(offset, clusterSize) === 0 && this.numbers.isPlace(offset, clusterSize);
  }

  private badEntry(name: string, table: HostOffset, index: number, guest: GuestOffset): ImgfuseError {
    const value = this.tables.describe(table, index);
    const at = entryAt(table, index);
    return this.headerBits.damaged(
      `${name} entry ${index} at offset ${hex(at)} is ${value}, which is not a cluster of this file ` +
        `(guest offset ${hex(guest)}); run imgfuse check`,
      at,
    );
  }
}

function statusOf(cluster: Readonly<Cluster>, subcluster: number): ClusterStatus {
  return cluster.status === 'compressed' ? 'compressed' : subclusterStatus(cluster.subclusters, subcluster);
}

function lengthOf(cluster: Readonly<Cluster>, subcluster: number): number {
  if (cluster.status === 'compressed') return SUBCLUSTERS_PER_CLUSTER - subcluster;
  return subclusterRunLength(cluster.subclusters, subcluster);
}
