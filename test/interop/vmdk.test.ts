// VMDK beside QEMU, and other readers where QEMU is no judge: every subformat with every adapter and parent, made by either side.

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk } from '../../src/disk/index.ts';
import { changeDisk, firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
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

const SPARSE = ['monolithicSparse', 'twoGbMaxExtentSparse'];
const FLAT = ['monolithicFlat', 'twoGbMaxExtentFlat'];
const ADAPTERS = ['ide', 'buslogic', 'lsilogic', 'legacyESX'];
const VERSIONS = ['hwversion=9', 'compat6=on', 'toolsversion=7', 'hwversion=4'];

interface Variant {
  readonly options: string;
  readonly isChild: boolean;
}

/** Every subformat with and without a parent and zeroed grains, each with two adapters and two versions: those change nothing else. */
const VARIANTS: readonly Variant[] = [0, 1].flatMap((round) => {
  const layouts = [
    ...SPARSE.flatMap((subformat) =>
      ['off', 'on'].flatMap((zeroed) =>
        [false, true].map((isChild) => ({ options: `subformat=${subformat},zeroed_grain=${zeroed}`, isChild })),
      ),
    ),
    ...FLAT.map((subformat) => ({ options: `subformat=${subformat}`, isChild: false })),
  ];
  return layouts.map(({ options, isChild }, i) => {
    const [adapter, version] = [ADAPTERS[(i + 3 * round) % 4], VERSIONS[(Math.floor(i / 2) + 2 * round) % 4]];
    return { options: `${options},adapter_type=${adapter},${version}`, isChild };
  });
});

function optionsOf(variant: string): Map<string, string> {
  return new Map(variant.split(',').map((pair) => pair.split('=') as [string, string]));
}

const BASE = 'base.vmdk';

/** What a new image of a variant reads: a child shows its parent, which QEMU has made. */
function contentBefore({ isChild }: Variant): Buffer {
  const model = Buffer.alloc(SIZE);
  if (!isChild) return model;
  qemuImg('create', '-q', '-f', 'vmdk', join(folder, BASE), String(SIZE));
  qemuIo(join(folder, BASE), 'vmdk', 'write -P 3 0 1M', 'write -P 4 3M 700k');
  return model.fill(3, 0, MIB).fill(4, 3 * MIB, 3 * MIB + 700 * 1024);
}

function create({ options, isChild }: Variant): void {
  const below = isChild ? { backing: BASE, backingFormat: 'vmdk' } : { size: SIZE };
  createDisk(image, 'vmdk', { ...below, options: optionsOf(options) });
}

function qemuReads(path = image): Buffer {
  qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path, join(folder, 'theirs.raw'));
  return readFileSync(join(folder, 'theirs.raw'));
}

function expectReads(model: Buffer, path = image): void {
  withDisk(path, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), model)).toBe('none'));
}

describe.each(VARIANTS)('an image of $options, a child: $isChild,', (variant) => {
  test('made by QEMU is read, written and read again there', () => {
    const model = contentBefore(variant)
      .fill(7, 100 * 1024, 100 * 1024 + 2 * MIB)
      .fill(8, 5 * MIB, 5 * MIB + 1024);
    const made = variant.isChild ? ['-b', join(folder, BASE), '-F', 'vmdk', image] : [image, String(SIZE)];
    qemuImg('create', '-q', '-f', 'vmdk', '-o', variant.options, ...made);
    qemuIo(image, 'vmdk', 'write -P 7 100k 2M', 'write -P 8 5M 1k');
    expectReads(model);
    changeDisk(image, model, 1);
    expectReads(model);
    expect(firstDifference(qemuReads(), model)).toBe('none');
    qemuCheck(image, 'vmdk');
  });

  test('made here is read and written by QEMU, and has the same facts in info', () => {
    const model = contentBefore(variant);
    create(variant);
    const theirs = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, unknown>;
    const info = inspectDisk(image);
    expect(info.format).toBe('vmdk');
    expect(info.virtualSize).toBe(theirs['virtual-size']);
    expect(info.clusterSize ?? undefined).toBe(theirs['cluster-size']);
    expect(info.actualSize).toBe(theirs['actual-size']);
    expect({ type: 'vmdk', data: info.specific }).toEqual(theirs['format-specific']);
    changeDisk(image, model, 2);
    expect(firstDifference(qemuReads(), model)).toBe('none');
    qemuIo(image, 'vmdk', `write -P 5 100k 3M`);
    model.fill(5, 100 * 1024, 100 * 1024 + 3 * MIB);
    expectReads(model);
    qemuCheck(image, 'vmdk');
  });
});

test('every adapter and version is in the descriptor as QEMU writes it', () => {
  const ddbOf = (path: string) => readFileSync(path, 'latin1').match(/^ddb\..*$/gm);
  for (const adapter of ADAPTERS) {
    for (const version of VERSIONS) {
      const options = `adapter_type=${adapter},${version}`;
      const theirs = join(folder, 'theirs.vmdk');
      qemuImg('create', '-q', '-f', 'vmdk', '-o', options, theirs, '64M');
      createDisk(image, 'vmdk', { size: 64 * MIB, options: optionsOf(options) });
      expect(ddbOf(image), options).toEqual(ddbOf(theirs));
      rmSync(image);
    }
  }
});

test.each([
  ['', false],
  [',adapter_type=lsilogic,hwversion=9', false],
  [',adapter_type=legacyESX,compat6=on', true],
  [',adapter_type=buslogic,toolsversion=7', true],
])('a streamOptimized image%s of QEMU, a child: %s, is read, and a write is refused with the way out', (options, isChild) => {
  const raw = join(folder, 'disk.raw');
  writeFileSync(raw, contentBefore({ options, isChild }));
  qemuIo(raw, 'raw', 'write -P 7 100k 2M', 'write -P 8 5M 1k');
  const below = isChild ? ['-B', join(folder, BASE), '-F', 'vmdk'] : [];
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=streamOptimized${options}`, ...below, raw, image);
  expectReads(readFileSync(raw));
  expect(() => openDisk(image, { readOnly: false })).toThrow(/overlay=FILE/);
});

test('a disk of more than 2 GiB is in several extents, and data across their border is one', () => {
  for (const subformat of ['twoGbMaxExtentSparse', 'twoGbMaxExtentFlat']) {
    const path = join(folder, `${subformat}.vmdk`);
    createDisk(path, 'vmdk', { size: 3 * 1024 * MIB, options: optionsOf(`subformat=${subformat}`) });
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
  changeDisk(base, model, 7);
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
    changeDisk(image, model, seed);
    expectReads(model);
  }
  const said: string[] = [];
  const report = checkDisk(image, { repair: 'none', log: (text) => said.push(text) });
  expect([said, report.corruptions, report.leaks]).toEqual([[], 0, 0]);
  // what lies before the flat extent in its file is no part of the disk
  expect(readFileSync(join(folder, 'flat.bin')).subarray(0, 1001 * 512)).toEqual(Buffer.alloc(1001 * 512, 0x66));
});
