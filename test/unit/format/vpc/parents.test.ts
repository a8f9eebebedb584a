// Differencing images: under which names a parent is looked for, and what its UUID and its time are good for.

import { mkdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { createDisk, inspectDisk, openDisk } from '../../../../src/disk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { readAll, withDisk } from '../../../support/image-files.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../../support/temporary.ts';
import { MIXED_SECTORS, UUID, type VhdSpec, vhdImage } from '../../../support/vhd-bytes.ts';

const CHILD_UUID = 'aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb';
const PARENT = vhdImage({ sectors: MIXED_SECTORS.map((_, i) => 1 + (i % 200)), fullBitmaps: true });

let folder: string;
let child: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  child = join(folder, 'child.vhd');
});
afterEach(() => removeTemporaryDirectory(folder));

function childSpec(spec: VhdSpec): VhdSpec {
  return { type: 4, sectors: MIXED_SECTORS, uuid: CHILD_UUID, parentUuid: UUID, ...spec };
}

function namesOf(spec: VhdSpec): string | undefined {
  return vpc.inspect(new MemoryHostFile(vhdImage(childSpec(spec)).image)).backing?.name;
}

/** Where the disk is made of the child's sectors and of its parent's. */
function expectMixture(disk: Buffer): void {
  const own = vhdImage({ sectors: MIXED_SECTORS }).content;
  MIXED_SECTORS.forEach((byte, sector) => {
    const from = byte === null ? PARENT.content : own;
    expect(disk.subarray(sector * 512, sector * 512 + 512)).toEqual(from.subarray(sector * 512, sector * 512 + 512));
  });
}

test.each<[string, string, string]>([
  ['W2ru', '.\\base.vhd', 'base.vhd'],
  ['W2ru', '..\\deep\\base.vhd', '../deep/base.vhd'],
  ['W2ku', 'C:\\disks\\base.vhd', '/disks/base.vhd'],
  ['MacX', 'file:///disks/a%20b.vhd', '/disks/a b.vhd'],
  ['MacX', 'file://./base.vhd', 'base.vhd'],
  ['W2ru', '.\\a:b.vhd', './a:b.vhd'],
])('a locator %s with %j leads to %j', (code, name, path) => {
  expect(namesOf({ locators: [{ code, name }] })).toBe(path);
});

test('a relative name comes first, then the bare name, then the absolute one', () => {
  const locators = [
    { code: 'W2ku', name: 'C:\\elsewhere\\absolute.vhd' },
    { code: 'W2ru', name: '.\\relative.vhd' },
  ];
  const { backing } = vpc.inspect(
    new MemoryHostFile(vhdImage(childSpec({ locators, parentName: 'D:\\x\\bare.vhd' })).image),
  );
  expect(backing).toMatchObject({
    name: 'relative.vhd',
    otherNames: ['bare.vhd', '/elsewhere/absolute.vhd', 'absolute.vhd'],
    format: 'vpc',
    identity: { word: 'UUID', values: [UUID] },
  });
});

test.each<[string, { space?: number; offset?: number; length?: number }, RegExp]>([
  ['beyond the file', { offset: 1 << 30 }, /ends beyond the file/],
  ['of more bytes than its space', { space: 1, length: 514 }, /514 bytes in a space of 512/],
  ['that is too long', { length: 8194, space: 1 << 20 }, /a name of 8194 bytes/],
])('a locator %s is refused by name', (_, field, why) => {
  expect(() => namesOf({ locators: [{ code: 'W2ru', name: '.\\base.vhd', ...field }] })).toThrow(why);
});

test('the space of a locator is read in sectors and in bytes', () => {
  for (const space of [1, 512]) {
    expect(namesOf({ locators: [{ code: 'W2ru', name: '.\\base.vhd', space }] })).toBe('base.vhd');
  }
});

test('sectors that are clear in the bitmap of a child are those of its parent, which is found under its bare name', () => {
  writeFileSync(join(folder, 'base.vhd'), PARENT.image);
  const locators = [{ code: 'W2ru', name: '.\\gone\\base.vhd' }];
  writeFileSync(child, vhdImage(childSpec({ locators, parentName: 'base.vhd' })).image);
  withDisk(child, { readOnly: true }, (disk) => expectMixture(readAll(disk)));
  // a write into a block that is here in parts leaves its other sectors as they were
  withDisk(child, { readOnly: false }, (disk) => {
    const wanted = readAll(disk);
    disk.write(Buffer.alloc(100, 0xcc), 0, 100, guestOffset(20 * 512 + 7));
    wanted.fill(0xcc, 20 * 512 + 7, 20 * 512 + 107);
    expect(readAll(disk)).toEqual(wanted);
  });
});

test('a parent elsewhere needs --allow-backing', () => {
  const away = join(folder, 'away');
  mkdirSync(away);
  writeFileSync(join(away, 'base.vhd'), PARENT.image);
  const name = `C:${join(away, 'base.vhd').replaceAll('/', '\\')}`;
  const inside = join(folder, 'inside');
  mkdirSync(inside);
  child = join(inside, 'child.vhd');
  writeFileSync(child, vhdImage(childSpec({ locators: [{ code: 'W2ku', name }] })).image);
  expect(() => openDisk(child, { readOnly: true })).toThrow(/add --allow-backing/);
  withDisk(child, { readOnly: true, allowBacking: [away] }, (disk) => expectMixture(readAll(disk)));
});

