// Commit and rebase of images that know their parent by UUIDs alone, and whose parent gets another one with every write: an overlay
// goes on knowing the base that it was committed into, every other overlay is refused, and a rebase stores who the new parent is.

import { copyFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import {
  type CommitDiskOptions,
  checkDisk,
  createDisk,
  inspectDisk,
  openCommit,
  openDisk,
  openRebase,
  type RebaseDiskOptions,
} from '../../../src/disk/index.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const MIB = 1024 * 1024;
const SIZE = 4 * MIB;
const BLOCK = 64 * 1024;
let folder = '';
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));
const path = (name: string): string => join(folder, `${name}.vdi`);

function create(name: string, backing?: string, options: Readonly<Record<string, string>> = {}): void {
  createDisk(path(name), 'vdi', {
    size: SIZE,
    options: new Map(Object.entries({ block_size: '64k', ...options })),
    ...(backing === undefined ? {} : { backing: path(backing), backingFormat: 'vdi' }),
  });
}

type Change = readonly [value: number, at: number, length: number];

/** Writes, or discards if the value is 0. */
function change(name: string, ...changes: readonly Change[]): void {
  const disk = openDisk(path(name), { readOnly: false });
  for (const [value, at, length] of changes) {
    if (value === 0) disk.discard(guestOffset(at), length);
    else disk.write(Buffer.alloc(length, value), 0, length, guestOffset(at));
  }
  disk.close();
}

function contentOf(name: string, anyParent = false, allowBacking: readonly string[] = []): Buffer {
  const disk = openDisk(path(name), { readOnly: true, anyParent, allowBacking });
  const content = Buffer.alloc(SIZE);
  disk.read(content, 0, SIZE, guestOffset(0));
  disk.close();
  return content;
}

function run(
  opened: { work: Generator<number, unknown, void>; close(): void },
  steps = Number.POSITIVE_INFINITY,
): void {
  try {
    for (let n = 0; n < steps && opened.work.next().done !== true; n++);
  } finally {
    opened.close();
  }
}

function commit(name: string, options: Partial<CommitDiskOptions> = {}, steps?: number): void {
  run(openCommit(path(name), { isKept: false, ...options }), steps);
}

function rebase(name: string, options: Partial<RebaseDiskOptions> & { backing: string }, steps?: number): void {
  run(openRebase(path(name), { isUnsafe: false, ...options }), steps);
}

function expectSound(...names: readonly string[]): void {
  for (const name of names) {
    const { corruptions, leaks } = checkDisk(path(name), { repair: 'none', log: () => undefined });
    expect({ name, corruptions, leaks }).toEqual({ name, corruptions: 0, leaks: 0 });
  }
}

const sizeOnDisk = (name: string): number => {
  const disk = openDisk(path(name), { readOnly: true });
  const bytes = disk.allocatedBytes();
  disk.close();
  return bytes;
};

let expected: Buffer;
beforeEach(() => {
  create('base');
  change('base', [1, 0, MIB], [2, 2 * MIB, MIB]);
  create('over', 'base');
  change('over', [3, 100 * 1024, 70 * 1024], [0, 2 * MIB, 3 * BLOCK], [4, 3 * MIB, 10]);
  expected = contentOf('over');
});

