// VMDK beside QEMU, and other readers where QEMU is no judge: every subformat with every adapter and parent, made by either side.

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { descriptorText } from '../support/vmdk-text.ts';

const MIB = 1024 * 1024;
const SIZE = 5 * MIB + 3 * 512;

let folder = '';
let image = '';
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.vmdk');
});
afterEach(() => {
  if (folder !== '') removeTemporaryDirectory(folder);
});

const SPARSE = ['monolithicSparse', 'twoGbMaxExtentSparse'] as const;
const SUBFORMATS = [...SPARSE, 'monolithicFlat', 'twoGbMaxExtentFlat'] as const;
const VARIANTS: readonly string[] = [
  ...SUBFORMATS,
  ...SPARSE.map((each) => `${each},zeroed_grain=on`),
  'monolithicSparse,adapter_type=lsilogic,hwversion=9',
  'twoGbMaxExtentFlat,adapter_type=buslogic,toolsversion=7',
  'monolithicSparse,adapter_type=legacyESX,compat6=on',
];

function optionsOf(variant: string): Map<string, string> {
  const pairs = `subformat=${variant}`.split(',').map((pair) => pair.split('=') as [string, string]);
  return new Map(pairs);
}

function create(variant: string, size = SIZE): void {
  createDisk(image, 'vmdk', { size, options: optionsOf(variant) });
}

function qemuReads(path = image): Buffer {
  qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path, join(folder, 'theirs.raw'));
  return readFileSync(join(folder, 'theirs.raw'));
}

function expectReads(model: Buffer, path = image): void {
  withDisk(path, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), model)).toBe('none'));
}

/** Random changes; the model follows. */
function change(path: string, model: Buffer, seed: number): void {
  const random = seededRandom(seed);
  withDisk(path, { readOnly: false }, (disk) => {
    for (let n = 0; n < 40; n++) {
      const at = Math.floor(random() * model.length);
      const length = Math.min(model.length - at, 1 + Math.floor(random() * (random() < 0.8 ? 9000 : 2 * MIB)));
      const byte = random() < 0.6 ? 1 + Math.floor(random() * 255) : 0;
      if (byte > 0) disk.write(Buffer.alloc(length, byte), 0, length, guestOffset(at));
      else if (random() < 0.5) disk.discard(at, length);
      else disk.writeZeroes(at, length);
      model.fill(byte, at, at + length);
      if (random() < 0.2) disk.flush();
    }
    expect(firstDifference(readAll(disk), model)).toBe('none');
  });
}

describe.each(VARIANTS)('an image of %s', (variant) => {
  test('made by QEMU is read, written and read again there', () => {
    qemuImg('create', '-q', '-f', 'vmdk', '-o', `subformat=${variant}`, image, String(SIZE));
    qemuIo(image, 'vmdk', 'write -P 7 100k 2M', 'write -P 8 5M 1k');
    const model = Buffer.alloc(SIZE)
      .fill(7, 100 * 1024, 100 * 1024 + 2 * MIB)
      .fill(8, 5 * MIB, 5 * MIB + 1024);
    expectReads(model);
    change(image, model, 1);
    expectReads(model);
    expect(firstDifference(qemuReads(), model)).toBe('none');
    qemuCheck(image, 'vmdk');
  });

  test('made here is read and written by QEMU', () => {
    create(variant);
    const model = Buffer.alloc(SIZE);
    for (const seed of [1, 2]) {
      change(image, model, seed);
      expect(firstDifference(qemuReads(), model)).toBe('none');
      qemuIo(image, 'vmdk', `write -P ${seed} 100k 3M`);
      model.fill(seed, 100 * 1024, 100 * 1024 + 3 * MIB);
      expectReads(model);
    }
    qemuCheck(image, 'vmdk');
  });

  test('has the same facts in info as in qemu-img', () => {
    create(variant);
    const theirs = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
    const info = inspectDisk(image);
    expect(info.format).toBe('vmdk');
    expect(info.virtualSize).toBe(theirs['virtual-size']);
    expect(info.clusterSize ?? undefined).toBe(theirs['cluster-size']);
    expect(info.actualSize).toBe(theirs['actual-size']);
    expect({ type: 'vmdk', data: info.specific }).toEqual(theirs['format-specific']);
  });
});

