// imgfuse rebase with QEMU as the judge: the disk stays the same over another backing file and over none, for every format that has
// backing files, bases of every format and size; QEMU rebases the same image to the same disk, and finds its header in order.

import { copyFileSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type CopyResult, openRebase, type RebaseDiskOptions } from '../../src/disk/index.ts';
import { bochsImage, MIXED_SECTORS } from '../support/bochs-bytes.ts';
import { fingerprints, imgfuse } from '../support/image-files.ts';
import { hasQemu, QemuHolder, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { RangeServer } from '../support/range-server.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder = '';
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== '') removeTemporaryDirectory(folder);
});

function path(name: string): string {
  return join(folder, name);
}

type Options = Partial<RebaseDiskOptions> & Pick<RebaseDiskOptions, 'backing'>;

function rebase(image: string, options: Options, steps = Number.POSITIVE_INFINITY): CopyResult | null {
  const opened = openRebase(path(image), { isUnsafe: false, ...options });
  try {
    for (let n = 0; n < steps; n++) {
      const step = opened.work.next();
      if (step.done === true) return step.value;
    }
    return null;
  } finally {
    opened.close();
  }
}

function refusal(image: string, options: Options): string {
  try {
    rebase(image, options);
  } catch (error) {
    return (error as Error).message;
  }
  throw new Error(`${image} was rebased`);
}

function create(format: string, name: string, size: string, options = '', ...more: readonly string[]): void {
  qemuImg('create', '-q', '-f', format, ...(options === '' ? [] : ['-o', options]), ...more, path(name), size);
}

interface Info {
  readonly 'backing-filename'?: string;
  readonly 'backing-filename-format'?: string;
}

function info(name: string): Info {
  return JSON.parse(qemuImg('info', '--output=json', path(name))) as Info;
}

function judge(format: string, image = 'disk'): void {
  qemuImg('compare', '-f', 'raw', '-F', format, path('expected'), path(image));
  qemuCheck(path(image), format);
}

/** QEMU opens no VDI or VHD with a parent: test/mount/commit.test.ts and the power cuts of test/model rebase those. */
const KINDS = [
  ['qed', ''],
  ['qed', 'cluster_size=4k,table_size=2'],
  ['qcow2', ''],
  ['qcow2', 'cluster_size=512'],
  ['qcow2', 'cluster_size=4k,compat=0.10'],
  ['qcow2', 'cluster_size=64k,extended_l2=on'],
  ['qcow2', 'lazy_refcounts=on,cluster_size=256k'],
] as const;

