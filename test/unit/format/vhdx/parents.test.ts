// Differencing images on the host: under which names a parent is found, and that its data write GUID says whether it is the right one.

import { mkdirSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { inspectDisk, openDisk } from '../../../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../../../support/image-files.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../../support/temporary.ts';
import { DATA_WRITE_GUID, guidBytes, MIB, type VhdxSpec, vhdxImage } from '../../../support/vhdx-bytes.ts';
import { vhdxContent } from '../../../support/vhdx-judge.ts';

const CHILD_GUID = 'cccccccc-1111-2222-3333-444444444444';
const LINKAGE = `{${DATA_WRITE_GUID.toUpperCase()}}`;
const OTHER = '{01234567-89AB-CDEF-0123-456789ABCDEF}';
const PARENT = vhdxImage({
  blocks: [1, 2, 3].map((byte) => ({ state: 6, data: new Uint8Array(MIB).fill(byte) })),
}).image;

let folder: string;
let child: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  child = join(folder, 'child.vhdx');
  writeFileSync(join(folder, 'base.vhdx'), PARENT);
});
afterEach(() => removeTemporaryDirectory(folder));

function makeChild(locator: Readonly<Record<string, string>>, spec: VhdxSpec = {}): Buffer {
  const data = new Uint8Array(MIB).fill(9);
  const { image } = vhdxImage({
    blocks: [{ state: 0 }, { state: 7, data, isHere: (sector) => sector < 100 }, { state: 6, data }],
    locator,
    editHeader: (header) => void guidBytes(CHILD_GUID).copy(header, 32),
    ...spec,
  });
  writeFileSync(child, image);
  return vhdxContent(image, vhdxContent(PARENT));
}

test('a child is read over its parent, and so is the child of a child', () => {
  const wanted = makeChild({ parent_linkage: LINKAGE, relative_path: '.\\base.vhdx' });
  withDisk(child, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
  const middle = join(folder, 'middle.vhdx');
  renameSync(child, middle);
  makeChild(
    { parent_linkage: `{${CHILD_GUID}}`, relative_path: '.\\middle.vhdx' },
    { blocks: [{ state: 0 }, { state: 0 }, { state: 2 }] },
  );
  wanted.fill(0, 2 * MIB);
  withDisk(child, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
  expect(inspectDisk(child)).toMatchObject({ backingFilename: 'middle.vhdx', backingFormat: 'vhdx' });
});

test('the first name that leads to a file counts, and a parent beside the child is found by any of them', () => {
  mkdirSync(join(folder, 'sub'));
  const wanted = makeChild({
    parent_linkage: LINKAGE,
    relative_path: '..\\no\\such\\file.vhdx',
    absolute_win32_path: '\\\\?\\C:\\Hyper-V\\base.vhdx',
  });
  withDisk(child, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
});

test('a parent that was written since, or another one, is refused; either linkage and any_parent take it', () => {
  const relative_path = '.\\base.vhdx';
  const wanted = makeChild({ parent_linkage: OTHER, relative_path });
  expect(() => openDisk(child, { readOnly: true })).toThrow(
    /base\.vhdx is not the image that .*child\.vhdx was made on: its data write GUID is 00112233-.*, and 01234567-89ab-cdef-0123-456789abcdef is wanted/,
  );
  const sentences: string[] = [];
  const log = (sentence: string): void => void sentences.push(sentence);
  withDisk(child, { readOnly: true, anyParent: true, log }, (disk) => {
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
  });
  expect(sentences).toEqual([expect.stringMatching(/it is used because of any_parent/)]);
  makeChild({ parent_linkage: OTHER, parent_linkage2: LINKAGE, relative_path });
  withDisk(child, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
});

test('a parent that is no VHDX is refused', () => {
  makeChild({ parent_linkage: LINKAGE, relative_path: '.\\base.vhdx' });
  writeFileSync(join(folder, 'base.vhdx'), Buffer.alloc(3 * MIB));
  expect(() => openDisk(child, { readOnly: true })).toThrow(/does not begin with "vhdxfile"/);
});

test('a parent with sectors of another size is read and not written over', () => {
  const wanted = makeChild({ parent_linkage: LINKAGE, relative_path: '.\\base.vhdx' }, { sectorBytes: 4096 });
  withDisk(child, { readOnly: true }, (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
  expect(() => openDisk(child, { readOnly: false })).toThrow(
    /sectors of 4096 bytes, and those of .*base\.vhdx have 512/,
  );
});
