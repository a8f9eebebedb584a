// Extents of VMDK images field by field: what VMware and VirtualBox make and qemu-img cannot, and what no sound program makes. Each kind
// is a named builder. Grain n of the file holds the byte n + 1 everywhere.

import { deflateRawSync, deflateSync } from 'node:zlib';

export const SECTOR = 512;
export const KIB = 1024;
/** Entries of a grain that has no data. */
export const NONE = -1;
/** An entry of 1: zeros, where the header allows that. */
export const ZERO = -2;

/** The places of fields of a hosted sparse header. */
export const FIELD = {
  ...{ version: 4, flags: 8, capacity: 12, grain: 20, descriptorOffset: 28, descriptorSize: 36, tableEntries: 44 },
  ...{ rgd: 48, gd: 56, overhead: 64, unclean: 72, newline: 73, compression: 77 },
} as const;

export const FLAG = { newline: 1, redundant: 2, zeroGrains: 4, compressed: 0x10000, markers: 0x20000 } as const;

export interface SparseRecipe {
  /** for each grain of the disk: a grain of the file, NONE, ZERO; the rest of the disk is NONE */
  readonly entries: readonly number[];
  /** sectors of the disk; default: all grains of `entries` */
  readonly capacity?: number;
  readonly grainSectors?: number;
  readonly tableEntries?: number;
  readonly version?: number;
  readonly zeroGrains?: boolean;
  /** default: true */
  readonly redundant?: boolean;
  /** the second tables have these entries instead */
  readonly second?: readonly number[];
  /** directory indices that have no table in either directory */
  readonly lazy?: readonly number[];
  readonly unclean?: boolean;
  /** sectors by which all grains lie off their usual places */
  readonly shift?: number;
  /** grains in the file; default: as many as the highest entry needs */
  readonly fileGrains?: number;
  readonly descriptor?: string;
}

export interface SparsePlaces {
  readonly grainSectors: number;
  readonly tableEntries: number;
  readonly tables: number;
  /** sectors */
  readonly rgd: number;
  readonly gd: number;
  readonly overhead: number;
  readonly data: number;
}

const DESCRIPTOR_SECTORS = 4;

export function placesOf(recipe: SparseRecipe): SparsePlaces {
  const { entries, grainSectors = 8, redundant = true, shift = 0, tableEntries = 128 } = recipe;
  const capacity = recipe.capacity ?? entries.length * grainSectors;
  const tables = Math.ceil(capacity / (tableEntries * grainSectors));
  const directory = Math.ceil((tables * 4) / SECTOR);
  const copy = directory + (tables * tableEntries * 4) / SECTOR;
  const rgd = 1 + DESCRIPTOR_SECTORS;
  const gd = redundant ? rgd + copy : rgd;
  const overhead = Math.ceil((gd + copy) / grainSectors) * grainSectors;
  return { grainSectors, tableEntries, tables, rgd, gd, overhead, data: overhead + shift };
}

