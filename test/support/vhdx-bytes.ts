// VHDX images, byte by byte, with every field as a test wants it. Nothing here is taken from src/: what is written there is read by
// other eyes.

export const MIB = 1024 * 1024;
export const DATA_WRITE_GUID = '00112233-4455-6677-8899-aabbccddeeff';
export const LOG_GUID = 'f00dcafe-0000-4000-8000-123456789abc';
export const BAT_GUID = '2dc27766-f623-4200-9d64-115e9bfd4a08';
export const METADATA_GUID = '8b7ca206-4790-4b9a-b8fe-575f050f886e';
const NULL_GUID = '00000000-0000-0000-0000-000000000000';
const LOCATOR_TYPE = 'b04aefb7-d19e-4a81-b789-25b8e9445913';
export const ITEMS = {
  parameters: 'caa16737-fa36-4d43-b3b6-33f0aa44e76b',
  size: '2fa54224-cd1b-4876-b211-5dbed83bf4b8',
  id: 'beca12ab-b2e6-4523-93ef-c309e000c746',
  logical: '8141bf1d-a96f-4709-ba47-f233a8faab5f',
  physical: 'cda348c7-445d-4471-9cc9-e9885251c556',
  locator: 'a8d35f2d-b30b-454d-abf7-d3d84834ab0c',
} as const;

export interface VhdxBlock {
  /** of the BAT entry */
  readonly state: number;
  /** bytes of the block from its start on; the rest is zeros. Absent: it has no place in the file */
  readonly data?: Uint8Array;
  /** of a partially present block: whether a sector is here */
  readonly isHere?: (sector: number) => boolean;
}

export interface VhdxItem {
  readonly id: string;
  readonly data: Uint8Array;
  readonly flags: number;
  /** instead of where the data lies, from the start of the region */
  readonly offset?: number;
  /** instead of the length of the data */
  readonly length?: number;
}

export interface VhdxRegion {
  readonly guid: string;
  readonly offset: number;
  readonly length: number;
  readonly required?: number;
}

export interface VhdxSpec {
  readonly blocks?: readonly VhdxBlock[];
  readonly blockBytes?: number;
  readonly sectorBytes?: number;
  readonly size?: number | bigint;
  /** of the file parameters; default: what the locator says */
  readonly flags?: number;
  /** keys and values of the parent locator */
  readonly locator?: Readonly<Record<string, string>>;
  readonly logBytes?: number;
  /** absent: the log is empty, and no header names it */
  readonly logGuid?: string;
  /** written into the ring, each at its offset */
  readonly log?: readonly { readonly at: number; readonly entry: Buffer }[];
  /** blocks lie in the file in the reverse order of the disk */
  readonly isReversed?: boolean;
  readonly batBytes?: number;
  /** free MiB before the first block */
  readonly gapMib?: number;
  readonly sequences?: readonly [bigint, bigint];
  readonly editItems?: (items: VhdxItem[]) => VhdxItem[];
  readonly editRegions?: (regions: VhdxRegion[]) => VhdxRegion[];
  /** changes of finished structures, before they get their checksums */
  readonly editHeader?: (header: Buffer, slot: number) => void;
  readonly editTable?: (table: Buffer, copy: number) => void;
  readonly editMetadata?: (region: Buffer) => void;
  readonly editBat?: (bat: Buffer) => void;
}

export interface VhdxImage {
  readonly image: Buffer;
  readonly logAt: number;
  readonly batAt: number;
  readonly metadataAt: number;
  /** where each block lies; 0: nowhere */
  readonly blocksAt: readonly number[];
  /** where the bitmap of each chunk lies; 0: nowhere */
  readonly bitmapsAt: readonly number[];
}

const CRC_TABLE = Array.from({ length: 256 }, (_, value) => {
  let crc = value;
  for (let i = 0; i < 8; i++) crc = crc & 1 ? (crc >>> 1) ^ 0x82f63b78 : crc >>> 1;
  return crc >>> 0;
});

export function crcOf(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = ((crc >>> 8) ^ CRC_TABLE[(crc ^ byte) & 0xff]!) >>> 0;
  return (crc ^ 0xffffffff) >>> 0;
}

