// Compressed clusters: the descriptor in an L2 entry, the data it points to as one cluster.
// Invariant: a deflate stream gives at least one cluster, of which the first is taken, and zstd frames exactly one; anything
// else is corrupt. No damage costs more memory than a cluster.
//
//   compressed cluster descriptor (bit 62 of the L2 entry is set), x = 62 - (cluster_bits - 8):
//     bits 0 .. x-1  host offset of the data in bytes, not aligned; bits above 55 are 0
//     bits x .. 61   512-byte sectors that the data takes beyond the sector of the host offset

import { combine, hexWords } from '../../bytes/endian.ts';
import { type GuestOffset, type HostOffset, hostOffset, SECTOR_BYTES } from '../../bytes/offsets.ts';
import { DamagedData } from '../../codec/damaged-data.ts';
import { inflateCluster } from '../../codec/inflate.ts';
import { KeptPieces } from '../../codec/kept-pieces.ts';
import { libraryDamage } from '../../codec/zlib.ts';
import { type Decoder, decompressZstd, nativeDecoder } from '../../codec/zstd/index.ts';
import { assert, type ErrorContext, ImgfuseError } from '../../errors/index.ts';
import type { HostFile } from '../../host/host-file.ts';
import type { CompressionType } from './header/header.ts';
import type { CompressedRun } from './mapping.ts';

const DESCRIPTOR_MASK_HIGH = 0x3fffffff;
/** host offsets have 56 bits: 24 in the high word */
const MAX_OFFSET_HIGH = 2 ** 24;

/** Where the data of a compressed cluster is; it ends at the end of a 512-byte sector, maybe in the next host cluster. */
export interface CompressedData {
  readonly hostOffset: HostOffset;
  /** bytes from the host offset to the end of the last sector; the padding after the data is part of it */
  readonly length: number;
}

/**
 * The descriptor in an L2 entry given as its two 32-bit words. Bits 62 and 63 are the caller's: COPIED must not be set on a
 * compressed cluster, which QEMU ignores when it reads and reports in a check.
 * @throws corrupt for offset 0, an offset of more than 56 bits or above the safe integers. Whether the data lies inside the
 *   file is for the caller to check: the padding of the last sector may be missing at the end of the file.
 */
export function parseCompressedDescriptor(
  high: number,
  low: number,
  clusterBits: number,
  context: ErrorContext = {},
): CompressedData {
  assert(clusterBits >= 9 && clusterBits <= 21, `cluster_bits ${clusterBits}`);
  const offset = compressedOffset(high, low, clusterBits);
  const length = compressedLength(high, offset, clusterBits);
  // 0 is the header of the image, so it is no place for data
  if (offset === 0 || !Number.isSafeInteger(offset + length)) {
    const where = context.path === undefined ? '' : `${context.path}: `;
    const at = context.offset === undefined ? 'an L2 entry' : `the L2 entry at offset ${context.offset}`;
    throw new ImgfuseError(
      'corrupt',
      `${where}${at} is ${hexWords(high >>> 0, low >>> 0)}, a compressed cluster at the impossible host offset ` +
        `${hexWords(high & (2 ** offsetBitsHigh(clusterBits) - 1), low >>> 0)}; run imgfuse check`,
      context,
    );
  }
  return { hostOffset: hostOffset(offset), length };
}

/** The offset in a descriptor; NaN if it has more than 56 bits or is no safe integer. */
export function compressedOffset(high: number, low: number, clusterBits: number): number {
  const offsetHigh = high & (2 ** offsetBitsHigh(clusterBits) - 1);
  return offsetHigh < MAX_OFFSET_HIGH ? combine(offsetHigh, low >>> 0) : Number.NaN;
}

/** Bytes from that offset to the end of the last sector. */
export function compressedLength(high: number, offset: number, clusterBits: number): number {
  const additionalSectors = (high & DESCRIPTOR_MASK_HIGH) >>> offsetBitsHigh(clusterBits);
  return (additionalSectors + 1) * SECTOR_BYTES - (offset % SECTOR_BYTES);
}

/** Bits of the offset in the high word, 17 to 29: x - 32. */
function offsetBitsHigh(clusterBits: number): number {
  return 62 - (clusterBits - 8) - 32;
}

/**
 * One cluster of guest data from its compressed form; bytes after the end of the stream, or of the cluster, are ignored.
 * @param source the bytes of a CompressedData, padding included; they are not kept
 * @param context path and host offset for the message
 * @param decoder replaces the zstd decoder of this Node, in tests
 * @returns exactly `clusterSize` bytes, which belong to the caller
 * @throws corrupt when the data is damaged, gives less than a cluster, or is a zstd frame that goes on after the cluster
 */
export function decompress(
  type: CompressionType,
  source: Uint8Array,
  clusterSize: number,
  context: ErrorContext = {},
  decoder: Decoder = nativeDecoder,
): Uint8Array {
  let cluster: Uint8Array;
  try {
    cluster = type === 'zstd' ? decompressZstd(source, clusterSize, decoder) : inflateCluster(source, clusterSize);
  } catch (error) {
    throw damaged(
      type,
      context,
      error instanceof DamagedData ? error.message : libraryDamage(error, clusterSize),
      error,
    );
  }
  if (cluster.length === clusterSize) return cluster;
  throw damaged(type, context, `decompresses to ${cluster.length} bytes instead of ${clusterSize}`, undefined);
}

function damaged(type: CompressionType, context: ErrorContext, reason: string, cause: unknown): ImgfuseError {
  const where = context.path === undefined ? '' : `${context.path}: `;
  const at = context.offset === undefined ? '' : ` at offset ${context.offset}`;
  return new ImgfuseError(
    'corrupt',
    `${where}the compressed cluster${at} (${type}) ${reason}; restore it from a backup`,
    context,
    cause,
  );
}

/** Decompressed clusters that each thread keeps, for small reads in order. */
const KEPT_CLUSTERS = 4;

/** Reads compressed clusters of an image; one object serves one thread. */
export class CompressedReader {
  private readonly file: HostFile;
  private readonly type: CompressionType;
  private readonly clusterBits: number;
  /**
   * By the host offset of their compressed data. None of it is ever out of date: as long as an L2 entry says that there is
   * compressed data at a host offset, its clusters are in use and are not written.
   */
  private readonly kept: KeptPieces;

  constructor(file: HostFile, type: CompressionType, clusterBits: number) {
    this.file = file;
    this.type = type;
    this.clusterBits = clusterBits;
    this.kept = new KeptPieces(KEPT_CLUSTERS * 2 ** clusterBits);
  }

  /** Reads a run, which lies in one cluster and begins at `offset`. */
  readPart({ high, low, length }: CompressedRun, target: Uint8Array, targetOffset: number, offset: GuestOffset): void {
    const cluster = this.read(high, low, offset);
    const inCluster = offset % cluster.length;
    target.set(cluster.subarray(inCluster, inCluster + length), targetOffset);
  }

  /** The whole cluster of an L2 entry, which belongs to the cache. @param guest for the sentence of an error */
  private read(high: number, low: number, guest: GuestOffset): Uint8Array {
    const context = { path: this.file.path, offset: guest };
    const { hostOffset: start, length } = parseCompressedDescriptor(high, low, this.clusterBits, context);
    const known = this.kept.get(start);
    if (known !== undefined) return known;
    const source = new Uint8Array(length);
    const got = this.file.read(source, 0, length, start);
    const cluster = decompress(this.type, source.subarray(0, got), 2 ** this.clusterBits, context);
    this.kept.put(start, cluster);
    return cluster;
  }
}
