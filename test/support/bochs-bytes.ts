// Growing Bochs images, byte by byte, with every field as a test wants it.

export interface BochsSpec {
  readonly version?: number;
  readonly magic?: string;
  readonly type?: string;
  readonly subtype?: string;
  readonly headerBytes?: number;
  /** what the header says; the catalog has as many entries as the disk needs, and one more */
  readonly catalogEntries?: number;
  readonly bitmapBytes?: number;
  readonly extentBytes?: number;
  readonly diskBytes?: number | bigint;
  /** instead of the one that the data gives: entry of each piece */
  readonly catalog?: readonly number[];
  /** one byte for each sector of the disk, 0 for a sector without data; default: none has */
  readonly sectors?: readonly number[];
}

const SECTOR = 512;
export const NO_EXTENT = 0xffffffff;

/** The image, and what its disk reads as. Extents lie in the file in the reverse order of the disk. */
export function bochsImage(spec: BochsSpec = {}): { readonly image: Buffer; readonly content: Buffer } {
  const { version = 0x20000, headerBytes = 512, extentBytes = 4096, sectors = [] } = spec;
  const bitmapBytes = spec.bitmapBytes ?? Math.ceil(extentBytes / SECTOR / 8);
  const diskBytes = BigInt(spec.diskBytes ?? sectors.length * SECTOR);
  const content = Buffer.concat(sectors.map((byte) => Buffer.alloc(SECTOR, byte)));
  const perExtent = extentBytes / SECTOR;
  const pieces = Array.from({ length: Math.ceil(sectors.length / perExtent) }, (_, i) =>
    sectors.slice(i * perExtent, (i + 1) * perExtent),
  );
  const stored = pieces.flatMap((piece, i) => (piece.some((byte) => byte !== 0) ? [i] : [])).reverse();
  const catalogEntries = spec.catalogEntries ?? pieces.length + 1;
  const catalog = Buffer.alloc((pieces.length + 1) * 4, 0xff);
  const entries = spec.catalog ?? pieces.map((_, i) => (stored.includes(i) ? stored.indexOf(i) : NO_EXTENT));
  entries.forEach((entry, i) => void catalog.writeUInt32LE(entry, i * 4));
  const header = Buffer.alloc(headerBytes < 96 ? 96 : Math.min(headerBytes, 4096));
  header.write(spec.magic ?? 'Bochs Virtual HD Image', 0, 32, 'latin1');
  header.write(spec.type ?? 'Redolog', 32, 16, 'latin1');
  header.write(spec.subtype ?? 'Growing', 48, 16, 'latin1');
  const fields = [version, headerBytes, catalogEntries, bitmapBytes, extentBytes];
  fields.forEach((value, i) => void header.writeUInt32LE(value, 64 + i * 4));
  header.writeBigUInt64LE(diskBytes, version === 0x10000 ? 84 : 88);
  const extents = stored.flatMap((i) => {
    const bitmap = Buffer.alloc(Math.ceil(bitmapBytes / SECTOR) * SECTOR);
    const data = pieces[i]!.map((byte, sector) => {
      if (byte !== 0) bitmap[sector >> 3]! |= 1 << (sector & 7);
      // what has no data may hold anything
      return Buffer.alloc(SECTOR, byte === 0 ? 0xdd : byte);
    });
    return [bitmap, Buffer.concat(data, extentBytes)];
  });
  return { image: Buffer.concat([header, catalog, ...extents]), content };
}

/** Sectors of every kind: pieces without data, with some and with all, and an end that is not a whole extent. */
export const MIXED_SECTORS: readonly number[] = Array.from({ length: 1003 }, (_, sector) => {
  const piece = sector >> 3;
  if (piece % 4 === 1 || (sector > 400 && sector < 500)) return 0;
  return piece % 4 === 0 || sector % 3 > 0 ? 1 + (sector % 250) : 0;
});
