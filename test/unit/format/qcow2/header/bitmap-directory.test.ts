// The bitmap directory and the bitmap tables: limits just inside and just outside, and a hostile directory that stays cheap.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../../src/errors/index.ts';
import {
  bitmapRanges,
  MAX_BITMAP_TABLES_BYTES,
  readBitmapDirectory,
} from '../../../../../src/format/qcow2/header/bitmap-directory.ts';
import { MemoryHostFile } from '../../../../support/memory-file.ts';
import { CLUSTER, pack, text } from './qcow2-header-bytes.ts';

interface Spec {
  readonly tableOffset?: bigint | number;
  readonly tableSize?: number;
  readonly flags?: number;
  readonly type?: number;
  readonly granularityBits?: number;
  readonly nameSize?: number;
  readonly extraSize?: number;
  readonly name?: string;
}

const DIRECTORY = CLUSTER;
const TABLE = 2 * CLUSTER;

function entry(spec: Spec = {}): Uint8Array {
  const name = text(spec.name ?? 'b0');
  const bytes = Buffer.concat([
    pack([8, spec.tableOffset ?? TABLE], [4, spec.tableSize ?? 1], [4, spec.flags ?? 2]),
    pack(
      [1, spec.type ?? 1],
      [1, spec.granularityBits ?? 16],
      [2, spec.nameSize ?? name.length],
      [4, spec.extraSize ?? 0],
    ),
    name,
  ]);
  return Buffer.concat([bytes, new Uint8Array((8 - (bytes.length % 8)) % 8)]);
}

interface Made {
  readonly file: MemoryHostFile;
  readonly header: Parameters<typeof readBitmapDirectory>[1];
}

function made(
  entries: readonly Uint8Array[],
  change: { count?: number; size?: number; disk?: number; bytes?: number; clusterSize?: number } = {},
  table: readonly bigint[] = [],
): Made {
  const directory = Buffer.concat(entries);
  const content = Buffer.alloc(4 * CLUSTER);
  content.set(directory.subarray(0, CLUSTER), DIRECTORY);
  for (const [index, value] of table.entries()) content.writeBigUInt64BE(value, TABLE + index * 8);
  const file = new MemoryHostFile(content, '/images/disk.qcow2');
  file.truncate(change.bytes ?? 4 * CLUSTER);
  const bitmaps = {
    count: change.count ?? entries.length,
    directoryOffset: DIRECTORY,
    directorySize: change.size ?? directory.length,
  };
  return { file, header: { bitmaps, clusterSize: change.clusterSize ?? CLUSTER, size: change.disk ?? 1024 * 1024 } };
}

const read = ({ file, header }: Made): ReturnType<typeof readBitmapDirectory> => readBitmapDirectory(file, header);
const ranges = ({ file, header }: Made): ReturnType<typeof bitmapRanges> extends Generator<infer R> ? R[] : never => [
  ...bitmapRanges(file, header),
];

