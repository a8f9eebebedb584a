// Differencing VHDX images that are made and written here, beside readers that share nothing with the engine: the judge of test/support, which
// replays the log and has the bitmaps of the specification, and libvhdi, which reads chains and replays nothing. QEMU opens none.

import { execFileSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readdirSync, readFileSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk, createDisk, inspectDisk, openDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { seededRandom } from '../support/random.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { MIB } from '../support/vhdx-bytes.ts';
import { vhdxContent } from '../support/vhdx-judge.ts';

const SIZE = 9 * MIB + 4096;

let folder: string;
let base: string;
let child: string;
beforeEach((context) => {
  requireOrSkip(context, hasCommand('vhdimount') && canMountAsRoot(), 'vhdimount, root and /dev/fuse');
  folder = makeTemporaryDirectory();
  base = join(folder, 'base.vhdx');
  child = join(folder, 'child.vhdx');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function create(path: string, options: Readonly<Record<string, string>>, backing?: string, size = SIZE): void {
  createDisk(path, 'vhdx', {
    ...{ size, options: new Map(Object.entries(options)) },
    ...(backing === undefined ? {} : { backing, backingFormat: 'vhdx' }),
  });
}

/** Writes, discards and zeros at random; `model` follows. */
function change(disk: VirtualDisk, model: Buffer, random: () => number, count: number): void {
  const pick = (below: number): number => Math.floor(random() * below);
  for (let n = 0; n < count; n++) {
    const at = pick(model.length - 1);
    const length = Math.min(model.length - at, 1 + pick(random() < 0.2 ? 2 * MIB : 60_000));
    const kind = pick(5);
    const value = kind < 4 ? 1 + pick(250) : 0;
    model.fill(value, at, at + length);
    if (value > 0) disk.write(Buffer.alloc(length, value), 0, length, guestOffset(at));
    else disk.discard(guestOffset(at), length);
    if (pick(6) === 0) disk.flush();
  }
}

/** What libvhdi reads, chain and all. */
function vhdiReads(path: string): Buffer {
  const mountpoint = join(folder, 'vhdi');
  mkdirSync(mountpoint, { recursive: true });
  execFileSync('vhdimount', [path, mountpoint], { stdio: 'pipe' });
  try {
    const disks = readdirSync(mountpoint).sort();
    return readFileSync(join(mountpoint, disks.at(-1)!));
  } finally {
    execFileSync('umount', [mountpoint], { stdio: 'pipe' });
  }
}

/** What the judge reads of a chain, the lowest image first. */
function judged(...chain: readonly string[]): Buffer {
  let content = Buffer.alloc(0);
  for (const path of chain) content = Buffer.from(vhdxContent(readFileSync(path), content));
  return content;
}

function expectSound(path: string): void {
  expect(checkDisk(path, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
}

test.each([
  ['blocks of 1 MiB', { block_size: '1M' }, { block_size: '1M' }],
  ['larger blocks than its parent', { block_size: '1M' }, { block_size: '4M' }],
  ['smaller blocks than its parent', { block_size: '8M' }, { block_size: '2M' }],
  ['a fixed parent', { subformat: 'fixed', block_size: '1M' }, {}],
])('a child with %s reads the same in all readers after every session, and before its log is carried out', (_, below, above) => {
  const random = seededRandom(below.block_size?.length ?? 7);
  create(base, below);
  const model = Buffer.alloc(SIZE);
  withDisk(base, { readOnly: false }, (disk) => change(disk, model, random, 12));
  create(child, above, 'base.vhdx');
  for (let session = 0; session < 3; session++) {
    const disk = openDisk(child, { readOnly: false });
    change(disk, model, random, 15);
    disk.flush();
    // as a process that is killed now leaves it
    const killed = join(folder, 'killed.vhdx');
    copyFileSync(child, killed);
    expect(firstDifference(judged(base, killed), model)).toBe('none');
    disk.close();
    withDisk(killed, { readOnly: true }, (opened) => expect(firstDifference(readAll(opened), model)).toBe('none'));
    checkDisk(killed, { repair: 'all', log: () => undefined });
    for (const path of [child, killed]) {
      expect(firstDifference(judged(base, path), model)).toBe('none');
      expect(firstDifference(vhdiReads(path).subarray(0, SIZE), model)).toBe('none');
      expectSound(path);
    }
  }
});

test.each([
  ['of one size', SIZE],
  ['whose lowest one is shorter', 5 * MIB],
])('a chain of three images %s, with locators of both kinds', (_, size) => {
  const random = seededRandom(4);
  const top = join(folder, 'top.vhdx');
  create(base, { block_size: '1M' }, undefined, size);
  const model = Buffer.alloc(SIZE);
  withDisk(base, { readOnly: false }, (disk) => change(disk, model.subarray(0, size), random, 8));
  create(child, { block_size: '1M' }, base);
  withDisk(child, { readOnly: false }, (disk) => change(disk, model, random, 8));
  create(top, {}, 'child.vhdx');
  withDisk(top, { readOnly: false }, (disk) => change(disk, model, random, 8));
  expect(inspectDisk(child)).toMatchObject({ backingFilename: base, backingFormat: 'vhdx' });
  expect(inspectDisk(top)).toMatchObject({ backingFilename: 'child.vhdx', virtualSize: SIZE });
  expect(firstDifference(judged(base, child, top), model)).toBe('none');
  // it has no zeros behind the end of a parent
  if (size === SIZE) expect(firstDifference(vhdiReads(top).subarray(0, SIZE), model)).toBe('none');
});

test('a child of another state of the parent is refused, and so is a parent of another format', () => {
  create(base, {});
  create(child, {}, 'base.vhdx');
  withDisk(base, { readOnly: false }, (disk) => disk.write(Buffer.alloc(512, 1), 0, 512, guestOffset(0)));
  expect(() => openDisk(child, { readOnly: false })).toThrow(/is not the image that .* was made on/);
  const other = join(folder, 'other.vhdx');
  createDisk(join(folder, 'base.qed'), 'qed', { size: SIZE, options: new Map() });
  const wrong = { size: SIZE, options: new Map(), backing: 'base.qed', backingFormat: 'qed' };
  expect(() => createDisk(other, 'vhdx', wrong)).toThrow(/the backing file of a VHDX is a VHDX, not qed/);
  const fixed = { size: SIZE, options: new Map([['subformat', 'fixed']]), backing: 'base.vhdx', backingFormat: 'vhdx' };
  expect(() => createDisk(other, 'vhdx', fixed)).toThrow(/cannot be fixed/);
  renameSync(base, join(folder, 'gone.vhdx'));
  expect(() => createDisk(other, 'vhdx', { ...fixed, options: new Map() })).toThrow(/knows its parent by a GUID/);
});
