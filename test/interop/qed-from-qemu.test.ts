// Images made and written by QEMU read the same here, byte for byte, and `map` and `info` say the same of them.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { infoJson } from '../../src/cli/commands/info.ts';
import { mapDisk } from '../../src/cli/commands/map.ts';
import { inspectDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** cluster_size, table_size: those that QEMU 7.2 opens (it refuses table_size 1 and some large products). */
const geometries: readonly (readonly [cluster: string, table: number])[] = [
  ['4k', 2],
  ['4k', 4],
  ['4k', 16],
  ['8k', 2],
  ['16k', 8],
  ['32k', 4],
  ['64k', 2],
  ['64k', 4],
  ['64k', 16],
  ['128k', 8],
  ['256k', 2],
  ['512k', 16],
  ['1M', 2],
  ['1M', 4],
];

/** Writes of one cluster_size - 1 clusters or more at once hit a fault of QEMU; these are far below. */
const PATTERNS = [
  'write -P 0x11 0 512',
  'write -P 0x12 5000 3000',
  'write -P 0x13 1M 200k',
  'write -z 1100k 64k',
  'write -z 3M 1M',
  'write -P 0x14 3300k 7k',
  'write -P 0x15 8388000 1200',
  'write -P 0x16 9999872 512',
];

/** What QEMU reads, as a raw file. */
function convertedBytes(image: string, format: string): Buffer {
  const raw = join(folder, 'converted.raw');
  qemuImg('convert', '-f', format, '-O', 'raw', image, raw);
  return readFileSync(raw);
}

function expectSame(image: string, format: string): void {
  const wanted = convertedBytes(image, format);
  const actual = withDisk(image, { readOnly: true, format }, readAll);
  expect(firstDifference(actual, wanted)).toBe('none');
}

describe.each(geometries)('a QED image of QEMU with clusters of %s and tables of %i', (cluster, table) => {
  test('reads the same, maps the same, and opens read-write without a change', () => {
    const image = join(folder, 'disk.qed');
    qemuImg('create', '-q', '-f', 'qed', '-o', `cluster_size=${cluster},table_size=${table}`, image, '10000384');
    qemuIo(image, 'qed', ...PATTERNS);
    expectSame(image, 'qed');
    const before = readFileSync(image);
    withDisk(image, { readOnly: false }, readAll);
    expect(firstDifference(readFileSync(image), before)).toBe('none');

    type Extent = {
      start: number;
      length: number;
      depth: number;
      present: boolean;
      zero: boolean;
      data: boolean;
      offset?: number;
    };
    const wanted = JSON.parse(qemuImg('map', '-f', 'qed', '--output=json', image)) as Extent[];
    const actual = withDisk(image, { readOnly: true }, (disk) => [...mapDisk(disk)]);
    expect(actual.map(({ filename: _, ...extent }) => extent)).toEqual(wanted);

    const theirs = JSON.parse(qemuImg('info', '-f', 'qed', '--output=json', image)) as Record<string, unknown>;
    expect(infoJson(image, inspectDisk(image))).toMatchObject(theirs);
  });
});

describe('a backing chain of QEMU', () => {
  const MIB = 1024 * 1024;

  /** base <- middle <- top, of the formats given, each with data of its own and the sizes given. */
  function makeChain(formats: readonly [base: 'raw' | 'qed', ...overlays: 'qed'[]], sizes: readonly number[]): string {
    const names = formats.map((format, i) => `${i}.${format}`);
    formats.forEach((format, i) => {
      const path = join(folder, names[i]!);
      const backing = i === 0 ? [] : ['-b', names[i - 1]!, '-F', formats[i - 1]!];
      qemuImg('create', '-q', '-f', format, ...backing, path, String(sizes[i]));
      const at = i * 300_032;
      qemuIo(path, format, `write -P ${i + 0x21} ${at} 400k`, `write -P ${i + 0x31} ${sizes[i]! - 1024} 1024`);
      if (format === 'qed')
        qemuIo(path, format, `write -z ${MIB + i * 65_536} 128k`, `write -P ${i + 0x41} ${MIB + i * 65_536 + 700} 10`);
    });
    return join(folder, names.at(-1)!);
  }

  const chains: readonly (readonly [
    name: string,
    formats: readonly ['raw' | 'qed', ...'qed'[]],
    sizes: readonly number[],
  ])[] = [
    ['qed on raw', ['raw', 'qed'], [4 * MIB, 4 * MIB]],
    ['qed on a shorter raw file', ['raw', 'qed'], [2 * MIB + 512, 4 * MIB]],
    ['qed on a longer raw file', ['raw', 'qed'], [5 * MIB + 512, 4 * MIB]],
    ['qed on qed', ['qed', 'qed'], [4 * MIB, 4 * MIB]],
    ['three deep on raw, growing', ['raw', 'qed', 'qed', 'qed'], [2 * MIB, 3 * MIB, 4 * MIB, 5 * MIB]],
    ['three deep on raw, shrinking', ['raw', 'qed', 'qed', 'qed'], [5 * MIB, 4 * MIB, 3 * MIB, 2 * MIB]],
    ['three deep on qed, up and down', ['qed', 'qed', 'qed', 'qed'], [3 * MIB, 2 * MIB, 5 * MIB, 4 * MIB]],
  ];

  test.each(chains)('%s reads the same, and says the same of its backing file', (_name, formats, sizes) => {
    const top = makeChain(formats, sizes);
    expectSame(top, 'qed');
    const theirs = JSON.parse(qemuImg('info', '-f', 'qed', '--output=json', top)) as Record<string, unknown>;
    const ours = infoJson(top, inspectDisk(top));
    for (const key of ['backing-filename', 'full-backing-filename', 'virtual-size', 'cluster-size']) {
      expect(ours[key]).toEqual(theirs[key]);
    }
  });

  test.each(chains)('%s is written here and read there', (_name, formats, sizes) => {
    const top = makeChain(formats, sizes);
    const size = sizes.at(-1)!;
    const wanted = withDisk(top, { readOnly: false }, (disk) => {
      for (const [at, length] of [
        [100, 50],
        [65_530, 20],
        [MIB - 3000, 9000],
        [size - 70_000, 70_000],
        [1_999_999, 140_000],
      ] as const) {
        const count = Math.min(length, size - at);
        disk.write(Buffer.alloc(count, 0x77), 0, count, guestOffset(at));
      }
      disk.discard(400_000, 300_000);
      disk.writeZeroes(1_500_001, 100);
      return readAll(disk);
    });
    qemuImg('check', '-q', '-f', 'qed', top);
    expect(firstDifference(convertedBytes(top, 'qed'), wanted)).toBe('none');
  });
});

test('a raw image of QEMU maps and reads the same', () => {
  const image = join(folder, 'disk.raw');
  qemuImg('create', '-q', '-f', 'raw', image, '8M');
  qemuIo(image, 'raw', 'write -P 1 0 64k', 'write -P 2 5M 4k');
  expectSame(image, 'raw');
  const wanted = JSON.parse(qemuImg('map', '-f', 'raw', '--output=json', image)) as {
    start: number;
    length: number;
    data: boolean;
  }[];
  const actual = withDisk(image, { readOnly: true, format: 'raw' }, (disk) => [...mapDisk(disk)]);
  expect(actual.map(({ start, length, data }) => ({ start, length, data }))).toEqual(
    wanted.map(({ start, length, data }) => ({ start, length, data })),
  );
});
