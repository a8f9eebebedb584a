// attach and detach touch nothing that they have not made: what others have mounted since at the same place, another image there, the
// records of imgfuse itself, and what a disk holds beside its partitions.

import { existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { loopsUnder } from '../support/attach-run.ts';
import { makeGuestDisk, run } from '../support/guest-images.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, mountsUnder } from './cli-harness.ts';

const TOOLS = ['sfdisk', 'losetup', 'mkfs.ext4', 'fuse2fs'];
const EXT4 = ['mkfs.ext4', '-q', '-F'] as const;

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && TOOLS.every(hasCommand), `root, /dev/fuse, ${TOOLS.join(', ')}`);
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
  return stdout;
}

function guestDisk(name: string): string {
  const image = bench.path(name);
  makeGuestDisk(image, 'gpt', [{ mib: 16, make: EXT4 }]);
  return image;
}

/** A file system on a whole disk, whose first block has room for a partition table. */
function tableInFileSystem(name: string): string {
  const image = bench.path(name);
  run('truncate', ['-s', '16M', image]);
  run('mkfs.ext4', ['-q', '-F', '-E', 'nodiscard', image]);
  run('sfdisk', ['--quiet', '--force', '--wipe', 'never', image], 'label: dos\nstart=12MiB, size=1MiB\n');
  return image;
}

function leftovers(): string[] {
  return [...mountsUnder(bench.directory), ...loopsUnder(bench.directory), ...bench.runtimeFiles()];
}

test('a FUSE file system of somebody else at the directory of an attachment stays mounted', () => {
  const image = guestDisk('disk.img');
  const guest = bench.makeDirectory('guest');
  const foreign = bench.path('foreign.img');
  run('truncate', ['-s', '8M', foreign]);
  run('mkfs.ext4', ['-q', '-F', foreign]);
  imgfuse('attach', image, guest);
  run('umount', [guest]);
  run('fuse2fs', ['-o', 'fakeroot', foreign, guest]);
  try {
    imgfuse('detach', image);
    expect(readdirSync(guest)).toEqual(['lost+found']);
    expect(mountsUnder(bench.directory)).toEqual([guest]);
  } finally {
    run('umount', [guest]);
  }
  expect(leftovers()).toEqual([]);
});

test.each(['a', 'b'])('of two images at one directory, detach takes the one whose files are there (%s)', (gone) => {
  const images = [guestDisk('a.img'), guestDisk('b.img')];
  const [first, second] = gone === 'a' ? images : images.toReversed();
  const guest = bench.makeDirectory('guest');
  imgfuse('attach', first!, guest);
  run('umount', [guest]);
  imgfuse('attach', second!, guest);
  expect(imgfuse('detach', guest)).toBe(`${second} is closed and clean\n`);
  expect(mountsUnder(guest)).toEqual([]);
  // what was left of the first was removed by the attach of the second
  expect(bench.imgfuse('detach', first!)).toMatchObject({ code: 32, stdout: '' });
  expect(leftovers()).toEqual([]);
});

test.each([
  'attach',
  'mount',
])('%s refuses a directory above the records of imgfuse, and changes nothing', (command) => {
  const image = guestDisk('disk.img');
  const outer = bench.makeDirectory('outer');
  const runtime = join(outer, 'runtime');
  mkdirSync(runtime, { mode: 0o700 });
  const { code, stderr } = bench.runCli([command, image, outer], { IMGFUSE_RUNTIME_DIR: runtime });
  expect(code).toBe(1);
  expect(stderr).toBe(
    `imgfuse: a mount at ${outer} would cover ${runtime}, where imgfuse keeps its records; choose another directory, ` +
      'or another place for the records (IMGFUSE_RUNTIME_DIR)\n',
  );
  expect(readdirSync(runtime)).toEqual([]);
  expect(leftovers()).toEqual([]);
});

test('a file system beside the partition table is offered, and attached only by name', () => {
  const image = tableInFileSystem('disk.img');
  const guest = bench.makeDirectory('guest');
  const asked = bench.imgfuse('attach', image, guest);
  expect(asked.code).toBe(1);
  expect(asked.stderr).toMatch(/^disk +16 MiB +whole disk +ext4$/m);
  expect(asked.stderr).toContain('its whole disk holds ext4, perhaps from before it was partitioned');
  expect(leftovers()).toEqual([]);

  expect(imgfuse('attach', image, guest, '--partition', 'disk')).toBe(`${image} (ext4) is attached at ${guest}\n`);
  writeFileSync(join(guest, 'file'), 'text');
  imgfuse('detach', guest);
  expect(existsSync(join(guest, 'file'))).toBe(false);
  expect(imgfuse('attach', '-r', image, '--partition', 'disk', '--', 'cat', 'file')).toBe('text');
  expect(leftovers()).toEqual([]);
});

test('the whole disk is not offered if a partition holds a file system', () => {
  const image = guestDisk('disk.img');
  const { code, stderr } = bench.imgfuse('attach', image, '--partition', 'disk');
  expect(code).toBe(1);
  expect(stderr).toContain(`imgfuse: ${image} has no file system beside its partitions\n`);
  expect(leftovers()).toEqual([]);
});
