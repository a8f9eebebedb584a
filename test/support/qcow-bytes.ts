// qcow images of version 1, byte by byte, with every field as a test wants it.

export interface QcowSpec {
  readonly magic?: string;
  readonly version?: number;
  readonly size?: number | bigint;
  readonly clusterBits?: number;
  readonly l2Bits?: number;
  readonly crypt?: number;
  readonly l1Offset?: number | bigint;
  readonly backingOffset?: number | bigint;
  readonly backingSize?: number;
  readonly name?: string;
  /** L1 entry 0; default: the table is the first cluster */
  readonly l1?: bigint;
  /** entries of the L2 table, at cluster 1 */
  readonly l2?: readonly (number | bigint)[];
  /** clusters of the file behind the table; cluster n is filled with n */
  readonly clusters?: number;
}

export const CLUSTER = 512;
/** Where the L2 table of 64 entries is. */
export const TABLE = CLUSTER;
const COMPRESSED = 1n << 63n;

export function qcowImage(spec: QcowSpec = {}): Buffer {
  const { clusterBits = 9, l2 = [2 * CLUSTER, 0, 3 * CLUSTER], l2Bits = 6, name = '' } = spec;
  const image = Buffer.alloc((2 + (spec.clusters ?? 4)) * CLUSTER);
  image.write(spec.magic ?? 'QFI\xfb', 0, 'latin1');
  image.writeUInt32BE(spec.version ?? 1, 4);
  image.writeBigUInt64BE(BigInt(spec.backingOffset ?? (name === '' ? 0 : 48)), 8);
  image.writeUInt32BE(spec.backingSize ?? Buffer.byteLength(name), 16);
  image.writeBigUInt64BE(BigInt(spec.size ?? 8 * CLUSTER), 24);
  image[32] = clusterBits;
  image[33] = l2Bits;
  image.writeUInt32BE(spec.crypt ?? 0, 36);
  const l1 = spec.l1Offset ?? 48 + Math.ceil(Buffer.byteLength(name) / 8) * 8;
  image.writeBigUInt64BE(BigInt(l1), 40);
  image.write(name, 48);
  if (Number(l1) >= 48 && Number(l1) + 8 <= image.length) image.writeBigUInt64BE(spec.l1 ?? BigInt(TABLE), Number(l1));
  l2.forEach((entry, i) => void image.writeBigUInt64BE(BigInt(entry), TABLE + i * 8));
  for (let n = 2; n * CLUSTER < image.length; n++) image.fill(n, n * CLUSTER, (n + 1) * CLUSTER);
  return image;
}

/** An entry of clusters of 512 bytes. */
export function compressedEntry(offset: number, length: number): bigint {
  return COMPRESSED | (BigInt(length) << 54n) | BigInt(offset);
}