/** A hosted sparse extent. */
export function sparseBytes(recipe: SparseRecipe): Buffer {
  const { entries, lazy = [], redundant = true, second = entries, version, zeroGrains = false } = recipe;
  const places = placesOf(recipe);
  const { data, gd, grainSectors, overhead, rgd, tableEntries, tables } = places;
  const grains = recipe.fileGrains ?? Math.max(0, ...entries.map((entry) => entry + 1));
  const image = Buffer.alloc((data + grains * grainSectors) * SECTOR);
  image.write('KDMV', 0, 'latin1');
  image.writeUInt32LE(version ?? (zeroGrains ? 2 : 1), FIELD.version);
  const flags = FLAG.newline | (redundant ? FLAG.redundant : 0) | (zeroGrains ? FLAG.zeroGrains : 0);
  image.writeUInt32LE(flags, FIELD.flags);
  const fields: readonly (readonly [at: number, value: number])[] = [
    [FIELD.capacity, recipe.capacity ?? entries.length * grainSectors],
    [FIELD.grain, grainSectors],
    [FIELD.descriptorOffset, 1],
    [FIELD.descriptorSize, DESCRIPTOR_SECTORS],
    [FIELD.rgd, redundant ? rgd : 0],
    [FIELD.gd, gd],
    [FIELD.overhead, overhead],
  ];
  for (const [at, value] of fields) image.writeBigUInt64LE(BigInt(value), at);
  image.writeUInt32LE(tableEntries, FIELD.tableEntries);
  image[FIELD.unclean] = recipe.unclean === true ? 1 : 0;
  image.set([0x0a, 0x20, 0x0d, 0x0a], FIELD.newline);
  image.write(recipe.descriptor ?? '# Disk DescriptorFile\n', SECTOR, 'latin1');
  const put = (directory: number, list: readonly number[]): void => {
    const first = directory + Math.ceil((tables * 4) / SECTOR);
    for (let i = 0; i < tables; i++) {
      if (!lazy.includes(i)) image.writeUInt32LE(first + (i * tableEntries * 4) / SECTOR, directory * SECTOR + 4 * i);
    }
    for (const [n, entry] of list.entries()) image.writeUInt32LE(sectorOf(places, entry), first * SECTOR + 4 * n);
  };
  if (redundant) put(rgd, second);
  put(gd, entries);
  fillGrains(image, data, grainSectors, grains);
  return image;
}

/** What an entry of a recipe says in a table. */
export function sectorOf({ data, grainSectors }: Pick<SparsePlaces, 'data' | 'grainSectors'>, entry: number): number {
  if (entry === NONE) return 0;
  return entry === ZERO ? 1 : data + entry * grainSectors;
}

/** Where the entry of grain n of the disk stands in the first table, or in the second. */
export function entryAt(recipe: SparseRecipe, n: number, copy: 'first' | 'second' = 'first'): number {
  const { gd, rgd, tables } = placesOf(recipe);
  return ((copy === 'first' ? gd : rgd) + Math.ceil((tables * 4) / SECTOR)) * SECTOR + 4 * n;
}

/** What the disk of an extent without a parent reads. */
export function contentOf({ capacity, entries, grainSectors = 8 }: SparseRecipe): Buffer {
  const bytes = grainSectors * SECTOR;
  const disk = Buffer.alloc(Math.max(entries.length * bytes, (capacity ?? 0) * SECTOR));
  for (const [n, entry] of entries.entries()) if (entry >= 0) disk.fill(entry + 1, n * bytes, (n + 1) * bytes);
  return disk.subarray(0, (capacity ?? entries.length * grainSectors) * SECTOR);
}

/** A version 3 that keeps changed block tracking. */
export function trackedSparse(recipe: SparseRecipe): Buffer {
  return sparseBytes({ ...recipe, version: 3 });
}

function fillGrains(image: Buffer, first: number, grainSectors: number, grains: number): void {
  const bytes = grainSectors * SECTOR;
  for (let n = 0; n < grains; n++) image.fill(n + 1, first * SECTOR + n * bytes, first * SECTOR + (n + 1) * bytes);
}

export const COWD_FIELD = {
  version: 4,
  flags: 8,
  capacity: 12,
  grain: 16,
  gd: 20,
  entries: 24,
  free: 28,
  unclean: 1648,
};

export interface CowdRecipe {
  /** for each sector of the disk a sector of data in the file, or NONE */
  readonly entries: readonly number[];
  readonly capacity?: number;
  readonly unclean?: boolean;
  readonly freeSector?: number;
}

/** Where the data of a COWD extent begins: header, directory, and a table for each part of the disk that has data. */
export function cowdData({ capacity, entries }: CowdRecipe): number {
  const tables = Math.ceil((capacity ?? entries.length) / 4096);
  return 4 + Math.ceil((tables * 4) / SECTOR) + Math.ceil(entries.length / 4096) * 32;
}

