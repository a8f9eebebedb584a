// Guest range -> where its bytes are: no data I/O, no change. Used under the metadata lock; the answer is values only, so
// it may be used after the lock is released as long as the range stays reserved (R2, R3).

import { type HostOffset, hex, hostOffset } from '../../bytes/offsets.ts';
import { reach } from '../../concurrency/breakpoints.ts';
import type { ImgfuseError } from '../../errors/index.ts';
import { NOT_PENDING, type PendingLinks } from '../pending-links.ts';
import { MAX_LOOKS } from '../run-mapper.ts';
import type { Geometry } from './geometry.ts';
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
import { isCompressed, isCopied, offsetOf, QCOW_OFLAG_ZERO, type Tables } from './table.ts';

export type ClusterStatus = 'data' | 'zero' | 'unallocated' | 'compressed';

/** The host cluster of what has none; 0 is the first cluster of an external data file. */
export const NO_HOST = -1;

/** One run of a guest range; the mapper reuses a single object. */
export interface Run {
  status: ClusterStatus;
  /** host offset of the first byte of a data run; the words of the descriptor of a compressed cluster are in high and low */
  hostOffset: HostOffset;
  length: number;
  /** data that no snapshot shares: it may be written in place */
  copied: boolean;
  /** with extended L2 entries: the host cluster behind the first byte, also where its subcluster has no data, or NO_HOST */
  hostCluster: number;
  high: number;
  low: number;
}

/** What one L2 entry says; reused like Run. */
export interface Cluster {
  /** of the whole cluster; with extended L2 entries only "compressed" or not: `subclusters` says the rest */
  status: ClusterStatus;
  /** offset of the host cluster, or NO_HOST */
  host: number;
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
  readonly pendingTables: PendingLinks;
  readonly numbers: Pick<Qcow2Numbers, 'isPlace' | 'l1Entries' | 'l1Offset'>;
  readonly headerBits: HeaderBits;
}

export class Mapper {
  readonly run: Run = {
    ...{
      status: 'unallocated',
      hostOffset: hostOffset(0),
      length: 0,
      copied: false,
      hostCluster: NO_HOST,
      high: 0,
      low: 0,
    },
  };
  private readonly cluster: Cluster = {
    ...{ status: 'unallocated', host: NO_HOST, copied: false, subclusters: UNALLOCATED_BITMAP, high: 0, low: 0 },
  };
  private readonly path: string;
  private readonly version: 2 | 3;
  private readonly hasDataFile: boolean;
  private readonly geometry: Geometry;
  private readonly tables: Tables;
  private readonly pending: PendingLinks;
  private readonly pendingTables: PendingLinks;
  private readonly numbers: MapperParts['numbers'];
  private readonly headerBits: HeaderBits;

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

  /** Fills `run` with the longest run of one status (and, for data, of adjoining host clusters) from `offset` on. */
  map(offset: number, maxLength: number): Run {
    if (this.geometry.extendedL2) return this.mapSubclusters(offset, maxLength);
    const { geometry, run, cluster } = this;
    const { clusterSize } = geometry;
    const end = offset + maxLength;
    let number = geometry.clusterOf(offset);
    let table = this.l2Table(geometry.l1IndexOf(number));
    this.lookup(number, table);
    const inCluster = offset - number * clusterSize;
    run.status = cluster.status;
    run.copied = cluster.copied;
    run.hostOffset = hostOffset(cluster.status === 'data' ? cluster.host + inCluster : 0);
    run.high = cluster.high;
    run.low = cluster.low;
    let host = cluster.host;
    let covered = (number + 1) * clusterSize;
    for (let looks = 0; covered < end && looks < MAX_LOOKS && run.status !== 'compressed'; looks++) {
      number++;
      if (number % geometry.l2Entries === 0) table = this.l2Table(geometry.l1IndexOf(number));
      if (table === 0 && run.status === 'unallocated' && this.pending.isEmpty) {
        number = (geometry.l1IndexOf(number) + 1) * geometry.l2Entries - 1;
        covered = (number + 1) * clusterSize;
        continue;
      }
      this.lookup(number, table);
      if (cluster.status !== run.status || cluster.copied !== run.copied) break;
      if (run.status === 'data' && cluster.host !== host + clusterSize) break;
      host = cluster.host;
      covered += clusterSize;
    }
    run.length = Math.min(covered, end) - offset;
    return run;
  }

