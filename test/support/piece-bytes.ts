// Images of formats that cut the disk in pieces and read only: Parallels, sparseimage, ASIF; byte by byte, with every field as a test
// wants it. Pieces lie in the file in the reverse order of the disk.

export interface PieceImageBytes {
  readonly image: Buffer;
  readonly content: Buffer;
}

const SECTOR = 512;

/** One byte for each piece of a disk, 0 for a piece that is not stored. The last piece is stored. */
export const MIXED_PIECES: readonly number[] = Array.from({ length: 61 }, (_, i) =>
  i % 7 === 3 || (i > 20 && i < 33) ? 0 : 1 + i,
);

/** The content of the disk, whose last piece may be cut, and the numbers of the stored pieces in the order of the file. */
function layout(pieces: readonly number[], pieceBytes: number, diskBytes: number) {
  const content = Buffer.concat(pieces.map((byte) => Buffer.alloc(pieceBytes, byte))).subarray(0, diskBytes);
  const stored = pieces.flatMap((byte, i) => (byte === 0 ? [] : [i])).reverse();
  return { content, stored, data: stored.map((i) => Buffer.alloc(pieceBytes, pieces[i])) };
}

export interface ParallelsSpec {
  readonly magic?: string;
  readonly version?: number;
  readonly clusterSectors?: number;
  /** what the header says instead */
  readonly saidClusterSectors?: number;
  readonly batEntries?: number;
  readonly sectors?: number | bigint;
  readonly inUse?: number;
  readonly pieces?: readonly number[];
  /** instead of what the pieces give */
  readonly bat?: readonly number[];
}

export function parallelsImage(spec: ParallelsSpec = {}): PieceImageBytes {
  const { magic = 'WithouFreSpacExt', clusterSectors = 8, pieces = MIXED_PIECES } = spec;
  const clusterBytes = Math.max(1, clusterSectors) * SECTOR;
  const sectors = BigInt(spec.sectors ?? pieces.length * clusterSectors - 3);
  const { content, stored, data } = layout(pieces, clusterBytes, Number(sectors) * SECTOR);
  const isExtended = magic === 'WithouFreSpacExt';
  const batBytes = 64 + pieces.length * 4;
  const dataAt = Math.ceil(batBytes / (isExtended ? clusterBytes : SECTOR)) * (isExtended ? clusterBytes : SECTOR);
  const head = Buffer.alloc(dataAt);
  head.write(magic, 'latin1');
  const fields = [
    spec.version ?? 2,
    16,
    1,
    spec.saidClusterSectors ?? clusterSectors,
    spec.batEntries ?? pieces.length,
  ];
  fields.forEach((value, i) => void head.writeUInt32LE(value, 16 + i * 4));
  head.writeBigUInt64LE(sectors, 36);
  head.writeUInt32LE(spec.inUse ?? 0x312e3276, 44);
  head.writeUInt32LE(isExtended ? dataAt / SECTOR : 0, 48);
  const entryOf = (i: number): number =>
    isExtended ? dataAt / clusterBytes + stored.indexOf(i) : dataAt / SECTOR + stored.indexOf(i) * clusterSectors;
  const bat = spec.bat ?? pieces.map((byte, i) => (byte === 0 ? 0 : entryOf(i)));
  bat.forEach((entry, i) => void head.writeUInt32LE(entry, 64 + i * 4));
  return { image: Buffer.concat([head, ...data]), content };
}

export interface SparseSpec {
  readonly magic?: string;
  readonly version?: number;
  readonly bandSectors?: number;
  readonly sectors?: number | bigint;
  readonly sectorsLow?: number;
  readonly pieces?: readonly number[];
  /** places of the list of the header that are used; the rest goes to index nodes; a real one has 1008 */
  readonly firstPlaces?: number;
  /** where the last list says that the next one is */
  readonly lastNext?: number | bigint;
  /** instead of what the pieces give, in the header */
  readonly numbers?: readonly number[];
}

const NODE = 4096;