/** A COWD extent with grains of one sector, whose tables are there as far as `entries` go. */
export function cowdBytes(recipe: CowdRecipe): Buffer {
  const { entries } = recipe;
  const capacity = recipe.capacity ?? entries.length;
  const directory = Math.ceil((Math.ceil(capacity / 4096) * 4) / SECTOR);
  const data = cowdData(recipe);
  const sectors = Math.max(0, ...entries.map((entry) => entry + 1));
  const image = Buffer.alloc((data + sectors) * SECTOR);
  image.write('COWD', 0, 'latin1');
  const words: readonly (readonly [at: number, value: number])[] = [
    [COWD_FIELD.version, 1],
    [COWD_FIELD.flags, 3],
    [COWD_FIELD.capacity, capacity],
    [COWD_FIELD.grain, 1],
    [COWD_FIELD.gd, 4],
    [COWD_FIELD.entries, Math.ceil(capacity / 4096)],
    [COWD_FIELD.free, recipe.freeSector ?? data + sectors],
    [COWD_FIELD.unclean, recipe.unclean === true ? 1 : 0],
  ];
  for (const [at, value] of words) image.writeUInt32LE(value, at);
  const first = 4 + directory;
  for (let i = 0; i < Math.ceil(entries.length / 4096); i++) image.writeUInt32LE(first + 32 * i, 4 * SECTOR + 4 * i);
  for (const [n, entry] of entries.entries()) {
    if (entry !== NONE) image.writeUInt32LE(data + entry, first * SECTOR + 4 * n);
  }
  fillGrains(image, data, 1, sectors);
  return image;
}

export interface StreamRecipe {
  /** for each grain of the disk its bytes, or null */
  readonly grains: readonly (Buffer | null)[];
  readonly capacity?: number;
  readonly grainSectors?: number;
  /** default: true */
  readonly markers?: boolean;
  /** the directory is found through a footer; default: true */
  readonly footer?: boolean;
  /** RFC 1951, as the specification says */
  readonly raw?: boolean;
  /** sectors of zeros behind the end */
  readonly padding?: number;
  /** a progress marker between the grains */
  readonly progress?: boolean;
  /** 512 bytes at most */
  readonly descriptor?: string;
}

/** A streamOptimized extent: header, descriptor, grains, tables, directory, footer. */
export function streamBytes(recipe: StreamRecipe): Buffer {
  const { footer = true, grains, grainSectors = 8, markers = true } = recipe;
  const tableEntries = 128;
  const capacity = recipe.capacity ?? grains.length * grainSectors;
  const header = Buffer.alloc(SECTOR);
  header.write('KDMV', 0, 'latin1');
  header.writeUInt32LE(3, FIELD.version);
  header.writeUInt32LE(FLAG.newline | FLAG.compressed | (markers ? FLAG.markers : 0), FIELD.flags);
  header.writeBigUInt64LE(BigInt(capacity), FIELD.capacity);
  header.writeBigUInt64LE(BigInt(grainSectors), FIELD.grain);
  header.writeBigUInt64LE(1n, FIELD.descriptorOffset);
  header.writeBigUInt64LE(1n, FIELD.descriptorSize);
  header.writeUInt32LE(tableEntries, FIELD.tableEntries);
  header.writeBigUInt64LE(2n, FIELD.overhead);
  header.set([0x0a, 0x20, 0x0d, 0x0a], FIELD.newline);
  header.writeUInt16LE(1, FIELD.compression);
  const parts: Buffer[] = [header, Buffer.alloc(SECTOR)];
  parts[1]!.write(recipe.descriptor ?? '', 'latin1');
  let end = 2;
  const add = (bytes: Buffer): number => {
    const at = end;
    const padded = Buffer.alloc(Math.ceil(bytes.length / SECTOR) * SECTOR);
    bytes.copy(padded);
    parts.push(padded);
    end += padded.length / SECTOR;
    return at;
  };
  const marker = (sectors: number, type: number): void => {
    if (!markers) return;
    const bytes = Buffer.alloc(SECTOR);
    bytes.writeBigUInt64LE(BigInt(sectors), 0);
    bytes.writeUInt32LE(type, 12);
    add(bytes);
  };
  const tables = Math.ceil(capacity / (tableEntries * grainSectors));
  const table = Buffer.alloc(tables * tableEntries * 4);
  for (const [n, grain] of grains.entries()) {
    if (grain === null) continue;
    if (recipe.progress === true) marker(0, 4);
    const data = recipe.raw === true ? deflateRawSync(grain) : deflateSync(grain);
    const head = Buffer.alloc(markers ? 12 : 0);
    if (markers) {
      head.writeBigUInt64LE(BigInt(n * grainSectors), 0);
      head.writeUInt32LE(data.length, 8);
    }
    table.writeUInt32LE(add(Buffer.concat([head, data])), 4 * n);
  }
  const directory = Buffer.alloc(Math.ceil((tables * 4) / SECTOR) * SECTOR);
  for (let i = 0; i < tables; i++) {
    marker((tableEntries * 4) / SECTOR, 1);
    directory.writeUInt32LE(add(table.subarray(i * tableEntries * 4, (i + 1) * tableEntries * 4)), 4 * i);
  }
  marker(directory.length / SECTOR, 2);
  const at = add(directory);
  const withDirectory = Buffer.from(header);
  withDirectory.writeBigUInt64LE(BigInt(at), FIELD.gd);
  if (footer) {
    header.fill(0xff, FIELD.gd, FIELD.gd + 8);
    marker(1, 3);
    add(withDirectory);
  } else withDirectory.copy(header);
  add(Buffer.alloc(SECTOR));
  return Buffer.concat([...parts, Buffer.alloc((recipe.padding ?? 0) * SECTOR)]);
}

