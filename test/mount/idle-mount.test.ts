// What a mount costs while nobody uses it, and what starts when requests wait for its first thread: the other threads. They may start
// when the files of the program are those of another build, and are left out then.

import { cpSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI } from './cli-harness.ts';

/** Half of it are pages of the program node that other processes have loaded as well, now more, now fewer; newer ones take more. */
const RSS_MAX_MIB = Number(process.versions.node.split('.')[0]) < 22 ? 86 : 110;

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && hasCommand('fio'), 'root, /dev/fuse and fio');
  bench = new Bench();
});
afterEach(() => bench?.cleanUp());

function copyProgram(to: string): void {
  cpSync(dirname(CLI), join(to, 'dist'), { recursive: true });
  for (const name of ['package.json', 'node_modules']) symlinkSync(join(dirname(CLI), '..', name), join(to, name));
}

/** Mounts a new image at mnt with a program. @returns the process */
function mount(cli: string, format: string): number {
  const image = bench.path(`a.${format}`);
  expect(bench.imgfuse('create', '-f', format, image, '1G')).toMatchObject({ code: 0 });
  const words = ['mount', '--workers', '3', image, bench.makeDirectory('mnt')];
  expect(bench.run(process.execPath, [cli, ...words])).toMatchObject({ code: 0 });
  return Number(/"pid": ?(\d+)/.exec(recordText())![1]);
}

function recordText(): string {
  const name = readdirSync(bench.runtime).find((each) => each.endsWith('.json'))!;
  return readFileSync(join(bench.runtime, name), 'utf8');
}

function threadsOf(pid: number): number {
  return readdirSync(`/proc/${pid}/task`).length;
}

function rssMiB(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]) / 1024;
}

test.each([
  'qcow2',
  'qed',
  'vdi',
  'vpc',
  'vmdk',
  'vhdx',
  'parallels',
])(`an idle mount of a %s image takes less than ${RSS_MAX_MIB} MiB of memory, however many workers it has`, async (format) => {
  const pid = mount(CLI, format);
  await delay(1000);
  expect(rssMiB(pid)).toBeLessThan(RSS_MAX_MIB);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
});

test('one thread serves requests that come one at a time; the others start when requests wait for it', async () => {
  const pid = mount(CLI, 'qed');
  // the first open starts the engine of the main thread, and no thread
  readFirstBytes();
  await delay(500);
  const before = threadsOf(pid);
  readBlocks(1);
  await delay(500);
  expect(threadsOf(pid)).toBe(before);
  readBlocks(16);
  await expect.poll(() => threadsOf(pid), { timeout: 10_000 }).toBe(before + 2);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0, stderr: '' });
});

test('a mount of a qcow2 image needs none of the engines of other formats', () => {
  const program = bench.path('program');
  const cli = join(program, 'dist/cli.js');
  copyProgram(program);
  const chunks = join(program, 'dist/program');
  const others = readdirSync(chunks).filter((name) => name.startsWith('format-') && name !== 'format-qcow2.cjs');
  expect(others.length).toBeGreaterThan(10);
  for (const name of others) rmSync(join(chunks, name));
  mount(cli, 'qcow2');
  const words = ['if=/dev/zero', 'of=mnt/disk.raw', 'bs=4k', 'count=1', 'seek=5', 'conv=notrunc,fsync'];
  expect(bench.run('dd', words)).toMatchObject({ code: 0 });
  readBlocks(16);
  expect(bench.run(process.execPath, [cli, 'status', 'mnt']).stdout).toContain('mounted');
  expect(bench.run(process.execPath, [cli, 'unmount', 'mnt'])).toMatchObject({ code: 0, stderr: '' });
});

test('a thread does not start from the files of another build, and the mount goes on without it', async () => {
  const program = bench.path('program');
  const cli = join(program, 'dist/cli.js');
  copyProgram(program);
  mount(cli, 'qed');
  const build = /BUILD = '(\w+)'/.exec(readFileSync(join(program, 'dist/program/load.cjs'), 'utf8'))![1]!;
  for (const name of readdirSync(join(program, 'dist/program')).filter((each) => each.endsWith('.cjs'))) {
    const path = join(program, 'dist/program', name);
    writeFileSync(path, readFileSync(path, 'utf8').replaceAll(build, build.replaceAll(/\w/g, '0')));
  }
  readBlocks(16);
  const log = (): string => readFileSync(/"log": ?"([^"]+)"/.exec(recordText())![1]!, 'utf8');
  await expect
    .poll(log, { timeout: 10_000 })
    .toMatch(/thread 3 of the mount could not be started, the others serve it/);
  expect(log()).toContain('belongs to another build of the program');
  readFirstBytes();
  // the new program asks the process of the old one
  expect(bench.run(process.execPath, [cli, 'status', 'mnt']).stdout).toContain('mounted');
  expect(bench.run(process.execPath, [cli, 'unmount', 'mnt'])).toMatchObject({ code: 0, stderr: '' });
});

/** 4000 blocks, so many at a time. */
function readBlocks(depth: number): void {
  const file = ['--name=read', '--filename=mnt/disk.raw', '--allow_file_create=0', '--size=1G', '--io_size=16M'];
  const job = ['--rw=randread', '--bs=4k', '--direct=1', '--ioengine=libaio', `--iodepth=${depth}`];
  expect(bench.run('fio', [...file, ...job])).toMatchObject({ code: 0 });
}

function readFirstBytes(): void {
  expect(bench.run('dd', ['if=mnt/disk.raw', 'of=/dev/null', 'bs=4k', 'count=1', 'iflag=direct'])).toMatchObject({
    code: 0,
  });
}
