// What info says of an image whose backing file is no plain file: the name, as it stands there, and nothing is opened.

import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { inspectDisk } from '../../../src/disk/index.ts';
import { writeQed } from '../../support/qed-bytes.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

function fullName(backing: string): string | undefined {
  const image = join(folder, 'disk.qed');
  writeQed(image, { backing });
  const info = inspectDisk(image);
  expect(info.backingFilename).toBe(backing);
  return info.fullBackingFilename;
}

test.each([
  'nbd://host/disk',
  'nbd:unix:/tmp/socket',
  'rbd:pool/image:id=x',
  'file:base.raw',
  'https://host/base.raw',
  'json:{"driver":"nbd"}',
  'json:{"driver":"file","filename":"base.raw"}',
  'json:{',
  'a:b',
])('the full name of %s is the name itself', (name) => {
  expect(fullName(name)).toBe(name);
});

test('that of a file is its absolute path', () => {
  for (const name of ['base.raw', './a:b', 'dir/a:b']) {
    expect(fullName(name)).toBe(join(folder, name));
  }
});
