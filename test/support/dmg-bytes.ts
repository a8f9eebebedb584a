// dmg images (UDIF), byte by byte, with every field as a test wants it.

import { execFileSync } from 'node:child_process';
import { crc32, deflateSync } from 'node:zlib';
import { compressAdc } from './adc-encoder.ts';
import { compressLzfse, compressLzvn } from './lzfse-encoder.ts';

const SECTOR = 512;
export const ZERO = 0;
export const RAW = 1;
export const IGNORED = 2;
export const ADC = 0x80000004;
export const ZLIB = 0x80000005;
export const BZIP2 = 0x80000006;
export const LZFSE = 0x80000007;
export const XZ = 0x80000008;
const COMMENT = 0x7ffffffe;
const TERMINATOR = 0xffffffff;

export interface RunSpec {
  readonly type: number;
  /** first sector on the disk; default: where the run before ends */
  readonly sector?: number | bigint;
  /** default: those of the content */
  readonly sectors?: number | bigint;
  readonly content?: Uint8Array;
  /** instead of the content, compressed as the type says */
  readonly stored?: Uint8Array;
  /** instead of where the stored bytes are, from the data fork */
  readonly offset?: number | bigint;
  /** instead of the length of the stored bytes */
  readonly length?: number | bigint;
}

export interface TableSpec {
  readonly runs: readonly RunSpec[];
  readonly magic?: string;
  /** what the table says of its first sector and of the offset of its data; its runs count from them */
  readonly firstSector?: number;
  readonly dataOffset?: number;
  readonly count?: number;
  readonly crc32?: number;
  readonly checksumType?: number;
  /** bytes of the table that are left */
  readonly cut?: number;
}

export interface DmgSpec {
  readonly tables?: readonly TableSpec[];
  readonly magic?: string;
  readonly version?: number;
  readonly trailerBytes?: number;
  readonly segments?: number;
  /** bytes before the data fork */
  readonly gap?: number;
  readonly dataFork?: number | bigint;
  readonly sectors?: number | bigint;
  readonly list?: string | Uint8Array;
  readonly listOffset?: number | bigint;
  readonly listBytes?: number | bigint;
  /** instead of the property list: the block tables as resources, or these bytes */
  readonly fork?: true | Uint8Array;
  readonly forkOffset?: number | bigint;
  readonly forkBytes?: number | bigint;
}

type Compress = (content: Uint8Array) => Uint8Array;
const ENCODERS: Readonly<Record<number, Compress>> = {
  [RAW]: (content) => content,
  [ADC]: compressAdc,
  [ZLIB]: deflateSync,
};

/** The image, and what its disk reads as. The data of runs lies in the file in the reverse order of the runs. */
export function dmgImage(
  spec: DmgSpec = {},
  encoders: Readonly<Record<number, Compress>> = {},
): { readonly image: Buffer; readonly content: Buffer } {
  const { tables = MIXED_TABLES, gap = 0 } = spec;
  const placed = placeRuns(tables, { ...ENCODERS, ...encoders });
  const runs = placed.flat();
  const sectors = spec.sectors ?? runs.reduce((end, run) => Math.max(end, run.end), 0);
  const content = Buffer.alloc(typeof sectors === 'number' && sectors < 2 ** 22 ? sectors * SECTOR : 0);
  for (const { sector, content: bytes } of runs) {
    if (bytes !== undefined && content.length > 0) content.set(bytes, Number(sector) * SECTOR);
  }
  const data = Buffer.concat(runs.map(({ stored }) => stored).reverse());
  const blobs = tables.map((table, i) => tableBytes(table, placed[i]!));
  const isFork = spec.fork !== undefined;
  const list = Buffer.from(isFork ? (spec.fork === true ? forkOf(blobs) : spec.fork) : (spec.list ?? listOf(blobs)));
  const trailer = Buffer.alloc(SECTOR);
  trailer.write(spec.magic ?? 'koly', 'latin1');
  trailer.writeUInt32BE(spec.version ?? 4, 4);
  trailer.writeUInt32BE(spec.trailerBytes ?? SECTOR, 8);
  const u64 = (value: number | bigint, at: number): void => void trailer.writeBigUInt64BE(BigInt(value), at);
  u64(spec.dataFork ?? gap, 24);
  u64(data.length, 32);
  u64(spec.forkOffset ?? (isFork ? gap + data.length : 0), 40);
  u64(spec.forkBytes ?? (isFork ? list.length : 0), 48);
  trailer.writeUInt32BE(1, 56);
  trailer.writeUInt32BE(spec.segments ?? 1, 60);
  u64(spec.listOffset ?? (isFork ? 0 : gap + data.length), 216);
  u64(spec.listBytes ?? (isFork ? 0 : list.length), 224);
  u64(sectors, 492);
  return { image: Buffer.concat([Buffer.alloc(gap, 0xdd), data, list, trailer]), content };
}