test('another image beside the child does not take the place of a parent that has an absolute name', () => {
  const away = join(folder, 'away');
  mkdirSync(away);
  writeFileSync(join(away, 'base.vhd'), PARENT.image);
  const other = vhdImage({ sectors: MIXED_SECTORS, uuid: CHILD_UUID.replace('a', 'c') }).image;
  writeFileSync(join(folder, 'base.vhd'), other);
  const name = `C:${join(away, 'base.vhd').replaceAll('/', '\\')}`;
  const both = [
    { code: 'W2ku', name },
    { code: 'W2ru', name: '.\\base.vhd' },
  ];
  for (const locators of [[{ code: 'W2ku', name }], both]) {
    writeFileSync(child, vhdImage(childSpec({ locators, parentName: 'base.vhd' })).image);
    withDisk(child, { readOnly: true, allowBacking: [away] }, (disk) => expectMixture(readAll(disk)));
  }
});

test('a raw parent, which nothing identifies, is the file of its best name and no other one', () => {
  const parentUuid = '00000000-0000-0000-0000-000000000000';
  writeFileSync(join(folder, 'base.raw'), Buffer.alloc(PARENT.content.length));
  mkdirSync(join(folder, 'away'));
  const away = join(folder, 'away', 'base.raw');
  writeFileSync(away, PARENT.content);
  const absolute = { code: 'W2ku', name: `C:${away.replaceAll('/', '\\')}` };
  for (const locators of [[absolute], [absolute, { code: 'W2ru', name: '.\\away\\base.raw' }]]) {
    writeFileSync(child, vhdImage(childSpec({ parentUuid, locators, parentName: 'base.raw' })).image);
    withDisk(child, { readOnly: true }, (disk) => expectMixture(readAll(disk)));
  }
  rmSync(away);
  expect(() => openDisk(child, { readOnly: true })).toThrow(/away\/base\.raw of .* does not exist/);
});

test('a parent UUID of zeros is a raw parent', () => {
  writeFileSync(join(folder, 'base.raw'), PARENT.content);
  const parentUuid = '00000000-0000-0000-0000-000000000000';
  writeFileSync(child, vhdImage(childSpec({ parentUuid, parentName: 'base.raw' })).image);
  withDisk(child, { readOnly: true }, (disk) => expectMixture(readAll(disk)));
});

test('a parent that was changed since is opened with a warning; a time of 0 says nothing', () => {
  const base = join(folder, 'base.vhd');
  writeFileSync(base, PARENT.image);
  const seconds = 946_684_800 + 1000;
  utimesSync(base, seconds, seconds);
  const warningsAt = (parentTimestamp: number): string[] => {
    writeFileSync(child, vhdImage(childSpec({ parentTimestamp, parentName: 'base.vhd' })).image);
    const said: string[] = [];
    openDisk(child, { readOnly: true, log: (text) => said.push(text) }).close();
    return said;
  };
  expect(warningsAt(1000)).toEqual([]);
  expect(warningsAt(0)).toEqual([]);
  expect(warningsAt(999)).toEqual([
    expect.stringMatching(/base\.vhd was changed, or copied, after .*child\.vhd was made/),
  ]);
});

test('create stores name, UUID and time of the parent, and no child without one', () => {
  const base = join(folder, 'base.vhd');
  const make = (backing: string, backingFormat = 'vpc', options: Record<string, string> = {}) =>
    createDisk(child, 'vpc', { backing, backingFormat, options: new Map(Object.entries(options)) });
  expect(() => make('base.vhd')).toThrow(/does not exist/);
  createDisk(base, 'vpc', { size: 5 * 512, options: new Map() });
  make('base.vhd', 'vhd');
  expect(inspectDisk(child)).toMatchObject({ virtualSize: 5 * 512, backingFilename: 'base.vhd', backingFormat: 'vpc' });
  const said: string[] = [];
  openDisk(child, { readOnly: false, log: (text) => said.push(text) }).close();
  expect(said).toEqual([]);
  for (const [options, why] of [
    [{ subformat: 'fixed' }, /a fixed VHD has no backing file/],
    [{ subformat: 'thin' }, /subformat=thin is not valid; use dynamic or fixed/],
    [{ force_size: 'yes' }, /use on or off/],
    [{ block_size: '3k' }, /use a power of two/],
  ] as const) {
    child = join(folder, 'other.vhd');
    expect(() => make('base.vhd', 'vpc', options)).toThrow(why);
  }
  createDisk(join(folder, 'b.qcow2'), 'qcow2', { size: 512, options: new Map() });
  expect(() => make('b.qcow2', 'qcow2')).toThrow(/is a VHD or a raw file, not qcow2/);
});

test('if the right image may not be opened, that is said, and not that the one beside the child is the wrong one', () => {
  const [away, inside] = [join(folder, 'away'), join(folder, 'inside')];
  for (const each of [away, inside]) mkdirSync(each);
  writeFileSync(join(away, 'base.vhd'), PARENT.image);
  writeFileSync(join(inside, 'base.vhd'), vhdImage({ sectors: MIXED_SECTORS, uuid: CHILD_UUID }).image);
  child = join(inside, 'child.vhd');
  const locators = [{ code: 'W2ku', name: `C:${join(away, 'base.vhd').replaceAll('/', '\\')}` }];
  writeFileSync(child, vhdImage(childSpec({ locators, parentName: 'base.vhd' })).image);
  expect(() => openDisk(child, { readOnly: true })).toThrow(/add --allow-backing .*away/);
  withDisk(child, { readOnly: true, allowBacking: [away] }, (disk) => expectMixture(readAll(disk)));
});
