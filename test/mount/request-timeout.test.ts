// Kernels that end a connection over one late request (fs.fuse.default_request_timeout, max_request_timeout): what can be asked
// for is asked for, what waits for the network answers in time, and a connection that is ended all the same is named.

import { spawn } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { RangeServer } from '../support/range-server.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, outlives } from './cli-harness.ts';

const SYSCTL = '/proc/sys/fs/fuse';
/** the least that the kernel takes */
const SECONDS = 15;

let bench: Bench;
let before: readonly [string, string];

function setTimeouts(standard: string, most: string): void {
  writeFileSync(`${SYSCTL}/default_request_timeout`, standard);
  writeFileSync(`${SYSCTL}/max_request_timeout`, most);
}

function readTimeouts(): readonly [string, string] | null {
  try {
    const read = (name: string): string => readFileSync(`${SYSCTL}/${name}`, 'utf8').trim();
    return [read('default_request_timeout'), read('max_request_timeout')];
  } catch {
    return null;
  }
}

beforeEach((context) => {
  const present = readTimeouts();
  requireOrSkip(context, canMountAsRoot() && present !== null, 'root, /dev/fuse and Linux 6.15');
  before = present!;
  bench = new Bench();
});
afterEach(() => {
  if (before !== undefined) setTimeouts(...before);
  bench?.cleanUp();
});

function mount(image: string, mountpoint: string, ...options: readonly string[]): number {
  bench.makeDirectory(mountpoint);
  expect(bench.imgfuse('mount', image, mountpoint, ...options)).toMatchObject({ code: 0, stderr: '' });
  return bench.records().find((record) => record.mountpoint === bench.path(mountpoint))!.pid;
}

/** Begins to read a disk in another process, which may have to wait. */
function reader(mountpoint: string): { readonly ended: Promise<number | string>; readonly error: () => string } {
  const child = spawn('head', ['-c', '1', bench.path(`${mountpoint}/disk.raw`)], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let text = '';
  child.stderr.on('data', (chunk) => {
    text += chunk;
  });
  return { ended: exitOf(child), error: () => text };
}

it('a default is overridden, what waits for a server fails in time, and an end that cannot be helped is named', async () => {
  for (const name of ['patient.qcow2', 'late.qcow2']) bench.imgfuse('create', '-q', '-f', 'qcow2', name, '8M');
  const server = new RangeServer(Buffer.alloc(4 * 1024 * 1024, 'x'));
  const url = `${server.origin}/base.raw`;
  bench.imgfuse('create', '-q', '-f', 'qcow2', '-b', url, '-F', 'raw', 'remote.qcow2');
  setTimeouts(String(SECONDS), '0');
  const patient = mount('patient.qcow2', 'patient');
  setTimeouts('0', String(SECONDS));
  const late = mount('late.qcow2', 'late');
  mount('remote.qcow2', 'remote', '--allow-backing', url);
  setTimeouts(...before);
  try {
    process.kill(patient, 'SIGSTOP');
    process.kill(late, 'SIGSTOP');
    const [patientReader, lateReader] = [reader('patient'), reader('late')];

    server.plan({ do: 'silence', from: 2 * 1024 * 1024 });
    const start = performance.now();
    const failed = bench.run('dd', ['if=remote/disk.raw', 'of=/dev/null', 'bs=4k', 'count=1', 'skip=512']);
    expect(failed.stderr).toMatch(/Input\/output error/);
    expect(performance.now() - start).toBeLessThan(SECONDS * 1000);

    expect(await lateReader.ended).toBe(1);
    expect(lateReader.error()).toMatch(/not connected|connection abort/i);
    process.kill(patient, 'SIGCONT');
    expect(await patientReader.ended).toBe(0);

    process.kill(late, 'SIGCONT');
    expect(await outlives(late, 20_000)).toBe(false);
    const reason = `the kernel has ended the connection of ${bench.path('late')}: a request took longer than ${SECONDS} seconds`;
    const status = bench.imgfuse('status', 'late');
    expect(status.stdout).toMatch(/^state: +dead$/m);
    expect(status.stderr).toContain(`${reason} (sysctl fs.fuse)`);
    expect(status.stderr).toContain('late.qcow2 is closed and clean');
    expect(readFileSync(/^log: +(.*)$/m.exec(status.stdout)![1]!, 'utf8')).toContain(` error: ${reason}`);
    const unmounted = bench.imgfuse('unmount', 'late');
    expect(unmounted.stderr).toMatch(/the kernel has ended .* is closed and clean; the dead mount is removed\n$/);
    expect(unmounted.code).toBe(0);

    // the read that failed ended nothing
    const again = bench.run('dd', ['if=remote/disk.raw', 'bs=4k', 'count=1', 'skip=600']);
    expect(again.stdout).toBe('x'.repeat(4096));
    for (const each of ['remote', 'patient']) {
      expect(bench.imgfuse('unmount', each)).toMatchObject({ code: 0, stderr: '' });
    }
  } finally {
    for (const pid of [patient, late]) {
      try {
        process.kill(pid, 'SIGCONT');
      } catch {
        // ended already
      }
    }
    await server.close();
  }
});