describe('a commit', () => {
  test('empties the overlay, which knows the base as it is now and can be written and committed again', () => {
    for (const value of [9, 10]) {
      commit('over');
      expect(contentOf('base').equals(expected)).toBe(true);
      expect(contentOf('over').equals(expected)).toBe(true);
      expect(sizeOnDisk('over')).toBe(0);
      expectSound('base', 'over');
      change('over', [value, 512, 1024]);
      expected.fill(value, 512, 512 + 1024);
    }
    expect(contentOf('over').equals(expected)).toBe(true);
  });

  test('makes every other overlay on the base one on a strange image', () => {
    create('other', 'base');
    change('other', [7, 0, 512]);
    commit('over');
    expect(() => contentOf('other')).toThrow(/is not the image that .*other\.vdi was made on.*any_parent/);
    // and a base that somebody else has written is a strange one for the overlay
    change('base', [5, 0, 512]);
    expect(() => contentOf('over')).toThrow(/is not the image that .*over\.vdi was made on/);
  });

  test.each([
    1, 2, 3, 4,
  ])('that was broken off after %i steps keeps others out, and goes on when it is run again', (steps) => {
    create('other', 'base');
    commit('over', {}, steps);
    expect(contentOf('over').equals(expected)).toBe(true);
    expect(() => contentOf('other')).toThrow(/is not the image/);
    commit('over');
    expect(contentOf('over').equals(expected)).toBe(true);
    expect(contentOf('base').equals(expected)).toBe(true);
    expectSound('base', 'over');
  });

  test('that was broken off does not let an older copy of the overlay in', () => {
    copyFileSync(path('over'), path('older'));
    change('over', [8, 3 * MIB + BLOCK, 512]);
    commit('over', {}, 1);
    expect(() => contentOf('older')).toThrow(/is not the image/);
    contentOf('over');
  });

  test('that was broken off leaves an overlay that can be written, and committed later', () => {
    commit('over', {}, 1);
    for (const value of [8, 9]) {
      change('over', [value, 3 * MIB + BLOCK, 512]);
      expected.fill(value, 3 * MIB + BLOCK, 3 * MIB + BLOCK + 512);
      expect(contentOf('over').equals(expected)).toBe(true);
    }
    commit('over');
    expect(contentOf('base').equals(expected)).toBe(true);
    expectSound('base', 'over');
  });

  test('with -d leaves the content of the overlay as it is, which can be written afterwards', () => {
    const before = sizeOnDisk('over');
    for (const value of [6, 7]) {
      commit('over', { isKept: true });
      expect(contentOf('base').equals(expected)).toBe(true);
      expect(sizeOnDisk('over')).toBeGreaterThanOrEqual(before);
      change('over', [value, 0, 512]);
      expected.fill(value, 0, 512);
      expect(contentOf('over').equals(expected)).toBe(true);
    }
  });

  test('into an image further down leaves those above it usable, and is possible over and over', () => {
    create('top', 'over');
    change('top', [5, 3 * MIB + BLOCK, 4 * BLOCK]);
    for (const value of [5, 6]) {
      const whole = contentOf('top');
      commit('top', { base: path('base') });
      expect(contentOf('base').equals(whole)).toBe(true);
      expect(contentOf('top').equals(whole)).toBe(true);
      change('top', [value, 0, 512]);
    }
    expectSound('base', 'over', 'top');
  });

  test('of an image in the middle of a chain leaves its own overlays usable', () => {
    create('middle', 'base');
    change('middle', [1, 0, MIB], [2, 3 * MIB - 512, 1024]);
    create('top', 'middle');
    change('top', [3, MIB / 2, MIB]);
    const content = contentOf('top');
    commit('middle');
    expect(sizeOnDisk('middle')).toBe(0);
    expect(Buffer.compare(contentOf('top'), content)).toBe(0);
    commit('top');
    commit('middle');
    expect(Buffer.compare(contentOf('base'), content)).toBe(0);
    expectSound('base', 'middle', 'top');
  });

  test('that was broken off too often is refused, with the command that helps', () => {
    for (let n = 0; n < 16; n++) commit('over', {}, 1);
    const refused = /16 commits into .*base\.vdi were broken off.*imgfuse rebase -u -F vdi -b .*base\.vdi CHILD/;
    expect(() => commit('over')).toThrow(refused);
    expect(contentOf('over').equals(expected)).toBe(true);
    rebase('over', { backing: path('base'), isUnsafe: true });
    commit('over');
    expect(contentOf('base').equals(expected)).toBe(true);
  });

  test('into a base that any_parent allows tells the overlay its name', () => {
    change('base', [5, 3 * MIB, 512]);
    commit('over', { anyParent: true });
    expect(contentOf('over').equals(contentOf('base'))).toBe(true);
  });
});

