// VHD beside the programs that make and read it: QEMU for fixed and dynamic images, in both directions, and libvhdi for chains and
// bitmaps, where QEMU is no judge.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk } from '../../src/disk/index.ts';
import { changeDisk, imgfuse, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuImg, qemuIo } from '../support/qemu.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { MIXED_SECTORS, UUID, vhdImage } from '../support/vhd-bytes.ts';

const SIZE = 11 * 1024 * 1024 + 512;
const MIB = 1024 * 1024;

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.vhd');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function create(
  options: Readonly<Record<string, string>> = {},
  size: number | undefined = SIZE,
  backing?: string,
): string {
  createDisk(image, 'vpc', {
    size,
    options: new Map(Object.entries(options)),
    ...(backing === undefined ? {} : { backing, backingFormat: 'vhd' }),
  });
  return image;
}

function qemuReads(path: string): Buffer {
  qemuImg('convert', '-f', 'vpc', '-O', 'raw', path, join(folder, 'theirs.raw'));
  return readFileSync(join(folder, 'theirs.raw'));
}

/** What libvhdi reads, chain and all. */
function vhdiReads(path: string): Buffer {
  const mountpoint = join(folder, 'vhdi');
  mkdirSync(mountpoint, { recursive: true });
  execFileSync('vhdimount', [path, mountpoint], { stdio: 'pipe' });
  try {
    const disks = execFileSync('ls', [mountpoint], { encoding: 'utf8' }).trim().split('\n').sort();
    return readFileSync(join(mountpoint, disks.at(-1)!));
  } finally {
    execFileSync('umount', [mountpoint], { stdio: 'pipe' });
  }
}

function expectSound(path: string): void {
  const findings: string[] = [];
  const report = checkDisk(path, { repair: 'none', log: (text) => findings.push(text) });
  expect(findings).toEqual([]);
  expect(report).toMatchObject({ corruptions: 0, leaks: 0 });
}

test.each<[string, Readonly<Record<string, string>>]>([
  ['dynamic', {}],
  ['dynamic in small blocks', { block_size: '64k' }],
  ['fixed', { subformat: 'fixed' }],
])('QEMU reads what was written to a %s image, and what it writes is read', (_, options) => {
  create(options);
  const model = Buffer.alloc(SIZE);
  for (const seed of [1, 2]) {
    changeDisk(image, model, seed);
    expect(qemuReads(image).equals(model)).toBe(true);
    qemuIo(image, 'vpc', 'write -P 7 100k 5M', `write -P ${seed} ${10 * MIB} 4k`);
    model.fill(7, 100 * 1024, 100 * 1024 + 5 * MIB);
    model.fill(seed, 10 * MIB, 10 * MIB + 4096);
    withDisk(image, { readOnly: true }, (disk) => expect(readAll(disk).equals(model)).toBe(true));
  }
  expectSound(image);
});

test.each([
  'subformat=dynamic,force_size=on',
  'subformat=fixed,force_size=on',
  'subformat=dynamic',
  'subformat=fixed',
])('an image that QEMU has made (%s) is written here, and QEMU reads it', (options) => {
  qemuImg('create', '-q', '-f', 'vpc', '-o', options, image, String(SIZE));
  qemuIo(image, 'vpc', 'write -P 9 1M 3M');
  const size = inspectDisk(image, { format: 'vpc' }).virtualSize;
  const model = Buffer.alloc(size).fill(9, MIB, 4 * MIB);
  changeDisk(image, model, 3);
  expect(qemuReads(image).equals(model)).toBe(true);
  expectSound(image);
});

test.each([1, 100, 1024, 130_000])('a disk of %i MiB without force_size is as large as in QEMU', (mib) => {
  createDisk(image, 'vpc', { size: mib * MIB, options: new Map([['force_size', 'off']]) });
  const theirs = join(folder, 'theirs.vhd');
  qemuImg('create', '-q', '-f', 'vpc', theirs, `${mib}M`);
  const { virtualSize } = inspectDisk(image);
  expect(virtualSize).toBe(inspectDisk(theirs).virtualSize);
  const said = JSON.parse(qemuImg('info', '--output=json', '-f', 'vpc', image)) as Record<string, unknown>;
  expect(said['virtual-size']).toBe(virtualSize);
});

test('info has what qemu-img has', () => {
  create();
  const theirs = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
  const { format, virtualSize, clusterSize, specific } = inspectDisk(image);
  expect([format, virtualSize, clusterSize]).toEqual([
    theirs['format'],
    theirs['virtual-size'],
    theirs['cluster-size'],
  ]);
  expect(specific).toEqual({});
});

describe('a resized disk', () => {
  test.each([
    {},
    { subformat: 'fixed' },
    { block_size: '4k' },
  ])('(%j) is read by QEMU, larger and smaller', (options) => {
    create(options);
    let model = Buffer.alloc(SIZE);
    changeDisk(image, model, 5);
    for (const size of [23 * MIB, 5 * MIB + 512, 12 * MIB]) {
      withDisk(image, { readOnly: false }, (disk) => disk.resize(size));
      const resized = Buffer.alloc(size);
      model.copy(resized, 0, 0, Math.min(size, model.length));
      model = resized;
      expect(qemuReads(image).equals(model)).toBe(true);
      expectSound(image);
      changeDisk(image, model, size);
    }
  });
});

