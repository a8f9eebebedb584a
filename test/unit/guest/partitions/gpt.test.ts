// The GUID partition table: every field of the header with the value just outside its range, names, numbers, sector sizes, the backup.

import { describe, expect, test } from 'vitest';
import { type PartitionTable, readPartitionTable } from '../../../../src/guest/partitions/index.ts';
import {
  type Entry,
  type GptOptions,
  gptDisk,
  type HeaderFields,
  LINUX_TYPE,
  MIB,
} from '../../../support/partition-bytes.ts';

const SIZE = 16 * MIB;
/** LBA of the last sector. */
const LAST = SIZE / 512 - 1;
/** With 128 entries: 34 to LAST - 33. */
const FIRST_USABLE = 34;
const LAST_USABLE = LAST - 33;
const ENTRY: Entry = { first: 2048, last: 4095, name: 'root' };

const read = (options: Partial<GptOptions> = {}): PartitionTable =>
  readPartitionTable(gptDisk({ size: SIZE, entries: [ENTRY], ...options }));

const UNREADABLE = /^the GPT that the MBR announces cannot be read/;

describe('a partition', () => {
  test('has the place, the type, the name and the identifiers of its entry', () => {
    const table = read({
      entries: [{ ...ENTRY, guid: '01020304-0506-0708-090a-0b0c0d0e0f10', attributes: 4n }],
      diskGuid: 'aabbccdd-eeff-0011-2233-445566778899',
    });
    expect(table).toMatchObject({
      scheme: 'gpt',
      sectorSize: 512,
      id: 'aabbccdd-eeff-0011-2233-445566778899',
      warnings: [],
    });
    expect(table.partitions).toEqual([
      {
        number: 1,
        start: 2048 * 512,
        size: 2048 * 512,
        type: LINUX_TYPE,
        typeName: 'Linux filesystem',
        name: 'root',
        uuid: '01020304-0506-0708-090a-0b0c0d0e0f10',
        bootable: true,
      },
    ]);
  });

  test('is numbered by its place in the array, and holes stay', () => {
    const table = read({ entries: [null, ENTRY, null, { first: 5000, last: 5000 }] });
    expect(table.partitions.map(({ number, size }) => [number, size])).toEqual([
      [2, 2048 * 512],
      [4, 512],
    ]);
  });

  test.each([
    ['at the first usable LBA', { first: FIRST_USABLE, last: FIRST_USABLE }, true],
    ['before the first usable LBA', { first: FIRST_USABLE - 1, last: 100 }, false],
    ['at the last usable LBA', { first: LAST_USABLE, last: LAST_USABLE }, true],
    ['beyond the last usable LBA', { first: 100, last: LAST_USABLE + 1 }, false],
    ['with the last LBA before the first', { first: 101, last: 100 }, false],
    ['at the largest LBA', { first: 2n ** 64n - 1n, last: 2n ** 64n - 1n }, false],
    ['that ends at the largest LBA', { first: 100, last: 2n ** 64n - 1n }, false],
  ])('%s', (_where, entry, isShown) => {
    const table = read({ entries: [entry] });
    expect(table.partitions).toHaveLength(isShown ? 1 : 0);
    expect(table.warnings).toEqual(
      isShown ? [] : ['partition 1 is not inside the usable range of the table; it is not shown'],
    );
  });

  test('of an unknown type has no type name', () => {
    const [partition] = read({ entries: [{ ...ENTRY, type: '01234567-89ab-cdef-0123-456789abcdef' }] }).partitions;
    expect(partition).toMatchObject({ type: '01234567-89ab-cdef-0123-456789abcdef', typeName: null });
  });
});

describe('a name', () => {
  const nameOf = (name: string | Uint8Array): string | null =>
    read({ entries: [{ ...ENTRY, name }] }).partitions[0]!.name;

  test('may take all of its 36 units', () => expect(nameOf('x'.repeat(36))).toBe('x'.repeat(36)));
  test('ends at the first NUL', () => expect(nameOf('root\0old')).toBe('root'));
  test('that is empty is none', () => expect(nameOf('')).toBeNull());
  test('with a slash or control characters is text like any other', () =>
    expect(nameOf('../a\n\x1b[2J')).toBe('../a\n\x1b[2J'));
  test('with a lone surrogate is still well-formed text', () =>
    expect(nameOf('a\ud800b\udc00')).toBe('a\ufffdb\ufffd'));
  test('keeps characters beyond the first plane', () => expect(nameOf('a\u{1f600}')).toBe('a\u{1f600}'));
  test('keeps a byte-order mark', () => expect(nameOf('\ufeffa')).toBe('\ufeffa'));
});

