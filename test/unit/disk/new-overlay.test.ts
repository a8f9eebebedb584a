// A new overlay is made on what a mount would take for a disk: an image that is raw by no more than a guess has whole sectors.

import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { openDisk } from '../../../src/disk/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

test.each([0, 1, 511])('a file of %d bytes is no disk, unless somebody says raw', (length) => {
  const image = join(folder, 'file');
  writeFileSync(image, Buffer.alloc(length));
  const open = (format?: string) =>
    openDisk(join(folder, 'o.qcow2'), { readOnly: false, format, overlaid: { image, isTemporary: false } });
  expect(() => open()).toThrow(/is not an image of a known format.*add --format raw/);
  expect(readdirSync(folder)).toEqual(['file']);
  open('raw').close();
  // the overlay says so from now on
  open().close();
});
