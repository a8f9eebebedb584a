// What the disk layer does for formats that no format of today needs, shown with one that does not exist: images that are only
// read, images of many files, and parents that are known by more than their name.

import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { attachDisk, checkDisk, createDisk, inspectDisk, openDisk } from '../../../src/disk/index.ts';
import type * as registry from '../../../src/disk/registry.ts';
import { formatNames } from '../../../src/disk/registry.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { emptyCheckReport } from '../../../src/format/check-report.ts';
import type { ImageFormat, WritableImage } from '../../../src/format/image-format.ts';
import { lockImage } from '../../../src/host/image-locks.ts';
import { PosixHostFile } from '../../../src/host/posix-file.ts';
import { fingerprints, readAll, withDisk } from '../../support/image-files.ts';
import { EXTENT_BYTES, type MadeUp, madeUpFile } from '../../support/made-up-format.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

vi.mock('../../../src/disk/registry.ts', async (importOriginal) => {
  const original = await importOriginal<typeof registry>();
  const { madeUp } = await import('../../support/made-up-format.ts');
  return {
    ...original,
    formats: [madeUp, ...original.formats],
    formatByName: (name: string) => (name === madeUp.name ? madeUp : original.formatByName(name)),
  };
});

let folder: string;
let image: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.made');
});
afterEach(() => removeTemporaryDirectory(folder));

function write(name: string, content: MadeUp): void {
  writeFileSync(join(folder, name), madeUpFile(content));
}

function writeExtents(...names: readonly string[]): void {
  names.forEach((name, index) => {
    writeFileSync(join(folder, name), Buffer.alloc(EXTENT_BYTES, index + 1));
  });
}

function refusalOf(action: () => void): string {
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
}

/** Files of the folder that this process has open. */
function openFiles(): string[] {
  const paths = readdirSync('/proc/self/fd').flatMap((fd) => {
    try {
      return [readlinkSync(`/proc/self/fd/${fd}`)];
    } catch {
      return [];
    }
  });
  return paths.filter((path) => path.startsWith(folder)).sort();
}

test('an image of many files is read, mapped, shared with other threads, locked and closed as a whole', () => {
  writeExtents('one', 'two', 'three');
  write('disk.made', { extents: ['one', null, 'two', 'three'] });
  const disk = openDisk(image, { readOnly: true, slots: 2 });
  const wanted = Buffer.concat([1, 0, 2, 3].map((value) => Buffer.alloc(EXTENT_BYTES, value)));
  expect(readAll(disk)).toEqual(wanted);
  expect(readAll(attachDisk(structuredClone(disk.share()), 1))).toEqual(wanted);
  expect([...disk.extents()].map(({ path, status }) => [path, status])).toEqual([
    [join(folder, 'one'), 'data'],
    [image, 'unallocated'],
    [join(folder, 'two'), 'data'],
    [join(folder, 'three'), 'data'],
  ]);
  expect(disk.occupiedBytes()).toBe(3 * EXTENT_BYTES);
  for (const name of ['disk.made', 'one', 'two', 'three']) {
    const writer = PosixHostFile.open(join(folder, name), false);
    expect(refusalOf(() => lockImage(writer))).toMatch(/^busy: /);
    writer.close();
  }
  disk.close();
  expect(openFiles()).toEqual([]);
});

