// Images of cloop-utils: what create_compressed_fs has made reads here as it does in QEMU, and as what it was made of.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { checkDisk, inspectDisk } from '../../src/disk/index.ts';
import { MIXED_CONTENT } from '../support/cloop-bytes.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuImg } from '../support/qemu.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasCommand('create_compressed_fs'), 'create_compressed_fs (cloop-utils)');
  requireOrSkip(context, hasQemu, 'qemu-img');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.cloop');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

test.each([
  ['65536', '9'],
  ['4096', '1'],
  ['262144', '0'],
  ['65536', '-1'],
])('a disk in blocks of %s bytes, compressed at level %s, reads as QEMU reads it', (blockSize, level) => {
  writeFileSync(join(folder, 'disk.raw'), MIXED_CONTENT);
  const options = ['-q', '-B', blockSize, '-L', level, '-f', join(folder, 'scratch')];
  execFileSync('create_compressed_fs', [...options, 'disk.raw', image], { cwd: folder, stdio: 'pipe' });
  qemuImg('convert', '-f', 'cloop', '-O', 'raw', image, join(folder, 'theirs.raw'));
  const theirs = readFileSync(join(folder, 'theirs.raw'));
  expect(firstDifference(theirs.subarray(0, MIXED_CONTENT.length), MIXED_CONTENT)).toBe('none');
  expect(inspectDisk(image)).toMatchObject({
    format: 'cloop',
    virtualSize: theirs.length,
    clusterSize: Number(blockSize),
  });
  withDisk(image, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), theirs)).toBe('none'));
  expect(checkDisk(image, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, checkErrors: 0 });
});