describe('a chain', () => {
  beforeEach((context) =>
    requireOrSkip(context, canMountAsRoot() && hasCommand('vhdimount'), 'root and libvhdi-utils'),
  );

  test('of three images is read by libvhdi as here, and the first two are not changed', () => {
    const model = Buffer.alloc(SIZE);
    create();
    changeDisk(image, model, 7);
    const links = [image];
    for (const name of ['middle.vhd', 'top.vhd']) {
      const before = links.map((path) => readFileSync(path));
      const below = image;
      image = join(folder, name);
      create({}, undefined, below === links[0] ? 'disk.vhd' : 'middle.vhd');
      links.push(image);
      changeDisk(image, model, links.length);
      expect(vhdiReads(image).equals(model)).toBe(true);
      expectSound(image);
      for (const [i, bytes] of before.entries()) expect(readFileSync(links[i]!).equals(bytes)).toBe(true);
    }
    withDisk(image, { readOnly: true }, (disk) => {
      expect(disk.status().backing).toEqual([join(folder, 'middle.vhd'), join(folder, 'disk.vhd')]);
    });
  });

  test('that gets another parent, or none, shows the same disk, also to libvhdi and QEMU', () => {
    for (const [name, seed] of [
      ['other.vhd', 11],
      ['disk.vhd', 12],
    ] as const) {
      image = join(folder, name);
      create();
      changeDisk(image, Buffer.alloc(SIZE), seed);
    }
    const model = qemuReads(image);
    image = join(folder, 'child.vhd');
    create({ block_size: '256k' }, undefined, 'disk.vhd');
    changeDisk(image, model, 13);
    for (const back of ['other.vhd', join(folder, 'disk.vhd')]) {
      expect(imgfuse('rebase', '-b', back, '-F', 'vpc', image)).toMatchObject({ code: 0, stderr: '' });
      expect(vhdiReads(image).equals(model)).toBe(true);
      expectSound(image);
    }
    expect(inspectDisk(image).fullBackingFilename).toBe(join(folder, 'disk.vhd'));
    // moved, so only the name is another one
    execFileSync('mv', [join(folder, 'disk.vhd'), join(folder, 'moved.vhd')]);
    expect(imgfuse('rebase', '-u', '-b', 'moved.vhd', image).code).toBe(0);
    expect(vhdiReads(image).equals(model)).toBe(true);
    expect(imgfuse('rebase', '-b', '', image).code).toBe(0);
    expect(inspectDisk(image)).not.toHaveProperty('backingFilename');
    expect(qemuReads(image).equals(model)).toBe(true);
    expectSound(image);
    qemuImg('create', '-q', '-f', 'qcow2', join(folder, 'base.qcow2'), '1M');
    expect(imgfuse('rebase', '-b', 'base.qcow2', image).stderr).toMatch(/backing file of a VHD image is vpc or raw/);
    expect(imgfuse('rebase', '-u', '-b', 'gone.vhd', '-F', 'vpc', image).stderr).toMatch(
      /stores the UUID of its parent/,
    );
  });

  test('is committed into the parent, and the child is empty then, and no stranger to it', () => {
    const model = Buffer.alloc(SIZE);
    create();
    changeDisk(image, model, 15);
    const base = image;
    image = join(folder, 'child.vhd');
    create({}, undefined, 'disk.vhd');
    changeDisk(image, model, 16);
    // the time of the last change has whole seconds
    utimesSync(base, 1_000_000_000, 1_000_000_000);
    expect(imgfuse('commit', '-d', image).code).toBe(0);
    expect(imgfuse('commit', image).code).toBe(0);
    expect(qemuReads(base).equals(model)).toBe(true);
    expect(imgfuse('map', '--output=json', image).stdout).not.toMatch(/"depth": ?0/);
    const said: string[] = [];
    withDisk(image, { readOnly: false, log: (text) => said.push(text) }, (disk) => {
      expect(readAll(disk).equals(model)).toBe(true);
    });
    expect(said).toEqual([]);
    changeDisk(image, model, 17);
    expect(vhdiReads(image).equals(model)).toBe(true);
    for (const path of [base, image]) expectSound(path);
  });

  test('whose child has sectors of its own in blocks of its parent is read by libvhdi as here', () => {
    const parent = vhdImage({ sectors: MIXED_SECTORS.map((byte) => byte ?? 0), fullBitmaps: true });
    writeFileSync(join(folder, 'base.vhd'), parent.image);
    const child = vhdImage({
      type: 4,
      // libvhdi takes a clear bit behind a set one of the same byte for set
      sectors: MIXED_SECTORS.map((byte, i) => (i % 8 < (i >> 3) % 9 ? null : 255 - (byte ?? 0))),
      uuid: 'ffffffff-4455-6677-8899-aabbccddeeff',
      parentUuid: UUID,
      parentName: 'base.vhd',
      locators: [{ code: 'W2ru', name: '.\\base.vhd' }],
    });
    writeFileSync(image, child.image);
    const wanted = withDisk(image, { readOnly: true }, readAll);
    expect(vhdiReads(image).equals(wanted)).toBe(true);
    withDisk(image, { readOnly: false }, (disk) => disk.write(Buffer.alloc(700, 1), 0, 700, guestOffset(100)));
    wanted.fill(1, 100, 800);
    expect(vhdiReads(image).equals(wanted)).toBe(true);
    expectSound(image);
  });
});

test('a child on an image that is not its parent is refused by its UUID, and opened for whoever says so', () => {
  create();
  const base = image;
  image = join(folder, 'child.vhd');
  create({}, undefined, 'disk.vhd');
  execFileSync('rm', [base]);
  createDisk(base, 'vpc', { size: SIZE, options: new Map() });
  expect(() => openDisk(image, { readOnly: true })).toThrow(/is not the image that .*its UUID is .* is wanted/);
  openDisk(image, { readOnly: true, anyParent: true }).close();
});
