// The master boot record: what is a table and what is not, primary and logical partitions, chains that lead nowhere.

import { describe, expect, test } from 'vitest';
import { type PartitionTable, readPartitionTable } from '../../../../src/guest/partitions/index.ts';
import { BufferDisk } from '../../../support/buffer-disk.ts';
import { MIB, mbrSector, type Slot } from '../../../support/partition-bytes.ts';

const SIZE = 64 * MIB;
const SECTORS = SIZE / 512;

/** A disk with an MBR, and extended boot records by sector. */
function disk(
  slots: readonly (Slot | null)[],
  records: Readonly<Record<number, readonly (Slot | null)[]>> = {},
): BufferDisk {
  const made = new BufferDisk(SIZE).write(0, mbrSector(slots));
  for (const [sector, entries] of Object.entries(records)) made.write(Number(sector) * 512, mbrSector(entries, 0));
  return made;
}

const read = (...parameters: Parameters<typeof disk>): PartitionTable => readPartitionTable(disk(...parameters));
/** Number, first sector and length in sectors. */
const places = ({ partitions }: PartitionTable) =>
  partitions.map(({ number, start, size }) => [number, start / 512, size / 512]);

const EXTENDED: Slot = { type: 5, start: 1000, size: 10_000 };

describe('a primary partition', () => {
  test('has the place, type, identifier and boot flag of its slot', () => {
    const table = read([{ boot: 0x80, type: 0x83, start: 2048, size: 100 }]);
    expect(table).toMatchObject({
      scheme: 'dos',
      sectorSize: 512,
      id: '12345678',
      warnings: [],
      looked: [{ start: 0, end: 512 }],
    });
    expect(table.partitions).toEqual([
      {
        number: 1,
        start: 2048 * 512,
        size: 100 * 512,
        type: '0x83',
        typeName: 'Linux',
        name: null,
        uuid: '12345678-01',
        bootable: true,
      },
    ]);
  });

  test('keeps the number of its slot when others are empty', () => {
    expect(places(read([null, { type: 7, start: 10, size: 5 }, null, { type: 0x83, start: 20, size: 5 }]))).toEqual([
      [2, 10, 5],
      [4, 20, 5],
    ]);
  });

  test('of type 0 is shown if it has a size, as in the kernel', () => {
    expect(read([{ type: 0, start: 10, size: 5 }]).partitions).toMatchObject([
      { number: 1, type: '0x0', typeName: null },
    ]);
  });

  test('has no PARTUUID without a disk identifier', () => {
    const table = readPartitionTable(new BufferDisk(SIZE).write(0, mbrSector([{ type: 0x83, start: 1, size: 1 }], 0)));
    expect(table).toMatchObject({ id: null, partitions: [{ uuid: null }] });
  });

  test('may begin at sector 0 and overlap others, as on hybrid CD images', () => {
    expect(
      places(
        read([
          { type: 0x17, start: 0, size: 500 },
          { type: 0xef, start: 100, size: 100 },
        ]),
      ),
    ).toEqual([
      [1, 0, 500],
      [2, 100, 100],
    ]);
  });
});

describe('the end of the disk', () => {
  test('is where a partition may end', () => {
    const table = read([{ type: 0x83, start: SECTORS - 10, size: 10 }]);
    expect(places(table)).toEqual([[1, SECTORS - 10, 10]]);
    expect(table.warnings).toEqual([]);
  });

  test('cuts a partition that goes on for one sector, which is said', () => {
    const table = read([{ type: 0x83, start: SECTORS - 10, size: 11 }]);
    expect(places(table)).toEqual([[1, SECTORS - 10, 10]]);
    expect(table.warnings).toEqual(['partition 1 goes beyond the end of the disk by 512 bytes; it is cut there']);
  });

  test('hides a partition that begins there, which is said', () => {
    const table = read([{ type: 0x83, start: SECTORS, size: 1 }]);
    expect(table.partitions).toEqual([]);
    expect(table.warnings).toEqual([
      'partition 1 begins at 0x4000000, behind the end of the disk (0x4000000); it is not shown',
    ]);
  });

  test('is that of the last whole sector: the rest belongs to no partition', () => {
    const made = disk([{ type: 0x83, start: SECTORS - 10, size: 20 }]).resized(SIZE + 511);
    expect(places(readPartitionTable(made))).toEqual([[1, SECTORS - 10, 10]]);
  });

  test.each([0, 1, 511])('after %i bytes leaves no room for a table', (size) => {
    expect(readPartitionTable(disk([]).resized(size))).toEqual({
      scheme: null,
      sectorSize: 512,
      id: null,
      partitions: [],
      warnings: [],
      looked: [],
    });
  });

  test('after 512 bytes leaves room for an empty one', () => {
    expect(readPartitionTable(disk([]).resized(512))).toMatchObject({ scheme: 'dos', partitions: [] });
  });
});

