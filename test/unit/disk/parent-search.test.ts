// A parent that its child does not name: it is found by its UUID in the places where VirtualBox and the user put it, and nowhere
// else, and the wrong one, or the right one in another state, is refused.

import { copyFileSync, linkSync, mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { createDisk, inspectDisk, type OpenDiskOptions, openDisk } from '../../../src/disk/index.ts';
import { vdi } from '../../../src/format/vdi/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const SIZE = 4 * 1024 * 1024;
const NO_OPTIONS = new Map<string, string>();

let folder: string;
let base: string;
let child: string;
let warnings: string[];

beforeEach(() => {
  folder = makeTemporaryDirectory();
  base = join(folder, 'base.vdi');
  child = join(folder, 'child.vdi');
  warnings = [];
  createDisk(base, 'vdi', { size: SIZE, options: NO_OPTIONS });
  write(base, 0x11);
  createChild();
});
afterEach(() => removeTemporaryDirectory(folder));

function createChild(path = child, backing = base): void {
  createDisk(path, 'vdi', { options: NO_OPTIONS, backing, backingFormat: 'vdi', log: (said) => warnings.push(said) });
}

function write(path: string, byte: number, options: Partial<OpenDiskOptions> = {}): void {
  const disk = openDisk(path, { readOnly: false, ...options });
  disk.write(Buffer.alloc(512, byte), 0, 512, guestOffset(0));
  disk.close();
}

function firstByte(path: string, options: Partial<OpenDiskOptions> = {}): number {
  const disk = openDisk(path, { readOnly: true, ...options });
  const bytes = Buffer.alloc(1);
  disk.read(bytes, 0, 1, guestOffset(0));
  disk.close();
  return bytes[0]!;
}

test('the child shows its parent, takes changes, and the parent stays as it is', () => {
  expect(warnings).toEqual([]);
  expect(firstByte(child)).toBe(0x11);
  write(child, 0x22);
  expect([firstByte(child), firstByte(base)]).toEqual([0x22, 0x11]);
});

test('a chain of three is found image by image', () => {
  write(child, 0x22);
  const top = join(folder, 'top.vdi');
  createChild(top, child);
  expect(firstByte(top)).toBe(0x22);
});

test('info says where the parent is, and what it is looked for by when it is not there', () => {
  expect(inspectDisk(child)).toMatchObject({ backingFormat: 'vdi', fullBackingFilename: base });
  renameSync(base, join(folder, 'base.elsewhere'));
  const { backingFilename, fullBackingFilename } = inspectDisk(child);
  expect(fullBackingFilename).toBe(backingFilename);
  expect(backingFilename).toMatch(/^uuid:[0-9a-f-]{36}$/);
});

describe('is found', () => {
  test('under any name in the same folder', () => {
    renameSync(base, join(folder, 'another name.VDI'));
    expect(firstByte(child)).toBe(0x11);
  });

  test('in the folder above one that is called Snapshots, and not above any other', () => {
    for (const [name, found] of [
      ['Snapshots', true],
      ['Elsewhere', false],
    ] as const) {
      mkdirSync(join(folder, name));
      const moved = join(folder, name, 'child.vdi');
      copyFileSync(child, moved);
      if (found) expect(firstByte(moved)).toBe(0x11);
      else
        expect(() => firstByte(moved)).toThrow(
          /is a VDI image .* with uuidCreate .*, and no \.vdi file in .*Elsewhere is that;/,
        );
    }
  });

  test('as the file, and in the folder, that the user allows', () => {
    mkdirSync(join(folder, 'far'));
    const far = join(folder, 'far', 'base.vdi');
    renameSync(base, far);
    expect(() => firstByte(child)).toThrow(/put it there, or name it with --allow-backing FILE/);
    expect(firstByte(child, { allowBacking: [far] })).toBe(0x11);
    expect(firstByte(child, { allowBacking: [join(folder, 'far')] })).toBe(0x11);
    renameSync(far, join(folder, 'far', 'base.img'));
    expect(firstByte(child, { allowBacking: [join(folder, 'far', 'base.img')] })).toBe(0x11);
  });

  test('among copies in other states, as the one that the child was made on', () => {
    const copy = join(folder, 'a copy.vdi');
    copyFileSync(base, copy);
    write(copy, 0x33);
    expect(firstByte(child)).toBe(0x11);
  });
});

describe('is not one of two', () => {
  /** QEMU writes to an image and leaves its UUIDs. */
  function writeAsQemu(path: string, byte: number): void {
    const uuids = readFileSync(path).subarray(0x188, 0x1a8);
    write(path, byte);
    const bytes = readFileSync(path);
    uuids.copy(bytes, 0x188);
    writeFileSync(path, bytes);
  }

  test.each(['a copy.vdi', 'z copy.vdi', '../above.vdi'])('in the same state, unless the user names it: %s', (name) => {
    const own = join(folder, 'Snapshots');
    mkdirSync(own);
    const moved = ['base.vdi', 'child.vdi'].map((each) => join(own, each)) as [string, string];
    renameSync(base, moved[0]);
    renameSync(child, moved[1]);
    const copy = join(own, name);
    copyFileSync(moved[0], copy);
    writeAsQemu(moved[0], 0x55);
    const both = /with uuidCreate .*, which both .*\.vdi and .*\.vdi are; name the right one with --allow-backing FILE/;
    expect(() => firstByte(moved[1])).toThrow(both);
    expect(() => write(moved[1], 1)).toThrow(both);
    expect(() => inspectDisk(moved[1])).not.toThrow();
    expect(firstByte(moved[1], { allowBacking: [moved[0]] })).toBe(0x55);
    expect(firstByte(moved[1], { allowBacking: [copy] })).toBe(0x11);
  });

  test('if both are the same file', () => {
    linkSync(base, join(folder, 'a hard link.vdi'));
    expect(firstByte(child)).toBe(0x11);
    expect(firstByte(child, { allowBacking: [folder] })).toBe(0x11);
  });
});

describe('is not', () => {
  test('another image, damaged files and links', () => {
    renameSync(base, join(folder, 'base.away'));
    createDisk(join(folder, 'other.vdi'), 'vdi', { size: SIZE, options: NO_OPTIONS });
    writeFileSync(join(folder, 'damaged.vdi'), Buffer.alloc(100));
    symlinkSync(join(folder, 'base.away'), join(folder, 'link.vdi'));
    mkdirSync(join(folder, 'folder.vdi'));
    expect(() => firstByte(child)).toThrow(/no \.vdi file in/);
  });

  test('the right one after somebody has written to it, unless the user says so', () => {
    write(base, 0x44);
    expect(() => firstByte(child)).toThrow(
      /is not the image that .*child\.vdi was made on: its uuidCreate with uuidModify is/,
    );
    expect(firstByte(child, { anyParent: true })).toBe(0x44);
  });
});

describe('create', () => {
  test('warns if the parent is where no search looks', () => {
    mkdirSync(join(folder, 'deep'));
    createChild(join(folder, 'deep', 'child.vdi'));
    expect(warnings.join()).toMatch(/needs --allow-backing .*base\.vdi/);
    warnings = [];
    mkdirSync(join(folder, 'Snapshots'));
    createChild(join(folder, 'Snapshots', 'child.vdi'));
    expect(warnings).toEqual([]);
  });

  test('warns if the parent has another name than those that are looked at', () => {
    const image = join(folder, 'base.img');
    renameSync(base, image);
    createChild(join(folder, 'other.vdi'), image);
    expect(warnings.join()).toMatch(/base\.img is no \.vdi file in the same folder, .* --allow-backing .*base\.img/);
  });

  test('warns if the parent is a link in the same folder, which no search follows', () => {
    mkdirSync(join(folder, 'far'));
    renameSync(base, join(folder, 'far', 'real.vdi'));
    symlinkSync(join('far', 'real.vdi'), base);
    createChild(join(folder, 'other.vdi'));
    expect(warnings.join()).toMatch(/--allow-backing .*far\/real\.vdi/);
    expect(firstByte(join(folder, 'other.vdi'), { allowBacking: [join(folder, 'far', 'real.vdi')] })).toBe(0x11);
  });

  test('does not warn if the parent is named from another folder, as ../base.vdi', () => {
    mkdirSync(join(folder, 'Snapshots'));
    createChild(join(folder, 'Snapshots', 'child.vdi'), '../base.vdi');
    expect(warnings).toEqual([]);
    expect(firstByte(join(folder, 'Snapshots', 'child.vdi'))).toBe(0x11);
  });

  test('does not warn if the folder of the child is a link to that of its parent', () => {
    symlinkSync(folder, join(folder, 'here'));
    createChild(join(folder, 'here', 'other.vdi'));
    expect(warnings).toEqual([]);
  });

  test('does not warn if the name of the child is relative, and both are in the working directory', () => {
    const parent = { path: join(process.cwd(), 'base.vdi'), format: 'vdi', virtualSize: SIZE, modifiedMs: null };
    const identity = '11111111-2222-4333-8444-555555555555 66666666-7777-4888-9999-aaaaaaaaaaaa';
    const file = new MemoryHostFile(new Uint8Array(0), 'child.vdi');
    const backing = { name: 'base.vdi' };
    const log = (said: string) => warnings.push(said);
    vdi.create(file, { size: SIZE, options: NO_OPTIONS, backing, parent: { ...parent, identity }, log });
    expect(warnings).toEqual([]);
  });

  test('refuses a parent without UUIDs, and a static child', () => {
    createDisk(join(folder, 'base.qcow2'), 'qcow2', { size: SIZE, options: NO_OPTIONS });
    const make = (options: Parameters<typeof createDisk>[2]) => () => createDisk(join(folder, 'x.vdi'), 'vdi', options);
    expect(make({ options: NO_OPTIONS, backing: 'base.qcow2', backingFormat: 'qcow2' })).toThrow(
      /base\.qcow2 cannot be the backing file of a VDI image: that knows its parent by UUIDs/,
    );
    expect(make({ options: new Map([['static', 'on']]), backing: base, backingFormat: 'vdi' })).toThrow(
      /cannot be static/,
    );
  });
});