test('a streamOptimized image of QEMU is read, and a write is refused with the way out', () => {
  const raw = join(folder, 'disk.raw');
  qemuImg('create', '-q', '-f', 'raw', raw, String(SIZE));
  qemuIo(raw, 'raw', 'write -P 7 100k 2M', 'write -P 8 5M 1k');
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=streamOptimized', raw, image);
  expectReads(readFileSync(raw));
  expect(() => openDisk(image, { readOnly: false })).toThrow(/overlay=FILE/);
});

test('a disk of more than 2 GiB is in several extents, and data across their border is one', () => {
  for (const subformat of ['twoGbMaxExtentSparse', 'twoGbMaxExtentFlat']) {
    const path = join(folder, `${subformat}.vmdk`);
    createDisk(path, 'vmdk', { size: 3 * 1024 * MIB, options: optionsOf(subformat) });
    const border = 2 * 1024 * MIB;
    withDisk(path, { readOnly: false }, (disk) => {
      disk.write(Buffer.alloc(100_000, 5), 0, 100_000, guestOffset(border - 50_000));
    });
    const seen = qemuIo(path, 'vmdk', `read -P 5 ${border - 50_000} 100000`, `read -P 0 ${border + 50_000} 4096`);
    expect(seen).not.toContain('verification failed');
    qemuIo(path, 'vmdk', `write -P 6 ${border - 1024} 4k`);
    withDisk(path, { readOnly: true }, (disk) => {
      const bytes = Buffer.alloc(8192);
      disk.read(bytes, 0, 8192, guestOffset(border - 2048));
      expect([bytes[0], bytes[1024], bytes[5119], bytes[5120]]).toEqual([5, 6, 6, 5]);
    });
  }
});

test('extents of different kinds, at borders that no grain knows, are one disk over a parent', () => {
  const base = join(folder, 'base.vmdk');
  createDisk(base, 'vmdk', { size: 4 * MIB, options: new Map([['grain_size', '16k']]) });
  const model = Buffer.alloc(4 * MIB);
  change(base, model, 7);
  // each of these has one extent, which the descriptor below names
  const sparse = (name: string, sectors: number, options: Readonly<Record<string, string>>): string => {
    const made = new Map(Object.entries({ subformat: 'twoGbMaxExtentSparse', ...options }));
    createDisk(join(folder, `${name}.vmdk`), 'vmdk', { size: sectors * 512, options: made });
    rmSync(join(folder, `${name}.vmdk`));
    return `RW ${sectors} SPARSE "${name}-s001.vmdk"`;
  };
  writeFileSync(join(folder, 'flat.bin'), Buffer.alloc(4000 * 512, 0x66));
  const flat = 'RW 2999 FLAT "flat.bin" 1001';
  const lines = [sparse('a', 1001, { grain_size: '4k' }), flat, sparse('b', 4 * 2048 - 4000, { zeroed_grain: 'on' })];
  const cid = (inspectDisk(base).specific['cid'] as number).toString(16);
  const hint = 'parentFileNameHint="base.vmdk"';
  writeFileSync(image, descriptorText({ extents: lines, parentCid: cid, lines: [hint] }));
  model.fill(0x66, 1001 * 512, 4000 * 512);
  expectReads(model);
  for (const seed of [8, 9, 10]) {
    change(image, model, seed);
    expectReads(model);
  }
  const said: string[] = [];
  const report = checkDisk(image, { repair: 'none', log: (text) => said.push(text) });
  expect([said, report.corruptions, report.leaks]).toEqual([[], 0, 0]);
  // what lies before the flat extent in its file is no part of the disk
  expect(readFileSync(join(folder, 'flat.bin')).subarray(0, 1001 * 512)).toEqual(Buffer.alloc(1001 * 512, 0x66));
});