describe('no table', () => {
  const SLOT: Slot = { type: 0x83, start: 2048, size: 100 };
  const changed = (offset: number, bytes: Uint8Array | string): PartitionTable =>
    readPartitionTable(disk([SLOT]).write(offset, bytes));

  test.each([
    [510, '\x55\xab'],
    [510, '\x54\xaa'],
  ])('without 55 AA at 510', (offset, bytes) => expect(changed(offset, bytes).scheme).toBeNull());

  test.each([
    [0x00, 'dos'],
    [0x80, 'dos'],
    [0x01, null],
    [0x7f, null],
    [0x81, null],
    [0xff, null],
  ])('with a boot flag of %i: %s', (flag, scheme) => {
    for (const slot of [0, 1, 2, 3]) expect(changed(446 + slot * 16, Uint8Array.of(flag)).scheme).toBe(scheme);
  });

  test('with the magic of AIX', () => expect(changed(0, '\xc9\xc2\xd4\xc1').scheme).toBeNull());

  test('in an LVM physical volume whose slots are empty; slots with a size make it one', () => {
    const label = (made: BufferDisk): BufferDisk => made.write(512, 'LABELONE').write(512 + 24, 'LVM2 001');
    expect(readPartitionTable(label(disk([])))).toMatchObject({ scheme: null, looked: [{ start: 0, end: 2048 }] });
    expect(readPartitionTable(label(disk([SLOT])))).toMatchObject({ scheme: 'dos' });
  });
});

describe('logical partitions', () => {
  test('are numbered from 5 in the order of the chain; the extended partition is none', () => {
    const table = read([null, EXTENDED], {
      1000: [
        { type: 0x83, start: 63, size: 500 },
        { type: 5, start: 1000, size: 1000 },
      ],
      2000: [{ type: 0x82, start: 63, size: 700 }],
    });
    expect(places(table)).toEqual([
      [5, 1063, 500],
      [6, 2063, 700],
    ]);
    expect(table).toMatchObject({ warnings: [], partitions: [{ uuid: '12345678-05' }, { uuid: '12345678-06' }] });
    expect(table.looked).toEqual([
      { start: 0, end: 512 },
      { start: 512_000, end: 512_512 },
      { start: 1_024_000, end: 1_024_512 },
    ]);
  });

  test('may be linked backwards, as sfdisk does it for partitions that are not in the order of the disk', () => {
    const table = read([EXTENDED], {
      1000: [
        { type: 0x83, start: 8063, size: 500 },
        { type: 5, start: 5000, size: 1000 },
      ],
      6000: [
        { type: 0x83, start: 63, size: 500 },
        { type: 5, start: 2000, size: 1000 },
      ],
      3000: [{ type: 0x83, start: 63, size: 500 }],
    });
    expect(places(table)).toEqual([
      [5, 9063, 500],
      [6, 6063, 500],
      [7, 3063, 500],
    ]);
    expect(table.warnings).toEqual([]);
  });

  test.each([0x05, 0x0f, 0x85])('lie in extended partitions of type %i', (type) => {
    const table = read([{ ...EXTENDED, type }], {
      1000: [null, { type, start: 1000, size: 1000 }],
      2000: [{ type: 0x83, start: 1, size: 1 }],
    });
    expect(places(table)).toEqual([[5, 2001, 1]]);
  });

  test('of two extended partitions share one count', () => {
    const table = read([EXTENDED, { type: 0xf, start: 20_000, size: 10_000 }], {
      1000: [{ type: 0x83, start: 63, size: 500 }],
      20000: [{ type: 0x83, start: 63, size: 600 }],
    });
    expect(places(table)).toEqual([
      [5, 1063, 500],
      [6, 20_063, 600],
    ]);
  });

  test('without a record there are none', () => {
    expect(read([EXTENDED])).toMatchObject({ scheme: 'dos', partitions: [], warnings: [] });
  });

  test('may end with their extended partition, and one sector later they are not shown', () => {
    const within = { type: 0x83, start: 63, size: 10_000 - 63 };
    expect(places(read([EXTENDED], { 1000: [within] }))).toEqual([[5, 1063, within.size]]);
    const table = read([EXTENDED], {
      1000: [
        { ...within, size: within.size + 1 },
        { type: 5, start: 2000, size: 100 },
      ],
      3000: [{ type: 0x83, start: 1, size: 1 }],
    });
    expect(places(table)).toEqual([[6, 3001, 1]]);
    expect(table.warnings).toEqual(['partition 5 is not inside its extended partition; it is not shown']);
  });

  test('that begin where another one does are not shown, and the next keeps the number of the kernel', () => {
    const table = read([EXTENDED], {
      1000: [
        { type: 0x83, start: 63, size: 500 },
        { type: 5, start: 2000, size: 1000 },
        { type: 0x83, start: 63, size: 9 },
      ],
      3000: [{ type: 0x83, start: 1, size: 1 }],
    });
    expect(places(table)).toEqual([
      [5, 1063, 500],
      [7, 3001, 1],
    ]);
    expect(table.warnings).toEqual(['partition 6 begins where another one does; it is not shown']);
  });

  test('in the third and fourth slot count only if they fit into their record', () => {
    const record = (size: number, slot: Slot) => [
      { type: 0x83, start: 1, size: 10 },
      { type: 5, start: 2000, size },
      slot,
    ];
    const table = read([EXTENDED], {
      1000: record(100, { type: 0x83, start: 1900, size: 50 }),
      3000: [
        { type: 0x83, start: 1, size: 10 },
        null,
        { type: 0x83, start: 50, size: 51 },
        { type: 0x83, start: 50, size: 50 },
      ],
    });
    expect(places(table)).toEqual([
      [5, 1001, 10],
      [6, 2900, 50],
      [7, 3001, 10],
      [8, 3050, 50],
    ]);
  });
});

