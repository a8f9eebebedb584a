// Headers, region table, metadata and parent locator of a VHDX: what they say, and each limit with the value just outside.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { openImage } from '../../../support/memory-images.ts';
import {
  BAT_GUID,
  DATA_WRITE_GUID,
  ITEMS,
  LOG_GUID,
  locatorBytes,
  METADATA_GUID,
  MIB,
  type VhdxItem,
  type VhdxRegion,
  type VhdxSpec,
  vhdxImage,
} from '../../../support/vhdx-bytes.ts';

const ONE_BLOCK = [{ state: 6, data: new Uint8Array(10).fill(1) }];
const LINKAGE = '{0BADCAFE-0000-4000-8000-00000000ABCD}';
const OTHER_GUID = '01234567-89ab-cdef-0123-456789abcdef';

function fileOf(spec: VhdxSpec): MemoryHostFile {
  return new MemoryHostFile(vhdxImage({ blocks: ONE_BLOCK, ...spec }).image, '/disk');
}

/** What inspection and an open say alike. */
function refusalOf(file: MemoryHostFile): string {
  const looks = [() => vhdx.inspect(file), () => openImage(vhdx, file, { readOnly: true })];
  const sentences = looks.map((look) => {
    let caught: unknown;
    try {
      look();
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(ImgfuseError);
    return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
  });
  expect(sentences[0]).toBe(sentences[1]);
  return sentences[0]!;
}

test('info says what headers and metadata say', () => {
  expect(vhdx.inspect(fileOf({ size: 1_000_448, blockBytes: 2 * MIB }))).toEqual({
    ...{ format: 'vhdx', virtualSize: 1_000_448, clusterSize: 2 * MIB, dirty: false, specific: {} },
    sectorSize: 512,
    identity: DATA_WRITE_GUID,
  });
});

test('a log that is not empty makes the image unclean', () => {
  const sentences: string[] = [];
  const details = vhdx.inspect(fileOf({ logGuid: LOG_GUID }), (sentence) => sentences.push(sentence));
  expect(details.dirty).toBe(true);
  expect(sentences).toEqual(['/disk was not closed, and its log has no valid entry; it is read as it is']);
});

describe('of the two headers', () => {
  const identityOf = (sequences: readonly [bigint, bigint], edit: (image: Buffer) => void): string | undefined => {
    const { image } = vhdxImage({
      ...{ blocks: ONE_BLOCK, sequences },
      editHeader: (header, slot) => void header.writeUInt8(slot, 47),
    });
    edit(image);
    return vhdx.inspect(new MemoryHostFile(image)).identity?.slice(-2);
  };
  test.each<[string, readonly [bigint, bigint], string]>([
    ['the second', [7n, 8n], '01'],
    ['the first', [9n, 8n], '00'],
    ['the first, by its high word', [2n ** 32n, 2n ** 32n - 1n], '00'],
    ['the second, with all 64 bits', [2n ** 64n - 2n, 2n ** 64n - 1n], '01'],
  ])('%s counts if its sequence number is higher', (_, sequences, wanted) => {
    expect(identityOf(sequences, () => undefined)).toBe(wanted);
  });
  test.each([
    ['first', 0x10000, '01'],
    ['second', 0x20000, '00'],
  ])('the other counts if the %s is torn', (_, at, wanted) => {
    for (const sequences of [
      [7n, 8n],
      [8n, 7n],
    ] as const)
      expect(identityOf(sequences, (image) => void image.fill(0, at + 512, at + 4096).writeUInt8(1, at + 600))).toBe(
        wanted,
      );
  });
  test('neither counts if both have one number and are not the same', () => {
    expect(
      refusalOf(fileOf({ sequences: [8n, 8n], editHeader: (header, slot) => void header.writeUInt8(slot, 47) })),
    ).toContain('corrupt: /disk: its two headers have the same sequence number and are not the same');
  });
  test('either counts if both have one number and are the same', () => {
    expect(vhdx.inspect(fileOf({ sequences: [8n, 8n] })).identity).toBe(DATA_WRITE_GUID);
  });
  test('none is left if both are torn', () => {
    const { image } = vhdxImage({ blocks: ONE_BLOCK });
    image.fill(1, 0x10100, 0x10104);
    image.fill(1, 0x20100, 0x20104);
    expect(refusalOf(new MemoryHostFile(image, '/disk'))).toContain('neither of its two headers has a right checksum');
  });
});

const regionsWith =
  (change: (region: VhdxRegion) => Partial<VhdxRegion>, guid: string = BAT_GUID) =>
  (regions: VhdxRegion[]): VhdxRegion[] =>
    regions.map((region) => (region.guid === guid ? { ...region, ...change(region) } : region));
const itemsWith =
  (id: string, change: (item: VhdxItem) => Partial<VhdxItem> | null) =>
  (items: VhdxItem[]): VhdxItem[] =>
    items.flatMap((item) => {
      if (item.id !== id) return [item];
      const changed = change(item);
      return changed === null ? [] : [{ ...item, ...changed }];
    });
const u32 = (value: number, rest = 0): Buffer => {
  const bytes = Buffer.alloc(8);
  bytes.writeUInt32LE(value);
  bytes.writeUInt32LE(rest, 4);
  return bytes;
};
const child = (pairs: Readonly<Record<string, string>>): VhdxSpec => ({ locator: pairs });
const header =
  (at: number, value: number | bigint): ((header: Buffer) => void) =>
  (bytes) =>
    void (typeof value === 'bigint' ? bytes.writeBigUInt64LE(value, at) : bytes.writeUInt32LE(value, at));

describe('is refused', () => {
  test.each<[string, VhdxSpec, string]>([
    [
      'another version',
      { editHeader: (bytes) => void bytes.writeUInt16LE(2, 66) },
      'unsupported: /disk: its header has version 2',
    ],
    [
      'another version of the log',
      { logGuid: LOG_GUID, editHeader: (bytes) => void bytes.writeUInt16LE(1, 64) },
      'unsupported: /disk: its log has version 1',
    ],
    [
      'a log in the first MiB',
      { editHeader: header(72, 0n) },
      'its header says that the log has 1048576 bytes at offset 0x0',
    ],
    ['a log off the grid', { editHeader: header(72, BigInt(MIB + 4096)) }, 'at offset 0x101000'],
    ['a log of odd length', { editHeader: header(68, MIB + 4096) }, 'the log has 1052672 bytes'],
    ['a log too long', { editHeader: header(68, 1025 * MIB) }, 'the log has 1074790400 bytes'],
    ['a log without bounds', { editHeader: header(72, 2n ** 64n - 2n ** 20n) }, 'at offset 0xNaN'],
    ['a log GUID without a log', { logGuid: LOG_GUID, editHeader: header(68, 0) }, 'a log GUID and no log'],
    [
      'too many regions',
      { editTable: (table) => void table.writeUInt32LE(2048, 8) },
      'its region table has 2048 entries',
    ],
    [
      'a required region that nobody knows',
      { editRegions: (regions) => [...regions, { guid: OTHER_GUID, offset: 64 * MIB, length: MIB, required: 1 }] },
      `unsupported: /disk has the region ${OTHER_GUID}, which is not known here`,
    ],
    ['no table', { editRegions: (regions) => regions.slice(1) }, 'no region of the block allocation table'],
    ['no metadata', { editRegions: (regions) => regions.slice(0, 1) }, 'no region of metadata'],
    [
      'a region twice',
      { editRegions: (regions) => [...regions, regions[0]!] },
      `the region ${BAT_GUID} is there twice`,
    ],
    ['a region in the first MiB', { editRegions: regionsWith(() => ({ offset: 512 * 1024 })) }, 'at offset 0x80000'],
    ['a region off the grid', { editRegions: regionsWith(() => ({ offset: 20 * MIB + 4096 })) }, 'at offset 0x1401000'],
    ['a region of odd length', { editRegions: regionsWith(() => ({ length: 4096 })) }, 'has 4096 bytes'],
    ['an empty region', { editRegions: regionsWith(() => ({ length: 0 })) }, 'has 0 bytes'],
    ['regions that overlap', { editRegions: regionsWith(() => ({ offset: 2 * MIB })) }, 'overlap'],
    ['a region in the log', { editRegions: regionsWith(() => ({ offset: MIB })) }, 'overlap'],
    [
      'no metadata where it should be',
      { editRegions: regionsWith(() => ({ offset: 100 * MIB }), METADATA_GUID) },
      'there is no metadata table at offset 0x6400000',
    ],
    [
      'too many items',
      { editMetadata: (region) => void region.writeUInt16LE(2048, 10) },
      'its metadata has 2048 items',
    ],
    [
      'an item in the table',
      { editItems: itemsWith(ITEMS.id, () => ({ offset: 65_535 })) },
      `the metadata item ${ITEMS.id} has 16 bytes at 0xffff, outside its region of 1048576 bytes`,
    ],
    [
      'an item beyond its region',
      { editItems: itemsWith(ITEMS.id, () => ({ offset: MIB - 15 })) },
      'outside its region',
    ],
    [
      'an item twice',
      { editItems: (items) => [...items, items[0]!] },
      `the metadata item ${ITEMS.parameters} is there twice`,
    ],
    [
      'a required item that nobody knows',
      { editItems: (items) => [...items, { id: OTHER_GUID, data: u32(1), flags: 4 }] },
      `unsupported: /disk has the metadata item ${OTHER_GUID}, which is not known here`,
    ],
    [
      "a required user's item, also with a system's ID",
      { editItems: (items) => [...items, { id: ITEMS.size, data: u32(1), flags: 5 }] },
      `unsupported: /disk has the metadata item ${ITEMS.size}`,
    ],
    [
      'an unfinished image',
      { editItems: (items) => [...items, { id: '71cc85f0-1b69-4e28-9558-c3bf83ae75d3', data: u32(1), flags: 0 }] },
      'unsupported: /disk says that whoever made it has not finished',
    ],
    ...Object.entries(ITEMS)
      .filter(([name]) => name !== 'locator')
      .map(([name, id]): [string, VhdxSpec, string] => [
        `no item ${name}`,
        { editItems: itemsWith(id, () => null) },
        'its metadata has no item with',
      ]),
    ['a short item', { editItems: itemsWith(ITEMS.size, () => ({ length: 7 })) }, 'has 7 bytes, and 8 are needed'],
    [
      'blocks too small',
      { editItems: itemsWith(ITEMS.parameters, () => ({ data: u32(MIB / 2) })) },
      'its blocks have 524288 bytes',
    ],
    [
      'blocks too large',
      { editItems: itemsWith(ITEMS.parameters, () => ({ data: u32(512 * MIB) })) },
      'its blocks have 536870912 bytes',
    ],
    [
      'blocks of 3 MiB',
      { editItems: itemsWith(ITEMS.parameters, () => ({ data: u32(3 * MIB) })) },
      'its blocks have 3145728 bytes',
    ],
    ['an unknown flag', { flags: 4 }, 'unsupported: /disk: its file parameters have the flags 0x4'],
    [
      'sectors of 1024 bytes',
      { editItems: itemsWith(ITEMS.logical, () => ({ data: u32(1024) })) },
      'its logical sectors have 1024',
    ],
    [
      'physical sectors of 0',
      { editItems: itemsWith(ITEMS.physical, () => ({ data: u32(0) })) },
      'its physical sectors have 0',
    ],
    ['a disk of odd size', { size: 1000 }, 'its disk has 0x3e8 bytes'],
    ['a disk of odd size for its sectors', { size: 4096 + 512, sectorBytes: 4096 }, 'its disk has 0x1200 bytes'],
    ['a disk too large', { size: 2n ** 46n + 512n, batBytes: MIB }, 'its disk has 0x400000000200 bytes'],
    ['a disk without bounds', { size: 2n ** 64n - 512n }, 'its disk has 0xNaN bytes'],
    // 131 072 entries are a MiB: 131 041 payloads need 31 entries of bitmaps between them
    ['a table too short', { size: 131_042 * MIB }, 'has room for 131072 entries, and the disk needs 131073'],
    ['a parent without a locator', { flags: 2 }, 'its metadata has no item with the parent'],
    [
      'a locator of another type',
      {
        ...child({ parent_linkage: LINKAGE, relative_path: 'a' }),
        editItems: itemsWith(ITEMS.locator, () => ({ data: locatorBytes({}, OTHER_GUID) })),
      },
      `unsupported: /disk names its parent with a locator of the type ${OTHER_GUID}`,
    ],
    ['a locator without a linkage', child({ relative_path: 'a' }), 'does not say which image the parent is'],
    ['a linkage that is no GUID', child({ parent_linkage: 'x', relative_path: 'a' }), 'does not say which image'],
    ['a locator without a name', child({ parent_linkage: LINKAGE }), 'has no name of the parent'],
    [
      'a name too long',
      child({ parent_linkage: LINKAGE, relative_path: 'a'.repeat(8193) }),
      'has 16386 bytes of relative_path',
    ],
    [
      'a locator that is cut',
      {
        ...child({ parent_linkage: LINKAGE, relative_path: 'a' }),
        editItems: itemsWith(ITEMS.locator, () => ({ length: 100 })),
      },
      'has an entry that ends beyond its 100 bytes',
    ],
    [
      'a locator without room for its entries',
      {
        ...child({ parent_linkage: LINKAGE, relative_path: 'a' }),
        editItems: itemsWith(ITEMS.locator, () => ({ length: 43 })),
      },
      'has no room for its 2 entries',
    ],
    [
      'a locator that is too short',
      { ...child({ parent_linkage: LINKAGE }), editItems: itemsWith(ITEMS.locator, () => ({ length: 19 })) },
      'has 19 bytes, and 20 at least',
    ],
  ])('for %s', (_, spec, sentence) => {
    expect(refusalOf(fileOf(spec))).toContain(sentence);
  });

  test('for region tables that are both torn', () => {
    const { image } = vhdxImage({ blocks: ONE_BLOCK });
    for (const at of [0x30100, 0x40100]) image.fill(1, at, at + 4);
    expect(refusalOf(new MemoryHostFile(image, '/disk'))).toContain(
      'neither of its two region tables has a right checksum',
    );
  });
  test('for an empty file', () => {
    expect(refusalOf(new MemoryHostFile(new Uint8Array(0), '/disk'))).toContain('does not begin with "vhdxfile"');
  });
});

test.each<[string, VhdxSpec]>([
  ['the largest blocks', { editItems: itemsWith(ITEMS.parameters, () => ({ data: u32(256 * MIB) })) }],
  [
    'the largest log',
    {
      editHeader: (bytes) => {
        bytes.writeUInt32LE(1024 * MIB, 68);
        bytes.writeBigUInt64LE(BigInt(64 * MIB), 72);
      },
    },
  ],
  [
    'an optional region that nobody knows',
    { editRegions: (regions) => [...regions, { guid: OTHER_GUID, offset: 64 * MIB, length: MIB }] },
  ],
  [
    'an optional item that nobody knows',
    { editItems: (items) => [...items, { id: OTHER_GUID, data: u32(1), flags: 0 }] },
  ],
  [
    "a user's item with a system's ID",
    { editItems: (items) => [...items, { id: ITEMS.size, data: u32(1), flags: 1 }] },
  ],
  [
    'an empty item',
    { editItems: (items) => [...items, { id: OTHER_GUID, data: u32(1), flags: 0, offset: 0, length: 0 }] },
  ],
  ['an item at the end of its region', { editItems: itemsWith(ITEMS.id, () => ({ offset: MIB - 16 })) }],
  ['a disk that the table has just room for', { size: 131_041 * MIB }],
  ['an empty disk', { size: 0, blocks: [] }],
  [
    'regions that QEMU does not call required',
    { editRegions: (regions) => regions.map((region) => ({ ...region, required: 0 })) },
  ],
  ['a log of another version that is empty', { editHeader: (bytes) => void bytes.writeUInt16LE(1, 64) }],
])('is taken: %s', (_, spec) => {
  expect(vhdx.inspect(fileOf(spec)).format).toBe('vhdx');
});

test('the other region table counts if the first is torn', () => {
  const { image } = vhdxImage({ blocks: ONE_BLOCK });
  image.fill(1, 0x30100, 0x30104);
  expect(vhdx.inspect(new MemoryHostFile(image)).virtualSize).toBe(MIB);
});

describe('a child names its parent', () => {
  const backingOf = (pairs: Readonly<Record<string, string>>) => vhdx.inspect(fileOf(child(pairs))).backing;
  test('relative to itself, by volume, by drive, and beside itself', () => {
    expect(
      backingOf({
        parent_linkage: LINKAGE,
        absolute_win32_path: '\\\\?\\C:\\disks\\base.vhdx',
        volume_path: '\\\\?\\Volume{26A21BDA-A627-11D7-9931-806E6F6E6963}\\other\\base.vhdx',
        relative_path: '.\\sub\\base.vhdx',
        something_else: 'x',
      }),
    ).toMatchObject({
      name: 'sub/base.vhdx',
      otherNames: ['/other/base.vhdx', '/disks/base.vhdx', 'base.vhdx'],
      format: 'vhdx',
      identity: { word: 'data write GUID', values: ['0badcafe-0000-4000-8000-00000000abcd'] },
    });
  });
  test('and either linkage is right', () => {
    const second = '{11111111-2222-3333-4444-555555555555}';
    expect(backingOf({ parent_linkage: LINKAGE, parent_linkage2: second, relative_path: '..\\a:b' })).toMatchObject({
      name: '../a:b',
      otherNames: ['./a:b'],
      format: 'vhdx',
      identity: {
        word: 'data write GUID',
        values: ['0badcafe-0000-4000-8000-00000000abcd', '11111111-2222-3333-4444-555555555555'],
      },
    });
  });
});
