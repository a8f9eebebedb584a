// Partition tables that somebody made to do harm: each costs bounded time, memory and reads, throws nothing, and shows what is sane.
// The single limits are in test/unit/guest/partitions; here are whole disks, and what the worst of them cost.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../src/errors/index.ts';
import {
  contentOf,
  MAX_PARTITION_NUMBER,
  type PartitionTable,
  readPartitionTable,
} from '../../src/guest/partitions/index.ts';
import { BufferDisk } from '../support/buffer-disk.ts';
import { type Entry, gptDisk, MIB, mbrSector, type Slot } from '../support/partition-bytes.ts';

const SIZE = 64 * MIB;
/** 255 partitions and 101 records without one, the MBR, and the label of LVM. */
const MOST_READS = 360;
/** The arrays of a primary and a backup table, and headers for four sizes of sectors. */
const MOST_BYTES = 2 * MIB + 64 * 1024;
const MOST_MS = 500;
const MOST_WARNINGS = 33;

/** What is shown of a disk; whatever it is, it is sane, and it was cheap. */
function shown(disk: BufferDisk): PartitionTable {
  disk.reads = 0;
  disk.bytesRead = 0;
  const started = performance.now();
  const table = readPartitionTable(disk);
  expect(performance.now() - started).toBeLessThan(MOST_MS);
  expect(disk.reads).toBeLessThanOrEqual(MOST_READS);
  expect(disk.bytesRead).toBeLessThanOrEqual(MOST_BYTES);
  expect(table.warnings.length).toBeLessThanOrEqual(MOST_WARNINGS);
  const numbers = table.partitions.map(({ number }) => number);
  expect(new Set(numbers).size).toBe(numbers.length);
  for (const { number, start, size, name } of table.partitions) {
    expect(number >= 1 && number <= MAX_PARTITION_NUMBER).toBe(true);
    expect(Number.isSafeInteger(start) && Number.isSafeInteger(size)).toBe(true);
    expect(start >= 0 && size >= 1 && start + size <= disk.size).toBe(true);
    expect(name?.isWellFormed() ?? true).toBe(true);
    contentOf(disk, start, size);
  }
  for (const sentence of table.warnings) expect(sentence).toMatch(/^[\x20-\x7e]+$/);
  return table;
}

const numbersOf = ({ partitions }: PartitionTable): number[] => partitions.map(({ number }) => number);
const DATA: Slot = { type: 0x83, start: 1, size: 1 };
const EXTENDED: Slot = { type: 5, start: 1000, size: 100_000 };
const link = (record: number, size = 100): Slot => ({ type: 5, start: record - EXTENDED.start, size });

/** An extended partition whose records are at these sectors. */
function chain(records: Readonly<Record<number, readonly (Slot | null)[]>>, extended = EXTENDED): BufferDisk {
  const disk = new BufferDisk(SIZE).write(0, mbrSector([{ type: 0x83, start: 500, size: 100 }, extended]));
  for (const [sector, slots] of Object.entries(records)) disk.write(Number(sector) * 512, mbrSector(slots, 0));
  return disk;
}