/** Sets the checksum at offset 4 of a structure. */
export function sealVhdx(bytes: Buffer): Buffer {
  bytes.writeUInt32LE(0, 4);
  bytes.writeUInt32LE(crcOf(bytes), 4);
  return bytes;
}

export function guidBytes(text: string): Buffer {
  const [a, b, c, d, e] = text.split('-') as [string, string, string, string, string];
  const reversed = [a, b, c].map((group) => Buffer.from(group, 'hex').reverse());
  return Buffer.concat([...reversed, Buffer.from(d + e, 'hex')]);
}

export interface LogChange {
  readonly offset: number | bigint;
  /** 4096 bytes; absent: `zeros` bytes become zeros */
  readonly data?: Uint8Array;
  readonly zeros?: number | bigint;
}

export interface LogEntrySpec {
  readonly sequence: bigint;
  readonly tail: number;
  readonly changes: readonly LogChange[];
  readonly guid?: string;
  readonly flushed: number | bigint;
  readonly last: number | bigint;
  /** changes of the finished entry, before it gets its checksum */
  readonly edit?: (entry: Buffer) => void;
}

export function logEntry({ changes, edit, flushed, guid = LOG_GUID, last, sequence, tail }: LogEntrySpec): Buffer {
  const first = Math.ceil((64 + 32 * changes.length) / 4096) * 4096;
  const head = Buffer.alloc(first);
  const data: Buffer[] = [];
  for (const [i, change] of changes.entries()) {
    const at = 64 + 32 * i;
    head.writeBigUInt64LE(BigInt(change.offset), at + 16);
    head.writeBigUInt64LE(sequence, at + 24);
    if (change.data === undefined) {
      head.write('zero', at, 'latin1');
      head.writeBigUInt64LE(BigInt(change.zeros ?? 4096), at + 8);
      continue;
    }
    const bytes = Buffer.from(change.data);
    head.write('desc', at, 'latin1');
    bytes.copy(head, at + 4, 4092);
    bytes.copy(head, at + 8, 0, 8);
    bytes.write('data', 0, 'latin1');
    bytes.writeUInt32LE(Number(sequence >> 32n), 4);
    bytes.writeUInt32LE(Number(sequence & 0xffffffffn), 4092);
    data.push(bytes);
  }
  const entry = Buffer.concat([head, ...data]);
  entry.write('loge', 0, 'latin1');
  entry.writeUInt32LE(entry.length, 8);
  entry.writeUInt32LE(tail, 12);
  entry.writeBigUInt64LE(sequence, 16);
  entry.writeUInt32LE(changes.length, 24);
  guidBytes(guid).copy(entry, 32);
  entry.writeBigUInt64LE(BigInt(flushed), 48);
  entry.writeBigUInt64LE(BigInt(last), 56);
  edit?.(entry);
  return sealVhdx(entry);
}

/** Writes an entry into the ring at `at`, which it may leave at its end. */
export function putEntry(image: Buffer, logAt: number, logBytes: number, at: number, entry: Buffer): void {
  const part = Math.min(entry.length, logBytes - at);
  entry.copy(image, logAt + at, 0, part);
  entry.copy(image, logAt, part);
}

