// Images of Bochs itself: what bximage has made reads here as it does in QEMU, and as what it was made of.

import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk, inspectDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuImg, qemuIo } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

/** bximage counts cylinders of 16 heads with 63 sectors. */
const CYLINDER = 16 * 63 * 512;

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasCommand('bximage'), 'bximage');
  requireOrSkip(context, hasQemu, 'qemu-img');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.bochs');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function bximage(...parameters: string[]): void {
  execFileSync('bximage', parameters, { cwd: folder, stdio: 'pipe' });
}

/** Data of all lengths with zeros between. */
function diskOf(cylinders: number): Buffer {
  const random = seededRandom(cylinders);
  const disk = Buffer.alloc(cylinders * CYLINDER);
  for (let at = 0; at < disk.length; ) {
    const length = 512 * (1 + Math.floor(random() * (random() < 0.2 ? 4000 : 40)));
    if (random() < 0.5) disk.fill(1 + Math.floor(random() * 255), at, Math.min(disk.length, at + length));
    at += length;
  }
  return disk;
}

test.each([1, 25, 90])('a disk of %i cylinders that bximage has converted reads as QEMU reads it', (cylinders) => {
  const wanted = diskOf(cylinders);
  writeFileSync(join(folder, 'disk.raw'), wanted);
  bximage('-func=convert', '-imgmode=growing', '-q', 'disk.raw', 'disk.bochs');
  qemuImg('convert', '-f', 'bochs', '-O', 'raw', image, join(folder, 'theirs.raw'));
  expect(firstDifference(readFileSync(join(folder, 'theirs.raw')), wanted)).toBe('none');
  const info = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
  expect(inspectDisk(image)).toMatchObject({ format: info['format'], virtualSize: info['virtual-size'] });
  withDisk(image, { readOnly: true }, (disk) => {
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
    const file = readFileSync(image);
    for (const { start, length, status, hostOffset } of disk.extents()) {
      const stored = status === 'data' ? file.subarray(hostOffset, hostOffset! + length) : Buffer.alloc(length);
      expect(firstDifference(stored, wanted.subarray(start, start + length)), `${start}`).toBe('none');
    }
  });
});

test('a new image of bximage is a disk of zeros without an extent', () => {
  bximage('-func=create', '-hd=40M', '-imgmode=growing', '-q', 'disk.bochs');
  withDisk(image, { readOnly: true }, (disk) => {
    expect([...disk.extents()]).toEqual([
      { start: 0, length: disk.size(), status: 'unallocated', depth: 0, path: image },
    ]);
    expect(disk.size()).toBeGreaterThanOrEqual(39 * 1024 * 1024);
  });
});

test('QEMU and this program read the same through an overlay', () => {
  const wanted = diskOf(12);
  writeFileSync(join(folder, 'disk.raw'), wanted);
  bximage('-func=convert', '-imgmode=growing', '-q', 'disk.raw', 'disk.bochs');
  const overlay = join(folder, 'overlay.qcow2');
  createDisk(overlay, 'qcow2', { options: new Map(), backing: 'disk.bochs', backingFormat: 'bochs' });
  qemuIo(overlay, 'qcow2', 'write -P 7 1000k 3k');
  wanted.fill(7, 1000 * 1024, 1003 * 1024);
  withDisk(overlay, { readOnly: false }, (disk) => {
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
    disk.write(Buffer.alloc(5000, 8), 0, 5000, guestOffset(2_000_000));
  });
  wanted.fill(8, 2_000_000, 2_005_000);
  qemuImg('convert', '-f', 'qcow2', '-O', 'raw', overlay, join(folder, 'theirs.raw'));
  expect(firstDifference(readFileSync(join(folder, 'theirs.raw')), wanted)).toBe('none');
});