describe('a chain', () => {
  const loop = (sentence: string | RegExp, records: Parameters<typeof disk>[1], expected: number[][]) => {
    const made = disk([EXTENDED], records);
    const table = readPartitionTable(made);
    expect(places(table)).toEqual(expected);
    expect(table.warnings).toEqual([expect.stringMatching(sentence)]);
    return made;
  };
  const DATA: Slot = { type: 0x83, start: 63, size: 500 };

  test('that leads back ends, after a bounded number of reads', () => {
    const made = loop(
      /^the chain of extended boot records leads back to sector 2000; it ends there$/,
      { 1000: [DATA, { type: 5, start: 1000, size: 1000 }], 2000: [DATA, { type: 5, start: 1000, size: 1000 }] },
      [
        [5, 1063, 500],
        [6, 2063, 500],
      ],
    );
    expect(made.reads).toBe(3);
  });

  test('ends with a link of 0, which would lead to its own start', () => {
    const table = read([EXTENDED], { 1000: [DATA, { type: 5, start: 0, size: 1000 }] });
    expect(places(table)).toEqual([[5, 1063, 500]]);
    expect(table.warnings).toEqual([]);
  });

  test('takes the first link that leads somewhere', () => {
    const table = read([EXTENDED], {
      1000: [DATA, { type: 5, start: 0, size: 1000 }, { type: 5, start: 2000, size: 1000 }],
      3000: [DATA],
    });
    expect(places(table)).toEqual([
      [5, 1063, 500],
      [6, 3063, 500],
    ]);
  });

  test('may lead to the last sector of the extended partition, and not behind it', () => {
    const last = read([EXTENDED], { 1000: [DATA, { type: 5, start: 9999, size: 1 }], 10999: [null] });
    expect(last.warnings).toEqual([]);
    loop(
      /^a link leads to sector 11000, outside the extended partition/,
      { 1000: [DATA, { type: 5, start: 10_000, size: 1 }] },
      [[5, 1063, 500]],
    );
  });

  test('ends at the end of the disk', () => {
    const table = read([{ type: 5, start: 1000, size: 0xfffffff0 }], {
      1000: [DATA, { type: 5, start: SECTORS - 1000, size: 1 }],
    });
    expect(places(table)).toEqual([[5, 1063, 500]]);
    expect(table.warnings).toEqual(['an extended boot record at 0x4000000 would lie behind the end of the disk']);
  });

  test('of records without a partition is followed for 100 of them', () => {
    const records = (count: number) =>
      Object.fromEntries(
        Array.from({ length: count + 1 }, (_, index) => [
          1000 + index,
          [index === count ? { type: 0x83, start: 5000, size: 1 } : null, { type: 5, start: index + 1, size: 1 }],
        ]),
      );
    expect(read([EXTENDED], records(100)).partitions).toHaveLength(1);
    loop(/^more than 100 extended boot records have no partition/, records(101), []);
  });

  test('of more partitions than the kernel has numbers ends with number 255', () => {
    const records = Object.fromEntries(
      Array.from({ length: 300 }, (_, index) => [
        1000 + index * 2,
        [
          { type: 0x83, start: 1, size: 1 },
          { type: 5, start: (index + 1) * 2, size: 2 },
        ],
      ]),
    );
    const table = read([EXTENDED], records);
    expect(table.partitions.map(({ number }) => number)).toEqual(Array.from({ length: 251 }, (_, index) => index + 5));
    expect(table.warnings).toEqual(['partitions above number 255 are not shown, as in the kernel']);
  });

  test('that begins on the table itself is not followed', () => {
    const table = read([
      { type: 5, start: 0, size: 1000 },
      { type: 0x83, start: 2048, size: 10 },
    ]);
    expect(places(table)).toEqual([[2, 2048, 10]]);
    expect(table.warnings).toEqual([
      'an extended partition begins at sector 0, on the table itself; its logical partitions are not shown',
    ]);
  });
});
