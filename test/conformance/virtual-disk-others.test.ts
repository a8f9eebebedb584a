// The VirtualDisk contract of VHD and VMDK disks and of those that are only read; that no format is left out, and no row.

import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { formats } from '../../src/disk/registry.ts';
import { COPY_ON_READ, GROUPS, readVariants, testGroup, variants, WITH_FACTS } from './virtual-disk-variants.ts';

testGroup('others');

test('every format has a row, in a group that has a file', () => {
  const wanted = formats.map(({ name }) => name).sort();
  expect([...new Set([...variants, ...readVariants].map(({ format }) => format.name))].sort()).toEqual(wanted);
  expect(Object.values(GROUPS).flat().sort()).toEqual(wanted);
  const files = Object.keys(GROUPS).map((group) => new URL(`virtual-disk-${group}.test.ts`, import.meta.url));
  expect(files.filter((file) => !existsSync(file))).toEqual([]);
});

test.each([
  ['for copy-on-read', COPY_ON_READ],
  ['that are opened without a walk', WITH_FACTS],
])('the variants %s are variants', (_, names) => {
  expect(variants.map(({ name }) => name)).toEqual(expect.arrayContaining([...names]));
});
