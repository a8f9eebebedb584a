// A new image on a backing file: what no later open would take is refused when the image is made, and nothing stays behind.

import { execFileSync } from 'node:child_process';
import { readdirSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { type CreateDiskOptions, createDisk, inspectDisk, openDisk } from '../../../src/disk/index.ts';
import { lockImage } from '../../../src/host/image-locks.ts';
import { PosixHostFile } from '../../../src/host/posix-file.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;
let image: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'top.qcow2');
});
afterEach(() => removeTemporaryDirectory(folder));

const SIZE = 1024 * 1024;

function create(name: string, options: Partial<CreateDiskOptions> = {}, format = 'qcow2'): void {
  createDisk(join(folder, name), format, { options: new Map(), ...options });
}

function onto(
  backing: string,
  backingFormat: string,
  options: Partial<CreateDiskOptions> = {},
  format = 'qcow2',
): void {
  create('top.qcow2', { backing, backingFormat, ...options }, format);
}

function expectRefusal(make: () => void, words: string | RegExp): void {
  const before = readdirSync(folder);
  expect(make).toThrow(words);
  expect(readdirSync(folder)).toEqual(before);
}

describe.each(['with a size', 'without one'])('%s', (way) => {
  const size = way === 'with a size' ? { size: SIZE } : {};

  test.each([
    ['a:b.qcow2', /'a:b\.qcow2' is no plain file.*; a file of that name is called \.\/a:b\.qcow2$/],
    ['nbd://host/disk', /'nbd:\/\/host\/disk' is no plain file and no http or https URL, and nothing else is opened$/],
    ['json:{"driver":"nbd"}', /json:\{"driver":"nbd"\}' names no file/],
    ['http://user:secret@host/x', /a user name or a password/],
    ['', /is a directory and no disk image/],
    ['/dev/null', /is no regular file/],
  ])('the backing name %j is refused', (backing, words) => {
    create('a:b.qcow2', { size: SIZE });
    expectRefusal(() => onto(backing, 'qcow2', size), words);
  });

  test('a format that is unknown, or not that of the backing file, is refused', () => {
    create('base.qcow2', { size: SIZE });
    writeFileSync(join(folder, 'base.raw'), Buffer.alloc(4096));
    expectRefusal(() => onto('base.qcow2', 'qcow9', size), "unknown format 'qcow9'");
    expectRefusal(() => onto('base.qcow2', 'qed', size), 'base.qcow2 is no qed image, as -F says: it looks like qcow2');
    expectRefusal(() => onto('base.raw', 'qcow2', size), 'base.raw is no qcow2 image, as -F says: it looks like raw');
    onto('base.raw', 'raw', size);
  });

  test('a backing file whose header is damaged is refused', () => {
    writeFileSync(join(folder, 'base.qcow2'), Buffer.from('QFI\xfb\0\0\0\x09'.padEnd(512, '\0'), 'latin1'));
    expectRefusal(() => onto('base.qcow2', 'qcow2', size), 'version is 9');
  });
});

test('a file with a colon in its name is taken as ./a:b.qcow2', () => {
  create('a:b.qcow2', { size: SIZE });
  onto('./a:b.qcow2', 'qcow2');
  openDisk(image, { readOnly: true }).close();
});

test('a json: name of a local file is stored as it is, and opened', () => {
  writeFileSync(join(folder, 'base.raw'), Buffer.alloc(4096, 7));
  const name = 'json:{"driver":"raw","file":{"driver":"file","filename":"base.raw"}}';
  onto(name, 'raw');
  expect(inspectDisk(image)).toMatchObject({ backingFilename: name, fullBackingFilename: name, virtualSize: 4096 });
  const disk = openDisk(image, { readOnly: true });
  const byte = new Uint8Array(1);
  disk.read(byte, 0, 1, guestOffset(0));
  disk.close();
  expect(byte[0]).toBe(7);
});

test('an image cannot stand on itself, not even by another name', () => {
  expectRefusal(() => onto('top.qcow2', 'qcow2', { size: SIZE }), 'top.qcow2 is the new image itself');
  symlinkSync('top.qcow2', join(folder, 'link'));
  expectRefusal(() => onto('link', 'raw', { size: SIZE }), 'link is the new image itself');
});

test('nor on one that is based on its name', () => {
  create('middle.qcow2', { size: SIZE, backing: 'top.qcow2', backingFormat: 'raw' });
  expectRefusal(
    () => onto('middle.qcow2', 'qcow2', { size: SIZE }),
    /middle\.qcow2 is based on \S*top\.qcow2, the new image/,
  );
});

test('a data file is named as a plain file', () => {
  const options = new Map([['data_file', 'x:y']]);
  expectRefusal(
    () => create('top.qcow2', { size: SIZE, options }),
    /its data file 'x:y' is no plain file.*is called \.\/x:y$/,
  );
  create('top.qcow2', { size: SIZE, options: new Map([['data_file', './x:y']]) });
  openDisk(image, { readOnly: true }).close();
});

test('an image is no URL', () => {
  expect(() => createDisk('http:x', 'raw', { size: SIZE, options: new Map() })).toThrow('is called ./http:x');
});

test('a chain has 32 images at most', () => {
  create('0', { size: SIZE });
  const add = (n: number): void => create(String(n), { backing: String(n - 1), backingFormat: 'qcow2' });
  for (let n = 1; n < 32; n++) add(n);
  openDisk(join(folder, '31'), { readOnly: true }).close();
  expectRefusal(() => add(32), /31 is the top of 32 images or more/);
});

describe('only the header of the backing file is read', () => {
  test('what lies below it may be missing, a directory, or locked by a writer', () => {
    create('low.qcow2', { size: SIZE });
    create('base.qcow2', { backing: 'low.qcow2', backingFormat: 'qcow2', size: 2 * SIZE });
    const file = PosixHostFile.open(join(folder, 'low.qcow2'), false);
    lockImage(file);
    onto('base.qcow2', 'qcow2');
    file.close();
    expect(inspectDisk(image).virtualSize).toBe(2 * SIZE);
    renameSync(join(folder, 'low.qcow2'), join(folder, 'gone.qcow2'));
    create('second.qcow2', { backing: 'base.qcow2', backingFormat: 'qcow2' });
    execFileSync('mkdir', [join(folder, 'low.qcow2')]);
    create('third.qcow2', { backing: 'base.qcow2', backingFormat: 'qcow2' });
  });

  test('no password of it is asked for', () => {
    const password = (): Uint8Array => new TextEncoder().encode('secret');
    const options = new Map([
      ['encrypt.format', 'luks'],
      ['encrypt.iter-time', '10'],
    ]);
    create('base.qcow2', { size: SIZE, options, password });
    const asks = (): never => {
      throw new Error('nobody may be asked');
    };
    onto('base.qcow2', 'qcow2', { password: asks });
    expect(inspectDisk(image).virtualSize).toBe(SIZE);
  });

  test('one that a writer has open has no size to take, and one that is given needs none', () => {
    create('base.qcow2', { size: SIZE });
    const file = PosixHostFile.open(join(folder, 'base.qcow2'), false);
    lockImage(file);
    expectRefusal(() => onto('base.qcow2', 'qcow2'), /base\.qcow2 is in use by/);
    onto('base.qcow2', 'qcow2', { size: SIZE });
    file.close();
  });

  test('a backing file that is not there yet may come', () => {
    expectRefusal(() => onto('later', 'qcow2'), 'later does not exist');
    onto('later', 'qcow2', { size: SIZE });
  });
});

test('a QED image with tables of one cluster is made, with the warning that QEMU opens none', () => {
  const said: string[] = [];
  const log = (sentence: string): void => {
    said.push(sentence);
  };
  create('a.qed', { size: SIZE, options: new Map([['table_size', '1']]), log }, 'qed');
  expect(said).toEqual([expect.stringMatching(/a\.qed has table_size=1.*QEMU opens no such image; use 2 or more/)]);
  create('b.qed', { size: SIZE, options: new Map([['table_size', '2']]), log }, 'qed');
  expect(said).toHaveLength(1);
});

test('a size that is no multiple of 512 is rounded up, that of a raw backing file as well', () => {
  writeFileSync(join(folder, 'base.raw'), Buffer.alloc(1000));
  for (const format of ['qed', 'qcow2']) {
    create(`${format}.img`, { backing: 'base.raw', backingFormat: 'raw' }, format);
    expect(inspectDisk(join(folder, `${format}.img`)).virtualSize).toBe(1024);
  }
});
