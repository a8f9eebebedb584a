// A mount with full=wait whose host file system runs full: writes are held, and go on once there is space; reads go on all the
// time; whatever ends the mount, or the writer, ends the wait.

import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync, readFileSync, readSync, statSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, isRunning, outlives, until } from './cli-harness.ts';

const MIB = 1024 * 1024;
const DISK_MIB = 24;
const CONTENT = randomBytes(DISK_MIB * MIB);

let bench: Bench;
let host: string;
let mountpoint: string;
let image: string;
const writers: ChildProcess[] = [];
beforeEach((context) => {
  const commands = ['qemu-img', 'dd', 'fallocate', 'losetup', 'blkdiscard', 'fio'];
  requireOrSkip(context, canMountAsRoot() && commands.every(hasCommand), `root, /dev/fuse, ${commands.join(', ')}`);
  bench = new Bench();
  host = bench.makeDirectory('host');
  mountpoint = bench.makeDirectory('mnt');
  image = `${host}/disk`;
  writeFileSync(bench.path('content'), CONTENT);
});
afterEach(() => {
  for (const writer of writers.splice(0)) writer.kill('SIGKILL');
  // a loop device that waits for space cannot be detached, and every sync(2) of the machine waits for it
  bench?.run('mount', ['-o', 'remount,size=64m', host]);
  bench?.cleanUp();
});

function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect([command, ...parameters, code, stderr]).toEqual([command, ...parameters, 0, '']);
  return stdout.trim();
}

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect([parameters, code, stderr]).toEqual([parameters, 0, '']);
  return stdout;
}

/** Of the disk, written and flushed before the host is full: what its tables need for the rest has a place by then. */
const FLUSHED_MIB = 2;

/** An image on a file system of 10 MiB, mounted with full=wait. */
function mountOnSmallHost(format: string, ...options: readonly string[]): void {
  run('mount', '-t', 'tmpfs', '-o', 'size=10m', 'tmpfs', host);
  imgfuse('create', '-q', '-f', format, image, `${DISK_MIB}M`);
  imgfuse('mount', '--format', format, image, mountpoint, '-o', 'full=wait', ...options);
  const part = ['bs=1M', `count=${FLUSHED_MIB}`, 'conv=notrunc,fsync', 'status=none'];
  run('dd', `if=${bench.path('content')}`, `of=${mountpoint}/disk.raw`, ...part);
}

function makeSpace(): void {
  run('mount', '-o', 'remount,size=64m', host);
}

interface Waiting {
  readonly since: string;
  readonly requests: number;
  readonly file: string;
  readonly 'file-system': string;
}

function waiting(): Waiting | undefined {
  const [status] = JSON.parse(imgfuse('status', '--output', 'json', mountpoint)) as Record<string, unknown>[];
  return status?.['waiting-for-space'] as Waiting | undefined;
}

/** Writes the content over the disk. */
function startWriter(...options: readonly string[]): ChildProcess & { output: () => string } {
  const child = spawn(
    'dd',
    [`if=${bench.path('content')}`, `of=${mountpoint}/disk.raw`, 'bs=1M', 'conv=notrunc,fsync', ...options],
    {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, LC_ALL: 'C' },
    },
  );
  let text = '';
  child.stderr.on('data', (chunk) => {
    text += chunk;
  });
  writers.push(child);
  return Object.assign(child, { output: () => text });
}

async function startHeldWriter(...options: readonly string[]): Promise<ReturnType<typeof startWriter>> {
  const writer = startWriter(...options);
  await until(() => waiting() !== undefined, 'a write to wait for space');
  return writer;
}

function log(): string {
  return readFileSync(bench.records()[0]!.log!, 'utf8');
}

function expectWhole(format: string): void {
  bench.assertSound(image, format);
  run('qemu-img', 'convert', '-f', format, '-O', 'raw', image, bench.path('copy.raw'));
  expect(readFileSync(bench.path('copy.raw')).equals(CONTENT)).toBe(true);
}