describe('the bitmap directory', () => {
  test('is empty when the header has no consistent bitmaps', () => {
    const { file, header } = made([]);
    expect(readBitmapDirectory(file, { ...header, bitmaps: null })).toEqual([]);
    expect([...bitmapRanges(file, { ...header, bitmaps: null })]).toEqual([]);
  });

  test('gives names, granularities and flags', () => {
    expect(read(made([entry(), entry({ name: 'später', flags: 1, granularityBits: 9 })]))).toEqual([
      { name: 'b0', granularity: 65536, inUse: false, auto: true, tableOffset: TABLE, tableEntries: 1 },
      { name: 'später', granularity: 512, inUse: true, auto: false, tableOffset: TABLE, tableEntries: 1 },
    ]);
  });

  test('is accepted at the ends of its ranges', () => {
    expect(read(made([entry({ granularityBits: 31 })]))[0]!.granularity).toBe(2 ** 31);
    expect(read(made([entry({ name: 'n'.repeat(1023) })]))[0]!.name).toHaveLength(1023);
    expect(read(made([entry({ tableSize: 8192 })], { bytes: 6 * CLUSTER }))[0]!.tableEntries).toBe(8192);
    // one cluster of bits at 512 bytes each
    expect(read(made([entry({ granularityBits: 9 })], { disk: CLUSTER * 8 * 512 }))).toHaveLength(1);
    expect(read(made([entry({ granularityBits: 9, flags: 1 })], { disk: CLUSTER * 8 * 512 + 512 }))).toHaveLength(1);
  });

  test.each<[string, Made, number, string]>([
    ['a table that is not aligned', made([entry({ tableOffset: TABLE + 8 })]), 0, 'bitmap_table_offset is 0x20008'],
    ['a table at 0', made([entry({ tableOffset: 0 })]), 0, 'bitmap_table_offset is 0x0'],
    [
      'a table near 2^64',
      made([entry({ tableOffset: 2n ** 64n - 65536n })]),
      0,
      'bitmap_table_offset is 0xffffffffffff0000',
    ],
    ['a table behind the file', made([entry({ tableOffset: 4 * CLUSTER })]), 0, 'end beyond the file'],
    ['no table', made([entry({ tableSize: 0 })]), 8, 'bitmap_table_size is 0'],
    [
      'a bitmap above 512 MiB',
      made([entry({ tableSize: 8193 })], { bytes: 6 * CLUSTER }),
      8,
      'bitmap_table_size is 8193',
    ],
    ['too few bits', made([entry({ granularityBits: 9 })], { disk: CLUSTER * 8 * 512 + 512 }), 8, 'too few bits'],
    ['an unknown flag', made([entry({ flags: 4 })]), 12, 'flags is 0x4'],
    ['the last flag', made([entry({ flags: 0x80000000 })]), 12, 'flags is 0x80000000'],
    ['type 0', made([entry({ type: 0 })]), 16, 'type is 0'],
    ['type 2', made([entry({ type: 2 })]), 16, 'type is 2'],
    ['granularity_bits 8', made([entry({ granularityBits: 8 })]), 17, 'granularity_bits is 8'],
    ['granularity_bits 32', made([entry({ granularityBits: 32 })]), 17, 'granularity_bits is 32'],
    ['no name', made([entry({ name: '' })]), 18, 'name_size is 0'],
    ['a name of 1024 bytes', made([entry({ name: 'n'.repeat(1024) })]), 18, 'name_size is 1024'],
    ['extra data', made([entry({ extraSize: 8, name: 'n'.repeat(20), nameSize: 12 })]), 20, 'extra_data_size is 8'],
    ['extra data of 4 GiB', made([entry({ extraSize: 0xffffffff })]), 0, 'does not fit into the 32 left'],
    ['more entries than said', made([entry(), entry()], { count: 1 }), 32, 'more entries than the 1'],
    ['fewer entries than said', made([entry()], { count: 2 }), 32, 'there are 1 entries, the header says 2'],
    ['a cut entry', made([entry(), entry()], { size: 55, count: 2 }), 32, 'an entry of 23 bytes is cut off'],
    ['a directory behind the file', made([entry()], { size: 3 * CLUSTER + 1 }), 0, 'end beyond the file'],
  ])('with %s is refused', (_, image, offset, words) => {
    expect(() => read(image)).toThrow(ImgfuseError);
    expect(() => read(image)).toThrow(`invalid qcow2 bitmap directory at offset ${DIRECTORY + offset}: `);
    expect(() => read(image)).toThrow(words);
  });

  test('of many bitmaps that share one table is refused before the table is walked again and again', () => {
    const large = entry({ tableSize: 8192 });
    const entries = Array.from({ length: 100 }, () => large);
    expect(() => read(made(entries, { bytes: 6 * CLUSTER }))).toThrow(/the bitmap tables take 458752 bytes or more/);
    const huge = Array.from({ length: 33 }, () => entry({ tableSize: 2 ** 20 }));
    expect(() => read(made(huge, { bytes: 2 ** 40, clusterSize: 512 }))).toThrow(
      `take ${MAX_BITMAP_TABLES_BYTES + 8 * 1024 * 1024} bytes or more`,
    );
  });
});

describe('the clusters of the bitmaps', () => {
  test('are the directory, the tables and what the tables point to; zeros and ones take none', () => {
    const image = made([entry({ tableSize: 4 })], {}, [3n * BigInt(CLUSTER), 0n, 1n, 5n * BigInt(CLUSTER)]);
    expect(ranges(image)).toEqual([
      { what: 'bitmap directory', offset: DIRECTORY, length: 32 },
      { what: 'bitmap table', offset: TABLE, length: 32 },
      { what: 'bitmap data', offset: 3 * CLUSTER, length: CLUSTER },
      { what: 'bitmap data', offset: 5 * CLUSTER, length: CLUSTER },
    ]);
  });

  test('are found behind the first piece of a table', () => {
    const table = Array.from({ length: 8192 + 10 }, () => 0n);
    table[8191] = 1n * BigInt(CLUSTER);
    table[8192] = 2n * BigInt(CLUSTER);
    table[8201] = 3n * BigInt(CLUSTER);
    const image = made([entry({ tableSize: 8202 })], { clusterSize: 4096 }, table);
    expect(ranges(image).flatMap(({ what, offset }) => (what === 'bitmap data' ? [offset] : []))).toEqual([
      CLUSTER,
      2 * CLUSTER,
      3 * CLUSTER,
    ]);
  });

  test.each([
    ['bit 1', BigInt(CLUSTER) + 2n],
    ['bit 8', BigInt(CLUSTER) + 256n],
    ['bit 56', 2n ** 56n],
    ['bit 63', 2n ** 63n],
    ['bits 53 to 55, which no number here holds', 2n ** 55n],
    ['an offset that is not aligned', BigInt(CLUSTER) + 512n],
    ['an offset and the ones flag', BigInt(CLUSTER) + 1n],
  ])('are refused for a table entry with %s', (_, value) => {
    const image = made([entry({ tableSize: 2 })], {}, [0n, value]);
    expect(() => ranges(image)).toThrow(
      `at offset ${TABLE + 8}: an entry of a bitmap table is 0x${value.toString(16)}`,
    );
  });
});