interface PlacedRun {
  readonly type: number;
  readonly sector: number | bigint;
  readonly sectors: number | bigint;
  readonly end: number;
  readonly content: Uint8Array | undefined;
  readonly stored: Uint8Array;
  readonly offset: number | bigint;
  readonly length: number | bigint;
}

function placeRuns(tables: readonly TableSpec[], encoders: Readonly<Record<number, Compress>>): PlacedRun[][] {
  let next = 0;
  const placed = tables.map(({ runs }) =>
    runs.map((run) => {
      const { type, content, sector = next, sectors = (content?.length ?? 0) / SECTOR } = run;
      const stored = run.stored ?? (content === undefined ? Buffer.alloc(0) : encoders[type]!(content));
      const end = Number(sector) + Number(sectors);
      next = end;
      return { type, sector, sectors, end, content, stored, offset: 0, length: run.length ?? stored.length };
    }),
  );
  let at = placed.flat().reduce((sum, { stored }) => sum + stored.length, 0);
  return placed.map((runs, table) =>
    runs.map((run, place) => {
      at -= run.stored.length;
      return { ...run, offset: tables[table]!.runs[place]!.offset ?? at };
    }),
  );
}

function tableBytes(spec: TableSpec, runs: readonly PlacedRun[]): Buffer {
  const { firstSector = Number(runs[0]?.sector ?? 0), dataOffset = 0 } = spec;
  const bytes = Buffer.alloc(204 + 40 * (runs.length + 2));
  const u64 = (value: number | bigint, at: number): void => void bytes.writeBigUInt64BE(BigInt(value), at);
  bytes.write(spec.magic ?? 'mish', 'latin1');
  bytes.writeUInt32BE(1, 4);
  u64(firstSector, 8);
  const end = runs.reduce((last, run) => Math.max(last, run.end), firstSector);
  if (end < 2 ** 50) u64(end - firstSector, 16);
  u64(dataOffset, 24);
  bytes.writeUInt32BE(spec.checksumType ?? 2, 64);
  bytes.writeUInt32BE(32, 68);
  bytes.writeUInt32BE(spec.crc32 ?? checksumOf(runs), 72);
  bytes.writeUInt32BE(spec.count ?? runs.length + 2, 200);
  const comment = { type: COMMENT, sector: firstSector, sectors: 0, offset: dataOffset, length: 0 };
  const terminator = { ...comment, type: TERMINATOR, sector: end < 2 ** 50 ? end : firstSector };
  for (const [i, { type, sector, sectors, offset, length }] of [comment, ...runs, terminator].entries()) {
    const at = 204 + i * 40;
    bytes.writeUInt32BE(type, at);
    u64(BigInt(sector) - BigInt(firstSector), at + 8);
    u64(sectors, at + 16);
    u64(BigInt(offset) - BigInt(dataOffset), at + 24);
    u64(length, at + 32);
  }
  return bytes.subarray(0, spec.cut ?? bytes.length);
}

/** That of the data of all runs in the order of the disk; free space has none. */
function checksumOf(runs: readonly PlacedRun[]): number {
  const counted = runs.filter(({ type, sectors }) => type !== IGNORED && Number(sectors) < 2 ** 20);
  return counted
    .toSorted((a, b) => Number(a.sector) - Number(b.sector))
    .reduce((sum, { content, sectors }) => crc32(content ?? Buffer.alloc(Number(sectors) * SECTOR), sum), 0);
}

function listOf(tables: readonly Buffer[]): string {
  const entries = tables.map((table, i) => {
    const data = table.toString('base64').replaceAll(/.{52}/g, '$&\n\t\t\t\t');
    return `<dict><key>Attributes</key><string>0x0050</string><key>Data</key><data>\n\t\t\t\t${data}\n</data>
      <key>ID</key><string>${i}</string><key>Name</key><string>part ${i} &amp; more</string></dict>`;
  });
  return `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0"><dict><key>resource-fork</key><dict>
<key>blkx</key><array>${entries.join('\n')}</array>
<key>plst</key><array/></dict></dict></plist>
`;
}

