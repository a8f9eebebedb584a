// A mount whose image takes long to open, here because the server of its backing file is silent: signals end it at once and
// leave nothing, `status` sees it, `unmount` ends it, and the command says what it waits for.

import { type ChildProcess, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { RangeServer } from '../support/range-server.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, lines, mountsUnder, outlives, until } from './cli-harness.ts';

/** How long an end may take; the machine may be full of other work. */
const SOON_MS = 2000;

let bench: Bench;
let server: RangeServer;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  server = new RangeServer(new Uint8Array(1 << 20));
  const backing = ['-b', `${server.origin}/base.raw`, '-F', 'raw'];
  expect(bench.imgfuse('create', '-q', '-f', 'qcow2', ...backing, 'top.qcow2', '1M')).toMatchObject({ code: 0 });
  server.plan({ do: 'silence', times: 100 });
});
afterEach(async () => {
  bench?.cleanUp();
  await server?.close();
});

interface Opening {
  readonly command: ChildProcess & { readonly output: () => string };
  /** the process that opens the image */
  readonly pid: number;
}

/** Starts a mount and waits until its process opens the image. */
async function startMount(...options: readonly string[]): Promise<Opening> {
  const command = bench.start('mount', '--allow-backing', server.origin, ...options, 'top.qcow2', 'mnt');
  await until(() => server.requests().length > 0, 'a request to the server');
  const [record] = bench.allRecords();
  expect(record).toMatchObject({ opening: true, mountpoint: bench.path('mnt') });
  return { command, pid: record!.pid };
}

async function expectNothingLeft(pid: number): Promise<void> {
  expect(await outlives(pid, SOON_MS)).toBe(false);
  expect(readdirSync(bench.runtime)).toEqual([]);
  expect(mountsUnder(bench.directory)).toEqual([]);
  // the locks of a writer are free
  expect(bench.imgfuse('check', '-r', 'all', 'top.qcow2')).toMatchObject({ code: 0 });
}