describe.each(
  drawnFormats(['raw', 'qed', 'qcow2', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels']),
)('a %s image with full=wait', (format) => {
  test('holds writes until there is space, serves reads meanwhile with its only worker, and says so', async () => {
    mountOnSmallHost(format, '--workers', '1');
    const started = Date.now();
    const writer = await startHeldWriter();
    const state = waiting()!;
    expect(state).toMatchObject({ requests: 1, file: image, 'file-system': host });
    expect(Math.abs(Date.parse(state.since) - started)).toBeLessThan(60_000);
    const sentence = `1 request waits for space on ${host} since ${state.since}, because ${image} cannot grow`;
    expect(imgfuse('status', mountpoint)).toMatch(new RegExp(`^full host: +${sentence}$`, 'm'));
    const text = readFileSync(`${mountpoint}/status.json`, 'utf8');
    expect(JSON.parse(text)).toMatchObject({ full: 'wait', 'waiting-for-space': { requests: 1, file: image } });
    expect(imgfuse('status')).toMatch(/ waiting +rw /);
    expect(log()).toContain(`from now on requests wait until there is space on ${host} (full=wait), and reads go on`);
    process.kill(bench.daemonPid(), 'SIGUSR1');
    await until(() => log().includes(`; ${sentence}`), 'the line of SIGUSR1');

    // not from the page cache
    const disk = openSync(`${mountpoint}/disk.raw`, 0x4000);
    const bytes = Buffer.alloc(4 * MIB);
    readSync(disk, bytes, 0, bytes.length, 0);
    closeSync(disk);
    expect(bytes.equals(CONTENT.subarray(0, bytes.length))).toBe(true);
    expect(await outlives(writer.pid!, 500)).toBe(true);

    makeSpace();
    expect(await exitOf(writer)).toBe(0);
    await until(() => waiting() === undefined, 'the end of the wait');
    expect(log()).toMatch(new RegExp(`1 request went on after \\d+ s: there is space on ${host} again`));
    expect(log()).not.toContain('error:');
    imgfuse('unmount', mountpoint);
    expectWhole(format);
  });

  test('holds several requests at once, and answers all of them', async () => {
    mountOnSmallHost(format);
    const job = ['--name=x', `--filename=${mountpoint}/disk.raw`, '--rw=write', '--bs=1m', `--size=${DISK_MIB}m`];
    const depth = ['--ioengine=libaio', '--direct=1', '--iodepth=4', '--verify=crc32c', '--verify_state_save=0'];
    const fio = spawn('fio', [...job, ...depth, '--do_verify=1'], { cwd: bench.directory, stdio: 'ignore' });
    writers.push(fio);
    await until(() => waiting()?.requests === 4, 'all requests under way to wait');
    makeSpace();
    expect(await exitOf(fio)).toBe(0);
    expect(log()).toMatch(/[1-4] requests? went on/);
    imgfuse('unmount', mountpoint);
    bench.assertSound(image, format);
  });

  test('gives up what waits at SIGTERM, with ENOSPC, and closes the image clean', async () => {
    mountOnSmallHost(format);
    const writer = await startHeldWriter();
    const pid = bench.daemonPid();
    const path = bench.records()[0]!.log!;
    const written = readFileSync(path, 'utf8');
    expect(written).not.toContain('failed with ENOSPC');
    const held = openSync(path, 'r');
    process.kill(pid, 'SIGTERM');
    expect(await exitOf(writer)).toBe(1);
    await until(() => writer.output().includes('No space left on device'), 'what dd says');
    await until(() => !isRunning(pid), 'the end of the daemon');
    expect(readFileSync(held, 'utf8')).toMatch(
      new RegExp(`1 request, which waited for space on ${host} since .*, failed with ENOSPC: SIGTERM`),
    );
    closeSync(held);
    if (format === 'raw') return;
    makeSpace();
    bench.assertSound(image, format);
  });

  test('loses nothing that was flushed if its process is killed while a write waits', async () => {
    mountOnSmallHost(format);
    const writer = await startHeldWriter(`skip=${FLUSHED_MIB}`, `seek=${FLUSHED_MIB}`);
    process.kill(bench.daemonPid(), 'SIGKILL');
    expect(await exitOf(writer)).toBe(1);
    bench.imgfuse('unmount', mountpoint);
    makeSpace();
    // may say that it repairs
    expect(bench.imgfuse('mount', '--format', format, image, mountpoint).code).toBe(0);
    const disk = openSync(`${mountpoint}/disk.raw`, 'r');
    const bytes = Buffer.alloc(FLUSHED_MIB * MIB);
    readSync(disk, bytes, 0, bytes.length, 0);
    closeSync(disk);
    expect(bytes.equals(CONTENT.subarray(0, bytes.length))).toBe(true);
    imgfuse('unmount', mountpoint);
  });
});

test('a writer that is killed while its write waits goes at once, and then the mount can be unmounted', async () => {
  mountOnSmallHost('qcow2');
  const writer = await startHeldWriter();
  const refused = bench.imgfuse('unmount', mountpoint);
  expect(refused.code).toBe(32);
  expect(refused.stderr).toMatch(
    /is in use by process \d+ \(dd\).* 1 request waits for space on .*: make space, or give up what waits with "kill \d+", which ends the mount/,
  );
  writer.kill('SIGTERM');
  expect(await exitOf(writer)).toBe('SIGTERM');
  await until(() => log().includes('of killed programs'), 'the log to say so');
  expect(waiting()).toBeUndefined();
  imgfuse('unmount', mountpoint);
  run('qemu-img', 'check', '-q', '-f', 'qcow2', image);
});

test('a signal that the writer handles does not end its wait', async () => {
  mountOnSmallHost('qcow2');
  const writer = await startHeldWriter();
  // dd prints its statistics
  writer.kill('SIGUSR1');
  expect(await outlives(writer.pid!, 700)).toBe(true);
  makeSpace();
  expect(await exitOf(writer)).toBe(0);
  imgfuse('unmount', mountpoint);
  expectWhole('qcow2');
});

test('a reservation of space waits as well', async () => {
  mountOnSmallHost('raw');
  const reservation = spawn('fallocate', ['--length', '20M', `${mountpoint}/disk.raw`], { stdio: 'ignore' });
  writers.push(reservation);
  await until(() => waiting() !== undefined, 'the reservation to wait');
  makeSpace();
  expect(await exitOf(reservation)).toBe(0);
  expect(statSync(image).blocks * 512).toBeGreaterThanOrEqual(20 * MIB);
  imgfuse('unmount', mountpoint);
});

test('an image whose writes wait is not handed over', async () => {
  mountOnSmallHost('qcow2');
  const writer = await startHeldWriter();
  const refused = bench.imgfuse('remount', '-o', 'ro', mountpoint);
  expect(refused.code).not.toBe(0);
  expect(refused.stderr).toMatch(/1 request waits for space on .*; make space first, or end the programs that write/);
  makeSpace();
  expect(await exitOf(writer)).toBe(0);
  imgfuse('unmount', mountpoint);
  expectWhole('qcow2');
});

test('a discard of the guest makes room for a write that waits', async () => {
  mountOnSmallHost('qcow2');
  // of one file the kernel lets a discard pass a direct write, as that of this loop device, and no other one
  const loop = run('losetup', '--find', '--show', '--direct-io=on', `${mountpoint}/disk.raw`);
  const writer = startWriter('oflag=direct', `of=${loop}`);
  await until(() => waiting() !== undefined, 'a write to wait for space');
  const { since } = waiting()!;
  // the host stays as full as it is
  run('blkdiscard', '--offset', '0', '--length', '4M', loop);
  await until(() => log().includes('went on'), 'the write to go on');
  await until(() => (waiting()?.since ?? since) !== since, 'a later write to wait');
  makeSpace();
  expect(await exitOf(writer)).toBe(0);
  run('losetup', '-d', loop);
  await until(() => bench.imgfuse('unmount', mountpoint).code === 0, 'the loop device to let go');
  run('qemu-img', 'check', '-q', '-f', 'qcow2', image);
});

test('without it, or with full=report, a write fails with ENOSPC at once', async () => {
  run('mount', '-t', 'tmpfs', '-o', 'size=10m', 'tmpfs', host);
  imgfuse('create', '-q', '-f', 'qcow2', image, `${DISK_MIB}M`);
  imgfuse('mount', image, mountpoint, '-o', 'full=wait,full=report');
  const writer = startWriter();
  expect(await exitOf(writer)).toBe(1);
  await until(() => writer.output().includes('No space left on device'), 'what dd says');
  makeSpace();
  imgfuse('unmount', mountpoint);
});

test('fuse-native refuses full=wait by name', () => {
  imgfuse('create', '-q', '-f', 'qcow2', image, `${DISK_MIB}M`);
  const { code, stderr } = bench.imgfuse('mount', image, mountpoint, '-o', 'full=wait,transport=fuse-native');
  expect(stderr).toContain('full=wait needs the kernel transport');
  expect(code).toBe(32);
});
