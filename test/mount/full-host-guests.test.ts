// Guests on a mount with full=wait whose host runs full again and again: ext4 and XFS on a loop device, under fio with checksums.
// None of them may see an error, their own checks find nothing, and every byte that a program has flushed is there afterwards.
// fullhost.sh is the long run.

import { spawn } from 'node:child_process';
import { rmSync, statfsSync, statSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnRows } from '../support/drawn-rows.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench, exitOf, until } from './cli-harness.ts';

const GUESTS = [
  { guest: 'ext4', format: 'qcow2', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { guest: 'xfs', format: 'qed', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
  { guest: 'ext4', format: 'vdi', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { guest: 'xfs', format: 'vpc', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
  { guest: 'ext4', format: 'vmdk', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { guest: 'xfs', format: 'vhdx', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
  { guest: 'ext4', format: 'parallels', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { guest: 'ext4', format: 'raw', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
] as const;

/** Files that fio has written and that are verified at the end; older ones make room. */
const KEPT = 4;
const FILE_MIB = 8;

let bench: Bench;
let host: string;
let mountpoint: string;
let guest: string;
beforeEach((context) => {
  const commands = ['fio', 'losetup', 'mkfs.ext4', 'e2fsck', 'mkfs.xfs', 'xfs_repair', 'fstrim', 'qemu-img'];
  requireOrSkip(context, canMountAsRoot() && commands.every(hasCommand), `root, /dev/fuse, ${commands.join(', ')}`);
  bench = new Bench();
  host = bench.makeDirectory('host');
  mountpoint = bench.makeDirectory('mnt');
  guest = bench.makeDirectory('guest');
});
afterEach(() => {
  // a guest that waits for space cannot be unmounted, and every sync(2) of the machine waits for it
  if (bench !== undefined) rmSync(`${host}/filler`, { force: true });
  bench?.cleanUp();
});

function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect(code, `${command} ${parameters.join(' ')}: ${stderr}${stdout}`).toBe(0);
  return stdout.trim();
}

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect([parameters, code, stderr]).toEqual([parameters, 0, '']);
  return stdout;
}

function isWaiting(): boolean {
  return imgfuse('status', '--output', 'json', mountpoint).includes('"waiting-for-space"');
}

/** Random writes of random content with checksums, flushed every few of them, into a file of this number. */
function fioJob(cycle: number, ...more: readonly string[]): string[] {
  return [
    `--name=file${cycle}`,
    `--filename=${guest}/file${cycle}`,
    ...['--rw=randwrite', '--bsrange=4k-64k', `--size=${FILE_MIB}m`, `--randseed=${cycle + 1}`, '--fsync=8'],
    ...['--ioengine=libaio', '--iodepth=8', `--direct=${cycle % 2}`, '--fallocate=none'],
    ...['--verify=crc32c', '--verify_fatal=1', '--verify_state_save=0', '--output-format=terse', ...more],
  ];
}

/** Takes all the space that the host has; the image may take some of it, or give some back, meanwhile. */
function fill(): void {
  const { bavail, bsize } = statfsSync(host);
  const offset = statSync(`${host}/filler`, { throwIfNoEntry: false })?.size ?? 0;
  if (bavail === 0) return;
  bench.run('fallocate', ['--offset', String(offset), '--length', String(bavail * bsize), `${host}/filler`]);
}

/** @returns whether the guest had to wait: it does not if it finds all the space that it needs in what it has given back */
async function fullCycle(cycle: number): Promise<boolean> {
  fill();
  const fio = spawn('fio', fioJob(cycle, '--do_verify=1'), {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: bench.directory,
  });
  let output = '';
  for (const stream of [fio.stdout, fio.stderr]) stream.on('data', (chunk) => (output += chunk));
  let hasWaited = false;
  while (fio.exitCode === null && !hasWaited) {
    fill();
    hasWaited = isWaiting();
    await delay(20);
  }
  await delay(Math.random() * 300);
  rmSync(`${host}/filler`, { force: true });
  expect(await exitOf(fio), output).toBe(0);
  if (cycle >= KEPT) run('rm', `${guest}/file${cycle - KEPT}`);
  run('fstrim', guest);
  return hasWaited;
}

describe.each(drawnRows(GUESTS, ({ format }) => format === 'qcow2'))('$guest on a $format image with full=wait', ({
  guest: name,
  format,
  make,
  check,
}) => {
  const cycles = sliceOf('fullHosts');

  test(`survives ${cycles} times that its host runs full`, { timeout: 120_000 + cycles * 30_000 }, async () => {
    run('mount', '-t', 'tmpfs', '-o', 'size=200m', 'tmpfs', host);
    const image = `${host}/disk`;
    imgfuse('create', '-q', '-f', format, image, '1G');
    imgfuse('mount', '--format', format, image, mountpoint, '-o', 'full=wait');
    // of a plain loop device writes go through the page cache of the mount, of the other one they do not
    let loop = run(
      'losetup',
      '--find',
      '--show',
      `--direct-io=${name === 'xfs' ? 'on' : 'off'}`,
      `${mountpoint}/disk.raw`,
    );
    run(make[0], ...make.slice(1), loop);
    run('mount', '-o', 'discard', loop, guest);
    let last = 0;
    for (let full = 0; full < cycles; last++) {
      if (await fullCycle(last)) full++;
      expect(last, 'most cycles find a full host').toBeLessThan(3 * cycles + 3);
    }
    writeFileSync(`${guest}/last`, 'last');
    run('sync', '-f', guest);
    run('umount', guest);
    run(check[0], ...check.slice(1), loop);
    run('losetup', '-d', loop);
    await until(() => bench.imgfuse('unmount', mountpoint).code === 0, 'the loop device to let go');
    bench.assertSound(image, format);

    imgfuse('mount', '--format', format, image, mountpoint);
    loop = run('losetup', '--find', '--show', `${mountpoint}/disk.raw`);
    run(check[0], ...check.slice(1), loop);
    // fio opens what it verifies for writing
    run('mount', loop, guest);
    expect(run('cat', `${guest}/last`)).toBe('last');
    for (let cycle = Math.max(0, last - KEPT); cycle < last; cycle++) {
      run('fio', ...fioJob(cycle, '--verify_only'));
    }
    console.log(`${name} on ${format}: the host ran full ${cycles} times, nothing was lost`);
    run('umount', guest);
    run('losetup', '-d', loop);
    await until(() => bench.imgfuse('unmount', mountpoint).code === 0, 'the loop device to let go');
  });
});
