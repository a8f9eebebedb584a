// blkid beside our own answer: strict parsing of what a hostile label makes it print, bounded time, and what is merged.

import { chmodSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { askBlkid, type BlkidAnswer, mergeBlkid, parseBlkid } from '../../../src/guest/blkid.ts';
import type { Content } from '../../../src/guest/partitions/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const EXT4: Content = {
  type: 'ext4',
  use: 'filesystem',
  label: 'own',
  uuid: 'own-uuid',
  needsRecovery: true,
  also: [],
};
const PART = { path: '/nowhere', offset: 0, size: 512 };

describe('the output of blkid', () => {
  test('gives type, usage, label and UUID', () => {
    const output =
      'ID_FS_LABEL=a_b\nID_FS_LABEL_ENC=a\\x20b\nID_FS_UUID=1-2\nID_FS_UUID_ENC=1-2\nID_FS_TYPE=ext4\nID_FS_USAGE=filesystem\n';
    expect(parseBlkid(0, output)).toEqual({
      kind: 'found',
      type: 'ext4',
      usage: 'filesystem',
      label: 'a b',
      uuid: '1-2',
    });
  });

  test('has labels as bytes: UTF-8 is text again, and other bytes are replaced', () => {
    const label = (encoded: string) => parseBlkid(0, `ID_FS_LABEL_ENC=${encoded}\nID_FS_TYPE=ext4\n`);
    expect(label('\\xc3\\xa9\\x0a')).toMatchObject({ label: 'é\n' });
    expect(label('\xc3\xa9')).toMatchObject({ label: 'é' });
    expect(label('a\\xff')).toMatchObject({ label: 'a\ufffd' });
    expect(label('')).toMatchObject({ label: null });
  });

  test('is taken by the first line of each name', () => {
    expect(parseBlkid(0, 'ID_FS_TYPE=ext4\nID_FS_TYPE=xfs\n')).toMatchObject({ type: 'ext4' });
  });

  test.each(['', 'a b', 'a\u001b', 'x'.repeat(65), '../x'])('with the type "%s" is nothing', (type) => {
    expect(parseBlkid(0, `ID_FS_TYPE=${type}\n`)).toEqual({ kind: 'nothing' });
  });

  test('with an identifier that is none has no identifier', () => {
    expect(parseBlkid(0, 'ID_FS_TYPE=ext4\nID_FS_UUID_ENC=a\\x2fb\n')).toMatchObject({ type: 'ext4', uuid: null });
  });

  test('of a partition table alone is nothing', () => {
    expect(parseBlkid(0, 'ID_PART_TABLE_TYPE=gpt\nID_PART_TABLE_UUID=x\n')).toEqual({ kind: 'nothing' });
  });

  test('with exit code 2 is nothing, with 8 several types, with others no answer', () => {
    expect(parseBlkid(2, '')).toEqual({ kind: 'nothing' });
    expect(parseBlkid(8, 'ID_FS_AMBIVALENT=filesystem:vfat:FAT16 filesystem:ext4:1.0\n')).toEqual({
      kind: 'ambivalent',
      types: ['vfat', 'ext4'],
    });
    expect(parseBlkid(8, '')).toEqual({ kind: 'ambivalent', types: [] });
    for (const code of [1, 4, 127, null])
      expect(parseBlkid(code, 'ID_FS_TYPE=ext4\n')).toEqual({ kind: 'unavailable' });
  });
});

