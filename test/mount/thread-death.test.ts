// A thread of a mount process that dies in the middle of a request, with the metadata lock or without, by process.exit() or
// out of memory: the process ends with a failure, what a flush covered is there, and the next mount repairs the image.

import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, mountsUnder, until } from './cli-harness.ts';

const BLOCK = 65536;
const FLUSHED = Buffer.alloc(BLOCK, 'flushed');
/** An end after a crash waits for other threads and for the flush, at most ten seconds each. */
const END_MS = 30_000;

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
});
afterEach(() => bench?.cleanUp());

/** Lets the first thread that comes to the failpoint once the file `die` exists end as `how` says. */
function dieAt(failpoint: string, how: string): string {
  const failpoints = new URL('concurrency/failpoints.js', `file://${CLI}`).href;
  const source = `
    import { isMainThread } from 'node:worker_threads';
    import { renameSync } from 'node:fs';
    if (!isMainThread) {
      const { listenToFailpoints } = await import(${JSON.stringify(failpoints)});
      const isChosen = () => {
        try {
          renameSync(${JSON.stringify(bench.path('die'))}, ${JSON.stringify(bench.path('dead'))});
          return true;
        } catch {
          return false;
        }
      };
      listenToFailpoints((reached) => {
        if (reached === '${failpoint}' && isChosen()) ${how};
      });
    }`;
  return `--import=data:text/javascript,${encodeURIComponent(source)}`;
}

/** A mount in the foreground that answers; what it logs is in the file `log`. */
async function mount(image: string, ...nodeOptions: readonly string[]): Promise<ChildProcess> {
  const log = openSync(bench.path('log'), 'w');
  const child = spawn(process.execPath, [...nodeOptions, bench.modulesCli(), 'mount', '-f', image, 'mnt'], {
    cwd: bench.directory,
    env: bench.environment(),
    stdio: ['ignore', log, log],
  });
  closeSync(log);
  await until(() => existsSync(bench.path('mnt/disk.raw')), 'the mount');
  return child;
}

/** A program that writes to its own part of the disk until it is told that it cannot. */
function startWriter(first: number): ChildProcess {
  const script = `
    const fs = require('node:fs');
    const disk = fs.openSync('mnt/disk.raw', 'r+');
    const block = Buffer.alloc(${BLOCK}, 'unflushed');
    for (let at = ${first}; ; at += 2) {
      try { fs.writeSync(disk, block, 0, block.length, at * ${BLOCK}); } catch { break; }
      if (at > 900) at -= 800;
    }`;
  return spawn(process.execPath, ['-e', script], { cwd: bench.directory, stdio: 'ignore' });
}

async function expectFailureAndRepair(
  child: ChildProcess,
  image: string,
  users: readonly ChildProcess[],
): Promise<void> {
  const start = performance.now();
  expect(await exitOf(child), readFileSync(bench.path('log'), 'utf8')).toBe(1);
  expect(performance.now() - start).toBeLessThan(END_MS);
  const log = readFileSync(bench.path('log'), 'utf8');
  expect(log).toContain('the mount ends because of an internal error');
  expect(log).toContain('the next read-write mount checks and repairs the image');
  await Promise.all(users.map(exitOf));
  if (mountsUnder(bench.directory).length > 0) bench.imgfuse('unmount', 'mnt');
  expect(bench.imgfuse('mount', image, 'mnt')).toMatchObject({ code: 0 });
  expect(readFileSync(bench.path('mnt/disk.raw')).subarray(0, BLOCK).equals(FLUSHED)).toBe(true);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
  // a clean open of qcow2 leaves leaks to `check -r leaks`: exit code 3
  expect(bench.imgfuse('check', image).code).toBe(image.endsWith('.qcow2') && hasLeaks(image) ? 3 : 0);
}

function hasLeaks(image: string): boolean {
  const report = JSON.parse(bench.imgfuse('check', '--output=json', image).stdout) as Record<string, unknown>;
  expect(report['corruptions']).toBeUndefined();
  return report['leaks'] !== undefined;
}

function writeFlushed(): void {
  const disk = openSync(bench.path('mnt/disk.raw'), 'r+');
  writeSync(disk, FLUSHED, 0, BLOCK, 0);
  fsyncSync(disk);
  closeSync(disk);
}

const OUT_OF_MEMORY = '{ const hoard = []; for (;;) hoard.push(new Array(1e6).fill(hoard.length)); }';

describe.each(
  drawnFormats(['qed', 'qcow2', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels']),
)('a mount of a %s image', (format) => {
  const image = `a.${format}`;

  test.each([
    ['with the metadata lock, by process.exit(1)', 'l2-update', 'process.exit(1)', []],
    ['with the metadata lock, by process.exit(0)', 'l2-update', 'process.exit(0)', []],
    ['with a reservation and no lock', 'data-write', 'process.exit(1)', []],
    ['with the metadata lock, out of memory', 'l2-update', OUT_OF_MEMORY, ['--max-old-space-size=120']],
  ])('ends when a worker dies %s while another one writes', async (_, failpoint, how, options) => {
    expect(bench.imgfuse('create', '-q', '-f', format, image, '64M')).toMatchObject({ code: 0 });
    const child = await mount(image, ...options, dieAt(failpoint, how));
    writeFlushed();
    const writers = [startWriter(100), startWriter(101)];
    await until(() => existsSync(bench.path('dead')) || arm(), 'the death of a thread');
    await expectFailureAndRepair(child, image, writers);
  });
});

/** @returns false */
function arm(): boolean {
  if (!existsSync(bench.path('dead'))) {
    writeFileSync(bench.path('die.new'), '');
    renameSync(bench.path('die.new'), bench.path('die'));
  }
  return false;
}

test('the death of the thread that keeps the disk ends the mount, and what was flushed is there', async () => {
  expect(bench.imgfuse('create', '-q', '-f', 'qed', 'a.qed', '64M')).toMatchObject({ code: 0 });
  // the keeper alone makes an idle image clean
  const child = await mount('a.qed', dieAt('header-update', 'process.exit(1)'));
  writeFlushed();
  arm();
  await expectFailureAndRepair(child, 'a.qed', []);
});
