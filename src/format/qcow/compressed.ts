// Compressed clusters: raw deflate, of which the first cluster counts. They are read only; a write gives the cluster a plain place.

import type { GuestOffset } from '../../bytes/offsets.ts';
import { DamagedData } from '../../codec/damaged-data.ts';
import { inflateCluster } from '../../codec/inflate.ts';
import { KeptPieces } from '../../codec/kept-pieces.ts';
import { ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { CompressedRun } from './mapping.ts';

/** Decompressed clusters that each thread keeps, for small reads in order. */
const KEPT_CLUSTERS = 4;

/** One object serves one thread. */
export class CompressedReader {
  private readonly file: HostFile;
  private readonly clusterSize: number;
  /** by the place of its data; none is ever out of date: compressed data is not written, nor is its place used again while the image is open */
  private readonly kept: KeptPieces;

  constructor(file: HostFile, clusterSize: number) {
    this.file = file;
    this.clusterSize = clusterSize;
    this.kept = new KeptPieces(KEPT_CLUSTERS * clusterSize);
  }

  /** Reads a run, which lies in one cluster and begins at `offset`. @throws ImgfuseError corrupt */
  readPart(run: CompressedRun, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    const cluster = this.read(run);
    const inCluster = offset % this.clusterSize;
    target.set(cluster.subarray(inCluster, inCluster + run.length), targetOffset);
  }

  /** The whole cluster, which belongs to the cache. */
  private read({ hostOffset, storedLength }: CompressedRun): Uint8Array {
    const known = this.kept.get(hostOffset);
    if (known !== undefined) return known;
    const source = new Uint8Array(storedLength);
    const got = this.file.read(source, 0, storedLength, hostOffset);
    const cluster = this.decompress(source.subarray(0, got), hostOffset);
    this.kept.put(hostOffset, cluster);
    return cluster;
  }

  private decompress(source: Uint8Array, offset: number): Uint8Array {
    try {
      return inflateCluster(source, this.clusterSize);
    } catch (error) {
      if (!(error instanceof DamagedData)) throw error;
      const { path } = this.file;
      throw new ImgfuseError(
        'corrupt',
        `${path}: the compressed cluster at offset ${offset} ${error.message}; restore it from a backup`,
        { path, offset },
        error,
      );
    }
  }
}