describe('a header is refused', () => {
  const bad: readonly (readonly [string, HeaderFields, string])[] = [
    ['without its signature', { signature: 'EFI PARS' }, 'there is no header'],
    ['with a size below 92', { headerSize: 91 }, 'its header size is 91 bytes'],
    ['with a size beyond its sector', { headerSize: 513 }, 'its header size is 513 bytes'],
    ['with a wrong checksum', { headerCrc: 1 }, 'its checksum is wrong'],
    ['that belongs elsewhere', { myLba: 3n }, 'it says that it belongs elsewhere'],
    ['whose LBA is beyond 2^53', { myLba: 2n ** 63n }, 'it says that it belongs elsewhere'],
    [
      'whose usable range is empty',
      { firstUsable: 101n, lastUsable: 100n },
      'the usable range that it gives is not on the disk',
    ],
    [
      'whose usable range ends beyond the disk',
      { lastUsable: BigInt(LAST + 1) },
      'the usable range that it gives is not on the disk',
    ],
    [
      'whose usable range ends beyond 2^53',
      { lastUsable: 2n ** 63n },
      'the usable range that it gives is not on the disk',
    ],
    ['that lies inside its usable range', { firstUsable: 0n }, 'it lies inside its own usable range'],
    [
      'with entries of 256 bytes',
      { entrySize: 256 },
      'its entries have 256 bytes; Linux reads tables with entries of 128 bytes only',
    ],
    [
      'with entries of 127 bytes',
      { entrySize: 127 },
      'its entries have 127 bytes; Linux reads tables with entries of 128 bytes only',
    ],
    ['without entries', { count: 0 }, 'it has 0 entries; 1 to 8192 are read'],
    ['with more entries than a MiB holds', { count: 8193 }, 'it has 8193 entries; 1 to 8192 are read'],
    ['with 2^32 - 1 entries', { count: 2 ** 32 - 1 }, 'it has 4294967295 entries; 1 to 8192 are read'],
    ['whose array begins beyond the disk', { arrayLba: BigInt(LAST) }, 'its array of entries is not on the disk'],
    ['whose array begins beyond 2^53', { arrayLba: 2n ** 63n }, 'its array of entries is not on the disk'],
    ['whose array is not what was written', { arrayCrc: 1 }, 'the checksum of its entries is wrong'],
  ];

  test.each(bad)('%s; the backup takes its place, and that is said', (_rule, primary, sentence) => {
    const table = read({ primary });
    expect(table.partitions).toHaveLength(1);
    expect(table.warnings).toEqual([
      `the primary GPT is damaged (${sentence}); its backup at 0x${(LAST * 512).toString(16)} is used`,
    ]);
  });

  test.each(bad)('%s; without a backup there is no table, and that is said', (_rule, primary, sentence) => {
    const table = read({ primary, backup: null });
    expect(table).toMatchObject({ scheme: null, partitions: [] });
    expect(table.warnings).toEqual([expect.stringMatching(UNREADABLE)]);
    expect(table.warnings[0]).toContain(`(${sentence})`);
  });

  test.each([
    ['size of 92', { headerSize: 92 }],
    ['size of a whole sector', { headerSize: 512 }],
    ['usable range of one LBA', { firstUsable: 2048n, lastUsable: 2048n }],
    ['usable range up to the end of the disk', { lastUsable: BigInt(LAST) }],
    ['backup that is not at the end, as on a disk that has grown', { alternateLba: 5000n }],
  ])('and is taken with a %s', (_what, primary) => {
    expect(read({ primary, backup: null, entries: [{ first: 2048, last: 2048 }] })).toMatchObject({
      scheme: 'gpt',
      warnings: [],
      partitions: [{ number: 1 }],
    });
  });
});

describe('many entries', () => {
  const entries = Array.from({ length: 300 }, (_, index): Entry => ({ first: 3000 + index, last: 3000 + index }));

  test('are shown up to the last number of the kernel, and the rest is counted', () => {
    const table = read({ entries, count: 300, size: SIZE });
    expect(table.partitions.map(({ number }) => number)).toEqual(Array.from({ length: 255 }, (_, index) => index + 1));
    expect(table.warnings).toEqual(['45 partitions above number 255 are not shown, as in the kernel']);
  });

  test('may fill a MiB', () => {
    const table = read({ entries: [{ first: 6000, last: 6000 }], count: 8192 });
    expect(table.partitions).toHaveLength(1);
  });
});

describe('sectors', () => {
  test.each([512, 1024, 2048, 4096])('of %i bytes are recognized by the place of the header', (sectorSize) => {
    const table = read({ sectorSize, entries: [{ first: 512, last: 513 }] });
    expect(table).toMatchObject({ scheme: 'gpt', sectorSize });
    expect(table.partitions).toMatchObject([{ start: 512 * sectorSize, size: 2 * sectorSize }]);
  });

  test.each([512, 1024, 2048, 4096])('of %i bytes are recognized by the place of the backup', (sectorSize) => {
    const table = read({ sectorSize, entries: [{ first: 512, last: 513 }], primary: null });
    expect(table).toMatchObject({ scheme: 'gpt', sectorSize });
    expect(table.warnings).toEqual([expect.stringMatching(/^the primary GPT is damaged \(there is no header\)/)]);
  });

  test('of two sizes with a table each are refused, because nothing says which is meant', () => {
    const disk = gptDisk({ size: SIZE, sectorSize: 4096, entries: [{ first: 512, last: 600 }] });
    const other = gptDisk({ size: SIZE, entries: [ENTRY], count: 8, backup: null });
    const header = new Uint8Array(512);
    other.read(header, 512);
    disk.write(512, header);
    const table = readPartitionTable(disk);
    expect(table).toMatchObject({ scheme: null, partitions: [] });
    expect(table.warnings).toEqual([
      'the partition table cannot be read, because there is a GPT for sectors of 512 and 4096 bytes each',
    ]);
  });
});

test('a hybrid table is a GPT: its MBR slots name the same bytes', () => {
  const table = read({
    mbr: [{ type: 0xee, start: 1, size: 2047 }, { boot: 0x80, type: 0x83, start: 2048, size: 2048 }, null, null],
  });
  expect(table).toMatchObject({ scheme: 'gpt', warnings: [] });
  expect(table.partitions.map(({ number }) => number)).toEqual([1]);
});

test('without a slot of type EE there is no GPT', () => {
  expect(read({ mbr: [] })).toMatchObject({ scheme: 'dos', partitions: [] });
});

test('what was read of the disk is told: the MBR, header and array', () => {
  // headers are looked for up to 8 KiB, the array ends at sector 34
  expect(read().looked).toEqual([{ start: 0, end: 34 * 512 }]);
  const { looked } = read({ primary: null });
  expect(looked.at(0)).toEqual({ start: 0, end: 8192 });
  expect(looked.at(-1)!.end).toBe(SIZE);
});
