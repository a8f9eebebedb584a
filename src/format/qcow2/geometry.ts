// The numbers that follow from the header, computed once. A host cluster number is cut in two:
//
//   refcount block = cluster / refcountsPerBlock, entry = the rest

import { divideUp, type GuestOffset, type HostOffset, hostOffset, remainder } from '../../bytes/offsets.ts';
import { TwoLevelGrid } from '../mapped/two-level-grid.ts';
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

export class Geometry extends TwoLevelGrid {
  /** what a write allocates and zeroing can express: 1/32 of a cluster with extended L2 entries, else a whole cluster */
  readonly subclusterSize: number;
  readonly extendedL2: boolean;
  readonly l2EntryBytes: number;
  readonly refcountBits: number;
  /** largest count that fits, as far as numbers can say */
  readonly refcountMax: number;
  /** entries of a refcount block, which is one cluster */
  readonly refcountsPerBlock: number;

  constructor(clusterBits: number, refcountOrder: number, extendedL2: boolean) {
    const clusterSize = 2 ** clusterBits;
    // an L2 table is one cluster
    super(clusterSize, clusterSize / l2EntryBytes(extendedL2));
    this.extendedL2 = extendedL2;
    this.subclusterSize = extendedL2 ? this.clusterSize / SUBCLUSTERS_PER_CLUSTER : this.clusterSize;
    this.l2EntryBytes = l2EntryBytes(extendedL2);
    this.refcountBits = 2 ** refcountOrder;
    this.refcountMax = Math.min(2 ** this.refcountBits - 1, Number.MAX_SAFE_INTEGER);
    this.refcountsPerBlock = (this.clusterSize * 8) / this.refcountBits;
  }

  /** Bytes from the first byte of the cluster to `offset`. */
  inCluster(offset: GuestOffset | HostOffset): number {
    return remainder(offset, this.clusterSize);
  }

  /** L1 entries that a disk of `size` bytes needs. */
  l1EntriesFor(size: number): number {
    return l1EntriesFor(size, this.clusterSize, this.extendedL2);
  }
}