describe('a chain of extended boot records', () => {
  test('that leads to itself', () => {
    const disk = chain({ 1000: [DATA, link(1100)], 1100: [DATA, link(1100)] });
    expect(numbersOf(shown(disk))).toEqual([1, 5, 6]);
    expect(disk.reads).toBeLessThan(10);
  });

  test('that leads round through three records', () => {
    const disk = chain({ 1000: [DATA, link(1100)], 1100: [DATA, link(1200)], 1200: [DATA, link(1100)] });
    expect(numbersOf(shown(disk))).toEqual([1, 5, 6, 7]);
  });

  test('that leads to the table', () => {
    // 2^32 sectors further, if numbers of sectors wrapped
    const disk = chain({ 1000: [DATA, { type: 5, start: 2 ** 32 - 1000, size: 100 }] });
    expect(numbersOf(shown(disk))).toEqual([1, 5]);
  });

  test('whose links go through every slot, and only the first counts', () => {
    const disk = chain({
      1000: [link(1100), link(1200), link(1300), link(1400)],
      1100: [DATA],
      1200: [DATA],
      1300: [DATA],
      1400: [DATA],
    });
    expect(numbersOf(shown(disk))).toEqual([1, 5]);
  });

  test('of nothing but links, as long as the disk', () => {
    const records = Object.fromEntries(
      Array.from({ length: 2000 }, (_, index) => [1000 + index, [link(1001 + index)]]),
    );
    const disk = chain(records);
    expect(numbersOf(shown(disk))).toEqual([1]);
    expect(disk.reads).toBeLessThan(110);
  });

  test('of a hundred links behind every partition', () => {
    const records = Object.fromEntries(
      Array.from({ length: 5000 }, (_, index) => [
        1000 + index * 2,
        [index % 50 === 49 ? DATA : null, link(1002 + index * 2)],
      ]),
    );
    expect(numbersOf(shown(chain(records)))).toEqual([1, 5, 6]);
  });

  test('of more partitions than the kernel has numbers, four in each record', () => {
    const records = Object.fromEntries(
      Array.from({ length: 300 }, (_, index) => [
        1000 + index * 20,
        [DATA, link(1020 + index * 20), { ...DATA, start: 3 }, { ...DATA, start: 5 }],
      ]),
    );
    const table = shown(chain(records));
    expect(numbersOf(table)).toEqual([1, ...Array.from({ length: 251 }, (_, index) => index + 5)]);
  });

  test('in each of four extended partitions', () => {
    const extended = (start: number): Slot => ({ type: 5, start, size: 10_000 });
    const disk = new BufferDisk(SIZE).write(0, mbrSector([1000, 20_000, 40_000, 60_000].map(extended)));
    for (const start of [1000, 20_000, 40_000, 60_000]) {
      for (let index = 0; index < 300; index++) {
        disk.write((start + index * 2) * 512, mbrSector([DATA, { type: 5, start: (index + 1) * 2, size: 2 }], 0));
      }
    }
    expect(numbersOf(shown(disk))).toEqual(Array.from({ length: 251 }, (_, index) => index + 5));
  });

  test('in four extended partitions that are one and the same', () => {
    const disk = new BufferDisk(SIZE).write(0, mbrSector([EXTENDED, EXTENDED, EXTENDED, EXTENDED]));
    disk.write(EXTENDED.start * 512, mbrSector([DATA], 0));
    const table = shown(disk);
    expect(numbersOf(table)).toEqual([5]);
    expect(table.warnings).toHaveLength(3);
  });

  test('with partitions outside, at the same place, and without end', () => {
    const disk = chain({
      1000: [{ type: 0x83, start: 200_000, size: 10 }, link(1100)],
      1100: [{ type: 0x83, start: 1, size: 0xffffffff }, link(1200)],
      1200: [{ type: 0x83, start: 0xffffffff, size: 0xffffffff }, link(1300)],
      1300: [{ type: 0x83, start: 0, size: 10 }, link(1400), { type: 0x83, start: 0, size: 10 }],
      1400: [DATA],
    });
    expect(numbersOf(shown(disk))).toEqual([1, 8, 10]);
  });

  test('whose warnings would fill a log', () => {
    const records = Object.fromEntries(
      Array.from({ length: 200 }, (_, index) => [
        1000 + index,
        [{ type: 0x83, start: 500_000, size: 1 }, link(1001 + index)],
      ]),
    );
    const { warnings } = shown(chain(records));
    expect(warnings).toHaveLength(MOST_WARNINGS);
    expect(warnings.at(-1)).toBe('and so on: warnings that are left out: 168');
  });
});

describe('primary partitions', () => {
  test('all over each other, at sector 0, beyond the end and of 2 TiB', () => {
    const disk = new BufferDisk(SIZE).write(
      0,
      mbrSector([
        { type: 0x83, start: 0, size: 0xffffffff },
        { type: 0x83, start: 100, size: 50 },
        { type: 0x83, start: 120, size: 50 },
        { type: 0x83, start: 0xffffffff, size: 0xffffffff },
      ]),
    );
    expect(numbersOf(shown(disk))).toEqual([1, 2, 3]);
  });

  test('of an extended one that has the length of its disk 2^32 times', () => {
    const disk = new BufferDisk(SIZE).write(0, mbrSector([{ type: 5, start: 0xffffffff, size: 0xffffffff }]));
    expect(numbersOf(shown(disk))).toEqual([]);
  });
});