describe('our own answer', () => {
  const found = (type: string, usage: string): BlkidAnswer => ({ kind: 'found', type, usage, label: 'L', uuid: 'U' });

  test('stands where blkid has none', () => {
    expect(mergeBlkid(EXT4, { kind: 'unavailable' })).toEqual(EXT4);
    expect(mergeBlkid(EXT4, { kind: 'nothing' })).toEqual(EXT4);
    expect(mergeBlkid(null, { kind: 'nothing' })).toBeNull();
  });

  test('gets label and UUID of the same type, and keeps what blkid does not say', () => {
    expect(mergeBlkid(EXT4, found('ext4', 'filesystem'))).toEqual({ ...EXT4, label: 'L', uuid: 'U' });
    const without: BlkidAnswer = { kind: 'found', type: 'ext4', usage: 'filesystem', label: null, uuid: null };
    expect(mergeBlkid(EXT4, without)).toEqual(EXT4);
  });

  test('gives way to another type, and is named beside it', () => {
    expect(mergeBlkid(EXT4, found('drbd', 'raid'))).toEqual({
      type: 'drbd',
      use: 'container',
      label: 'L',
      uuid: 'U',
      needsRecovery: null,
      also: ['ext4'],
    });
  });

  test.each([
    ['ntfs', 'filesystem', 'filesystem'],
    ['ufs', 'filesystem', 'filesystem'],
    ['zfs_member', 'filesystem', 'container'],
    ['VMFS_volume_member', 'raid', 'container'],
    ['crypto_LUKS', 'crypto', 'container'],
    ['swap', 'other', 'swap'],
    ['swsuspend', 'other', 'container'],
    ['unheard_of', 'other', 'container'],
  ])('learns of %s (%s): a %s', (type, usage, use) => {
    expect(mergeBlkid(null, found(type, usage))).toMatchObject({ type, use, also: [] });
  });

  test('gets the other types of an ambivalent answer', () => {
    expect(mergeBlkid(EXT4, { kind: 'ambivalent', types: ['ext4', 'vfat'] })).toEqual({ ...EXT4, also: ['vfat'] });
    expect(mergeBlkid({ ...EXT4, also: ['btrfs'] }, { kind: 'ambivalent', types: ['btrfs', 'vfat'] })).toMatchObject({
      also: ['btrfs', 'vfat'],
    });
    expect(mergeBlkid(null, { kind: 'ambivalent', types: ['vfat', 'ext4'] })).toMatchObject({
      type: 'vfat',
      also: ['ext4'],
    });
    expect(mergeBlkid(null, { kind: 'ambivalent', types: [] })).toBeNull();
  });
});

describe('the program', () => {
  const folder = makeTemporaryDirectory();
  afterAll(() => removeTemporaryDirectory(folder));
  const script = (name: string, text: string): string => {
    const path = join(folder, name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  };

  test('that is not there gives no answer', async () => {
    expect(await askBlkid(PART, 1000, join(folder, 'missing'))).toEqual({ kind: 'unavailable' });
  });

  test('gets the part in bytes, and a path that looks like an option', async () => {
    const command = script('arguments', `echo "ID_FS_TYPE=ok"; echo "ID_FS_LABEL_ENC=$*"`);
    expect(await askBlkid({ path: '-x', offset: 1048576, size: 4096 }, 5000, command)).toMatchObject({
      label: '-p -o udev -O 1048576 -S 4096 -- -x',
    });
  });

  test('gets a path that is not UTF-8 byte by byte', async () => {
    const command = script(
      'bytes',
      `echo "ID_FS_TYPE=ok"; echo "ID_FS_LABEL_ENC=$(printf %s "$9" | od -An -tx1 | tr -d " ")"`,
    );
    expect(await askBlkid({ ...PART, path: '/a\udcff' }, 5000, command)).toMatchObject({ label: '2f61ff' });
  });

  test('that does not end is not waited for', async () => {
    const started = Date.now();
    expect(await askBlkid(PART, 200, script('hangs', 'exec sleep 60'))).toEqual({ kind: 'unavailable' });
    expect(Date.now() - started).toBeLessThan(5000);
  });

  test('that prints without end is not listened to', async () => {
    expect(await askBlkid(PART, 10_000, script('endless', 'exec yes ID_FS_TYPE=ext4'))).toEqual({
      kind: 'unavailable',
    });
  });
});
