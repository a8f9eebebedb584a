// What partitions contain: every kind of the table, at its place and one byte off, and the fields that make a superblock one.

import { describe, expect, test } from 'vitest';
import { type Content, contentOf, readPartitionTable, useOfType } from '../../../../src/guest/partitions/index.ts';
import { BufferDisk } from '../../../support/buffer-disk.ts';
import { MIB } from '../../../support/partition-bytes.ts';
import { type Fields, SAMPLES, type Sample, volumeOf } from '../../../support/volume-bytes.ts';

const SIZE = 4 * MIB;
const whole = (disk: BufferDisk): Content | null => contentOf(disk, 0, disk.size);
const of = ({ fields, size = SIZE }: Sample, changes: Fields = {}): BufferDisk =>
  volumeOf(size, { ...fields, ...changes });
const sample = (type: string, nth = 0): Sample => SAMPLES.filter((each) => each.type === type)[nth]!;

describe.each(SAMPLES)('$type with its magic at $magicAt', (each) => {
  const { type, use = 'filesystem', details = {}, size = SIZE, fields, magicAt } = each;
  const expected = { type, use, label: null, uuid: null, needsRecovery: null, also: [], ...details };

  test('is recognized, with what can be read of it', () => {
    expect(whole(of(each))).toEqual(expected);
    expect(useOfType(type) ?? 'container').toBe(use);
  });

  test('is recognized inside a larger disk', () => {
    const disk = new BufferDisk(size + 3 * MIB);
    const bytes = new Uint8Array(size);
    of(each).read(bytes, 0);
    disk.write(MIB, bytes);
    expect(contentOf(disk, MIB, size)).toEqual(expected);
    expect(contentOf(disk, 0, MIB)).toBeNull();
  });

  test('is not taken for it with one byte of the magic changed', () => {
    const disk = volumeOf(size, fields);
    const byte = new Uint8Array(1);
    disk.read(byte, magicAt);
    disk.write(magicAt, Uint8Array.of(byte[0]! ^ 1));
    expect(whole(disk)?.type).not.toBe(type);
  });

  test('is looked for in few reads, none outside the volume', () => {
    const disk = of(each);
    whole(disk);
    expect(disk.reads).toBeLessThanOrEqual(16);
    expect(disk.bytesRead).toBeLessThanOrEqual(128 * 1024);
  });
});

test.each([
  0,
  1,
  511,
  512,
  1024,
  2048,
  4095,
  4096,
  65536,
  65 * 1024,
])('a volume of %i zero bytes has nothing', (size) => {
  expect(whole(new BufferDisk(size))).toBeNull();
});

describe('a superblock is none', () => {
  const none: readonly (readonly [string, Sample, Fields])[] = [
    ['of ext, with blocks of 128 KiB', sample('ext4'), { 1048: { u32le: 7 } }],
    ['of xfs, with blocks of 256 bytes', sample('xfs'), { 4: { u32be: 256 } }],
    ['of xfs, with blocks of 128 KiB', sample('xfs'), { 4: { u32be: 131_072 } }],
    ['of xfs, with blocks that are no power of two', sample('xfs'), { 4: { u32be: 4097 } }],
    ['of xfs, without allocation groups', sample('xfs'), { 88: { u32be: 0 } }],
    ['of btrfs, that belongs elsewhere', sample('btrfs'), { 65584: { u64le: 65537n } }],
    ['of swap, of version 2', sample('swap'), { 1024: { u32le: 2 } }],
    ['of swap, without pages', sample('swap'), { 1028: { u32le: 0 } }],
    ['of LUKS, of version 3', sample('crypto_LUKS'), { 6: { u16be: 3 } }],
    ['of LUKS, of version 0', sample('crypto_LUKS'), { 6: { u16be: 0 } }],
    ['of md, of version 2', sample('linux_raid_member'), { 4: { u32le: 2 } }],
    ['of md, that belongs elsewhere', sample('linux_raid_member'), { 144: { u64le: 8n } }],
    ['of md 0.90, of version 1', sample('linux_raid_member', 3), { [80 * MIB - 64 * 1024 + 4]: { u32le: 1 } }],
    [
      'of md 0.90, of a component that does not fit',
      sample('linux_raid_member', 3),
      { [80 * MIB - 64 * 1024 + 32]: { u32le: 80 * 1024 - 63 } },
    ],
    ['of exFAT, with a geometry of FAT', sample('exfat'), { 63: { u8: 1 } }],
  ];
  test.each(none)('%s', (_what, each, changes) => expect(whole(of(each, changes))).toBeNull());

  test.each([
    ['of ext, with blocks of 64 KiB', sample('ext4'), { 1048: { u32le: 6 } }],
    ['of xfs, with blocks of 512 bytes', sample('xfs'), { 4: { u32be: 512 } }],
    ['of xfs, with blocks of 64 KiB', sample('xfs'), { 4: { u32be: 65_536 } }],
    [
      'of md 0.90, of a component that just fits',
      sample('linux_raid_member', 3),
      { [80 * MIB - 64 * 1024 + 32]: { u32le: 80 * 1024 - 64 } },
    ],
  ])('and is one %s', (_what, each, changes) => expect(whole(of(each, changes))?.type).toBe(each.type));
});