export function vhdxImage(spec: VhdxSpec = {}): VhdxImage {
  const { blocks = [], blockBytes = MIB, logBytes = MIB, sectorBytes = 512 } = spec;
  const ratio = (2 ** 23 * sectorBytes) / blockBytes;
  const chunks = Math.ceil(blocks.length / ratio);
  const batEntries = chunks * (ratio + 1);
  const batBytes = spec.batBytes ?? Math.max(MIB, Math.ceil((batEntries * 8) / MIB) * MIB);
  const logAt = MIB;
  const metadataAt = logAt + logBytes;
  const batAt = metadataAt + MIB;
  let end = batAt + batBytes + (spec.gapMib ?? 0) * MIB;
  const take = (bytes: number): number => {
    end += bytes;
    return end - bytes;
  };
  const blocksAt = blocks.map(() => 0);
  const order = [...blocks.keys()];
  if (spec.isReversed === true) order.reverse();
  const bitmapsAt = Array.from({ length: chunks }, () => 0);
  for (const i of order) {
    if (blocks[i]!.isHere !== undefined && bitmapsAt[Math.floor(i / ratio)] === 0)
      bitmapsAt[Math.floor(i / ratio)] = take(MIB);
    if (blocks[i]!.data !== undefined) blocksAt[i] = take(blockBytes);
  }
  const image = Buffer.alloc(end);
  image.write('vhdxfile', 0, 'latin1');
  image.write('imgfuse test', 8, 'utf16le');
  writeHeaders(image, spec, logAt, logBytes);
  const regions = [
    { guid: BAT_GUID, offset: batAt, length: batBytes, required: 1 },
    { guid: METADATA_GUID, offset: metadataAt, length: MIB, required: 1 },
  ];
  writeTables(image, spec, spec.editRegions?.(regions) ?? regions);
  const metadata = image.subarray(metadataAt, metadataAt + MIB);
  const items = itemsOf(spec, BigInt(spec.size ?? blocks.length * blockBytes));
  writeMetadata(metadata, spec.editItems?.(items) ?? items);
  spec.editMetadata?.(metadata);
  const bat = image.subarray(batAt, batAt + batBytes);
  const set = (index: number, state: number, at: number): void =>
    void bat.writeBigUInt64LE(BigInt(at) | BigInt(state), index * 8);
  for (const [i, block] of blocks.entries()) {
    set(i + Math.floor(i / ratio), block.state, blocksAt[i]!);
    image.set(block.data ?? [], blocksAt[i]!);
    for (let sector = 0; block.isHere !== undefined && sector < blockBytes / sectorBytes; sector++) {
      const bit = (i % ratio) * (blockBytes / sectorBytes) + sector;
      if (block.isHere(sector)) image[bitmapsAt[Math.floor(i / ratio)]! + (bit >> 3)]! |= 1 << (bit & 7);
    }
  }
  for (const [chunk, at] of bitmapsAt.entries()) if (at !== 0) set((chunk + 1) * ratio + chunk, 6, at);
  spec.editBat?.(bat);
  for (const { at, entry } of spec.log ?? []) putEntry(image, logAt, logBytes, at, entry);
  return { image, logAt, batAt, metadataAt, blocksAt, bitmapsAt };
}

function writeHeaders(image: Buffer, spec: VhdxSpec, logAt: number, logBytes: number): void {
  const sequences = spec.sequences ?? [7n, 8n];
  for (const slot of [0, 1]) {
    const header = image.subarray((64 + 64 * slot) * 1024, (68 + 64 * slot) * 1024);
    header.write('head', 0, 'latin1');
    header.writeBigUInt64LE(sequences[slot]!, 8);
    guidBytes('aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee').copy(header, 16);
    guidBytes(DATA_WRITE_GUID).copy(header, 32);
    guidBytes(spec.logGuid ?? NULL_GUID).copy(header, 48);
    header.writeUInt16LE(1, 66);
    header.writeUInt32LE(logBytes, 68);
    header.writeBigUInt64LE(BigInt(logAt), 72);
    spec.editHeader?.(header, slot);
    sealVhdx(header);
  }
}

function writeTables(image: Buffer, spec: VhdxSpec, regions: readonly VhdxRegion[]): void {
  for (const copy of [0, 1]) {
    const table = image.subarray((192 + 64 * copy) * 1024, (256 + 64 * copy) * 1024);
    table.write('regi', 0, 'latin1');
    table.writeUInt32LE(regions.length, 8);
    for (const [i, { guid, length, offset, required = 0 }] of regions.entries()) {
      const at = 16 + 32 * i;
      guidBytes(guid).copy(table, at);
      table.writeBigUInt64LE(BigInt(offset), at + 16);
      table.writeUInt32LE(length, at + 24);
      table.writeUInt32LE(required, at + 28);
    }
    spec.editTable?.(table, copy);
    sealVhdx(table);
  }
}