/** Where the grain of an SESparse recipe is: unmapped and zero are words of its entries. */
export type SeSparseEntry = number | 'none' | 'unmapped' | 'zero';

/** An SESparse extent with one grain table for each 16 MiB that `entries` reach. */
export function seSparseBytes(
  entries: readonly SeSparseEntry[],
  capacity = entries.length * 8,
  options: { readonly replay?: boolean } = {},
): Buffer {
  const [directory, tables, grains] = [4, 8, 8 + 64 * Math.ceil(entries.length / 4096)];
  const highest = entries.reduce<number>(
    (most, entry) => (typeof entry === 'number' ? Math.max(most, entry) : most),
    -1,
  );
  const image = Buffer.alloc((grains + (highest + 1) * 8) * SECTOR);
  const words: readonly (readonly [n: number, value: bigint])[] = [
    [0, 0xcafebaben],
    [1, 0x200000001n],
    [2, BigInt(capacity)],
    [3, 8n],
    [4, 64n],
    [10, 1n],
    [11, 1n],
    [16, BigInt(directory)],
    [17, 1n],
    [18, BigInt(tables)],
    [24, BigInt(grains)],
  ];
  for (const [n, value] of words) image.writeBigUInt64LE(value, 8 * n);
  image.writeBigUInt64LE(0xcafecafen, SECTOR);
  image.writeBigUInt64LE(options.replay === true ? 1n : 0n, SECTOR + 24);
  for (let i = 0; i < Math.ceil(entries.length / 4096); i++) {
    image.writeBigUInt64LE((0x10000000n << 32n) | BigInt(i), directory * SECTOR + 8 * i);
  }
  for (const [n, entry] of entries.entries()) {
    image.writeBigUInt64LE(seSparseEntry(entry), tables * SECTOR + 8 * n);
  }
  fillGrains(image, grains, 8, highest + 1);
  return image;
}

function seSparseEntry(entry: SeSparseEntry): bigint {
  if (entry === 'none') return 0n;
  if (entry === 'unmapped') return 1n << 60n;
  if (entry === 'zero') return 2n << 60n;
  const grain = BigInt(entry);
  return (3n << 60n) | ((grain & 0xfffn) << 48n) | (grain >> 12n);
}