  /** The same with extended L2 entries: runs of subclusters. Where a host cluster has no data, the run ends with it. */
  private mapSubclusters(offset: number, maxLength: number): Run {
    const { geometry, run, cluster } = this;
    const { clusterSize, subclusterSize } = geometry;
    const end = offset + maxLength;
    let number = geometry.clusterOf(offset);
    let table = this.l2Table(geometry.l1IndexOf(number));
    this.lookup(number, table);
    const inCluster = offset - number * clusterSize;
    const first = Math.floor(inCluster / subclusterSize);
    run.status = statusOf(cluster, first);
    run.copied = cluster.copied;
    run.hostCluster = cluster.host;
    run.hostOffset = hostOffset(run.status === 'data' ? cluster.host + inCluster : 0);
    run.high = cluster.high;
    run.low = cluster.low;
    let { host } = cluster;
    let next = first + lengthOf(cluster, first);
    for (let looks = 0; next * subclusterSize === clusterSize && looks < MAX_LOOKS; looks++) {
      if ((number + 1) * clusterSize >= end || run.status === 'compressed') break;
      if (run.status !== 'data' && run.hostCluster !== NO_HOST) break;
      if (geometry.l2IndexOf(number + 1) === 0) table = this.l2Table(geometry.l1IndexOf(number + 1));
      this.lookup(number + 1, table);
      if (statusOf(cluster, 0) !== run.status || cluster.copied !== run.copied) break;
      if (cluster.host !== (run.status === 'data' ? host + clusterSize : NO_HOST)) break;
      host = cluster.host;
      number++;
      next = lengthOf(cluster, 0);
    }
    run.length = Math.min(number * clusterSize + next * subclusterSize, end) - offset;
    return run;
  }

  /** Fills `cluster` with what a guest cluster will be once every pending link is made. */
  lookup(guestCluster: number, l2Table: number): Readonly<Cluster> {
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
    if (l2Table === 0) return this.classify(0, 0, UNALLOCATED_BITMAP);
    const index = geometry.l2IndexOf(guestCluster);
    this.load(l2Table, index);
    // as QEMU has it: version 2 knows no zero flag
    if (this.version === 2 && cluster.status !== 'compressed' && (cluster.low & QCOW_OFLAG_ZERO) !== 0) {
      throw this.badEntry('L2', l2Table, index, guestCluster * geometry.clusterSize);
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
  load(l2Table: number, index: number): Readonly<Cluster> {
    const { geometry, tables } = this;
    reach('l2-load');
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

  /** Host offset of the L2 table behind L1 entry `l1Index`, one that waits for its link included, or 0. */
  l2Table(l1Index: number): number {
    const waiting = this.pendingTables.find(l1Index);
    if (waiting !== NOT_PENDING) return waiting;
    if (l1Index >= this.numbers.l1Entries) return 0;
    reach('l1-load');
    const { high, low } = this.tables.load(this.numbers.l1Offset, l1Index);
    const table = offsetOf(high, low);
    if (table === 0) return 0;
    if (this.isPlace(table)) return table;
    throw this.badEntry('L1', this.numbers.l1Offset, l1Index, l1Index * this.geometry.l2Coverage);
  }

  /** The L2 table of `l1Index` belongs to the active layer alone and may be changed. */
  isTableWritable(l1Index: number): boolean {
    if (this.pendingTables.find(l1Index) !== NOT_PENDING) return true;
    if (l1Index >= this.numbers.l1Entries) return false;
    return isCopied(this.tables.load(this.numbers.l1Offset, l1Index).high);
  }

  private assertPlace({ status, host }: Cluster, table: number, index: number, guestCluster: number): void {
    if (status === 'data' ? this.isData(host, table, guestCluster) : status !== 'compressed' || !this.hasDataFile)
      return;
    throw this.badEntry('L2', table, index, guestCluster * this.geometry.clusterSize);
  }

  /** Data lies in a cluster of this file; in a data file it is the one that belongs to the guest cluster. */
  isData(host: number, table: number, guestCluster: number): boolean {
    if (this.hasDataFile) return host === guestCluster * this.geometry.clusterSize;
    return host !== table && this.isPlace(host);
  }

  /**
   * A whole, aligned cluster of the file that is no part of the active L1 table or of the refcount table. What else there is of
   * metadata is known only where all tables were walked.
   */
  private isPlace(offset: number): boolean {
    const { clusterSize } = this.geometry;
    return offset % clusterSize === 0 && this.numbers.isPlace(offset, clusterSize);
  }

  private badEntry(name: string, table: number, index: number, guest: number): ImgfuseError {
    const value = this.tables.describe(table, index);
    return this.headerBits.damaged(
      `${name} entry ${index} at offset ${hex(table + index * 8)} is ${value}, which is not a cluster of this file ` +
        `(guest offset ${hex(guest)}); run imgfuse check`,
      table + index * 8,
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
