// A few images of QEMU through a real mount of the built command line: the bytes are those that QEMU reads, what is written
// there is read by QEMU after the unmount, and meanwhile QEMU refuses the image.

import { closeSync, existsSync, fsyncSync, mkdirSync, openSync, readFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { firstDifference, imgfuse, isBuilt } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
let mountpoint: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  requireOrSkip(context, isBuilt(), 'dist/cli.js (npm run build)');
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  folder = makeTemporaryDirectory();
  mountpoint = join(folder, 'mnt');
  mkdirSync(mountpoint);
});
afterEach(() => {
  if (folder === undefined) return;
  if (existsSync(join(mountpoint, 'disk.raw'))) imgfuse('unmount', mountpoint);
  removeTemporaryDirectory(folder);
});

test.each([
  ['4k', 2, 'none'],
  ['64k', 4, 'raw'],
  ['64k', 4, 'qed'],
  ['1M', 4, 'none'],
] as const)('clusters of %s, tables of %i, backing %s', (cluster, table, below) => {
  const image = join(folder, 'disk.qed');
  const base = join(folder, 'base');
  if (below !== 'none') {
    qemuImg('create', '-q', '-f', below, base, '7M');
    qemuIo(base, below, 'write -P 0x61 1M 3M');
  }
  const backing = below === 'none' ? [] : ['-b', 'base', '-F', below];
  qemuImg('create', '-q', '-f', 'qed', '-o', `cluster_size=${cluster},table_size=${table}`, ...backing, image, '8M');
  qemuIo(image, 'qed', 'write -P 1 0 5000', 'write -P 2 1500k 300k', 'write -z 6M 64k');
  const raw = wantedOf(image, 'qed');
  writeThroughMount(image, 'qed', raw);
  expect(readFileSync(image)[16]! & 2).toBe(0);
});

test.each([
  ['qcow2', ''],
  ['qcow', ''],
  ['vdi', ''],
  ['vpc', 'force_size=on'],
  ['vmdk', ''],
  ['vmdk', 'subformat=monolithicFlat'],
  ['vmdk', 'subformat=twoGbMaxExtentSparse,zeroed_grain=on'],
  ['vhdx', 'block_size=1M'],
  ['vhdx', 'subformat=fixed'],
  ['parallels', 'cluster_size=64k'],
])('a %s image with %j', (format, options) => {
  const image = join(folder, `disk.${format}`);
  qemuImg('create', '-q', '-f', format, ...(options === '' ? [] : ['-o', options]), image, '8M');
  qemuIo(image, format, 'write -P 1 0 5120', 'write -P 2 1500k 300k', 'write -z 6M 64k');
  writeThroughMount(image, format, wantedOf(image, format));
});

/** The disk as QEMU reads it, in a file. */
function wantedOf(image: string, format: string): string {
  const raw = join(folder, 'wanted.raw');
  qemuImg('convert', '-f', format, '-O', 'raw', image, raw);
  return raw;
}

/** @param raw a file with the bytes of the disk, for QEMU to write them into again */
function writeThroughMount(image: string, format: string, raw: string): void {
  const wanted = readFileSync(raw);
  expect(imgfuse('mount', image, mountpoint)).toMatchObject({ code: 0 });
  const disk = join(mountpoint, 'disk.raw');
  expect(firstDifference(readFileSync(disk), wanted)).toBe('none');
  expect(tryQemu('qemu-io', '-f', format, '-c', 'write 0 512', image).output).toMatch(/lock/i);

  const file = openSync(disk, 'r+');
  try {
    for (const [at, length, byte] of [
      [3000, 100, 5],
      [2_000_000, 1_500_000, 6],
      [8_388_000, 608, 7],
    ] as const) {
      const data = Buffer.alloc(length, byte);
      expect(writeSync(file, data, 0, length, at)).toBe(length);
      data.copy(wanted, at);
    }
    fsyncSync(file);
  } finally {
    closeSync(file);
  }
  expect(imgfuse('unmount', mountpoint)).toMatchObject({ code: 0 });

  // it has no check of these
  if (format !== 'vpc' && format !== 'qcow') qemuCheck(image, format);
  qemuImg('convert', '-f', format, '-O', 'raw', image, raw);
  expect(firstDifference(readFileSync(raw), wanted)).toBe('none');
}
