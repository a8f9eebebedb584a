// Each field of the QED header just outside its range, files cut at every boundary, and claims that no machine could hold:
// one sentence with file, offset and value, no byte changed, and neither time nor memory spent.

import { statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { fingerprints, withDisk } from '../support/image-files.ts';
import { BACKING_FILE, CLUSTER, FILE_BYTES, L1, NEED_CHECK, type QedSpec, writeQed } from '../support/qed-bytes.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const MAX_MS = 2000;
const MAX_MEMORY = 200 * 1024 * 1024;
const GIB = 1024 ** 3;

let folder: string;
let image: string;

beforeAll(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
});
afterAll(() => removeTemporaryDirectory(folder));

/** Opens the image and expects a refusal; returns its sentence. */
function refusal(readOnly: boolean): ImgfuseError {
  const before = fingerprints(folder);
  const memory = process.memoryUsage().rss;
  const start = performance.now();
  let caught: unknown;
  try {
    withDisk(image, { readOnly, format: 'qed' }, () => undefined);
  } catch (error) {
    caught = error;
  }
  expect(performance.now() - start).toBeLessThan(MAX_MS);
  expect(process.memoryUsage().rss - memory).toBeLessThan(MAX_MEMORY);
  expect(fingerprints(folder)).toEqual(before);
  expect(caught).toBeInstanceOf(ImgfuseError);
  return caught as ImgfuseError;
}

const limit = 512n * 512n * 4096n;
const withBacking = (backingOffset: bigint, backingSize: bigint): QedSpec => ({
  fields: { features: BACKING_FILE, backingOffset, backingSize },
});

const outside: readonly (readonly [name: string, spec: QedSpec, offset: number, value: string])[] = [
  ['magic', { fields: { magic: 0x01444551n } }, 0, '0x1444551'],
  ['cluster_size 0', { fields: { clusterSize: 0n } }, 4, '0'],
  ['cluster_size below 4 KiB', { fields: { clusterSize: 2048n } }, 4, '2048'],
  ['cluster_size above 64 MiB', { fields: { clusterSize: 1n << 27n } }, 4, '134217728'],
  ['cluster_size that is no power of two', { fields: { clusterSize: 4097n } }, 4, '4097'],
  ['cluster_size of all ones', { fields: { clusterSize: 0xffffffffn } }, 4, '4294967295'],
  ['table_size 0', { fields: { tableSize: 0n } }, 8, '0'],
  ['table_size that is no power of two', { fields: { tableSize: 3n } }, 8, '3'],
  ['table_size above 16', { fields: { tableSize: 32n } }, 8, '32'],
  ['header_size 0', { fields: { headerSize: 0n } }, 12, '0'],
  ['header_size of 4 GiB', { fields: { headerSize: 1n << 20n } }, 12, '1048576'],
  ['the first unknown feature bit', { fields: { features: 8n } }, 16, '0x8'],
  ['the last feature bit', { fields: { features: 1n << 63n } }, 16, '0x8000000000000000'],
  ['l1_table_offset 0', { fields: { l1TableOffset: 0n } }, 40, '0x0'],
  ['l1_table_offset that is not aligned', { fields: { l1TableOffset: 4104n } }, 40, '0x1008'],
  ['l1_table_offset in the header area', { fields: { headerSize: 2n } }, 40, '0x1000'],
  ['l1_table_offset near 2^64', { fields: { l1TableOffset: (1n << 64n) - 4096n } }, 40, '0xfffffffffffff000'],
  ['l1_table_offset at 2^53', { fields: { l1TableOffset: 1n << 53n } }, 40, '0x20000000000000'],
  ['image_size that is not in sectors', { fields: { imageSize: 513n } }, 48, '0x201'],
  ['image_size above what the tables map', { fields: { imageSize: limit + 512n } }, 48, '0x40000200'],
  [
    'image_size at 2^53',
    { fields: { clusterSize: 65536n, tableSize: 16n, l1TableOffset: 65536n, imageSize: 1n << 53n }, length: 2 << 20 },
    48,
    '0x20000000000000',
  ],
  ['image_size near 2^64', { fields: { imageSize: (1n << 64n) - 512n } }, 48, '0xfffffffffffffe00'],
  ['backing_filename_offset in the header fields', withBacking(63n, 4n), 56, '63'],
  ['backing_filename_offset behind the header area', withBacking(4096n, 4n), 56, '4096'],
  ['a backing file name that leaves the header area', withBacking(4092n, 5n), 56, '4092'],
  ['backing_filename_offset of all ones', withBacking(0xffffffffn, 4n), 56, '4294967295'],
  ['backing_filename_size 0', withBacking(64n, 0n), 60, '0'],
  [
    'backing_filename_size of 4096',
    { ...withBacking(64n, 4096n), fields: { ...withBacking(64n, 4096n).fields, headerSize: 2n, l1TableOffset: 8192n } },
    60,
    '4096',
  ],
  ['backing_filename_size of all ones', withBacking(64n, 0xffffffffn), 60, '4294967295'],
];

