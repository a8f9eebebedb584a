// The trailer and the block tables of dmg images: what they say, and each limit with the value just outside.

import { deflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { dmg } from '../../../../src/format/dmg/index.ts';
import { resourcesOf } from '../../../../src/format/dmg/resource-fork.ts';
import { readTrailer } from '../../../../src/format/dmg/trailer.ts';
import { endsOf, isSigned } from '../../../../src/format/file-ends.ts';
import {
  ADC,
  type DmgSpec,
  dmgImage,
  forkOf,
  IGNORED,
  MIXED_TABLES,
  RAW,
  type RunSpec,
  sectorsOf,
  type TableSpec,
  ZERO,
  ZLIB,
} from '../../../support/dmg-bytes.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { openImage } from '../../../support/memory-images.ts';
import { CountingHostFile } from '../../../support/wrapping-files.ts';

const GOOD: readonly RunSpec[] = [
  { type: RAW, content: sectorsOf(2, 1) },
  { type: ZLIB, content: sectorsOf(3, 2) },
];

function fileOf(spec: DmgSpec): MemoryHostFile {
  return new MemoryHostFile(dmgImage({ tables: [{ runs: GOOD }], ...spec }).image, '/disk');
}

/** An image of one table, whose last run is `run`. */
const withRun = (run: RunSpec, table: Partial<TableSpec> = {}): MemoryHostFile =>
  fileOf({ tables: [{ runs: [...GOOD, run], ...table }], sectors: 100 });

function refusalOf(action: () => unknown): string {
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
}

const open = (file: MemoryHostFile) => openImage(dmg, file, { readOnly: true });
const openRefusal = (file: MemoryHostFile): string => refusalOf(() => open(file));

/** Kind and sentence of a read of the last run of `file`. */
function readRefusal(file: MemoryHostFile): string {
  const image = open(file);
  return refusalOf(() => image.read(new Uint8Array(512), 0, 512, guestOffset(5 * 512)));
}

describe('the trailer', () => {
  test.each([1, 100, 511])('is found before %i zeros that fill the last sector up', (zeros) => {
    const whole = fileOf({}).bytes();
    const padded = new MemoryHostFile(Buffer.concat([whole, Buffer.alloc(zeros)]), '/disk');
    expect(isSigned(dmg, endsOf(padded), 'tail')).toBe(true);
    const target = new Uint8Array(512);
    open(padded).read(target, 0, 512, guestOffset(0));
    expect(Buffer.from(target)).toEqual(Buffer.from(sectorsOf(2, 1).subarray(0, 512)));
  });

  test('is not found before a whole sector, and not by four letters among other bytes', () => {
    const whole = fileOf({}).bytes();
    const far = new MemoryHostFile(Buffer.concat([whole, Buffer.alloc(512)]), '/disk');
    expect(isSigned(dmg, endsOf(far), 'tail')).toBe(false);
    const letters = Buffer.alloc(4096);
    letters.write('koly', 4096 - 700);
    expect(isSigned(dmg, endsOf(new MemoryHostFile(letters)), 'tail')).toBe(false);
  });

  test('may count the NUL behind its property list', () => {
    const bytes = Buffer.from(fileOf({}).bytes());
    const trailer = bytes.subarray(bytes.length - 512);
    trailer.writeBigUInt64BE(trailer.readBigUInt64BE(224) + 1n, 224);
    const longer = Buffer.concat([bytes.subarray(0, -512), Buffer.alloc(1), trailer]);
    expect(() => open(new MemoryHostFile(longer, '/disk'))).not.toThrow();
  });

  test('says where everything is', () => {
    const { image } = dmgImage({ tables: [{ runs: GOOD }], gap: 7, sectors: 99 });
    const trailer = readTrailer(new MemoryHostFile(image, '/disk'));
    expect(trailer).toMatchObject({ dataFork: 7, diskBytes: 99 * 512 });
    const { name, offset, bytes } = trailer.tables;
    expect([name, offset + bytes]).toEqual(['property list', image.length - 512]);
    expect(dmg.inspect(fileOf({ sectors: 99 }))).toEqual({
      ...{ format: 'dmg', virtualSize: 99 * 512, clusterSize: null, dirty: false, specific: {} },
    });
  });

  const size = fileOf({}).size();
  test.each<[string, DmgSpec, RegExp]>([
    ['another magic', { magic: 'kolx' }, /^corrupt: .* offset 0: magic is "kolx"/],
    ['another version', { version: 5 }, /^unsupported: \/disk is a dmg image that has version 5.*hdiutil/],
    ['another length', { trailerBytes: 511 }, /^corrupt: .* offset 8: the trailer has 511 bytes/],
    ['two segments', { segments: 2 }, /^unsupported: .* is one of 2 segments of a disk; join them/],
    ['a data fork beyond the file', { dataFork: size + 1 }, /^corrupt: .* offset 24: the data fork begins at/],
    ['a data fork beyond all numbers', { dataFork: 2n ** 63n }, /^corrupt: .* offset 24/],
    ['a disk of 8 PiB', { sectors: 2n ** 44n }, /^corrupt: .* offset 492: the disk has more than 8 PiB/],
    ['a disk of 2^64 sectors', { sectors: 2n ** 64n - 1n }, /^corrupt: .* offset 492/],
    ['no list', { list: '' }, /^corrupt: .* offset 224: there is no property list/],
    [
      'a fork that is not there',
      { fork: true, forkBytes: 0 },
      /^corrupt: .* offset 224: there is no property list and no/,
    ],
    [
      'a fork inside the trailer',
      { fork: true, forkBytes: size },
      /^corrupt: .* offset 40: the resource fork has .* must end/,
    ],
    [
      'a list inside the trailer',
      { listOffset: size - 512 },
      /^corrupt: .* offset 216: the property list has .* must end/,
    ],
    ['a list beyond all numbers', { listOffset: 2n ** 63n }, /^corrupt: .* offset 216/],
    ['a list without end', { listBytes: 2n ** 64n - 1n }, /^corrupt: .* offset 216/],
  ])('of %s is refused', (_, spec, sentence) => {
    expect(openRefusal(fileOf(spec))).toMatch(sentence);
    expect(refusalOf(() => dmg.inspect(fileOf(spec)))).toMatch(sentence);
  });

  test('of a list of more than 16 MiB is refused', () => {
    const list = (bytes: number): Uint8Array => Buffer.from(`<plist><dict/>${' '.repeat(bytes - 22)}</plist>`);
    expect(openRefusal(fileOf({ list: list(2 ** 24) }))).toMatch(/has no array resource-fork\/blkx/);
    expect(openRefusal(fileOf({ list: list(2 ** 24 + 1) }))).toMatch(/has 16777217 bytes; the limit is 16777216/);
  });

  test('of a file that is shorter than it is refused', () => {
    expect(refusalOf(() => readTrailer(new MemoryHostFile(new Uint8Array(511), '/disk')))).toMatch(/has 511 bytes/);
  });
});

test.each([
  ['<plist><dict><key>resource-fork</key><dict/></dict></plist>', /has no array resource-fork\/blkx/],
  ['<plist><string/></plist>', /has no array resource-fork\/blkx/],
  ['<plist>', /^corrupt: \/disk: the property list at 0x[0-9a-f]+ ends inside <plist>/],
  ['<!DOCTYPE a [<!ENTITY b "c">]><plist/>', /defines a document type/],
  [
    '<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict/></array></dict></dict></plist>',
    /block table 0 of the property list has 0 bytes; it must have 204/,
  ],
])('the property list %s is refused', (list, sentence) => {
  expect(openRefusal(fileOf({ list }))).toMatch(sentence);
});

describe('a resource fork', () => {
  const fork = forkOf([Buffer.from('table')]);
  const changed = (at: number, value: number): Buffer => {
    const copy = Buffer.from(fork);
    copy.writeUInt16BE(value, at);
    return copy;
  };
  const map = fork.readUInt32BE(4);

  /** 65,536 references to one table of half the fork */
  const manyNames = ((): Buffer => {
    const table = Buffer.alloc(2 ** 20);
    const one = forkOf([table]);
    const references = Buffer.alloc(65_535 * 12);
    const copy = Buffer.concat([one, references]);
    copy.writeUInt16BE(0xffff, one.readUInt32BE(4) + 28 + 2 + 8 + 4);
    return copy;
  })();

  test('holds the block tables of an old image', () => {
    const { image, content } = dmgImage({ tables: MIXED_TABLES, fork: true });
    const target = new Uint8Array(content.length);
    open(new MemoryHostFile(image, '/disk')).read(target, 0, target.length, guestOffset(0));
    expect(Buffer.compare(target, content)).toBe(0);
    expect(resourcesOf(fork, 'blkx').map((table) => Buffer.from(table).toString())).toEqual(['table']);
    expect(resourcesOf(fork, 'plst').map((table) => Buffer.from(table).toString())).toEqual(['abc']);
    expect(resourcesOf(changed(map + 28, 0xffff), 'blkx')).toEqual([]);
  });

  test.each([
    ['no header', fork.subarray(0, 15)],
    ['no map', fork.subarray(0, map + 25)],
    ['a map beyond it', changed(4, 0xffff)],
    ['types beyond it', changed(map + 24, 0xffff)],
    ['references beyond it', changed(map + 28 + 2 + 8 + 6, 0xffff)],
    ['more references than room', changed(map + 28 + 2 + 8 + 4, 9)],
    ['a table beyond it', changed(256, 0xffff)],
    ['many names of one table', manyNames],
    ['no block table', changed(map + 28 + 2 + 8, 0)],
  ])('with %s is refused', (_, bytes) => {
    expect(openRefusal(fileOf({ fork: bytes }))).toMatch(
      /^corrupt: \/disk: the resource fork at 0x[0-9a-f]+ has ([0-9]+ bytes, and goes on at|no block table|resources that lie in each other)/,
    );
  });
});

describe('a block table', () => {
  test.each<[string, Partial<TableSpec>, RegExp]>([
    ['another magic', { magic: 'mist' }, /has the magic "mist"/],
    ['no room for its header', { cut: 203 }, /has 203 bytes; it must have 204/],
    ['more runs than room', { count: 5 }, /has 5 runs, for which its 364 bytes are too few/],
  ])('of %s is refused', (_, table, sentence) => {
    expect(openRefusal(fileOf({ tables: [{ runs: GOOD, ...table }] }))).toMatch(sentence);
  });

  test('ends at its terminator, whatever follows', () => {
    const runs = [...GOOD, { type: 0xffffffff }, { type: 77, sectors: 1 }];
    expect(open(fileOf({ tables: [{ runs }], sectors: 9 })).virtualSize()).toBe(9 * 512);
  });

  test.each<[string, RunSpec, RegExp]>([
    ['an unknown type', { type: 0x80000009, sectors: 1 }, /^unsupported: .*run 3 of the type 0x80000009.*hdiutil/],
    [
      'a place beyond the disk',
      { type: ZERO, sector: 99, sectors: 2 },
      /run 3 at sector 99 with 2 sectors, beyond the 100/,
    ],
    ['a place beyond all numbers', { type: ZERO, sector: 2n ** 63n, sectors: 1 }, /beyond the 100 sectors/],
    ['a length beyond all numbers', { type: ZERO, sectors: 2n ** 64n - 1n }, /beyond the 100 sectors/],
    [
      'data beyond the file',
      { type: RAW, sectors: 1, offset: 10_000, length: 512 },
      /with 512 bytes at 0x2710, beyond the/,
    ],
    ['data beyond all numbers', { type: ZLIB, sectors: 1, offset: 2n ** 63n }, /beyond the end of the file/],
    ['stored bytes without end', { type: ADC, sectors: 1, length: 2n ** 63n }, /beyond the end of the file/],
    [
      'too few raw bytes',
      { type: RAW, sectors: 1, stored: new Uint8Array(511) },
      /in which 511 raw bytes are to be 512/,
    ],
    [
      'too many raw bytes',
      { type: RAW, sectors: 1, stored: new Uint8Array(513) },
      /in which 513 raw bytes are to be 512/,
    ],
    ['sectors of another one', { type: ZERO, sector: 4, sectors: 1 }, /have two runs for sector 4 of the disk/],
  ])('with a run of %s is refused', (_, run, sentence) => {
    expect(openRefusal(withRun(run))).toMatch(sentence);
  });

  test('may have a run that ends with the disk and with the file', () => {
    const file = withRun({ type: ZERO, sector: 98, sectors: 2 });
    expect(open(file).virtualSize()).toBe(51_200);
  });

  test('may not share a sector with another one', () => {
    const tables = [{ runs: GOOD }, { runs: [{ type: ZERO, sector: 4, sectors: 9 }] }];
    expect(openRefusal(fileOf({ tables }))).toMatch(/two runs for sector 4 of the disk/);
  });

  test('may have raw runs and zeros of any length, but no compressed run of more than 64 MiB', () => {
    const limit = 2 ** 17;
    const sectors = 2 ** 40;
    const run = (more: RunSpec): MemoryHostFile => fileOf({ tables: [{ runs: [...GOOD, more] }], sectors });
    expect(open(run({ type: IGNORED, sectors: 2 ** 39 })).allocatedBytes()).toBe(5 * 512);
    expect(open(run({ type: ZLIB, sectors: limit, stored: Buffer.alloc(9) })).virtualSize()).toBe(sectors * 512);
    expect(openRefusal(run({ type: ZLIB, sectors: limit + 1, stored: Buffer.alloc(9) }))).toMatch(
      /has run 3 of 9 compressed bytes for 67109376; the limit is 64 MiB/,
    );
  });
});

describe('a compressed run', () => {
  test.each([
    ['shorter', ZLIB, deflateSync(Buffer.alloc(511)), 'decompresses to 511 bytes instead of 512'],
    ['longer', ZLIB, deflateSync(Buffer.alloc(513)), 'decompresses to more than 512 bytes'],
    ['no zlib stream', ZLIB, Buffer.from('nothing'), 'does not decompress: incorrect header check'],
    ['empty', ZLIB, Buffer.alloc(0), 'does not decompress: unexpected end of file'],
    ['a short ADC stream', ADC, Buffer.from([0x80, 1]), 'decompresses to 1 bytes instead of 512'],
  ])('that is %s fails, and the others can be read', (_, type, stored, sentence) => {
    const file = withRun({ type, sectors: 1, stored });
    expect(readRefusal(file)).toMatch(/^corrupt: \/disk: the compressed run at offset 0x[0-9a-f]+ /);
    expect(readRefusal(file)).toContain(sentence);
    const target = new Uint8Array(512);
    open(file).read(target, 0, 512, guestOffset(4 * 512));
    expect(Buffer.from(target)).toEqual(sectorsOf(3, 2).subarray(1024));
  });

  test('is decompressed once for small reads', () => {
    const file = new CountingHostFile(fileOf({}));
    const image = openImage(dmg, file, { readOnly: true });
    const before = file.calls.read;
    for (let at = 1024; at < 2560; at += 64) image.read(new Uint8Array(64), 0, 64, guestOffset(at));
    expect(file.calls.read - before).toBe(1);
  });
});

describe('check', () => {
  const check = (spec: DmgSpec): { readonly report: object; readonly told: readonly string[] } => {
    const told: string[] = [];
    const report = dmg.check!(fileOf(spec), { repair: 'none', log: (sentence) => told.push(sentence) });
    return { report, told };
  };

  test('of a sound image finds nothing', () => {
    const { report, told } = check({ tables: MIXED_TABLES });
    expect(told).toEqual([]);
    expect(report).toMatchObject({
      corruptions: 0,
      totalClusters: 620,
      allocatedClusters: 389,
      compressedClusters: 309,
    });
  });

  test('takes free space as nothing or as zeros, as the checksum does', () => {
    const runs = [
      { type: RAW, content: sectorsOf(1, 1) },
      { type: IGNORED, sectors: 9 },
    ];
    const asZeros = [
      { type: RAW, content: sectorsOf(1, 1) },
      { type: ZERO, sectors: 9 },
    ];
    expect(check({ tables: [{ runs }] }).told).toEqual([]);
    const sum = dmgImage({ tables: [{ runs: asZeros }] }).image;
    const crc32 = tableChecksum(sum);
    expect(check({ tables: [{ runs, crc32 }] }).told).toEqual([]);
    expect(check({ tables: [{ runs, crc32: (crc32 ^ 1) >>> 0 }] }).told).toEqual([
      expect.stringMatching(/^ERROR \/disk: the data of block table 0 has the checksum 0x.* instead of 0x/),
    ]);
  });

  test('leaves out a checksum of another kind', () => {
    expect(check({ tables: [{ runs: GOOD, crc32: 1, checksumType: 4 }] }).told).toEqual([]);
  });

  test('tells every damaged run once, and not the checksum of its table', () => {
    const damaged = { type: ZLIB, sectors: 1, stored: Buffer.from('damage') };
    const { report, told } = check({ tables: [{ runs: [damaged, ...GOOD, damaged] }] });
    expect(report).toMatchObject({ corruptions: 2 });
    expect(told).toHaveLength(2);
    for (const sentence of told) expect(sentence).toMatch(/^ERROR \/disk: the compressed run at offset /);
  });

  test('of a disk of zeros of 4 PiB ends at once', () => {
    const tables = [{ runs: [...GOOD, { type: ZERO, sectors: 2 ** 43 }] }];
    expect(check({ tables }).report).toMatchObject({ corruptions: 1, checkErrors: 0 });
  });
});

/** The checksum of the first block table of an image. */
function tableChecksum(image: Buffer): number {
  const list = image.toString('latin1');
  const data = /<data>([^<]*)</.exec(list)![1]!;
  return Buffer.from(data, 'base64').readUInt32BE(72);
}