describe('a boot sector of FAT', () => {
  const FAT16 = sample('vfat');
  const FAT32 = sample('vfat', 1);
  const wrong: readonly (readonly [string, Sample, Fields])[] = [
    ['with sectors of 256 bytes', FAT16, { 11: { u16le: 256 } }],
    ['with sectors of 8192 bytes', FAT16, { 11: { u16le: 8192 } }],
    ['with sectors of 513 bytes', FAT16, { 11: { u16le: 513 } }],
    ['with clusters of 0 sectors', FAT16, { 13: { u8: 0 } }],
    ['with clusters of 3 sectors', FAT16, { 13: { u8: 3 } }],
    ['without reserved sectors', FAT16, { 14: { u16le: 0 } }],
    ['without a FAT', FAT16, { 16: { u8: 0 } }],
    ['with the medium f7', FAT16, { 21: { u8: 0xf7 } }],
    ['with the medium f1', FAT16, { 21: { u8: 0xf1 } }],
    ['without room for a cluster', FAT16, { 19: { u16le: 84 + 32 + 3 } }],
    ['with more clusters than FAT16 has', FAT16, { 19: { u16le: 0 }, 32: { u32le: 84 + 32 + 0xfff5 * 4 } }],
    ['of JFS', FAT16, { 54: 'JFS     ' }],
    ['of HPFS', FAT16, { 54: 'HPFS    ' }],
    ['with FATs of no length', FAT32, { 36: { u32le: 0 } }],
    ['with the root directory in cluster 1', FAT32, { 44: { u32le: 1 } }],
    ['with the root directory behind the last cluster', FAT32, { 44: { u32le: 100_000 - 1632 + 2 } }],
  ];

  test.each(wrong)('%s is none, and may hold a partition table', (_what, each, changes) => {
    const disk = of(each, changes);
    expect(whole(disk)).toBeNull();
    expect(readPartitionTable(disk).scheme).toBe('dos');
  });

  test.each([
    ['with the medium f0', FAT16, { 21: { u8: 0xf0 } }],
    ['with sectors of 4096 bytes', FAT16, { 11: { u16le: 4096 } }],
    ['with one cluster', FAT16, { 19: { u16le: 84 + 32 + 4 } }],
    ['with as many clusters as FAT16 has', FAT16, { 19: { u16le: 0 }, 32: { u32le: 84 + 32 + 0xfff4 * 4 } }],
    ['with the root directory in cluster 2', FAT32, { 44: { u32le: 2 } }],
    ['with the root directory in the last cluster', FAT32, { 44: { u32le: 100_000 - 1632 + 1 } }],
  ])('%s is one, and no partition table', (_what, each, changes) => {
    const disk = of(each, changes);
    expect(whole(disk)?.type).toBe('vfat');
    expect(readPartitionTable(disk)).toMatchObject({ scheme: null, warnings: [] });
  });

  test('that has a serial number only with its signature', () => {
    expect(whole(of(FAT16, { 38: { u8: 0x28 } }))?.uuid).toBe('1234-5678');
    expect(whole(of(FAT16, { 38: { u8: 0x27 } }))?.uuid).toBeNull();
  });

  test.each(['ntfs', 'exfat'])('is like one of %s: no partition table', (type) => {
    expect(readPartitionTable(of(sample(type)))).toMatchObject({ scheme: null, partitions: [] });
  });
});

