// Extents that qemu-img has made read here as qemu-img reads them, and what is written here reads in qemu-img.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import type { Extent, ExtentKind } from '../../src/format/vmdk/extent.ts';
import { sparse } from '../../src/format/vmdk/sparse/index.ts';
import { stream } from '../../src/format/vmdk/stream/index.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { openExtent, readAll } from '../support/extents.ts';
import { firstDifference } from '../support/image-files.ts';
import { hasQemu, qemuImg } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** Data of all lengths with zeros between. */
function diskOf(bytes: number): Buffer {
  const random = seededRandom(bytes);
  const disk = Buffer.alloc(bytes);
  for (let at = 0; at < disk.length; ) {
    const length = 512 * (1 + Math.floor(random() * (random() < 0.2 ? 2000 : 40)));
    const end = Math.min(disk.length, at + length);
    if (random() < 0.5) for (let i = at; i < end; i++) disk[i] = (i * 7 + at) >> (i % 5);
    at += length;
  }
  return disk;
}

function read(kind: ExtentKind, path: string): Buffer {
  const file = PosixHostFile.open(path, true);
  try {
    expect(kind.matches(readFileSync(path).subarray(0, 512))).toBe(true);
    const image: Extent = openExtent(kind, file, { readOnly: true });
    return readAll(image);
  } finally {
    file.close();
  }
}

test.each([
  ['monolithicSparse', sparse, 'monolithicSparse', 40 * 1024 * 1024],
  ['monolithicSparse of an odd size', sparse, 'monolithicSparse', 5 * 1024 * 1024 + 1536],
  ['monolithicSparse with zeroed grains', sparse, 'monolithicSparse,zeroed_grain=on', 3 * 1024 * 1024],
  ['streamOptimized', stream, 'streamOptimized', 40 * 1024 * 1024],
  ['streamOptimized of an odd size', stream, 'streamOptimized', 5 * 1024 * 1024 + 1536],
] as const)('an image that qemu-img has made as %s', (_, kind, subformat, bytes) => {
  const wanted = diskOf(bytes);
  const [raw, image] = [join(folder, 'disk.raw'), join(folder, 'disk.vmdk')];
  writeFileSync(raw, wanted);
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, raw, image);
  expect(firstDifference(read(kind, image), wanted)).toBe('none');
});

test('the extents of a split image that qemu-img has made', () => {
  const wanted = diskOf(3 * 1024 * 1024);
  const [raw, image] = [join(folder, 'disk.raw'), join(folder, 'disk.vmdk')];
  writeFileSync(raw, wanted);
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', raw, image);
  expect(firstDifference(read(sparse, join(folder, 'disk-s001.vmdk')), wanted)).toBe('none');
});
