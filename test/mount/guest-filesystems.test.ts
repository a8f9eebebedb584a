// Real guests: ext4, xfs and btrfs on a loop device over the mounted disk, with real files, checked by their own fsck.

import { statSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench } from './cli-harness.ts';

const TREE = fileURLToPath(new URL('../../node_modules/typescript/lib', import.meta.url));

const GUESTS = [
  { name: 'ext4', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { name: 'xfs', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
  { name: 'btrfs', make: ['mkfs.btrfs', '-q', '-f'], check: ['btrfs', 'check', '--readonly'] },
] as const;

/** Each format has its first guest, and as many after that one as its slice says. */
const ROWS = ['qed', 'qcow2', 'vdi', 'vpc', 'vmdk', 'vhdx', 'parallels'].flatMap((format, first) =>
  Array.from({ length: sliceOf('guests') }, (_, n) => ({ format, ...GUESTS[(first + n) % GUESTS.length]! })),
);

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

/** Runs a command that must succeed. */
function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect(code, `${command} ${parameters.join(' ')}: ${stderr}${stdout}`).toBe(0);
  return stdout.trim();
}

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
  return stdout;
}

const hostBytes = (path: string) => statSync(path).blocks * 512;

describe.each(ROWS)('$name on a loop device over a $format image', ({ format, name, make, check }) => {
  test('keeps every file over an unmount, gives trimmed space back, and leaves a clean image', (context) => {
    requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
    requireOrSkip(
      context,
      hasCommand(make[0]) && hasCommand(check[0]) && hasCommand('qemu-img'),
      `${make[0]}, ${check[0]} and qemu-img`,
    );
    const image = bench.path(`guest.${format}`);
    const at = bench.makeDirectory('mnt');
    const guest = bench.makeDirectory('guest');
    imgfuse('create', '-f', format, image, '2G');

    imgfuse('mount', image, at);
    let loop = run('losetup', '--find', '--show', `${at}/disk.raw`);
    run(make[0], ...make.slice(1), loop);
    run('mount', loop, guest);
    run('cp', '-a', TREE, `${guest}/tree`);
    run('cp', '-a', TREE, `${guest}/doomed`);
    run('umount', guest);
    run('losetup', '-d', loop);
    imgfuse('unmount', at);
    bench.assertSound(image, format);

    imgfuse('mount', image, at);
    loop = run('losetup', '--find', '--show', '--direct-io=on', `${at}/disk.raw`);
    run(check[0], ...check.slice(1), loop);
    run('mount', loop, guest);
    run('diff', '-r', TREE, `${guest}/tree`);
    run('rm', '-r', `${guest}/doomed`);
    // xfs frees the blocks of removed files in the background; only umount waits for that, sync -f does not
    run('umount', guest);
    run('mount', loop, guest);
    const before = hostBytes(image);
    run('fstrim', guest);
    run('sync', '-f', guest);
    run('umount', guest);
    run(check[0], ...check.slice(1), loop);
    run('losetup', '-d', loop);
    imgfuse('unmount', at);
    const trimmed = before - hostBytes(image);
    expect(trimmed, `${name}: host bytes given back by fstrim`).toBeGreaterThan(10 * 1024 * 1024);
    bench.assertSound(image, format);
  });
});
