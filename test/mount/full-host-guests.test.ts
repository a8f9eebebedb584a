// Guests on a mount with full=wait whose host runs full again and again: ext4 and XFS on a loop device, under fio with checksums.
// None of them may see an error, their own checks find nothing, and every byte that a program has flushed is there afterwards.
// fullhost.sh is the long run.

import { spawn } from 'node:child_process';
import { statfsSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { sliceOf } from '../support/slices.ts';
import { Bench, exitOf, until } from './cli-harness.ts';

const GUESTS = [
  { guest: 'ext4', format: 'qcow2', make: ['mkfs.ext4', '-q', '-F'], check: ['e2fsck', '-f', '-n'] },
  { guest: 'xfs', format: 'qed', make: ['mkfs.xfs', '-q', '-f'], check: ['xfs_repair', '-n'] },
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
afterEach(() => bench?.cleanUp());

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

/** Takes all the space that the host has left; the image may take some of it meanwhile. */
function fill(): void {
  for (let tries = 0; tries < 20; tries++) {
    const { bavail, bsize } = statfsSync(host);
    if (bavail === 0) return;
    if (bench.run('fallocate', ['--length', String(bavail * bsize), `${host}/filler`]).code === 0) return;
  }
  throw new Error('the host cannot be filled');
}

async function fullCycle(cycle: number): Promise<void> {
  fill();
  const fio = spawn('fio', fioJob(cycle, '--do_verify=1'), {
    stdio: ['ignore', 'pipe', 'pipe'],
    cwd: bench.directory,
  });
  let output = '';
  for (const stream of [fio.stdout, fio.stderr]) stream.on('data', (chunk) => (output += chunk));
  await until(() => fio.exitCode !== null || isWaiting(), 'a write of the guest to wait for space');
  expect(fio.exitCode, `the host was full, and fio has ended: ${output}`).toBeNull();
  await delay(Math.random() * 300);
  run('rm', `${host}/filler`);
  expect(await exitOf(fio), output).toBe(0);
  if (cycle >= KEPT) run('rm', `${guest}/file${cycle - KEPT}`);
  run('fstrim', guest);
}

describe.each(GUESTS)('$guest on a $format image with full=wait', ({ guest: name, format, make, check }) => {
  const cycles = sliceOf('fullHosts');

  test(`survives ${cycles} times that its host runs full`, async () => {
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
    for (let cycle = 0; cycle < cycles; cycle++) await fullCycle(cycle);
    writeFileSync(`${guest}/last`, 'last');
    run('sync', '-f', guest);
    run('umount', guest);
    run(check[0], ...check.slice(1), loop);
    run('losetup', '-d', loop);
    await until(() => bench.imgfuse('unmount', mountpoint).code === 0, 'the loop device to let go');
    if (format !== 'raw') run('qemu-img', 'check', '-q', '-f', format, image);

    imgfuse('mount', '--format', format, image, mountpoint);
    loop = run('losetup', '--find', '--show', `${mountpoint}/disk.raw`);
    run(check[0], ...check.slice(1), loop);
    // fio opens what it verifies for writing
    run('mount', loop, guest);
    expect(run('cat', `${guest}/last`)).toBe('last');
    for (let cycle = Math.max(0, cycles - KEPT); cycle < cycles; cycle++) {
      run('fio', ...fioJob(cycle, '--verify_only'));
    }
    console.log(`${name} on ${format}: the host ran full ${cycles} times, nothing was lost`);
    run('umount', guest);
    run('losetup', '-d', loop);
    await until(() => bench.imgfuse('unmount', mountpoint).code === 0, 'the loop device to let go');
  });
});