describe('NTFS', () => {
  const NTFS = sample('ntfs');
  const VOLUME = 4 * 4096 + 3 * 1024;

  test.each([
    ['sectors of 128 bytes', { 11: { u16le: 128 } }],
    ['sectors of 8192 bytes', { 11: { u16le: 8192 } }],
    ['clusters of 3 sectors', { 13: { u8: 3 } }],
    ['clusters of 4 MiB', { 13: { u8: 256 - 13 } }],
    ['records of 256 bytes', { 64: { u8: 256 - 8 } }],
    ['records of 128 KiB', { 64: { u8: 256 - 17 } }],
    ['records of no length', { 64: { u8: 0x80 } }],
    ['a table beyond 2^53', { 48: { u64le: 2n ** 63n } }],
  ])('with %s is none', (_what, changes) => expect(whole(of(NTFS, changes))?.type).not.toBe('ntfs'));

  test.each([
    ['a table behind the end', { 48: { u64le: 1_000_000n } }],
    ['a record without its magic', { [VOLUME]: 'BAAD' }],
    ['attributes that begin behind their record', { [VOLUME + 20]: { u16le: 1020 } }],
  ])('with %s has no label', (_what, changes) => {
    expect(whole(of(NTFS, changes))).toMatchObject({ type: 'ntfs', label: null, needsRecovery: null });
  });

  test.each([
    ['a value that ends behind the record', { [VOLUME + 56 + 16]: { u32le: 1024 - 56 - 24 + 1 } }],
    ['a value that begins behind the record', { [VOLUME + 56 + 20]: { u16le: 0xffff } }],
  ])('with %s takes the other attributes', (_what, changes) => {
    expect(whole(of(NTFS, changes))).toMatchObject({ label: null, needsRecovery: true });
  });

  test('with an attribute of no length comes to an end', () => {
    expect(whole(of(NTFS, { [VOLUME + 56 + 4]: { u32le: 0 } }))).toMatchObject({ label: null, needsRecovery: null });
  });

  test('with clusters of 2 MiB is one', () => {
    const disk = volumeOf(64 * MIB, { ...NTFS.fields, 13: { u8: 256 - 12 }, 48: { u64le: 1n } });
    expect(whole(disk)?.type).toBe('ntfs');
  });
});

describe('several kinds in one volume', () => {
  test('of which one is a container: what shows through is not named', () => {
    const disk = volumeOf(80 * MIB, { ...sample('ext4').fields, ...sample('linux_raid_member', 2).fields });
    expect(whole(disk)).toMatchObject({ type: 'linux_raid_member', also: [] });
  });

  test('are told, because nothing says which is meant', () => {
    const disk = volumeOf(SIZE, { ...sample('ext4').fields, ...sample('btrfs').fields });
    expect(whole(disk)).toMatchObject({ type: 'ext4', also: ['btrfs'] });
  });

  test('of which the label of a pool is the rest of something older', () => {
    const disk = volumeOf(80 * MIB + 1000, { ...sample('ext4').fields, ...sample('zfs_member', 3).fields });
    expect(whole(disk)).toMatchObject({ type: 'ext4', also: ['zfs_member'] });
  });
});

describe('a label', () => {
  const labelOf = (label: string): string | null | undefined =>
    whole(of(sample('ext4'), { 1144: label.padEnd(16, '\0') }))?.label;

  test('may take its whole field', () => expect(labelOf('0123456789abcdef')).toBe('0123456789abcdef'));
  test('that is empty, or blank, is none', () => {
    expect(labelOf('')).toBeNull();
    expect(labelOf('   ')).toBeNull();
  });
  test('with bytes that are not UTF-8 is still well-formed text', () =>
    expect(labelOf('a\xff\xc3b')).toBe('a\ufffd\ufffdb'));
  test('with control characters is text like any other', () => expect(labelOf('a\n\x1b[2J/..')).toBe('a\n\x1b[2J/..'));
});

test('an identifier of LVM with other characters than LVM writes is none', () => {
  const disk = of(sample('LVM2_member'), { 32: 'abcdefGHIJklmnOPqrst/Vwxyz0123456' });
  expect(whole(disk)).toMatchObject({ type: 'LVM2_member', uuid: null });
});

test('a part that is not on its disk is a bug of the caller', () => {
  expect(() => contentOf(new BufferDisk(SIZE), 0, SIZE + 1)).toThrow('assertion failed');
});