export function sparseImage(spec: SparseSpec = {}): PieceImageBytes {
  const { bandSectors = 8, pieces = MIXED_PIECES, firstPlaces = 20 } = spec;
  const bandBytes = Math.max(1, bandSectors) * SECTOR;
  const sectors = BigInt(spec.sectors ?? pieces.length * bandSectors - 3);
  const { content, data, stored } = layout(pieces, bandBytes, Number(sectors) * SECTOR);
  const lists = [stored.slice(0, firstPlaces), stored.slice(firstPlaces)];
  const filled = lists[1]!.length === 0 ? 0 : 1008 - lists[0]!.length;
  // the next node stands behind all places of the header, used or not
  const second = lists[1]!.length === 0 ? 0 : NODE + (lists[0]!.length + filled) * bandBytes;
  const head = Buffer.alloc(NODE);
  head.write(spec.magic ?? 'sprs', 'latin1');
  [spec.version ?? 3, bandSectors, 1, spec.sectorsLow ?? Number(sectors & 0xffffffffn)].forEach(
    (value, i) => void head.writeUInt32BE(value, 4 + i * 4),
  );
  head.writeBigUInt64BE(BigInt(second === 0 ? (spec.lastNext ?? 0) : second), 20);
  head.writeBigUInt64BE(sectors, 28);
  (spec.numbers ?? lists[0]!.map((i) => i + 1)).forEach((number, i) => void head.writeUInt32BE(number, 64 + i * 4));
  const parts = [head, ...data.slice(0, firstPlaces)];
  if (second !== 0) {
    const node = Buffer.alloc(NODE);
    node.write('sprs', 'latin1');
    node.writeBigUInt64BE(BigInt(spec.lastNext ?? 0), 12);
    lists[1]!.forEach((i, place) => void node.writeUInt32BE(i + 1, 56 + place * 4));
    parts.push(Buffer.alloc(filled * bandBytes), node, ...data.slice(firstPlaces));
  }
  return { image: Buffer.concat(parts), content };
}

export interface AsifSpec {
  readonly magic?: string;
  readonly chunkBytes?: number;
  readonly blockBytes?: number;
  readonly sectors?: number | bigint;
  readonly mostSectors?: number | bigint;
  readonly pieces?: readonly number[];
  readonly directories?: readonly (number | bigint)[];
  readonly versions?: readonly (number | bigint)[];
  /** changes of the entries of the table, by their index */
  readonly entries?: Readonly<Record<number, bigint>>;
  /** the entry of the active directory */
  readonly table?: bigint;
  /** chunks that have only every third block, by their index; the bytes of the others are there, and must not be seen */
  readonly partial?: readonly number[];
}

/** Chunk 0 has the header and both directories, chunk 1 the table; the directory with the lower version leads nowhere. */
export function asifImage(spec: AsifSpec = {}): PieceImageBytes {
  const { blockBytes = 512, chunkBytes = 65_536, pieces = MIXED_PIECES.slice(0, 9) } = spec;
  const sectors = BigInt(spec.sectors ?? (pieces.length * chunkBytes) / blockBytes - 3);
  const { content, data, stored } = layout(pieces, chunkBytes, Number(sectors) * blockBytes);
  const head = Buffer.alloc(chunkBytes);
  head.write(spec.magic ?? 'shdw', 'latin1');
  [1, 512, 0].forEach((value, i) => void head.writeUInt32BE(value, 4 + i * 4));
  const directories = spec.directories ?? [4096, 8192];
  directories.forEach((at, i) => void head.writeBigUInt64BE(BigInt(at), 16 + i * 8));
  head.writeBigUInt64BE(sectors, 48);
  head.writeBigUInt64BE(BigInt(spec.mostSectors ?? sectors * 2n), 56);
  head.writeUInt32BE(chunkBytes, 64);
  head.writeUInt16BE(blockBytes, 68);
  [4096, 8192].forEach((at, i) => void head.writeBigUInt64BE(BigInt(spec.versions?.[i] ?? 7 + i), at));
  head.writeBigUInt64BE(0x123n, 4096 + 8);
  head.writeBigUInt64BE(spec.table ?? 1n, 8192 + 8);
  const table = Buffer.alloc(chunkBytes);
  const run = 4 * blockBytes;
  const { partial = [] } = spec;
  for (const [place, i] of stored.entries()) {
    const status = partial.includes(i) ? 3n : 1n;
    table.writeBigUInt64BE((status << 62n) + BigInt(2 + place), (i + Math.floor(i / run)) * 8);
  }
  if (partial.length > 0) table.writeBigUInt64BE(BigInt(2 + stored.length), run * 8);
  const bitmap = Buffer.alloc(partial.length > 0 ? chunkBytes : 0);
  for (const i of partial) {
    for (let block = 0; block < chunkBytes / blockBytes; block++) {
      const at = (i * chunkBytes) / blockBytes + block;
      if (block % 3 === 0) bitmap[at >> 2]! |= 1 << ((at & 3) * 2);
      else content.subarray(at * blockBytes, (at + 1) * blockBytes).fill(0);
    }
  }
  for (const [index, entry] of Object.entries(spec.entries ?? {})) table.writeBigUInt64BE(entry, Number(index) * 8);
  return { image: Buffer.concat([head, table, ...data, bitmap]), content };
}
