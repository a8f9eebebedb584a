// SIGKILL of the daemon in the middle of writes (R9): the dirty bit is on disk, the next mount checks and repairs and says
// so, everything that was fsynced is there, and without a backing file even everything that was acknowledged.

import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { illegalBlocks, readWriterLog } from '../support/fsync-log.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf } from './cli-harness.ts';

const WRITER = fileURLToPath(new URL('../support/fsync-writer.mjs', import.meta.url));
const RUNS = Number(process.env['KILL_RUNS'] ?? 3);
const HALF = 64 * 1024 * 1024;

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

function imgfuse(...parameters: readonly string[]): { stdout: string; stderr: string } {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(code, stderr).toBe(0);
  return { stdout, stderr };
}

/** fio on the first half, the numbered writer on the second, until the daemon is killed. */
async function killUnderLoad(image: string, at: string, log: string): Promise<void> {
  imgfuse('mount', image, at);
  const fio = spawn(
    'fio',
    [
      ...['--name=load', `--filename=${at}/disk.raw`, `--size=${HALF}`, '--rw=randwrite', '--bs=4k', '--fsync=16'],
      ...['--ioengine=libaio', '--iodepth=4', '--direct=1', '--time_based', '--runtime=20', '--allow_file_create=0'],
    ],
    { stdio: 'ignore', cwd: bench.directory },
  );
  const writer = spawn(process.execPath, [WRITER, `${at}/disk.raw`, String(HALF), String(HALF), log], {
    stdio: 'ignore',
  });
  await delay(700 + Math.random() * 900);
  process.kill(bench.daemonPid(), 'SIGKILL');
  await Promise.all([exitOf(fio), exitOf(writer)]);
}

const HAS_ALL = canMountAsRoot() && hasCommand('fio') && hasCommand('qemu-img');

for (let run = 1; run <= RUNS; run++) {
  test(`what was acknowledged before a SIGKILL is there afterwards (run ${run} of ${RUNS})`, async (context) => {
    requireOrSkip(context, HAS_ALL, 'root, /dev/fuse, fio and qemu-img');
    await expectNothingLost();
  });
}

async function expectNothingLost(): Promise<void> {
  const image = bench.path('disk.qed');
  const at = bench.makeDirectory('mnt');
  const log = bench.path('writer.log');
  imgfuse('create', '-f', 'qed', image, String(2 * HALF));
  await killUnderLoad(image, at, log);

  expect(readFileSync(image)[16]! & 2, 'NEED_CHECK in the file').toBe(2);
  const told = imgfuse('unmount', at);
  expect(told.stdout + told.stderr, 'the way back is printed').toMatch(/imgfuse check/);
  const daemon = bench.start('mount', '-f', image, at);
  await until(() => /mounted|answers|serving/i.test(daemon.output()) || bench.records().length > 0);
  expect(daemon.output()).toMatch(/was not closed clean/);
  const writes = readWriterLog(log);
  expect(writes.lastFsync).toBeGreaterThan(0);
  expect(illegalBlocks(`${at}/disk.raw`, HALF, writes, writes.lastWrite - 1)).toEqual([]);
  imgfuse('unmount', at);
  expect(await exitOf(daemon)).toBe(0);
  expect(bench.run('qemu-img', ['check', image]).stdout).toContain('No errors were found');
}

test('an overlay over data keeps everything that was fsynced before a SIGKILL', async (context) => {
  requireOrSkip(context, HAS_ALL, 'root, /dev/fuse, fio and qemu-img');
  const base = bench.path('base.qed');
  const image = bench.path('overlay.qed');
  const at = bench.makeDirectory('mnt');
  const log = bench.path('writer.log');
  imgfuse('create', '-f', 'qed', base, String(2 * HALF));
  imgfuse('mount', base, at);
  // zeros as data, so that a block never written reads 0, as the log expects
  bench.run('dd', ['if=/dev/zero', `of=${at}/disk.raw`, 'bs=1M', 'count=128', 'conv=notrunc,fsync']);
  imgfuse('unmount', at);
  imgfuse('create', '-f', 'qed', '-b', 'base.qed', '-F', 'qed', image);
  await killUnderLoad(image, at, log);
  bench.imgfuse('unmount', at);
  imgfuse('mount', image, at);
  const writes = readWriterLog(log);
  expect(illegalBlocks(`${at}/disk.raw`, HALF, writes, writes.lastFsync)).toEqual([]);
  imgfuse('unmount', at);
  expect(bench.run('qemu-img', ['check', image]).stdout).toContain('No errors were found');
});

async function until(holds: () => boolean): Promise<void> {
  for (let tries = 0; !holds(); tries++) {
    if (tries > 200) throw new Error('timeout');
    await delay(50);
  }
}
