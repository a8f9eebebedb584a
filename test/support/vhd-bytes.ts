// VHD images, byte by byte, with every field as a test wants it. Nothing here is taken from src/: what is written there is read by
// other eyes.

const SECTOR = 512;
const NO_BLOCK = 0xffffffff;

export interface VhdLocator {
  readonly code: string;
  /** UTF-16LE, but for MacX, which is UTF-8 */
  readonly name: string;
  /** what the field says; default: bytes, as Windows writes it */
  readonly space?: number;
  /** instead of where the name lies */
  readonly offset?: number;
  /** instead of the length of the name in bytes */
  readonly length?: number;
}

export interface VhdSpec {
  /** 2 fixed, 3 dynamic (default), 4 differencing */
  readonly type?: number;
  /** one byte for each sector of the disk; null: not in the image */
  readonly sectors?: readonly (number | null)[];
  readonly blockSize?: number;
  /** the bitmap of a block that is in the image is full, and sectors that are null are zeros there */
  readonly fullBitmaps?: boolean;
  /** sectors before each block; default none */
  readonly gapSectors?: number;
  readonly creator?: string;
  readonly size?: number;
  /** cylinders, heads, sectors; default: those that say nothing */
  readonly geometry?: readonly [number, number, number];
  readonly footerBytes?: 512 | 511;
  /** bytes between the last block and the footer */
  readonly slack?: number;
  readonly maxTableEntries?: number;
  readonly tablePadding?: number;
  readonly uuid?: string;
  readonly parentUuid?: string;
  readonly parentTimestamp?: number;
  readonly parentName?: string;
  readonly locators?: readonly VhdLocator[];
  /** a batmap of Xen with these bits, by block; the creator should be "tap\0" */
  readonly batmap?: readonly boolean[];
  readonly batmapVersion?: number;
  readonly footerVersion?: number;
  readonly headerVersion?: number;
  /** changes of the finished parts, which get their checksums afterwards */
  readonly editFooter?: (footer: Buffer) => void;
  readonly editHeader?: (header: Buffer) => void;
  readonly editTable?: (table: Buffer) => void;
}

export const UUID = '00112233-4455-6677-8899-aabbccddeeff';

export function signVhd(bytes: Buffer, at: number): Buffer {
  bytes.writeUInt32BE(0, at);
  const sum = bytes.reduce((total, byte) => total + byte, 0);
  bytes.writeUInt32BE(~sum >>> 0, at);
  return bytes;
}

function uuidOf(text: string): Buffer {
  return Buffer.from(text.replaceAll('-', ''), 'hex');
}

export function vhdFooter(spec: VhdSpec): Buffer {
  const { creator = 'win ', geometry = [65535, 16, 255], sectors = [], type = 3 } = spec;
  const footer = Buffer.alloc(SECTOR);
  footer.write('conectix', 0, 'latin1');
  footer.writeUInt32BE(2, 8);
  footer.writeUInt32BE(spec.footerVersion ?? 0x00010000, 12);
  if (type === 2) footer.fill(0xff, 16, 24);
  else footer.writeBigUInt64BE(512n, 16);
  footer.writeUInt32BE(700_000_000, 24);
  footer.write(creator, 28, 4, 'latin1');
  footer.write('Wi2k', 36, 'latin1');
  const size = BigInt(spec.size ?? sectors.length * SECTOR);
  footer.writeBigUInt64BE(size, 40);
  footer.writeBigUInt64BE(size, 48);
  footer.writeUInt16BE(geometry[0], 56);
  footer.writeUInt8(geometry[1], 58);
  footer.writeUInt8(geometry[2], 59);
  footer.writeUInt32BE(type, 60);
  uuidOf(spec.uuid ?? UUID).copy(footer, 68);
  spec.editFooter?.(footer);
  return signVhd(footer, 64);
}

