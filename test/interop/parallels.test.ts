// Parallels images of QEMU: what qemu-img has made and qemu-io has written reads here as it does there.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { inspectDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { parallelsImage } from '../support/piece-bytes.ts';
import { hasQemu, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.parallels');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** What QEMU reads of the image is what is read here, and what its map says leads to the same bytes. */
function expectSame(): void {
  const raw = join(folder, 'theirs.raw');
  qemuImg('convert', '-f', 'parallels', '-O', 'raw', image, raw);
  const theirs = readFileSync(raw);
  const info = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
  expect(inspectDisk(image)).toMatchObject({ format: 'parallels', virtualSize: info['virtual-size'], dirty: false });
  withDisk(image, { readOnly: true }, (disk) => {
    expect(firstDifference(readAll(disk), theirs)).toBe('none');
    const file = readFileSync(image);
    for (const { start, length, status, hostOffset } of disk.extents()) {
      const stored = status === 'data' ? file.subarray(hostOffset, hostOffset! + length) : Buffer.alloc(length);
      expect(firstDifference(stored, theirs.subarray(start, start + length)), `${start}`).toBe('none');
    }
  });
}

test.each([
  ['64k', '3M'],
  ['1M', '20M'],
])('an image with clusters of %s reads as QEMU reads it', (cluster, size) => {
  qemuImg('create', '-q', '-f', 'parallels', '-o', `cluster_size=${cluster}`, image, size);
  expectSame();
  qemuIo(image, 'parallels', 'write -P 1 2M 100k', 'write -P 2 0 512', 'write -P 3 1500k 300k');
  expectSame();
});

test.each([
  ['WithouFreSpacExt', 8],
  ['WithoutFreeSpace', 63],
])('QEMU reads the made-up image of the tests, %s with clusters of %i sectors, as they do', (magic, clusterSectors) => {
  const { content, image: bytes } = parallelsImage({ magic, clusterSectors });
  writeFileSync(image, bytes);
  expectSame();
  withDisk(image, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), content)).toBe('none'));
});

test('QEMU and this program read the same through an overlay', () => {
  qemuImg('create', '-q', '-f', 'parallels', image, '4M');
  qemuIo(image, 'parallels', 'write -P 9 1M 70k');
  const overlay = join(folder, 'overlay');
  qemuImg('create', '-q', '-f', 'qcow2', '-b', image, '-F', 'parallels', overlay);
  qemuIo(overlay, 'qcow2', 'write -P 7 1030k 3k');
  qemuImg('convert', '-O', 'raw', overlay, join(folder, 'theirs.raw'));
  withDisk(overlay, { readOnly: true }, (disk) =>
    expect(firstDifference(readAll(disk), readFileSync(join(folder, 'theirs.raw')))).toBe('none'),
  );
});
