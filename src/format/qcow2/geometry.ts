// The numbers that follow from the header, computed once. A guest offset is cut in three:
//
//   guest offset = ((l1Index * l2Entries) + l2Index) * clusterSize + offset in the cluster
//
// A host cluster number is cut in two: refcount block = cluster / refcountsPerBlock, entry = the rest.

import {
  divideUp,
  type GuestCluster,
  type GuestOffset,
  guestCluster,
  type HostCluster,
  type HostOffset,
  hostOffset,
  remainder,
} from '../../bytes/offsets.ts';
import { SUBCLUSTERS_PER_CLUSTER } from './subcluster.ts';

export const L1_ENTRY_BYTES = 8;
export const REFCOUNT_TABLE_ENTRY_BYTES = 8;

function l2EntryBytes(extendedL2: boolean): number {
  return extendedL2 ? 16 : 8;
}

/** L1 entries that map a disk of `size` bytes. */
export function l1EntriesFor(size: number, clusterSize: number, extendedL2: boolean): number {
  return divideUp(size, (clusterSize / l2EntryBytes(extendedL2)) * clusterSize);
}

/** Where guest bytes lie in an external data file: each at its guest offset. */
export function placeInDataFile(guest: GuestOffset): HostOffset {
  return hostOffset(guest);
}

export class Geometry {
  readonly clusterSize: number;
  /** what a write allocates and zeroing can express: 1/32 of a cluster with extended L2 entries, else a whole cluster */
  readonly subclusterSize: number;
  readonly extendedL2: boolean;
  readonly l2EntryBytes: number;
  /** entries of an L2 table, which is one cluster */
  readonly l2Entries: number;
  /** guest bytes that one L2 table maps */
  readonly l2Coverage: number;
  readonly refcountBits: number;
  /** largest count that fits, as far as numbers can say */
  readonly refcountMax: number;
  /** entries of a refcount block, which is one cluster */
  readonly refcountsPerBlock: number;

  constructor(clusterBits: number, refcountOrder: number, extendedL2: boolean) {
    this.clusterSize = 2 ** clusterBits;
    this.extendedL2 = extendedL2;
    this.subclusterSize = extendedL2 ? this.clusterSize / SUBCLUSTERS_PER_CLUSTER : this.clusterSize;
    this.l2EntryBytes = l2EntryBytes(extendedL2);
    this.l2Entries = this.clusterSize / this.l2EntryBytes;
    this.l2Coverage = this.l2Entries * this.clusterSize;
    this.refcountBits = 2 ** refcountOrder;
    this.refcountMax = Math.min(2 ** this.refcountBits - 1, Number.MAX_SAFE_INTEGER);
    this.refcountsPerBlock = (this.clusterSize * 8) / this.refcountBits;
  }

  /** The cluster that holds the byte at `offset`, of the same disk or file. */
  clusterOf(offset: GuestOffset): GuestCluster;
  clusterOf(offset: HostOffset): HostCluster;
  clusterOf(offset: number): number;
  clusterOf(offset: number): number {
    return Math.floor(offset / this.clusterSize);
  }

  /** The first byte of a cluster. */
  startOf(cluster: GuestCluster): GuestOffset;
  startOf(cluster: HostCluster): HostOffset;
  startOf(cluster: number): number {
    return cluster * this.clusterSize;
  }

  /** Bytes from the first byte of the cluster to `offset`. */
  inCluster(offset: GuestOffset | HostOffset): number {
    return remainder(offset, this.clusterSize);
  }

  /** Clusters that `bytes` bytes take, the last one maybe in part. */
  clustersFor(bytes: number): number {
    return Math.ceil(bytes / this.clusterSize);
  }

  l1IndexOf(guestCluster: GuestCluster): number {
    return Math.floor(guestCluster / this.l2Entries);
  }

  l2IndexOf(guestCluster: GuestCluster): number {
    return remainder(guestCluster, this.l2Entries);
  }

  /** The first guest cluster that the L2 table of an L1 entry maps. */
  firstClusterOf(l1Index: number): GuestCluster {
    return guestCluster(l1Index * this.l2Entries);
  }

  /** L1 entries that a disk of `size` bytes needs. */
  l1EntriesFor(size: number): number {
    return l1EntriesFor(size, this.clusterSize, this.extendedL2);
  }
}