describe.each(KINDS)('%s %s', (format, options) => {
  beforeEach(() => {
    create('raw', 'old', '3M');
    qemuIo(path('old'), 'raw', 'write -P 1 0 1M', 'write -P 2 2M 700k');
    // the same at the beginning, other data, zeros and nothing further on, and longer than the old one
    create('qcow2', 'new', '5M');
    qemuIo(path('new'), 'qcow2', 'write -P 1 0 600k', 'write -P 9 700k 1M', 'write -z 2M 64k', 'write -P 8 3500k 1M');
    create(format, 'disk', '4M', options, '-b', path('old'), '-F', 'raw');
    qemuIo(path('disk'), format, 'write -P 3 100k 50k', 'write -z 1900k 200k', 'write -P 4 3M 100k');
    qemuImg('convert', '-f', format, '-O', 'raw', path('disk'), path('expected'));
    copyFileSync(path('disk'), path('before'));
  });

  test('shows the same over another backing file, over none, and over the first one again', () => {
    const over = rebase('disk', { backing: 'new', backingFormat: 'qcow2' });
    expect(over!.dataBytes).toBeGreaterThan(0);
    judge(format);
    expect(info('disk')['backing-filename']).toBe('new');
    if (format === 'qcow2') expect(info('disk')['backing-filename-format']).toBe('qcow2');
    rebase('disk', { backing: '' });
    judge(format);
    expect(info('disk')).not.toHaveProperty('backing-filename');
    rebase('disk', { backing: path('old'), backingFormat: 'raw' });
    judge(format);
    expect(info('disk')).toMatchObject({ 'backing-filename': path('old'), 'backing-filename-format': 'raw' });
    // QEMU goes on where this ended, and from the same start it comes to the same
    qemuImg('rebase', '-f', format, '-b', path('new'), '-F', 'qcow2', path('disk'));
    judge(format);
    qemuImg('rebase', '-f', format, '-b', path('new'), '-F', 'qcow2', path('before'));
    judge(format, 'before');
    rebase('before', { backing: path('old'), backingFormat: 'raw' });
    judge(format, 'before');
  });

  test('that was left halfway is over its old backing file what it was, and can be completed', () => {
    for (const steps of [1, 2, 3]) {
      expect(rebase('disk', { backing: 'new', backingFormat: 'qcow2' }, steps)).toBe(null);
      expect(info('disk')['backing-filename']).toBe(path('old'));
      judge(format);
    }
    rebase('disk', { backing: 'new', backingFormat: 'qcow2' });
    judge(format);
  });

  test('with -u changes nothing but the header', () => {
    const size = statSync(path('disk')).size;
    rebase('disk', { backing: 'moved', backingFormat: 'raw', isUnsafe: true });
    expect(info('disk')).toMatchObject({ 'backing-filename': 'moved', 'backing-filename-format': 'raw' });
    copyFileSync(path('old'), path('moved'));
    judge(format);
    rebase('disk', { backing: 'new', isUnsafe: true });
    qemuIo(path('disk'), format, 'read -P 9 1100k 400k', 'read -P 3 100k 50k');
    rebase('disk', { backing: '', isUnsafe: true });
    qemuIo(path('disk'), format, 'read -P 0 1100k 400k', 'read -P 3 100k 50k');
    expect(info('disk')).not.toHaveProperty('backing-filename');
    qemuCheck(path('disk'), format);
    expect(statSync(path('disk')).size).toBe(size);
    rebase('disk', { backing: 'old', backingFormat: 'raw', isUnsafe: true });
    judge(format);
  });
});

describe('a chain', () => {
  test('is shortened by copying what lies above the new base, and nothing else', () => {
    create('raw', 'base', '4M');
    qemuIo(path('base'), 'raw', 'write -P 1 0 4M');
    create('qcow2', 'middle', '4M', '', '-b', path('base'), '-F', 'raw');
    qemuIo(path('middle'), 'qcow2', 'write -P 2 1M 128k', 'write -z 2M 64k');
    create('qcow2', 'disk', '4M', '', '-b', path('middle'), '-F', 'qcow2');
    qemuIo(path('disk'), 'qcow2', 'write -P 3 1M 64k');
    qemuImg('convert', '-O', 'raw', path('disk'), path('expected'));
    expect(rebase('disk', { backing: 'base', backingFormat: 'raw' })).toEqual({ dataBytes: 65536, zeroBytes: 65536 });
    judge('qcow2');
    expect(info('disk')['backing-filename']).toBe('base');
    // over itself there is nothing to do
    expect(rebase('disk', { backing: path('base'), backingFormat: 'raw' })).toEqual({ dataBytes: 0, zeroBytes: 0 });
    judge('qcow2');
  });

  test('goes to a server and comes back', async () => {
    create('qcow2', 'base', '2M');
    qemuIo(path('base'), 'qcow2', 'write -P 5 0 1M');
    create('qcow2', 'disk', '2M', '', '-b', path('base'), '-F', 'qcow2');
    qemuIo(path('disk'), 'qcow2', 'write -P 6 512k 1k');
    qemuImg('convert', '-O', 'raw', path('disk'), path('expected'));
    const server = new RangeServer(readFileSync(path('base')));
    const url = `${server.origin}/base`;
    expect(rebase('disk', { backing: url, backingFormat: 'qcow2' })).toEqual({ dataBytes: 0, zeroBytes: 0 });
    expect(info('disk')).toMatchObject({ 'backing-filename': url, 'backing-filename-format': 'qcow2' });
    expect(refusal('disk', { backing: '' })).toMatch(/--allow-backing/);
    rebase('disk', { backing: '', allowBacking: [url] });
    judge('qcow2');
    await server.close();
  });
});

