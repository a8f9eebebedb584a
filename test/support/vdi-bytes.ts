// VDI images field by field: what VirtualBox makes and qemu-img cannot, and what no sound program makes. Each kind is a named
// builder. Host block n holds the byte n + 1 everywhere, and 0xee in its extra bytes, which no guest may see.

export const FREE = 0xffffffff;
export const DISCARDED = 0xfffffffe;
export const KIB = 1024;
export const MIB = 1024 * 1024;

/** The places of fields of version 1.1. */
export const FIELD = {
  ...{ signature: 64, version: 68, headerBytes: 72, type: 76, flags: 80, offBlocks: 340, offData: 344 },
  ...{ diskSize: 368, blockSize: 376, blockExtra: 380, blocks: 384, allocated: 388, uuidCreate: 392 },
  ...{ uuidModify: 408, uuidLinkage: 424, uuidParentModify: 440 },
} as const;

export interface VdiRecipe {
  readonly diskSize?: number;
  readonly blockSize?: number;
  readonly extra?: number;
  /** 1 dynamic, 2 static, 4 differencing */
  readonly type?: number;
  readonly flags?: number;
  readonly headerBytes?: number;
  readonly offBlocks?: number;
  /** default: right behind the map, at a multiple of 512 */
  readonly offData?: number;
  /** of the map, in the order of the disk */
  readonly entries: readonly number[];
  /** host blocks in the file; default: as many as the highest index needs */
  readonly fileBlocks?: number;
  readonly allocated?: number;
  /** 16 bytes each, in hexadecimal digits as they are stored */
  readonly uuids?: Readonly<Partial<Record<'create' | 'modify' | 'linkage' | 'parentModify', string>>>;
}

const NULL = '00'.repeat(16);
export const CREATE = '10'.repeat(16);
export const MODIFY = '20'.repeat(16);

/** An image of version 1.1. */
export function vdiBytes(recipe: VdiRecipe): Buffer {
  const { blockSize = 4 * KIB, extra = 0, entries, offBlocks = 512, headerBytes = 0x190, uuids = {} } = recipe;
  const offData = recipe.offData ?? Math.ceil((offBlocks + 4 * entries.length) / 512) * 512;
  const image = withBlocks(recipe, offData, blockSize, extra);
  image.write('<<< a VDI image of a test >>>\n', 0, 'latin1');
  const words: readonly (readonly [at: number, value: number])[] = [
    [FIELD.signature, 0xbeda107f],
    [FIELD.version, 0x00010001],
    [FIELD.headerBytes, headerBytes],
    [FIELD.type, recipe.type ?? 1],
    [FIELD.flags, recipe.flags ?? 0],
    [FIELD.offBlocks, offBlocks],
    [FIELD.offData, offData],
    [360, 512],
    [FIELD.blockSize, blockSize],
    [FIELD.blockExtra, extra],
    [FIELD.blocks, entries.length],
    [FIELD.allocated, recipe.allocated ?? usedBlocks(entries)],
  ];
  for (const [at, value] of words) image.writeUInt32LE(value, at);
  image.writeBigUInt64LE(BigInt(recipe.diskSize ?? entries.length * blockSize), FIELD.diskSize);
  const { create = CREATE, modify = MODIFY, linkage = NULL, parentModify = NULL } = uuids;
  for (const [n, uuid] of [create, modify, linkage, parentModify].entries())
    image.write(uuid, FIELD.uuidCreate + 16 * n, 'hex');
  for (const [n, entry] of entries.entries()) image.writeUInt32LE(entry, offBlocks + 4 * n);
  return image;
}

/** An image of version 0, whose map and blocks follow its header without any room between. */
export function vdiVersion0(recipe: Pick<VdiRecipe, 'blockSize' | 'diskSize' | 'entries' | 'type'>): Buffer {
  const { blockSize = 4 * KIB, entries, type = 1 } = recipe;
  const image = withBlocks(recipe, 420 + 4 * entries.length, blockSize, 0);
  const words: readonly (readonly [at: number, value: number])[] = [
    [64, 0xbeda107f],
    [68, 0x00000002],
    [72, type],
    [360, blockSize],
    [364, entries.length],
    [368, usedBlocks(entries)],
  ];
  for (const [at, value] of words) image.writeUInt32LE(value, at);
  image.writeBigUInt64LE(BigInt(recipe.diskSize ?? entries.length * blockSize), 352);
  image.write(`${CREATE}${MODIFY}`, 372, 'hex');
  for (const [n, entry] of entries.entries()) image.writeUInt32LE(entry, 420 + 4 * n);
  return image;
}

/** A child of the image with these stored UUIDs. */
export function differencing(
  parent: { readonly create: string; readonly modify: string },
  recipe: Omit<VdiRecipe, 'type'>,
): Buffer {
  const uuids = { create: '30'.repeat(16), modify: '40'.repeat(16), ...recipe.uuids };
  const linked = { ...uuids, linkage: parent.create, parentModify: parent.modify };
  return vdiBytes({ ...recipe, type: 4, uuids: linked });
}

/** VirtualBox of today: map and blocks at multiples of 1 MiB, a header with LCHS. */
export function virtualBoxLayout(recipe: VdiRecipe): Buffer {
  return vdiBytes({ ...recipe, offBlocks: MIB, offData: 2 * MIB, headerBytes: 0x190 });
}

/** Changes one u32. */
export function withField(image: Buffer, at: number, value: number): Buffer {
  const changed = Buffer.from(image);
  changed.writeUInt32LE(value, at);
  return changed;
}

/** What the disk of an image without a parent reads. */
export function contentOf({ diskSize, blockSize = 4 * KIB, entries }: VdiRecipe): Buffer {
  const disk = Buffer.alloc(entries.length * blockSize);
  for (const [n, entry] of entries.entries()) {
    if (entry < DISCARDED) disk.fill(entry + 1, n * blockSize, (n + 1) * blockSize);
  }
  return disk.subarray(0, Math.ceil((diskSize ?? disk.length) / 512) * 512);
}

function usedBlocks(entries: readonly number[]): number {
  return entries.filter((entry) => entry < DISCARDED).length;
}

function withBlocks({ entries, fileBlocks }: VdiRecipe, offData: number, blockSize: number, extra: number): Buffer {
  const highest = entries.reduce((most, entry) => (entry < DISCARDED ? Math.max(most, entry) : most), -1);
  const blocks = fileBlocks ?? highest + 1;
  const image = Buffer.alloc(offData + blocks * (extra + blockSize));
  for (let n = 0; n < blocks; n++) {
    const start = offData + n * (extra + blockSize);
    image.fill(0xee, start, start + extra);
    image.fill(n + 1, start + extra, start + extra + blockSize);
  }
  return image;
}