/** A resource fork with another type before the block tables. */
export function forkOf(tables: readonly Buffer[]): Buffer {
  const u32 = (value: number): Buffer => Buffer.from([value >>> 24, value >>> 16, value >>> 8, value]);
  const data = Buffer.concat([...tables.flatMap((table) => [u32(table.length), table]), u32(3), Buffer.from('abc')]);
  const types = Buffer.alloc(2 + 2 * 8);
  types.writeUInt16BE(1, 0);
  const lists = [
    { type: 'plst', count: 1 },
    { type: 'blkx', count: tables.length },
  ];
  for (const [i, { type, count }] of lists.entries()) {
    types.write(type, 2 + i * 8, 'latin1');
    types.writeUInt16BE(count - 1, 6 + i * 8);
    types.writeUInt16BE(types.length + i * 12, 8 + i * 8);
  }
  let at = 0;
  const references = tables.map((table) => {
    at += 4 + table.length;
    return Buffer.concat([Buffer.from([0, 1, 0xff, 0xff]), u32(0x50000000 | (at - 4 - table.length)), u32(0)]);
  });
  const other = Buffer.concat([Buffer.from([0, 1, 0xff, 0xff]), u32(at), u32(0)]);
  const map = Buffer.concat([Buffer.alloc(28), types, other, ...references]);
  map.writeUInt16BE(28, 24);
  const header = Buffer.concat([u32(256), u32(256 + data.length), u32(data.length), u32(map.length)], 256);
  header.copy(map, 0, 0, 16);
  return Buffer.concat([header, data, map]);
}

/** Text that compresses, and differs from sector to sector. */
export function sectorsOf(count: number, seed: number): Buffer {
  let text = '';
  for (let i = 0; text.length < count * SECTOR; i++)
    text += `${(i * seed * 7919) % 10007} ${'abcdefgh'.slice(i % 8)}\n`;
  return Buffer.from(text).subarray(0, count * SECTOR);
}

/** Runs of every kind in two tables, out of order, with gaps. */
export const MIXED_TABLES: readonly TableSpec[] = [
  {
    dataOffset: 5,
    runs: [
      { type: RAW, content: sectorsOf(3, 1) },
      { type: IGNORED, sectors: 40 },
      { type: ZLIB, content: sectorsOf(64, 2) },
      { type: ZLIB, sector: 300, content: sectorsOf(17, 3) },
      { type: ADC, sector: 200, content: sectorsOf(99, 4) },
      { type: ZERO, sector: 170, sectors: 30 },
    ],
  },
  {
    runs: [
      { type: ADC, sector: 317, content: sectorsOf(1, 5) },
      { type: RAW, sector: 350, content: sectorsOf(77, 6) },
      { type: ZLIB, content: sectorsOf(128, 7) },
      { type: IGNORED, sectors: 60 },
      { type: ZERO, sectors: 5 },
    ],
  },
];

/** Images that are damaged in the fuzz test, one for each compression. */
export const DMG_KINDS: Readonly<Record<string, () => { readonly image: Buffer }>> = {
  mixed: () => dmgImage({ gap: 9 }),
  'resource fork': () => dmgImage({ gap: 9, fork: true }),
  zlib: () => dmgImage({ tables: tablesOf(ZLIB) }),
  adc: () => dmgImage({ tables: tablesOf(ADC) }),
  bzip2: () => dmgImage({ tables: tablesOf(BZIP2) }, { [BZIP2]: program('bzip2') }),
  xz: () => dmgImage({ tables: tablesOf(XZ) }, { [XZ]: program('xz') }),
  lzfse: () => dmgImage({ tables: tablesOf(LZFSE) }, { [LZFSE]: compressLzfse }),
  lzvn: () => dmgImage({ tables: tablesOf(LZFSE) }, { [LZFSE]: compressLzvn }),
};

function program(name: string): Compress {
  return (content) => execFileSync(name, ['-c'], { input: content });
}

function tablesOf(type: number): readonly TableSpec[] {
  return [{ runs: Array.from({ length: 20 }, (_, i) => ({ type, content: sectorsOf(1 + (i % 9), i) })) }];
}