describe.each(outside)('%s', (_name, spec, offset, value) => {
  test.each([
    true,
    false,
  ])('is refused with file, offset and value, and nothing changes (read-only: %s)', (readOnly) => {
    writeQed(image, spec);
    const { kind, message } = refusal(readOnly);
    expect(['corrupt', 'unsupported']).toContain(kind);
    expect(message).toContain(image);
    expect(message).toContain(`offset ${offset}`);
    expect(message).toMatch(new RegExp(`\\b${value}\\b`));
    expect(message).not.toContain('\n');
  });

  test('is refused although the image says that it needs a check', () => {
    const { features = 0n } = spec.fields ?? {};
    writeQed(image, { ...spec, fields: { ...spec.fields, features: features | NEED_CHECK } });
    refusal(false);
  });
});

const inside: readonly (readonly [name: string, spec: QedSpec])[] = [
  ['the default image', {}],
  [
    'the largest cluster_size',
    { fields: { clusterSize: 1n << 26n, l1TableOffset: 1n << 26n }, length: 1 << 27, empty: true },
  ],
  ['the largest table_size', { fields: { tableSize: 16n }, length: 4096 * 17, empty: true }],
  ['a header area of two clusters', { fields: { headerSize: 2n, l1TableOffset: 8192n }, empty: true }],
  ['the L1 table in the last cluster', { fields: { l1TableOffset: BigInt(FILE_BYTES - CLUSTER) }, empty: true }],
  ['image_size 0', { fields: { imageSize: 0n }, empty: true }],
  ['one sector', { fields: { imageSize: 512n }, empty: true }],
  ['the largest image_size of the tables', { fields: { imageSize: limit } }],
  ['unknown compat bits', { fields: { compatFeatures: (1n << 64n) - 1n } }],
  ['a backing name that is there without its feature bit', { fields: { backingOffset: 64n, backingSize: 4n } }],
];

test.each(inside)('%s opens, and closing it changes no byte', (_name, spec) => {
  writeQed(image, spec);
  const before = fingerprints(folder);
  for (const readOnly of [true, false]) {
    withDisk(image, { readOnly, format: 'qed' }, (disk) => {
      expect(disk.size()).toBe(Number(spec.fields?.imageSize ?? 1024n * 1024n));
      const target = new Uint8Array(4096);
      const got = disk.read(target, 0, 4096, guestOffset(0));
      if (got > 0) expect(target[0]).toBe(spec.empty === true ? 0 : 0xaa);
    });
    expect(fingerprints(folder)).toEqual(before);
  }
});

describe('unknown bits', () => {
  const bits = 0xf00000000000000fn;

  test('of compat_features are kept through writes and a clean close', () => {
    writeQed(image, { fields: { compatFeatures: bits } });
    withDisk(image, { readOnly: false }, (disk) => disk.write(new Uint8Array(9), 0, 9, guestOffset(500_000)));
    expect(headerU64(24)).toBe(bits);
  });

  test('of autoclear_features are cleared by a read-write open and kept by a read-only one', () => {
    writeQed(image, { fields: { autoclearFeatures: bits } });
    withDisk(image, { readOnly: true }, () => undefined);
    expect(headerU64(32)).toBe(bits);
    withDisk(image, { readOnly: false }, () => undefined);
    expect(headerU64(32)).toBe(0n);
  });

  test('of autoclear_features are kept when the open fails', () => {
    writeQed(image, { fields: { autoclearFeatures: bits }, entries: { [L1]: 77n } });
    refusal(false);
    expect(headerU64(32)).toBe(bits);
  });

  function headerU64(offset: number): bigint {
    return withDisk(image, { readOnly: true, format: 'raw' }, (disk) => {
      const bytes = Buffer.alloc(8);
      disk.read(bytes, 0, 8, guestOffset(offset));
      return bytes.readBigUInt64LE();
    });
  }
});