const SIGNALS = [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const;

describe.each([
  ['in the background', []],
  ['in the foreground', ['-f']],
  ['in the background, over fuse-native', ['--transport', 'fuse-native']],
  ['in the foreground, over fuse-native', ['-f', '--transport', 'fuse-native']],
])('a mount %s whose image is being opened', (_, options) => {
  test.each(SIGNALS)('ends at once at %s, exits with %i and leaves nothing', async (signal, exitCode) => {
    const { command, pid } = await startMount(...options);
    const start = performance.now();
    command.kill(signal);
    expect(await exitOf(command)).toBe(exitCode);
    expect(performance.now() - start).toBeLessThan(SOON_MS);
    await expectNothingLeft(pid);
    expect(command.output()).not.toContain('ended before');
  });
});

test('a mount process whose command is killed while it opens the image ends and leaves nothing', async () => {
  const { command, pid } = await startMount();
  expect(pid).not.toBe(command.pid);
  command.kill('SIGKILL');
  await expectNothingLeft(pid);
});

test('a mount process that is told to end itself says why to its command', async () => {
  const { command, pid } = await startMount();
  process.kill(pid, 'SIGTERM');
  expect(await exitOf(command)).toBe(143);
  expect(command.output()).toContain(`SIGTERM: nothing is mounted, ${bench.path('top.qcow2')} was still being opened`);
  await expectNothingLeft(pid);
});

test('SIGUSR1 and status say what is being waited for, and unmount ends it', async () => {
  const { command, pid } = await startMount('-f');
  process.kill(pid, 'SIGUSR1');
  const waiting = `waiting for ${server.origin}/base.raw`;
  await until(() => command.output().includes(`is being opened (${waiting})`), 'the answer to SIGUSR1');
  const [status] = JSON.parse(bench.imgfuse('status', '--output=json', 'mnt').stdout) as Record<string, unknown>[];
  expect(status).toMatchObject({ state: 'opening', doing: waiting, image: bench.path('top.qcow2'), pid });
  expect(bench.imgfuse('status').stdout).toMatch(/mnt\s+\S*top\.qcow2\s+\S+\s+opening/);
  const ended = bench.imgfuse('unmount', 'top.qcow2');
  expect(ended).toMatchObject({ code: 0, stdout: '' });
  expect(ended.stderr).toContain(`was still being opened by process ${pid}, which has been ended`);
  expect(await exitOf(command)).toBe(143);
  await expectNothingLeft(pid);
});

test.each([[[]], [['-f']]])('mount %s says after two seconds what it waits for, once', async (options) => {
  const { command } = await startMount(...options);
  const sentence = `imgfuse: waiting for ${server.origin}/base.raw ...`;
  await until(() => lines(command.output()).includes(sentence), 'the sentence');
  command.kill('SIGINT');
  await exitOf(command);
  expect(lines(command.output()).filter((line) => line === sentence)).toHaveLength(1);
});

test.each([
  ['map', ['top.qcow2']],
  ['resize', ['top.qcow2', '+1M']],
])('%s behind a silent server dies of SIGINT at once', async (name, parameters) => {
  const command = bench.start(name, '--allow-backing', server.origin, ...parameters);
  await until(() => server.requests().length > 0, 'a request to the server');
  const start = performance.now();
  command.kill('SIGINT');
  expect(await exitOf(command)).toBe('SIGINT');
  expect(performance.now() - start).toBeLessThan(SOON_MS);
});

describe('a takeover that has to wait', () => {
  /** A mount beside a writer that is asked to become the writer, while the server of its backing file is silent. */
  async function startTakeover(): Promise<{ readonly pid: number; readonly remount: ReturnType<Bench['start']> }> {
    server.plan();
    const options = ['-o', 'ro,share', '--allow-backing', server.origin];
    expect(bench.imgfuse('mount', ...options, 'top.qcow2', 'mnt')).toMatchObject({ code: 0 });
    const pid = bench.daemonPid();
    server.plan({ do: 'silence', times: 100 });
    server.forget();
    const remount = bench.start('remount', '-o', 'rw', 'mnt');
    await until(() => server.requests().length > 0, 'a request to the server');
    return { pid, remount };
  }

  test('leaves status and the mount as they were', async () => {
    await startTakeover();
    const [status] = JSON.parse(bench.imgfuse('status', '--output=json', 'mnt').stdout) as Record<string, unknown>[];
    expect(status).toMatchObject({ state: 'mounted', 'read-only': true, shared: true, format: 'qcow2' });
    expect(statSync(bench.path('mnt/disk.raw')).size).toBe(1 << 20);
  });

  test('is broken off by SIGTERM, which ends the mount', async () => {
    const { pid, remount } = await startTakeover();
    process.kill(pid, 'SIGTERM');
    expect(await exitOf(remount)).toBe(32);
    expect(remount.output()).toContain(`the mount of ${bench.path('top.qcow2')} is ending`);
    expect(await outlives(pid, SOON_MS)).toBe(false);
    expect([bench.allRecords(), mountsUnder(bench.directory)]).toEqual([[], []]);
    expect(bench.imgfuse('check', '-r', 'all', 'top.qcow2')).toMatchObject({ code: 0 });
  });
});

/** Blocks a thread that is not the main one in its n-th write to an image, and makes the file `held` then. */
function holdAtWrite(count: number): string {
  const source = `
    import fs from 'node:fs';
    import { syncBuiltinESMExports } from 'node:module';
    import { isMainThread } from 'node:worker_threads';
    const { readlinkSync, writeFileSync, writeSync } = fs;
    let left = ${count};
    if (!isMainThread) {
      fs.writeSync = (descriptor, ...rest) => {
        if (readlinkSync('/proc/self/fd/' + descriptor).endsWith('.qcow2') && --left === 0) {
          writeFileSync(${JSON.stringify(bench.path('held'))}, '');
          Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
        }
        return writeSync(descriptor, ...rest);
      };
      syncBuiltinESMExports();
    }`;
  return `--import=data:text/javascript,${encodeURIComponent(source)}`;
}

/** Sets the reference counts of everything but the header and the first tables to 0, which a repair raises again. */
function forgetCounters(image: string): void {
  const CLUSTER_BYTES = 65536;
  const REFCOUNT_TABLE_OFFSET = 48;
  const file = readFileSync(image);
  const table = Number(file.readBigUInt64BE(REFCOUNT_TABLE_OFFSET));
  const block = Number(file.readBigUInt64BE(table));
  file.fill(0, block + 2 * 4, block + CLUSTER_BYTES);
  writeFileSync(image, file);
}

test.each([1, 2])('a repair that is broken off at its write %i is repaired by the next mount', async (count) => {
  const data = Buffer.alloc(300_000, 'imgfuse');
  expect(bench.imgfuse('create', '-q', '-f', 'qcow2', 'a.qcow2', '64M')).toMatchObject({ code: 0 });
  expect(bench.imgfuse('mount', '-o', 'lazy_refcounts', 'a.qcow2', 'mnt')).toMatchObject({ code: 0 });
  const disk = openSync(bench.path('mnt/disk.raw'), 'r+');
  writeSync(disk, data, 0, data.length, 1_000_000);
  fsyncSync(disk);
  const daemon = bench.daemonPid();
  process.kill(daemon, 'SIGKILL');
  expect(await outlives(daemon, 10_000)).toBe(false);
  expect(() => closeSync(disk)).toThrow(/ENOTCONN|ECONNABORTED/);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });

  forgetCounters(bench.path('a.qcow2'));

  const command = spawn(process.execPath, [holdAtWrite(count), CLI, 'mount', '-f', 'a.qcow2', 'mnt'], {
    cwd: bench.directory,
    env: bench.environment(),
    stdio: 'ignore',
  });
  await until(() => existsSync(bench.path('held')), 'the write of the repair');
  const start = performance.now();
  command.kill('SIGTERM');
  expect(await exitOf(command)).toBe(143);
  expect(performance.now() - start).toBeLessThan(SOON_MS);
  expect(bench.allRecords()).toEqual([]);

  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt')).toMatchObject({ code: 0 });
  const found = readFileSync(bench.path('mnt/disk.raw')).subarray(1_000_000, 1_000_000 + data.length);
  expect(found.equals(data)).toBe(true);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
  expect(bench.imgfuse('check', 'a.qcow2')).toMatchObject({ code: 0 });
});