test('an image that was not closed clean is repaired first, an encrypted one needs its password', () => {
  create('raw', 'base', '1M');
  create('qcow2', 'disk', '1M', 'lazy_refcounts=on', '-b', path('base'), '-F', 'raw');
  tryQemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 6 0 64k', '-c', 'flush', '-c', 'sigraise 9', path('disk'));
  expect(JSON.parse(qemuImg('info', '-U', '--output=json', path('disk')))).toMatchObject({ 'dirty-flag': true });
  rebase('disk', { backing: '' });
  qemuCheck(path('disk'), 'qcow2');
  qemuIo(path('disk'), 'qcow2', 'read -P 6 0 64k');
  writeFileSync(path('key'), 'secret');
  const luks = ['-o', 'encrypt.format=luks,encrypt.iter-time=10', '--key-file', path('key')];
  expect(
    imgfuse('create', '-q', '-f', 'qcow2', ...luks, '-b', path('base'), '-F', 'raw', path('luks'), '1M').code,
  ).toBe(0);
  qemuIo(path('base'), 'raw', 'write -P 7 0 100k');
  expect(refusal('luks', { backing: '' })).toMatch(/encrypted and no password is given/);
  rebase('luks', { backing: '', password: () => new TextEncoder().encode('secret') });
  const options = `driver=qcow2,file.filename=${path('luks')},encrypt.key-secret=s`;
  const secret = ['--object', `secret,id=s,file=${path('key')}`];
  qemuImg('compare', ...secret, '--image-opts', `driver=raw,file.filename=${path('base')}`, options);
});

describe('what cannot be rebased', () => {
  test('is refused by name, and no byte of it changes', async () => {
    writeFileSync(path('disk.bochs'), bochsImage({ sectors: MIXED_SECTORS }).image);
    create('raw', 'base', '1M');
    create('qcow2', 'other', '1M');
    create('qcow2', 'disk', '1M', '', '-b', path('base'), '-F', 'raw');
    create('qcow2', 'top', '1M', '', '-b', path('disk'), '-F', 'qcow2');
    create('qcow2', 'raw-data', '1M', `data_file=${path('data')},data_file_raw=on`);
    mkdirSync(path('inner'));
    create('qcow2', 'inner/outside', '1M', '', '-b', path('base'), '-F', 'raw');
    const before = fingerprints(folder);
    const cases: [string, Options, RegExp][] = [
      ['disk', { backing: 'disk', backingFormat: 'qcow2' }, /disk is the image itself/],
      ['disk', { backing: 'top', backingFormat: 'qcow2' }, /top is based on .*disk, the image itself/],
      ['disk', { backing: 'top', backingFormat: 'qcow2', isUnsafe: true }, /top is based on .*disk, the image itself/],
      ['disk', { backing: 'base' }, /raw is never guessed: add -F raw/],
      ['disk', { backing: 'gone' }, /gone does not exist; say with -F/],
      ['disk', { backing: 'gone', backingFormat: 'raw' }, /gone does not exist/],
      ['disk', { backing: 'other', backingFormat: 'qed' }, /other is no qed image.*looks like qcow2/],
      ['disk', { backing: 'a:b', backingFormat: 'raw' }, /disk is not rebased: its backing file 'a:b'.*called \.\/a:b/],
      ['disk', { backing: 'other', backingFormat: 'nonsense' }, /unknown format 'nonsense'/],
      ['disk', { backing: 'x'.repeat(1200), backingFormat: 'raw', isUnsafe: true }, /name|long/],
      [
        'base',
        { backing: 'other', backingFormat: 'qcow2', format: 'raw' },
        /base is a raw image, and only qed, qcow2, qcow, vdi, vmdk, vpc, vhdx/,
      ],
      ['disk.bochs', { backing: 'base', backingFormat: 'raw' }, /Bochs image/],
      [
        'raw-data',
        { backing: 'base', backingFormat: 'raw', isUnsafe: true },
        /raw data file.*cannot have a backing file/,
      ],
      ['inner/outside', { backing: '' }, /--allow-backing/],
      ['none', { backing: '' }, /none does not exist/],
    ];
    for (const [image, options, sentence] of cases) expect(refusal(image, options), image).toMatch(sentence);
    const holder = await QemuHolder.open(path('disk'), ['-r', '-f', 'qcow2'], 'read 0 512');
    for (const isUnsafe of [false, true]) {
      expect(refusal('disk', { backing: 'other', isUnsafe })).toMatch(/disk is in use by .*qemu-io/);
    }
    await holder.close();
    expect(fingerprints(folder)).toEqual(before);
  });
});
