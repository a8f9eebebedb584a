// Commit and rebase of VMDK images, whose children know their parents by CIDs and names in a text, with QEMU as the judge of what is
// left. Every subformat as a base, children of one file and of several.

import { copyFileSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { type CommitDiskOptions, inspectDisk, openCommit, openDisk, openRebase } from '../../src/disk/index.ts';
import { fingerprints, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { descriptorText } from '../support/vmdk-text.ts';

let folder = '';
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== '') removeTemporaryDirectory(folder);
});

const path = (name: string): string => join(folder, name);

function commit(overlay: string, options: Partial<CommitDiskOptions> = {}, steps = Number.POSITIVE_INFINITY): void {
  const opened = openCommit(path(overlay), { isKept: false, ...options });
  try {
    for (let n = 0; n < steps && opened.work.next().done !== true; n++);
  } finally {
    opened.close();
  }
}

function rebase(image: string, backing: string, backingFormat: string, isUnsafe = false): void {
  const opened = openRebase(path(image), { backing, backingFormat, isUnsafe });
  try {
    while (opened.work.next().done !== true);
  } finally {
    opened.close();
  }
}

function create(name: string, size: string, options: string, ...more: readonly string[]): void {
  qemuImg('create', '-q', '-f', 'vmdk', ...(options === '' ? [] : ['-o', options]), ...more, path(name), size);
}

/** The whole disk in imgfuse and in QEMU is the same. QEMU refuses a base whose new name the child has not stored yet. */
function judge(image: string, expected: string, inQemu = true): void {
  withDisk(path(image), { readOnly: true }, (disk) => {
    const bytes = Buffer.alloc(disk.size());
    disk.read(bytes, 0, bytes.length, guestOffset(0));
    expect(Buffer.compare(bytes, readFileSync(path(expected)))).toBe(0);
  });
  if (inQemu) qemuImg('compare', '-f', 'raw', '-F', 'vmdk', path(expected), path(image));
}

const BASES = ['monolithicSparse', 'monolithicFlat', 'twoGbMaxExtentSparse', 'twoGbMaxExtentFlat'];

describe.each(BASES)('into a base of %s', (subformat) => {
  test.each([
    'monolithicSparse',
    'twoGbMaxExtentSparse',
  ])('a child of %s is committed, and goes on as its child', (own) => {
    create('base.vmdk', '3M', `subformat=${subformat}`);
    qemuIo(path('base.vmdk'), 'vmdk', 'write -P 1 0 900k', 'write -P 2 1M 300k');
    create('child.vmdk', '3M', `subformat=${own}`, '-b', path('base.vmdk'), '-F', 'vmdk');
    create('other.vmdk', '3M', '', '-b', path('base.vmdk'), '-F', 'vmdk');
    qemuIo(path('child.vmdk'), 'vmdk', 'write -P 3 100k 33k', 'write -P 5 1500k 200k', 'write -P 6 2500k 60k');
    qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path('child.vmdk'), path('expected'));
    // left halfway, kept, and whole: the child knows its base at each of them, and nobody else does
    commit('child.vmdk', {}, 1);
    judge('child.vmdk', 'expected', false);
    const said: string[] = [];
    for (let turn = 0; turn < 2; turn++) {
      // a write gives the child another CID, from which the name of its parent does not follow any more
      withDisk(path('child.vmdk'), { readOnly: false, log: (line) => said.push(line) }, (disk) =>
        disk.write(Buffer.alloc(512, 3), 0, 512, guestOffset(100 * 1024)),
      );
      judge('child.vmdk', 'expected');
    }
    expect(said.filter((line) => line.includes('was broken off'))).toHaveLength(1);
    commit('child.vmdk', {}, 1);
    judge('child.vmdk', 'expected', false);
    commit('child.vmdk', { isKept: true });
    judge('child.vmdk', 'expected');
    judge('base.vmdk', 'expected');
    commit('child.vmdk');
    judge('child.vmdk', 'expected');
    expect(JSON.parse(qemuImg('map', '--output=json', '-f', 'vmdk', path('child.vmdk')))).not.toContainEqual(
      expect.objectContaining({ depth: 0, data: true }),
    );
    expect(() => openDisk(path('other.vmdk'), { readOnly: true })).toThrow(
      /is not the image that .*other\.vmdk was made on/,
    );
    for (const [image, kind] of [
      ['child.vmdk', own],
      ['base.vmdk', subformat],
    ] as const)
      if (!kind.endsWith('Flat')) qemuCheck(path(image), 'vmdk');
    qemuIo(path('child.vmdk'), 'vmdk', 'write -P 9 0 64k');
    commit('child.vmdk');
    qemuIo(path('base.vmdk'), 'vmdk', 'read -P 9 0 64k');
  });
});

