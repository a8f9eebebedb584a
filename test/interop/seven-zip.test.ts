// Images that are made and written here, as 7-Zip reads them: a reader that shares no code with QEMU, libvmdk or libvhdi.

import { execFileSync } from 'node:child_process';
import { truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk } from '../../src/disk/index.ts';
import { firstDifference, withDisk } from '../support/image-files.ts';
import { seededRandom } from '../support/random.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { SECTOR } from '../support/vmdk-bytes.ts';
import { descriptorText } from '../support/vmdk-text.ts';

const MIB = 1024 * 1024;
const SIZE = 9 * MIB + 3 * SECTOR;
/** 7-Zip opens no VHDX whose disk ends within 4 KiB. */
const WHOLE_PAGES = 9 * MIB + 8 * SECTOR;
const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasCommand('7zz'), '7zz (7zip)');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** @param type what 7-Zip calls the format */
function sevenZipReads(type: string, image: string): Buffer {
  return execFileSync('7zz', ['x', '-so', `-t${type}`, image], { stdio: 'pipe', maxBuffer: 2 ** 28 });
}

/** Writes, zeros and discards at random, in several openings. @returns what the disk holds then */
function changeAtRandom(image: string, size: number): Buffer {
  const random = seededRandom(SEED);
  const model = Buffer.alloc(size);
  for (let opening = 0; opening < 3; opening++) {
    withDisk(image, { readOnly: false }, (disk) => {
      for (let n = 0; n < 20; n++) {
        const at = Math.floor((random() * size) / SECTOR) * SECTOR;
        const length = Math.min(size - at, SECTOR * (1 + Math.floor(random() * (n % 4 === 0 ? 4000 : 200))));
        if (random() < 0.7) {
          model.fill(1 + n + 20 * opening, at, at + length);
          disk.write(model.subarray(at, at + length), 0, length, guestOffset(at));
        } else {
          model.fill(0, at, at + length);
          if (random() < 0.5) disk.discard(at, length);
          else disk.writeZeroes(at, length);
        }
      }
    });
  }
  return model;
}

test.each([
  ['VMDK', 'vmdk', ''],
  ['VMDK', 'vmdk', 'zeroed_grain=on'],
  ['VMDK', 'vmdk', 'subformat=monolithicFlat'],
  ['VMDK', 'vmdk', 'subformat=twoGbMaxExtentSparse'],
  ['VMDK', 'vmdk', 'subformat=twoGbMaxExtentFlat'],
  ['VDI', 'vdi', ''],
  ['VDI', 'vdi', 'static=on'],
  ['VHD', 'vpc', ''],
  ['VHD', 'vpc', 'subformat=fixed'],
  ['VHDX', 'vhdx', 'block_size=1M'],
  ['VHDX', 'vhdx', 'subformat=fixed'],
  ['QCOW', 'qcow2', ''],
  ['QCOW', 'qcow2', 'compat=0.10,cluster_size=4k'],
  ['QCOW', 'qcow', ''],
])(`as %s, a %s image with %j has what was written (seed ${SEED})`, (type, format, option) => {
  const image = join(folder, `disk.${format}`);
  const options = option.split(',').map((each) => each.split('=') as [string, string]);
  const size = format === 'vhdx' ? WHOLE_PAGES : SIZE;
  createDisk(image, format, { size, options: new Map(option === '' ? [] : options) });
  const model = changeAtRandom(image, size);
  expect(firstDifference(sevenZipReads(type, image), model)).toBe('none');
});

test(`a VMDK image of sparse and flat extents side by side has what was written (seed ${SEED})`, () => {
  const sparse = (name: string, bytes: number): void => {
    const options = new Map([['subformat', 'twoGbMaxExtentSparse']]);
    createDisk(join(folder, `${name}.vmdk`), 'vmdk', { size: bytes, options });
  };
  const sizes = [3 * MIB, 1001 * SECTOR, 2 * MIB];
  sparse('a', sizes[0]!);
  writeFileSync(join(folder, 'b.vmdk'), '');
  truncateSync(join(folder, 'b.vmdk'), sizes[1]!);
  sparse('c', sizes[2]!);
  const image = join(folder, 'disk.vmdk');
  const lines = ['SPARSE "a-s001.vmdk"', 'FLAT "b.vmdk" 0', 'SPARSE "c-s001.vmdk"'];
  writeFileSync(image, descriptorText({ extents: lines.map((line, i) => `RW ${sizes[i]! / SECTOR} ${line}`) }));
  const model = changeAtRandom(
    image,
    sizes.reduce((sum, each) => sum + each),
  );
  expect(firstDifference(sevenZipReads('VMDK', image), model)).toBe('none');
});
