// The sizes that follow from a header, computed once. The disk is cut in blocks of one size; in the file each of them may come
// after extra bytes of its own, so host blocks are `stride` bytes apart:
//
//   host offset of a byte = dataOffset + index * (blockExtra + blockSize) + blockExtra + offset in the block
//
// Where the blocks begin can change while an image is open (resize.ts); that is in state.ts.

import { type GuestCluster, type GuestOffset, type HostOffset, hostOffset } from '../../bytes/offsets.ts';

export const ENTRY_BYTES = 4;

export class Geometry {
  /** bytes of a block */
  readonly clusterSize: number;
  readonly blockExtra: number;
  /** bytes from a host block to the next */
  readonly stride: number;

  constructor(blockSize: number, blockExtra: number) {
    this.clusterSize = blockSize;
    this.blockExtra = blockExtra;
    this.stride = blockSize + blockExtra;
  }

  /** The guest block that holds the byte at `offset`. */
  clusterOf(offset: GuestOffset): GuestCluster {
    return Math.floor(offset / this.clusterSize) as GuestCluster;
  }

  /** The first byte of a guest block. */
  startOf(cluster: GuestCluster): GuestOffset {
    return (cluster * this.clusterSize) as GuestOffset;
  }

  /** Blocks that `bytes` bytes take, the last one maybe in part. */
  clustersFor(bytes: number): number {
    return Math.ceil(bytes / this.clusterSize);
  }

  /** Where host block `index` begins, its extra bytes included. */
  hostStartOf(index: number, dataOffset: number): HostOffset {
    return hostOffset(dataOffset + index * this.stride);
  }

  /** The first byte of the guest's in host block `index`. */
  hostDataOf(index: number, dataOffset: number): HostOffset {
    return hostOffset(dataOffset + index * this.stride + this.blockExtra);
  }

  /** The host block whose data begins at `host`. */
  indexOf(host: HostOffset, dataOffset: number): number {
    return (host - this.blockExtra - dataOffset) / this.stride;
  }

  /** Host blocks whose data can be next to each other, of `count`: with extra bytes between them none are. */
  adjoining(count: number): number {
    return this.blockExtra === 0 ? count : Math.min(count, 1);
  }

  /** Blocks of a file of `bytes` bytes, the last one maybe cut. */
  blocksOf(bytes: number, dataOffset: number): number {
    return Math.max(0, Math.ceil((bytes - dataOffset) / this.stride));
  }
}