describe('a rebase', () => {
  beforeEach(() => {
    create('new');
    change('new', [1, 0, MIB / 2], [9, MIB, 2 * MIB]);
  });

  test('shows the same over another image, over none, and over the first one again', () => {
    for (const backing of ['new', '', 'base', 'new', '']) {
      rebase('over', { backing: backing === '' ? '' : path(backing) });
      expect(contentOf('over').equals(expected)).toBe(true);
      const { backingFilename, specific } = inspectDisk(path('over'));
      expect(backingFilename !== undefined).toBe(backing !== '');
      expect(specific['image-type']).toBe(backing === '' ? 'dynamic' : 'differencing');
      expectSound('over');
    }
  });

  test('gives an image that never had a backing file one, and its free blocks stay zeros', () => {
    create('plain');
    change('plain', [6, MIB, 512]);
    const plain = contentOf('plain');
    rebase('plain', { backing: path('new') });
    expect(contentOf('plain').equals(plain)).toBe(true);
    rebase('plain', { backing: path('base'), isUnsafe: true });
    expectSound('plain');
  });

  test('that was left halfway is over its old backing file what it was', () => {
    for (const steps of [1, 2, 3]) {
      rebase('over', { backing: path('new') }, steps);
      expect(contentOf('over').equals(expected)).toBe(true);
    }
    rebase('over', { backing: path('new') });
    expect(contentOf('over').equals(expected)).toBe(true);
  });

  test('with -u changes the header alone, and makes children of the image strangers', () => {
    create('child', 'over');
    copyFileSync(path('base'), path('copy'));
    change('copy', [7, 3 * MIB + BLOCK, 512]);
    rebase('over', { backing: path('copy'), isUnsafe: true });
    expected.fill(7, 3 * MIB + BLOCK, 3 * MIB + BLOCK + 512);
    expect(contentOf('over').equals(expected)).toBe(true);
    expect(() => contentOf('child')).toThrow(/is not the image/);
    rebase('child', { backing: path('over'), isUnsafe: true });
    expect(contentOf('child').equals(expected)).toBe(true);
  });

  test('says that a parent in another folder has to be named', () => {
    mkdirSync(join(folder, 'away'));
    copyFileSync(path('new'), path('away/parent'));
    const said: string[] = [];
    rebase('over', { backing: path('away/parent'), log: (sentence) => said.push(sentence) });
    expect(said).toEqual([
      expect.stringMatching(/is no \.vdi file in the same folder.*--allow-backing .*away\/parent\.vdi/),
    ]);
    expect(contentOf('over', false, [path('away/parent')]).equals(expected)).toBe(true);
    // a loop is found through a parent that is looked for as well
    expect(() => rebase('away/parent', { backing: path('over'), allowBacking: [path('away/parent')] })).toThrow(
      /itself/,
    );
  });

  test('is refused, before anything is copied, for a parent without UUIDs, a loop, and a static image', () => {
    createDisk(path('raw'), 'raw', { size: SIZE, options: new Map() });
    createDisk(path('q'), 'qcow2', { size: SIZE, options: new Map() });
    create('static', undefined, { static: 'on' });
    const before = contentOf('over');
    const info = inspectDisk(path('over'));
    for (const isUnsafe of [false, true]) {
      const unknown = /cannot be the backing file of a VDI image: that knows its parent by UUIDs/;
      expect(() => rebase('over', { backing: path('q'), isUnsafe })).toThrow(unknown);
      expect(() => rebase('over', { backing: path('raw'), backingFormat: 'raw', isUnsafe })).toThrow(unknown);
      expect(() => rebase('base', { backing: path('over'), isUnsafe })).toThrow(
        /is based on .*base\.vdi, the image itself/,
      );
      expect(() => rebase('static', { backing: path('base'), isUnsafe })).toThrow(/is a static VDI image/);
    }
    const gone = { backing: path('gone'), backingFormat: 'vdi', isUnsafe: true };
    expect(() => rebase('over', gone)).toThrow(/knows its parent by UUIDs/);
    rebase('static', { backing: '' });
    expect(inspectDisk(path('over'))).toEqual(info);
    expect(contentOf('over').equals(before)).toBe(true);
  });
});