function itemsOf({ blockBytes = MIB, flags, locator, sectorBytes = 512 }: VhdxSpec, size: bigint): VhdxItem[] {
  const u32 = (...values: number[]): Buffer => {
    const bytes = Buffer.alloc(4 * values.length);
    for (const [i, value] of values.entries()) bytes.writeUInt32LE(value, 4 * i);
    return bytes;
  };
  const sizeBytes = Buffer.alloc(8);
  sizeBytes.writeBigUInt64LE(size);
  return [
    { id: ITEMS.parameters, data: u32(blockBytes, flags ?? (locator === undefined ? 0 : 2)), flags: 4 },
    { id: ITEMS.size, data: sizeBytes, flags: 6 },
    { id: ITEMS.id, data: guidBytes('12345678-9abc-def0-1234-56789abcdef0'), flags: 6 },
    { id: ITEMS.logical, data: u32(sectorBytes), flags: 6 },
    { id: ITEMS.physical, data: u32(4096), flags: 6 },
    ...(locator === undefined ? [] : [{ id: ITEMS.locator, data: locatorBytes(locator), flags: 4 }]),
  ];
}

export function locatorBytes(pairs: Readonly<Record<string, string>>, type = LOCATOR_TYPE): Buffer {
  const entries = Object.entries(pairs);
  const table = Buffer.alloc(20 + 12 * entries.length);
  guidBytes(type).copy(table);
  table.writeUInt16LE(entries.length, 18);
  const texts: Buffer[] = [];
  let at = table.length;
  for (const [i, pair] of entries.entries()) {
    for (const [which, text] of pair.entries()) {
      const bytes = Buffer.from(text, 'utf16le');
      table.writeUInt32LE(at, 20 + 12 * i + 4 * which);
      table.writeUInt16LE(bytes.length, 20 + 12 * i + 8 + 2 * which);
      texts.push(bytes);
      at += bytes.length;
    }
  }
  return Buffer.concat([table, ...texts]);
}

function writeMetadata(region: Buffer, items: readonly VhdxItem[]): void {
  region.write('metadata', 0, 'latin1');
  region.writeUInt16LE(items.length, 10);
  let end = 64 * 1024;
  for (const [i, item] of items.entries()) {
    const at = 32 + 32 * i;
    guidBytes(item.id).copy(region, at);
    region.writeUInt32LE(item.offset ?? end, at + 16);
    region.writeUInt32LE(item.length ?? item.data.length, at + 20);
    region.writeUInt32LE(item.flags, at + 24);
    region.set(item.data, end);
    end += item.data.length;
  }
}

/** Blocks of every state that a disk without a parent has, with holes between the data; the disk is not a multiple of a block. */
export function mixedVhdx(spec: VhdxSpec = {}): VhdxImage {
  const data = Uint8Array.from({ length: MIB }, (_, i) => ((i >> 12) % 5 === 4 ? 0 : 1 + ((i >> 9) % 250)));
  const states = [6, 0, 2, 6, 3, 1];
  const blocks = states.map((state) => (state === 6 ? { state, data } : { state }));
  return vhdxImage({ blocks, isReversed: true, gapMib: 1, size: 6 * MIB - 3 * 4096, ...spec });
}

/** The same as a crash leaves it: what its table and a block have to become is in the log, in two entries. */
export function unreplayedVhdx(): VhdxImage {
  const after = mixedVhdx({ logGuid: LOG_GUID });
  const { batAt, blocksAt, image } = after;
  const table = Buffer.from(image.subarray(batAt, batAt + 4096));
  const block = Buffer.from(image.subarray(blocksAt[3]! + 8192, blocksAt[3]! + 12_288));
  const common = { flushed: image.length, last: image.length, tail: MIB - 4096 };
  const log = [
    logEntry({ ...common, sequence: 5n, changes: [{ offset: batAt, data: table }] }),
    logEntry({ ...common, sequence: 6n, changes: [{ offset: blocksAt[3]! + 8192, data: block }] }),
  ];
  image.fill(0x77, batAt, batAt + 48).fill(0x55, blocksAt[3]! + 8192, blocksAt[3]! + 12_288);
  putEntry(image, after.logAt, MIB, MIB - 4096, log[0]!);
  putEntry(image, after.logAt, MIB, 4096, log[1]!);
  return after;
}