describe.each(['monolithicSparse', 'twoGbMaxExtentSparse'])('a child of %s', (own) => {
  test('shows the same over another parent, over none and over the first one again', () => {
    create('old.vmdk', '3M', '');
    qemuIo(path('old.vmdk'), 'vmdk', 'write -P 1 0 1M', 'write -P 2 2M 700k');
    create('a-parent-with-a-longer-name.vmdk', '3M', 'subformat=twoGbMaxExtentSparse');
    qemuIo(path('a-parent-with-a-longer-name.vmdk'), 'vmdk', 'write -P 1 0 600k', 'write -P 9 700k 1M');
    create('child.vmdk', '3M', `subformat=${own}`, '-b', path('old.vmdk'), '-F', 'vmdk');
    qemuIo(path('child.vmdk'), 'vmdk', 'write -P 3 100k 50k', 'write -P 4 2900k 100k');
    qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path('child.vmdk'), path('expected'));
    for (const to of ['a-parent-with-a-longer-name.vmdk', '', 'old.vmdk', path('a-parent-with-a-longer-name.vmdk')]) {
      rebase('child.vmdk', to, 'vmdk');
      judge('child.vmdk', 'expected');
      qemuCheck(path('child.vmdk'), 'vmdk');
      const { 'backing-filename': name } = JSON.parse(qemuImg('info', '--output=json', path('child.vmdk'))) as Record<
        string,
        unknown
      >;
      expect(name).toBe(to === '' ? undefined : to);
    }
    rebase('child.vmdk', 'old.vmdk', 'vmdk', true);
    qemuIo(path('child.vmdk'), 'vmdk', 'read -P 3 100k 50k', 'read -P 4 2900k 100k');
    expect(inspectDisk(path('child.vmdk')).backingFilename).toBe('old.vmdk');
  });
});

test('an image in the middle of a chain is committed, and its child goes on', () => {
  create('base.vmdk', '3M', '');
  create('middle.vmdk', '3M', '', '-b', path('base.vmdk'), '-F', 'vmdk');
  qemuIo(path('middle.vmdk'), 'vmdk', 'write -P 3 100k 33k');
  create('top.vmdk', '3M', '', '-b', path('middle.vmdk'), '-F', 'vmdk');
  qemuIo(path('top.vmdk'), 'vmdk', 'write -P 5 1M 64k');
  qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path('top.vmdk'), path('expected'));
  const cid = inspectDisk(path('middle.vmdk')).specific['cid'];
  commit('middle.vmdk');
  expect(inspectDisk(path('middle.vmdk')).specific['cid']).toBe(cid);
  judge('top.vmdk', 'expected');
  qemuIo(path('base.vmdk'), 'vmdk', 'read -P 3 100k 33k');
  commit('top.vmdk', { base: path('base.vmdk') });
  judge('base.vmdk', 'expected');
});

test('what a VirtualBox child knows of its parent changes with a commit and with a rebase', () => {
  const uuid = (digit: string): string => `${digit.repeat(8)}-0000-4000-8000-000000000000`;
  const disk = (name: string, ddb: readonly string[]): void => {
    create(`${name}.x`, '1M', 'subformat=twoGbMaxExtentSparse');
    copyFileSync(path(`${name}-s001.x`), path(`${name}-s001.vmdk`));
    const extents = [`RW 2048 SPARSE "${name}-s001.vmdk"`];
    writeFileSync(path(`${name}.vmdk`), descriptorText({ extents, ddb }));
  };
  disk('parent', [`ddb.uuid.image="${uuid('a')}"`, `ddb.uuid.modification="${uuid('b')}"`]);
  disk('second', [`ddb.uuid.image="${uuid('c')}"`, `ddb.uuid.modification="${uuid('d')}"`]);
  disk('child', [
    `ddb.uuid.image="${uuid('e')}"`,
    `ddb.uuid.modification="${uuid('f')}"`,
    `ddb.uuid.parent="${uuid('a')}"`,
    `ddb.uuid.parentmodification="${uuid('b')}"`,
  ]);
  const before = fingerprints(folder);
  withDisk(path('child.vmdk'), { readOnly: false }, (image) =>
    image.write(Buffer.alloc(4096, 7), 0, 4096, guestOffset(0)),
  );
  expect(fingerprints(folder)['parent.vmdk']).toBe(before['parent.vmdk']);
  commit('child.vmdk', { isKept: true });
  commit('child.vmdk');
  withDisk(path('child.vmdk'), { readOnly: false }, (image) =>
    image.write(Buffer.alloc(4096, 8), 0, 4096, guestOffset(8192)),
  );
  rebase('child.vmdk', 'second.vmdk', 'vmdk');
  const text = readFileSync(path('child.vmdk'), 'latin1');
  expect(text).toContain(`ddb.uuid.parent="${uuid('c')}"`);
  expect(text).toContain(`ddb.uuid.parentmodification="${uuid('d')}"`);
  withDisk(path('child.vmdk'), { readOnly: true }, (image) => {
    const bytes = Buffer.alloc(12288);
    image.read(bytes, 0, bytes.length, guestOffset(0));
    expect([bytes[0], bytes[4096], bytes[8192]]).toEqual([7, 0, 8]);
  });
});
