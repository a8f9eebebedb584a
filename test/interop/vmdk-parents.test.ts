// Images on images: a child knows its parent by its CID (VMware, QEMU) or by UUIDs (VirtualBox). The right one is found, the wrong one
// or the right one in another state is refused by name, and a write changes by what a child knows an image.

import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk, inspectDisk, type OpenDiskOptions, openDisk } from '../../src/disk/index.ts';
import { withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { descriptorText } from '../support/vmdk-text.ts';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const SIZE = 2 * MIB;
const BASES = ['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'];

let folder: string;
let base: string;
let child: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  base = join(folder, 'base.vmdk');
  child = join(folder, 'child.vmdk');
});
afterEach(() => removeTemporaryDirectory(folder));

function createBase(subformat = 'monolithicSparse', size = SIZE): void {
  createDisk(base, 'vmdk', { size, options: new Map([['subformat', subformat]]) });
}

function createChild(options: Readonly<Record<string, string>> = {}, path = child, backing = base): void {
  createDisk(path, 'vmdk', { options: new Map(Object.entries(options)), backing, backingFormat: 'vmdk' });
}

function write(path: string, byte: number, at = 0, options: Partial<OpenDiskOptions> = {}): void {
  withDisk(path, { readOnly: false, ...options }, (disk) =>
    disk.write(Buffer.alloc(512, byte), 0, 512, guestOffset(at)),
  );
}

function byteAt(path: string, at = 0, options: Partial<OpenDiskOptions> = {}): number {
  return withDisk(path, { readOnly: true, ...options }, (disk) => {
    const bytes = Buffer.alloc(1);
    disk.read(bytes, 0, 1, guestOffset(at));
    return bytes[0]!;
  });
}

function cidOf(path: string): string {
  return (inspectDisk(path).specific['cid'] as number).toString(16).padStart(8, '0');
}

describe.each(BASES)('a base of %s', (subformat) => {
  test('shows through its child, which takes the changes, and QEMU sees the same', (context) => {
    createBase(subformat);
    write(base, 0x11);
    write(base, 0x12, MIB);
    createChild();
    expect(inspectDisk(child)).toMatchObject({
      backingFilename: base,
      fullBackingFilename: base,
      backingFormat: 'vmdk',
    });
    expect([byteAt(child), byteAt(child, MIB)]).toEqual([0x11, 0x12]);
    write(child, 0x22);
    expect([byteAt(child), byteAt(child, MIB), byteAt(base)]).toEqual([0x22, 0x12, 0x11]);
    requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
    const seen = qemuIo(
      child,
      'vmdk',
      'read -P 0x22 0 512',
      'read -P 0x11 512 0',
      `read -P 0x12 ${MIB} 512`,
      'read -P 0 512 512',
    );
    expect(seen).not.toContain('failed');
    qemuIo(child, 'vmdk', `write -P 0x33 ${MIB + 512} 512`);
    expect([byteAt(child, MIB), byteAt(child, MIB + 512)]).toEqual([0x12, 0x33]);
    qemuCheck(child, 'vmdk');
  });
});

test('a child that QEMU has made is read with its parent', (context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  qemuImg('create', '-q', '-f', 'vmdk', base, String(SIZE));
  qemuIo(base, 'vmdk', 'write -P 5 0 1M');
  qemuImg('create', '-q', '-f', 'vmdk', '-b', 'base.vmdk', '-F', 'vmdk', child);
  qemuIo(child, 'vmdk', 'write -P 6 4k 4k');
  expect([0, 4096, 8192, MIB].map((at) => byteAt(child, at))).toEqual([5, 6, 5, 0]);
});

test('extents of a child see their own part of the parent, across the border of 2 GiB', (context) => {
  createBase('monolithicSparse', 3 * GIB);
  const border = 2 * GIB;
  withDisk(base, { readOnly: false }, (disk) => {
    disk.write(Buffer.alloc(200_000, 7), 0, 200_000, guestOffset(border - 100_000));
  });
  createChild({ subformat: 'twoGbMaxExtentSparse' });
  write(child, 8, border - 512);
  write(child, 9, border + 512);
  expect([border - 1024, border - 512, border, border + 512, border + 1024].map((at) => byteAt(child, at))).toEqual([
    7, 8, 7, 9, 7,
  ]);
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  // QEMU 7.2 reads the parent of the second extent from its beginning, so only what the child has itself is compared
  const seen = qemuIo(child, 'vmdk', `read -P 8 ${border - 512} 512`, `read -P 9 ${border + 512} 512`);
  expect(seen).not.toContain('failed');
});

