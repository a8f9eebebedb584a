// Directories as images: which file stands for one, and what of a directory that came from anybody is not opened.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { checkDisk, createDisk, inspectDisk, openDisk } from '../../../src/disk/index.ts';
import { ImgfuseError } from '../../../src/errors/index.ts';
import { type BundleBytes, bundleImage, writeBundle } from '../../support/bundle-bytes.ts';
import { firstDifference, readAll, withDisk } from '../../support/image-files.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;
let bundle: string;
let made: BundleBytes;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  bundle = join(folder, 'disk.sparsebundle');
  mkdirSync(bundle);
  made = bundleImage();
  writeBundle(bundle, made);
});
afterEach(() => removeTemporaryDirectory(folder));

function refusalOf(action: () => unknown): string {
  const before = readdirSync('/proc/self/fd').length;
  try {
    action();
  } catch (error) {
    if (!(error instanceof ImgfuseError)) throw error;
    expect(readdirSync('/proc/self/fd')).toHaveLength(before);
    return `${error.kind}: ${error.message}`;
  }
  return 'none';
}

const open = (path: string, more: object = {}): string =>
  withDisk(path, { readOnly: true, ...more }, (disk) => firstDifference(readAll(disk), made.content));

test('a sparsebundle is opened by its directory, by a link to it, and by its Info.plist', () => {
  symlinkSync('disk.sparsebundle', join(folder, 'link'));
  for (const name of [bundle, `${bundle}/`, `${bundle}//`, join(folder, 'link'), join(bundle, 'Info.plist')]) {
    expect(open(name)).toBe('none');
    expect(inspectDisk(name)).toMatchObject({
      filename: name,
      format: 'sparsebundle',
      virtualSize: made.content.length,
    });
  }
});

test('no band is opened, and the number of bands is not counted, by an open', () => {
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  const before = descriptors();
  for (let i = 100; i < 3100; i++) writeFileSync(join(bundle, 'bands', i.toString(16)), 'x');
  withDisk(bundle, { readOnly: true }, (disk) => {
    // Info.plist, token and the directory of the bands
    expect(descriptors()).toBe(before + 3);
    expect(firstDifference(readAll(disk), made.content)).toBe('none');
    expect(descriptors()).toBe(before + 3);
  });
  expect(descriptors()).toBe(before);
});

test('it is not opened for writing, and has no check', () => {
  expect(refusalOf(() => openDisk(bundle, { readOnly: false }))).toMatch(
    /^read-only: .* is a sparsebundle.*-o overlay=FILE/,
  );
  const check = (): unknown => checkDisk(bundle, { repair: 'none', log: () => undefined });
  expect(refusalOf(check)).toMatch(/^unsupported: .* has no check/);
});

test('an image made on the directory names the file that stands for it', () => {
  const overlay = join(folder, 'overlay.qcow2');
  for (const backing of ['disk.sparsebundle', './disk.sparsebundle/', bundle]) {
    createDisk(overlay, 'qcow2', { options: new Map(), backing, backingFormat: 'sparsebundle' });
    const name = `${backing.replace(/\/$/, '')}/Info.plist`;
    expect(inspectDisk(overlay)).toMatchObject({ backingFilename: name, virtualSize: made.content.length });
    expect(open(overlay)).toBe('none');
    rmSync(overlay);
  }
});

describe('a directory is refused', () => {
  const sentence = (what: string): string =>
    `usage: ${what} is a directory and no disk image: it has no DiskDescriptor.xml of a Parallels image and no Info.plist of a ` +
    'sparsebundle (macOS); name the image file in it';

  test('if it holds nothing that says that it is an image', () => {
    rmSync(join(bundle, 'Info.plist'));
    const actions = [
      () => openDisk(bundle, { readOnly: true }),
      () => openDisk(bundle, { readOnly: false }),
      () => inspectDisk(bundle),
      () => checkDisk(bundle, { repair: 'all', log: () => undefined }),
    ];
    for (const action of actions) expect(refusalOf(action)).toBe(sentence(bundle));
  });

  test.each([
    ['of another kind of bundle', Buffer.from('<?xml version="1.0"?>\n<plist><dict></dict></plist>')],
    ['that is binary', Buffer.from('bplist00 and more')],
    ['that is empty', Buffer.alloc(0)],
    ['that is a disk image of another format', Buffer.from('QED\0 and more')],
  ])('if its Info.plist is one %s', (_, bytes) => {
    writeFileSync(join(bundle, 'Info.plist'), bytes);
    expect(refusalOf(() => openDisk(bundle, { readOnly: true }))).toBe(
      `usage: ${bundle} is a directory and no disk image: its Info.plist is not that of a sparsebundle (macOS); name the image file in it`,
    );
  });

  test('also as a backing file that an image names', () => {
    const overlay = join(folder, 'overlay.qcow2');
    const size = made.content.length;
    createDisk(overlay, 'qcow2', { size, options: new Map(), backing: 'base', backingFormat: 'sparsebundle' });
    renameSync(bundle, join(folder, 'base'));
    expect(refusalOf(() => openDisk(overlay, { readOnly: true }))).toMatch(/^permission: .*base is no regular file/);
  });
});

describe('a file of a directory is not opened', () => {
  test('if the one that stands for it is a link to another directory', () => {
    renameSync(join(bundle, 'Info.plist'), join(folder, 'Info.plist'));
    symlinkSync('../Info.plist', join(bundle, 'Info.plist'));
    expect(refusalOf(() => openDisk(bundle, { readOnly: true }))).toMatch(
      /^permission: .*Info\.plist is no regular file of that directory/,
    );
  });

  test.each(['Info.plist', 'token'])('if it is a pipe: %s', (name) => {
    rmSync(join(bundle, name));
    execFileSync('mkfifo', [join(bundle, name)]);
    expect(refusalOf(() => openDisk(bundle, { readOnly: true }))).toMatch(/^permission: .*is no regular file/);
  });

  test('if the bands are a link to another directory, unless that is allowed', () => {
    renameSync(join(bundle, 'bands'), join(folder, 'elsewhere'));
    symlinkSync('../elsewhere', join(bundle, 'bands'));
    expect(refusalOf(() => openDisk(bundle, { readOnly: true }))).toMatch(
      /^permission: .*its extent .*elsewhere lies outside the image's own directory; add --allow-backing/,
    );
    expect(open(bundle, { allowBacking: [folder] })).toBe('none');
  });

  test('if the bands are a file, or not there', () => {
    rmSync(join(bundle, 'bands'), { recursive: true });
    expect(refusalOf(() => openDisk(bundle, { readOnly: true }))).toMatch(/^missing: the extent .*bands/);
    writeFileSync(join(bundle, 'bands'), 'x');
    expect(refusalOf(() => openDisk(bundle, { readOnly: true }))).toMatch(/^permission: .*bands is no directory/);
  });

  test('if a band is a link, also to another band: reading it is an error, and reading others is none', () => {
    symlinkSync('0', join(bundle, 'bands', '3'));
    withDisk(bundle, { readOnly: true }, (disk) => {
      const bytes = Buffer.alloc(4096);
      expect(() => disk.read(bytes, 0, 4096, (3 * 4096) as never)).toThrow(/bands\/3 is no regular file/);
      expect(disk.read(bytes, 0, 4096, 4096 as never)).toBe(4096);
    });
  });
});