test.each([
  ['does not exist', 'gone', /^missing: the extent .*gone of .*disk\.made does not exist/],
  ['lies elsewhere', '/etc/passwd', /^permission: .*its extent \/etc\/passwd lies outside the image's own directory/],
  ['is no file', 'nbd://host', /^permission: .*its extent 'nbd:\/\/host' is no plain file/],
  ['is one that the image has already', 'one', /^corrupt: .*one is in its own backing chain, or holds the data of two/],
])('an extent that %s is refused, and all files that were opened are closed', (_, name, sentence) => {
  writeExtents('one');
  write('disk.made', { extents: ['one', name] });
  expect(refusalOf(() => openDisk(image, { readOnly: true }))).toMatch(sentence);
  expect(openFiles()).toEqual([]);
});

test('an image of a format that is only read is refused read-write by name, with the way out', () => {
  writeExtents('one');
  write('disk.made', { extents: ['one'] });
  const before = fingerprints(folder);
  const sentence = refusalOf(() => openDisk(image, { readOnly: false }));
  expect(sentence).toMatch(
    /^read-only: .*disk\.made is a made-up image, and images of that format are only read; mount it with -o ro, or with -o overlay=FILE/,
  );
  expect(openFiles()).toEqual([]);
  withDisk(image, { readOnly: true }, (disk) => {
    expect(disk.status()).toMatchObject({ format: 'madeup', readOnly: true, dirty: false, failure: null });
    const changes = [
      () => disk.write(new Uint8Array(1), 0, 1, guestOffset(0)),
      () => disk.discard(0, 1),
      () => disk.writeZeroes(0, 1),
      () => disk.preallocate(0, 1),
      () => disk.resize(512),
    ];
    for (const change of changes) expect(refusalOf(change)).toBe(`read-only: ${image} is open read-only`);
    disk.flush();
    disk.maintain();
    disk.makeClean();
  });
  expect(fingerprints(folder)).toEqual(before);
});

test('it can be the backing file of an overlay that is written', () => {
  writeExtents('one');
  write('disk.made', { extents: ['one'] });
  const overlay = join(folder, 'overlay.qcow2');
  createDisk(overlay, 'qcow2', { options: new Map(), backing: 'disk.made', backingFormat: 'madeup' });
  withDisk(overlay, { readOnly: false }, (disk) => {
    disk.write(Buffer.from('new'), 0, 3, guestOffset(100));
    const content = Buffer.alloc(EXTENT_BYTES, 1);
    content.write('new', 100);
    expect(readAll(disk)).toEqual(content);
  });
  expect(readFileSync(join(folder, 'one'))).toEqual(Buffer.alloc(EXTENT_BYTES, 1));
});

test('what a format without create or check is asked for is refused by name', () => {
  write('disk.made', { extents: [] });
  const made = formatNames(({ create }) => create !== undefined);
  expect(refusalOf(() => createDisk(join(folder, 'x'), 'madeup', { size: 512, options: new Map() }))).toBe(
    `usage: madeup is not a format that images are made in; use -f with one of ${made}`,
  );
  expect(refusalOf(() => checkDisk(image, { repair: 'none', log: () => undefined }))).toBe(
    `unsupported: ${image} is a made-up image, and that format has no check`,
  );
  expect(inspectDisk(image)).toMatchObject({ format: 'madeup', virtualSize: 0 });
  expect(refusalOf(() => openDisk(image, { readOnly: true, lazyRefcounts: true }))).toMatch(
    /lazy_refcounts is for qcow2/,
  );
});

test('a check opens the other files of its image as an opening does, and closes them', async () => {
  const { madeUp } = await import('../../support/made-up-format.ts');
  writeExtents('one', 'two');
  write('disk.made', { extents: ['one', 'two'] });
  const checkOpening = (name: string, access: 'read' | 'write', repair: 'none' | 'all' = 'none'): string[] => {
    const before = openFiles();
    let seen: string[] = [];
    const check: ImageFormat['check'] = (_file, { openExtent }) => {
      openExtent!(name, 'extent', access);
      seen = openFiles();
      return emptyCheckReport('madeup');
    };
    Object.assign(madeUp, { check });
    try {
      checkDisk(image, { repair, log: () => undefined });
    } finally {
      Reflect.deleteProperty(madeUp, 'check');
      expect(openFiles()).toEqual(before);
    }
    return seen;
  };
  expect(checkOpening('one', 'read')).toEqual([image, join(folder, 'one')]);
  expect(checkOpening('two', 'write', 'all')).toEqual([image, join(folder, 'two')]);
  expect(() => checkOpening('one', 'write')).toThrow(/writes to no file/);
  expect(refusalOf(() => checkOpening('/etc/passwd', 'read'))).toMatch(/allow-backing/);
  expect(refusalOf(() => checkOpening('disk.made', 'read'))).toMatch(/that is a loop/);
  const other = PosixHostFile.open(join(folder, 'two'), false);
  lockImage(other, 'take');
  expect(refusalOf(() => checkOpening('two', 'read'))).toMatch(/in use/);
  other.close();
});

test('a disk of a format that cannot be resized keeps its size', () => {
  const resized: number[] = [];
  const stub = { format: 'madeup', readOnly: false, file: { path: '/x' }, files: [], backing: null };
  const disk = new VirtualDisk({ ...stub, resize: (size: number) => resized.push(size) } as unknown as WritableImage);
  expect(refusalOf(() => disk.resize(1024))).toMatch(
    /^unsupported: \/x is a made-up image, and disks in that format keep/,
  );
  expect(resized).toEqual([]);
});

test('a new image cannot stand on another one in a format without backing files', () => {
  const options = { options: new Map(), backing: 'base', backingFormat: 'raw' };
  expect(refusalOf(() => createDisk(join(folder, 'x'), 'raw', options))).toBe(
    'usage: raw images cannot have a backing file; use -f with one of qed, qcow2, qcow, vdi, vmdk, vpc, vhdx',
  );
});

test.each<[string, string | undefined, string, RegExp]>([
  ['another one', '7', '8 or 9', /its made-up number is 7, and 8 or 9 is wanted/],
  ['one without an identity', undefined, '8', /it has no made-up number, and 8 is wanted/],
])('a parent that is %s is refused by name, and taken for whoever says so', (_, found, wanted, why) => {
  writeExtents('one');
  write('parent.made', { extents: ['one'], ...(found === undefined ? {} : { identity: found }) });
  write('disk.made', { extents: [null], parent: { name: 'parent.made', identity: wanted.split(' or ') } });
  const sentence = refusalOf(() => openDisk(image, { readOnly: true }));
  expect(sentence).toMatch(why);
  expect(sentence).toContain(
    `usage: the backing file ${join(folder, 'parent.made')} is not the image that ${image} was made on`,
  );
  expect(sentence).toContain('mount -o any_parent, else --any-parent');
  expect(openFiles()).toEqual([]);
  const said: string[] = [];
  const options = { readOnly: true, anyParent: true, log: (text: string) => void said.push(text) };
  withDisk(image, options, (disk) => expect(readAll(disk)).toEqual(Buffer.alloc(EXTENT_BYTES, 1)));
  expect(said).toEqual([expect.stringMatching(/is not the image that .*; it is used because of any_parent/)]);
});

test('the right parent is opened without a word', () => {
  writeExtents('one');
  write('parent.made', { extents: ['one'], identity: '9' });
  write('disk.made', { extents: [null], parent: { name: 'parent.made', identity: ['8', '9'] } });
  const said: string[] = [];
  withDisk(image, { readOnly: true, log: (text) => void said.push(text) }, (disk) =>
    expect(readAll(disk)).toEqual(Buffer.alloc(EXTENT_BYTES, 1)),
  );
  expect(said).toEqual([]);
});

test('a parent is looked for under each of its names, in their order', () => {
  writeExtents('one', 'two');
  write('moved.made', { extents: ['one'], identity: '8' });
  write('last.made', { extents: ['two'], identity: '8' });
  const parent = {
    name: 'gone.made',
    otherNames: ['/etc/passwd', 'moved.made', 'last.made'],
    identity: ['8'],
  };
  write('disk.made', { extents: [null], parent });
  withDisk(image, { readOnly: true }, (disk) => {
    expect(disk.status().backing).toEqual([join(folder, 'moved.made')]);
  });
});

test('of a parent that is nowhere the refusal says what the user can allow, else what is missing', () => {
  write('disk.made', {
    extents: [null],
    parent: { name: 'gone.made', otherNames: ['/etc/passwd'], identity: ['8'] },
  });
  expect(refusalOf(() => openDisk(image, { readOnly: true }))).toMatch(
    /^permission: .*--allow-backing \/etc, or put it at .*gone\.made$/,
  );
  write('disk.made', {
    extents: [null],
    parent: { name: 'gone.made', otherNames: ['away.made'], identity: ['8'] },
  });
  expect(refusalOf(() => openDisk(image, { readOnly: true }))).toMatch(/^missing: the backing file .*gone\.made/);
});