describe('the CID', () => {
  test('changes once in a session of writing, and not when nothing is written', () => {
    createBase();
    const before = cidOf(base);
    withDisk(base, { readOnly: false }, (disk) => disk.flush());
    expect(cidOf(base)).toBe(before);
    let between = '';
    withDisk(base, { readOnly: false }, (disk) => {
      disk.write(Buffer.alloc(512, 1), 0, 512, guestOffset(0));
      between = readFileSync(base, 'latin1').match(/\nCID=(\w{8})/)![1]!;
      disk.write(Buffer.alloc(512, 2), 0, 512, guestOffset(0));
      disk.makeClean();
      disk.write(Buffer.alloc(512, 3), 0, 512, guestOffset(0));
    });
    expect(between).not.toBe(before);
    expect(cidOf(base)).toBe(between);
  });

  test('of another state of the parent is refused by name, unless the user insists', () => {
    createBase();
    createChild();
    const wanted = cidOf(base);
    write(base, 0x55);
    const found = cidOf(base);
    for (const readOnly of [true, false]) {
      expect(() => openDisk(child, { readOnly })).toThrow(
        `the backing file ${base} is not the image that ${child} was made on: its CID is ${found}, and ${wanted} is wanted`,
      );
    }
    const said: string[] = [];
    expect(byteAt(child, 0, { anyParent: true, log: (text) => said.push(text) })).toBe(0x55);
    expect(said.join()).toMatch(/may be a mixture/);
  });
});

describe('a parent that is not where it should be', () => {
  beforeEach(() => {
    createBase();
    write(base, 0x11);
    createChild();
  });

  test('is missing by name', () => {
    rmSync(base);
    expect(() => openDisk(child, { readOnly: true })).toThrow(`the backing file ${base} of ${child} does not exist`);
  });

  test('is found beside its child by the last part of a name of another machine', () => {
    const text = readFileSync(child, 'latin1').replace(/parentFileNameHint="[^"]*"/, (hint) => {
      return 'parentFileNameHint="C:\\vm\\base.vmdk"'.padEnd(hint.length, ' ');
    });
    writeFileSync(child, text, 'latin1');
    expect(byteAt(child)).toBe(0x11);
  });

  test('is no disk outside the directory that the user did not allow', () => {
    const other = join(folder, 'other');
    mkdirSync(other);
    renameSync(child, join(other, 'child.vmdk'));
    expect(() => openDisk(join(other, 'child.vmdk'), { readOnly: true })).toThrow(/--allow-backing/);
    expect(byteAt(join(other, 'child.vmdk'), 0, { allowBacking: [folder] })).toBe(0x11);
  });
});

describe('a child of VirtualBox', () => {
  const UUID = '6d1f0ab2-3c11-4a44-9d5e-0123456789ab';
  const MODIFICATION = '7e2f0ab2-3c11-4a44-9d5e-0123456789ab';

  /** A descriptor, and its flat extent of 4 KiB. */
  function image(path: string, ddb: readonly string[], extent = ''): void {
    const flat = path.replace('.vmdk', '-flat.vmdk');
    if (extent === '') writeFileSync(flat, Buffer.alloc(4096, 0x44));
    const line = extent === '' ? `RW 8 FLAT "${flat.split('/').pop()}" 0` : extent;
    writeFileSync(path, descriptorText({ extents: [line], ddb }));
  }

  beforeEach(() => {
    image(base, [`ddb.uuid.image="${UUID}"`, `ddb.uuid.modification="${MODIFICATION}"`]);
    // an extent without a block: all of it is the parent's
    createDisk(join(folder, 'empty.vmdk'), 'vmdk', {
      size: 4096,
      options: new Map([['subformat', 'twoGbMaxExtentSparse']]),
    });
    const ddb = [`ddb.uuid.parent="${UUID}"`, `ddb.uuid.parentmodification="${MODIFICATION}"`];
    image(child, ddb, 'RW 8 SPARSE "empty-s001.vmdk"');
    rmSync(join(folder, 'empty.vmdk'));
  });

  test('finds its parent by the UUID, and refuses it in another state', () => {
    expect(byteAt(child)).toBe(0x44);
    write(base, 0x45);
    expect(() => openDisk(child, { readOnly: true })).toThrow(
      /its ddb.uuid.modification is .*, and 7e2f0ab2\S* is wanted/,
    );
    expect(byteAt(child, 0, { anyParent: true })).toBe(0x45);
  });

  test('says which UUID it looks for if there is none', () => {
    rmSync(base);
    expect(() => openDisk(child, { readOnly: true })).toThrow(
      new RegExp(`with ddb.uuid.image ${UUID}.*--allow-backing FILE`),
    );
  });
});

describe('an image cannot be made', () => {
  test('on what has no CID, or flat on a parent', () => {
    const raw = join(folder, 'base.raw');
    writeFileSync(raw, Buffer.alloc(SIZE));
    expect(() => createDisk(child, 'vmdk', { options: new Map(), backing: raw, backingFormat: 'raw' })).toThrow(
      /knows its parent by a CID/,
    );
    createBase();
    expect(() => createChild({ subformat: 'monolithicFlat' })).toThrow(/cannot have a backing file/);
  });
});
