// What no open would take is refused before anything is made, and the largest images are made in moments.

import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { hostPath } from '../../../src/bytes/names.ts';
import { createDisk, inspectDisk } from '../../../src/disk/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const TIB = 2 ** 40;

let folder: string;
let image: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.img');
});
afterEach(() => removeTemporaryDirectory(folder));

function create(format: string, size: number, options: Record<string, string> = {}): void {
  createDisk(image, format, { size, options: new Map(Object.entries(options)) });
}

test.each([
  'twoGbMaxExtentSparse',
  'twoGbMaxExtentFlat',
])('a VMDK image of more extents than are opened is not made (%s)', (subformat) => {
  expect(() => create('vmdk', 8 * TIB + 512, { subformat })).toThrow(/holds at most 8796093022208 bytes/);
  expect(readdirSync(folder)).toEqual([]);
});

test('an empty qcow image is not made, because QEMU opens none', () => {
  expect(() => create('qcow', 0)).toThrow(/has one sector of 512 bytes at least/);
  expect(readdirSync(folder)).toEqual([]);
});

test('a qcow image is not made on a raw file whose name JSON cannot hold', () => {
  const base = join(folder, 'caf\udce9.raw');
  writeFileSync(hostPath(base), Buffer.alloc(512));
  const make = () => createDisk(image, 'qcow', { backing: 'caf\udce9.raw', backingFormat: 'raw', options: new Map() });
  expect(make).toThrow(/no place for a name that is not UTF-8/);
  expect(readdirSync(folder)).toHaveLength(1);
});

test('the table of a VHDX of four million blocks takes moments', () => {
  const started = performance.now();
  create('vhdx', 4 * TIB, { block_size: '1M' });
  // 0.3 s on an idle machine; an object for each entry took 13 s
  expect(performance.now() - started).toBeLessThan(10_000);
  expect(inspectDisk(image).virtualSize).toBe(4 * TIB);
});