describe('a file that was cut', () => {
  test.each([
    0, 1, 3, 4, 7, 8, 12, 16, 24, 32, 40, 48, 56, 60, 63,
  ])('to %i bytes, inside the header, is refused', (length) => {
    writeQed(image, { length });
    for (const readOnly of [true, false]) {
      const { message } = refusal(readOnly);
      expect(message).toContain(image);
      expect(message).toContain(`${length} bytes`);
      expect(message).toContain('64');
    }
  });

  test.each<readonly [what: string, spec: QedSpec]>([
    ...[64, 65, 4095, 4096].map((length) => [`to ${length} bytes, before its L1 table`, { length }] as const),
    ['before an L1 table far away', { fields: { l1TableOffset: 1n << 40n } }],
    ['right before its L1 table', { fields: { l1TableOffset: BigInt(FILE_BYTES) } }],
  ])('%s, is refused for writing and reads as zeros', (_what, spec) => {
    writeQed(image, spec);
    const { kind, message } = refusal(false);
    expect(kind).toBe('corrupt');
    expect(message).toContain(image);
    expect(message).toContain('offset 40');
    expect(message).toContain(`${spec.length ?? FILE_BYTES} bytes`);
    expect(message).toContain('check -r all');
    const before = fingerprints(folder);
    const said: string[] = [];
    withDisk(image, { readOnly: true, log: (sentence) => said.push(sentence) }, (disk) => {
      const target = Buffer.alloc(65536, 0xee);
      disk.read(target, 0, target.length, guestOffset(0));
      expect(target.equals(Buffer.alloc(65536))).toBe(true);
    });
    expect(said.join('\n')).toContain('is truncated');
    expect(fingerprints(folder)).toEqual(before);
  });

  test.each([
    4104, 8191,
  ])('to %i bytes, inside its L1 table, is refused for writing, and what the rest says is an error', (length) => {
    writeQed(image, { length });
    expect(refusal(false).message).toContain('truncated');
    withDisk(image, { readOnly: true }, (disk) => {
      // the first entry is there, and its table is not
      expect(() => disk.read(Buffer.alloc(10), 0, 10, guestOffset(0))).toThrow(/L1 entry 0/);
    });
  });

  test.each([
    8192, 12288, 16384,
  ])('to %i bytes, before clusters that its tables name, is not opened for writing', (length) => {
    writeQed(image, { length });
    const { message } = refusal(false);
    expect(message).toContain(image);
    expect(message).toContain('check -r all');
  });

  test('inside a data cluster reads up to there, and zeros behind', () => {
    writeQed(image, { length: 16384 + 100 });
    const before = fingerprints(folder);
    withDisk(image, { readOnly: true }, (disk) => {
      const target = Buffer.alloc(4096, 0xee);
      disk.read(target, 0, 4096, guestOffset(0));
      expect(target.equals(Buffer.alloc(4096, 0xaa))).toBe(true);
      disk.read(target, 0, 4096, guestOffset(4096));
      expect(target.equals(Buffer.concat([Buffer.alloc(100, 0xbb), Buffer.alloc(3996)]))).toBe(true);
    });
    expect(fingerprints(folder)).toEqual(before);
  });
});

describe('a claim that no machine could hold', () => {
  test('a tiny file of 8 PiB opens at once, both ways, and is searched for data at once', () => {
    const clusterSize = 2n * 1024n * 1024n;
    const spec: QedSpec = {
      fields: { clusterSize, tableSize: 4n, l1TableOffset: clusterSize, imageSize: (1n << 53n) - 512n },
      length: 5 * Number(clusterSize),
      empty: true,
    };
    writeQed(image, spec);
    const memory = process.memoryUsage().rss;
    for (const readOnly of [true, false]) {
      const start = performance.now();
      withDisk(image, { readOnly }, (disk) => {
        expect(disk.size()).toBe(2 ** 53 - 512);
        expect(disk.extent(0).length).toBe(2 ** 53 - 512);
        expect(disk.read(new Uint8Array(100), 0, 100, guestOffset(2 ** 53 - 612))).toBe(100);
      });
      expect(performance.now() - start).toBeLessThan(MAX_MS);
    }
    expect(process.memoryUsage().rss - memory).toBeLessThan(MAX_MEMORY);
  });

  test('a sparse file of tables of 1 GiB opens at once, both ways: holes are not read', () => {
    const clusterSize = 64 * 1024 * 1024;
    const entries: Record<number, bigint> = {};
    for (let i = 0; i < 20; i++) entries[clusterSize + i * 8] = BigInt((2 + i) * GIB);
    writeQed(image, {
      fields: {
        clusterSize: BigInt(clusterSize),
        tableSize: 16n,
        l1TableOffset: BigInt(clusterSize),
        imageSize: 1n << 52n,
      },
      entries,
      length: 30 * GIB,
      empty: true,
    });
    expect(statSync(image).blocks * 512).toBeLessThan(1024 * 1024);
    const memory = process.memoryUsage().rss;
    for (const readOnly of [true, false]) {
      const start = performance.now();
      withDisk(image, { readOnly }, (disk) => {
        expect(disk.read(new Uint8Array(100), 0, 100, guestOffset(2 ** 51))).toBe(100);
      });
      expect(performance.now() - start).toBeLessThan(MAX_MS);
    }
    expect(process.memoryUsage().rss - memory).toBeLessThan(MAX_MEMORY);
  });
});