describe('a GPT', () => {
  const entry = (first: number | bigint, last: number | bigint, name: string | Uint8Array = ''): Entry => ({
    first,
    last,
    name,
  });
  const gpt = (options: Partial<Parameters<typeof gptDisk>[0]>): BufferDisk =>
    gptDisk({ size: SIZE, entries: [entry(2048, 4095)], ...options });

  test.each([
    ['2^32 - 1 entries', { count: 2 ** 32 - 1 }],
    ['2^25 entries, which are 2^32 bytes', { count: 2 ** 25 }],
    ['a header of 4 GiB', { headerSize: 2 ** 32 - 1 }],
    ['a header of no length', { headerSize: 0 }],
    ['entries of 4 GiB', { entrySize: 2 ** 32 - 1 }],
    ['entries of no length', { entrySize: 0 }],
    ['entries of 256 bytes', { entrySize: 256 }],
    ['an array at LBA 0', { arrayLba: 0n }],
    ['an array at the last LBA', { arrayLba: BigInt(SIZE / 512 - 1) }],
    ['an array at 2^64 - 1', { arrayLba: 2n ** 64n - 1n }],
    ['an array at 2^55, where bytes wrap', { arrayLba: 2n ** 55n + 2n }],
    ['its place given as 2^64 - 1', { myLba: 2n ** 64n - 1n }],
    ['a usable range up to 2^64 - 1', { lastUsable: 2n ** 64n - 1n }],
    ['a usable range that ends before it begins', { firstUsable: 5000n, lastUsable: 4999n }],
  ])('with %s in both headers is no table; in one, the other is taken', (_what, fields) => {
    expect(shown(gpt({ primary: fields, backup: fields })).scheme).toBeNull();
    expect(numbersOf(shown(gpt({ primary: fields })))).toEqual([1]);
    expect(numbersOf(shown(gpt({ backup: fields })))).toEqual([1]);
  });

  test('whose headers are for sectors of every size, each with the largest array', () => {
    const disk = gpt({ count: 8192 });
    for (const sectorSize of [1024, 2048, 4096]) {
      const other = gptDisk({ size: SIZE, sectorSize, entries: [entry(3000, 3001)], count: 8192 });
      const sector = new Uint8Array(sectorSize);
      for (const at of [sectorSize, SIZE - sectorSize]) {
        other.read(sector, at);
        disk.write(at, sector);
      }
    }
    expect(shown(disk)).toMatchObject({ scheme: null, partitions: [] });
  });

  test('with the largest arrays, both damaged', () => {
    expect(shown(gpt({ count: 8192, primary: { arrayCrc: 1 }, backup: { arrayCrc: 1 } })).scheme).toBeNull();
  });

  test('with entries that are upside down, outside, all over each other, and without end', () => {
    const last = 2n ** 64n - 1n;
    const entries = [
      entry(4095, 2048),
      entry(0, 100),
      entry(2048, last),
      entry(last, last),
      entry(2n ** 53n, 2n ** 53n + 1n),
      entry(2048, 4095),
      entry(3000, 5000),
      entry(2048, 4095),
    ];
    const table = shown(gpt({ entries }));
    expect(numbersOf(table)).toEqual([6, 7, 8]);
    expect(table.warnings).toHaveLength(5);
  });

  test('with names that are no text, paths, or commands to a terminal', () => {
    const names = [
      '\ud800'.repeat(36),
      '../../etc/passwd',
      '/',
      '.',
      '..',
      '\x1b[2J\r\n',
      '\u202e',
      'a'.repeat(36),
      '\ufffe\uffff',
    ];
    const entries = names.map((name, index) => entry(2048 + index, 2048 + index, name));
    const table = shown(gpt({ entries }));
    expect(table.partitions.map(({ name }) => name)).toEqual(['\ufffd'.repeat(36), ...names.slice(1)]);
  });

  test('with thousands of bad entries says so in few sentences', () => {
    const entries = Array.from({ length: 8192 }, () => entry(5, 4));
    const { warnings } = shown(gpt({ entries, count: 8192 }));
    expect(warnings).toHaveLength(MOST_WARNINGS);
  });

  test('on a disk too small for it', () => {
    const disk = gpt({});
    for (const size of [512, 513, 1023, 1024, 2048, 4096, 8191, 17_408])
      expect(shown(disk.resized(size)).scheme).toBeNull();
  });

  test('on the largest disk', () => {
    const disk = gptDisk({ size: 2 ** 53 - 512, entries: [entry(2048, 2n ** 44n - 100n)] });
    expect(numbersOf(shown(disk))).toEqual([1]);
  });
});

test('a disk of noise with the signature shows nothing insane', () => {
  let state = 12345;
  const noise = (length: number): Uint8Array =>
    Uint8Array.from({ length }, () => {
      state = (state * 1103515245 + 12345) % 2 ** 31;
      return state >> 16;
    });
  for (let round = 0; round < 500; round++) {
    const disk = new BufferDisk(SIZE).write(0, noise(8192)).write(510, '\x55\xaa');
    for (const slot of [0, 1, 2, 3]) disk.write(446 + slot * 16, Uint8Array.of(0));
    shown(disk);
  }
});

test('a disk that cannot be read is the error of the disk, whatever was found before', () => {
  const whole = gptDisk({ size: SIZE, entries: [{ first: 2048, last: 4095 }] });
  let reads = 0;
  const failing = {
    size: SIZE,
    read: (target: Uint8Array, offset: number) => {
      if (++reads === 5) throw new ImgfuseError('io', 'the disk is gone');
      whole.read(target, offset);
    },
  };
  expect(() => readPartitionTable(failing)).toThrow(new ImgfuseError('io', 'the disk is gone'));
});