/** The image, and what its disk reads as without a parent. */
export function vhdImage(spec: VhdSpec = {}): { readonly image: Buffer; readonly content: Buffer } {
  const { sectors = [], type = 3, footerBytes = 512, slack = 0 } = spec;
  const content = Buffer.concat(sectors.map((byte) => Buffer.alloc(SECTOR, byte ?? 0)));
  const footer = vhdFooter(spec);
  const end = [Buffer.alloc(slack, 0xee), footer.subarray(0, footerBytes)];
  if (type === 2) return { image: Buffer.concat([content, ...end]), content };

  const { blockSize = 4096, gapSectors = 0, locators = [] } = spec;
  const perBlock = blockSize / SECTOR;
  const blocks = Math.ceil(sectors.length / perBlock);
  const entries = spec.maxTableEntries ?? Math.max(1, Math.ceil((spec.size ?? sectors.length * SECTOR) / blockSize));
  const table = Buffer.alloc(Math.ceil((Math.max(entries, blocks) * 4) / SECTOR) * SECTOR, spec.tablePadding ?? 0xff);
  table.fill(0xff, 0, entries * 4);
  const parts: Buffer[] = [];
  let at = 512 + 1024 + table.length;
  const add = (bytes: Buffer): number => {
    const place = at;
    parts.push(bytes);
    at += bytes.length;
    return place;
  };
  if (spec.batmap !== undefined) add(batmapOf(spec.batmap, spec.batmapVersion ?? 0x00010002, at));
  const header = headerOf(spec, entries);
  locators.forEach((locator, index) => {
    const name = Buffer.from(locator.name, locator.code === 'MacX' ? 'utf8' : 'utf16le');
    const room = Math.ceil(name.length / SECTOR) * SECTOR;
    const place = add(Buffer.concat([name], room));
    const field = 576 + index * 24;
    header.write(locator.code, field, 4, 'latin1');
    header.writeUInt32BE(locator.space ?? room, field + 4);
    header.writeUInt32BE(locator.length ?? name.length, field + 8);
    header.writeBigUInt64BE(BigInt(locator.offset ?? place), field + 16);
  });
  const stored = Array.from({ length: blocks }, (_, i) => i).filter((i) =>
    sectors.slice(i * perBlock, (i + 1) * perBlock).some((byte) => byte !== null),
  );
  // in the reverse order of the disk
  for (const block of stored.reverse()) {
    add(Buffer.alloc(gapSectors * SECTOR, 0xee));
    table.writeUInt32BE(at / SECTOR, block * 4);
    add(blockOf(sectors.slice(block * perBlock, (block + 1) * perBlock), blockSize, spec.fullBitmaps === true));
  }
  spec.editHeader?.(header);
  spec.editTable?.(table);
  const image = Buffer.concat([footer, signVhd(header, 36), table, ...parts, ...end]);
  return { image, content };
}

function headerOf(spec: VhdSpec, entries: number): Buffer {
  const header = Buffer.alloc(1024);
  header.write('cxsparse', 0, 'latin1');
  header.fill(0xff, 8, 16);
  header.writeBigUInt64BE(1536n, 16);
  header.writeUInt32BE(spec.headerVersion ?? 0x00010000, 24);
  header.writeUInt32BE(entries, 28);
  header.writeUInt32BE(spec.blockSize ?? 4096, 32);
  if (spec.parentUuid !== undefined) uuidOf(spec.parentUuid).copy(header, 40);
  header.writeUInt32BE(spec.parentTimestamp ?? 0, 56);
  Buffer.from(spec.parentName ?? '', 'utf16le')
    .swap16()
    .copy(header, 64, 0, 512);
  return header;
}

function blockOf(sectors: readonly (number | null)[], blockSize: number, isFull: boolean): Buffer {
  const bitmap = Buffer.alloc(Math.ceil(Math.ceil(blockSize / SECTOR / 8) / SECTOR) * SECTOR);
  const data = sectors.map((byte, sector) => {
    if (byte !== null || isFull) bitmap[sector >> 3]! |= 0x80 >> (sector & 7);
    // what is not here may hold anything
    return Buffer.alloc(SECTOR, byte ?? (isFull ? 0 : 0xdd));
  });
  if (isFull)
    for (let sector = sectors.length; sector < blockSize / SECTOR; sector++)
      bitmap[sector >> 3]! |= 0x80 >> (sector & 7);
  return Buffer.concat([bitmap, Buffer.concat(data, blockSize)]);
}

function batmapOf(full: readonly boolean[], version: number, at: number): Buffer {
  const bits = Buffer.alloc(Math.max(1, Math.ceil(full.length / 8 / SECTOR)) * SECTOR);
  full.forEach((isFull, block) => {
    if (isFull) bits[block >> 3]! |= 0x80 >> (block & 7);
  });
  const header = Buffer.alloc(SECTOR);
  header.write('tdbatmap', 0, 'latin1');
  header.writeBigUInt64BE(BigInt(at + SECTOR), 8);
  header.writeUInt32BE(bits.length / SECTOR, 16);
  header.writeUInt32BE(version, 20);
  header.writeUInt32BE(batmapChecksum(bits, version), 24);
  return Buffer.concat([header, bits]);
}

export function batmapChecksum(bits: Uint8Array, version: number): number {
  const isSigned = version === 0x00010001;
  return ~bits.reduce((total, byte) => total + (isSigned && byte > 127 ? byte - 256 : byte), 0) >>> 0;
}

/** Blocks of every kind: not in the image, with some of their sectors and with all, and an end that is not a whole block. */
export const MIXED_SECTORS: readonly (number | null)[] = Array.from({ length: 203 }, (_, sector) => {
  const block = sector >> 3;
  if (block % 4 === 1) return null;
  if (block % 4 === 2 && (sector % 5 === 0 || sector % 7 === 0)) return null;
  return 1 + (sector % 250);
});

export { NO_BLOCK };
