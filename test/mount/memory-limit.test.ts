// A daemon in a memory cgroup that is smaller than what a guest on its loop device writes and leaves dirty: nothing hangs,
// nothing is lost, the image is clean. The guest's own memory is outside: with both in one cgroup, reclaim in the daemon waits
// for pages that the daemon has yet to write, unless its threads are marked as I/O flushers (CAP_SYS_RESOURCE).

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { abortConnection, findMount } from '../../src/fuse/index.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, until } from './cli-harness.ts';

const LIMIT_MIB = Number(process.env['MEMORY_LIMIT_MIB'] ?? 256);
const WRITTEN_MIB = 2 * LIMIT_MIB;
/** far more than it takes; a hang lasts for ever */
const PATIENCE_MS = 150_000;

interface Cgroup {
  readonly folder: string;
  readonly limit: string;
  readonly peak: string;
}

/** A memory cgroup below that of this process, of either version; null where none can be made. */
function makeCgroup(): Cgroup | null {
  const lines = readFileSync('/proc/self/cgroup', 'utf8').split('\n');
  const path = (pattern: RegExp): string => pattern.exec(lines.find((line) => pattern.test(line)) ?? '')?.[1] ?? '';
  const candidates = [
    {
      root: `/sys/fs/cgroup/memory${path(/^\d+:memory:(.*)$/)}`,
      limit: 'memory.limit_in_bytes',
      peak: 'memory.max_usage_in_bytes',
    },
    { root: `/sys/fs/cgroup${path(/^0::(.*)$/)}`, limit: 'memory.max', peak: 'memory.peak' },
  ];
  for (const { root, limit, peak } of candidates) {
    const folder = join(root, `imgfuse-test-${process.pid}`);
    try {
      mkdirSync(folder);
    } catch {
      continue;
    }
    if (existsSync(join(folder, limit))) return { folder, limit: join(folder, limit), peak: join(folder, peak) };
    rmdirSync(folder);
  }
  return null;
}

let bench: Bench;
let cgroup: Cgroup | null = null;
beforeEach((context) => {
  const hasAll = canMountAsRoot() && ['mkfs.ext4', 'e2fsck', 'losetup', 'qemu-img'].every(hasCommand);
  requireOrSkip(context, hasAll, 'root, /dev/fuse, e2fsprogs, losetup and qemu-img');
  cgroup = makeCgroup();
  requireOrSkip(context, cgroup !== null, 'a memory cgroup that can be made');
  bench = new Bench();
});
afterEach(async () => {
  await bench?.cleanUp();
  // empty once the last process in it is gone
  for (let tries = 0; cgroup !== null && existsSync(cgroup.folder) && tries < 100; tries++) {
    try {
      rmdirSync(cgroup.folder);
    } catch {
      await delay(50);
    }
  }
});

/** Starts a program in the cgroup. */
function startInside(command: string, ...parameters: readonly string[]): ChildProcess {
  const script = `echo $$ > '${cgroup!.folder}/cgroup.procs' && exec "$0" "$@"`;
  return spawn('sh', ['-c', script, command, ...parameters], {
    cwd: bench.directory,
    env: bench.environment(),
    stdio: 'ignore',
  });
}

function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect(code, `${command} ${parameters.join(' ')}: ${stderr}${stdout}`).toBe(0);
  return stdout.trim();
}

test(`a daemon in ${LIMIT_MIB} MiB serves a guest that writes ${WRITTEN_MIB} MiB to ext4, without a hang`, {
  timeout: 2 * PATIENCE_MS,
}, async () => {
  writeFileSync(cgroup!.limit, String(LIMIT_MIB * 2 ** 20));
  const image = bench.path('disk.qcow2');
  const at = bench.makeDirectory('mnt');
  const guest = bench.makeDirectory('guest');
  expect(bench.imgfuse('create', '-q', '-f', 'qcow2', image, `${2 * WRITTEN_MIB}M`).code).toBe(0);
  const daemon = startInside(process.execPath, CLI, 'mount', '-f', image, at);
  await until(() => bench.records().length === 1, 'the mount');
  const loop = run('losetup', '--find', '--show', `${at}/disk.raw`);
  run('mkfs.ext4', '-q', '-F', loop);
  run('mount', loop, guest);
  const start = performance.now();
  const writing = ['if=/dev/urandom', `of=${guest}/big`, 'bs=1M', `count=${WRITTEN_MIB}`, 'conv=fsync'];
  const writer = spawn('dd', writing, { stdio: 'ignore' });
  // what waits for a page in the kernel cannot be killed: only the end of the connection frees it
  const timer = setTimeout(() => abortConnection(findMount(at)!.minor), PATIENCE_MS);
  expect(await exitOf(writer), `dd after ${Math.round(performance.now() - start)} ms`).toBe(0);
  clearTimeout(timer);
  const seconds = (performance.now() - start) / 1000;
  const peak = Number(readFileSync(cgroup!.peak, 'utf8'));
  run('umount', guest);
  run('e2fsck', '-f', '-n', loop);
  run('losetup', '-d', loop);
  expect(bench.imgfuse('unmount', at).code).toBe(0);
  expect(await exitOf(daemon)).toBe(0);
  run('qemu-img', 'check', image);
  // the limit was what held it back: otherwise nothing is shown
  expect(peak).toBeGreaterThan(LIMIT_MIB * 2 ** 20 * 0.9);
  console.log(
    `memory limit ${LIMIT_MIB} MiB: ${WRITTEN_MIB} MiB written in ${seconds.toFixed(1)} s, peak ${Math.round(peak / 2 ** 20)} MiB`,
  );
});
