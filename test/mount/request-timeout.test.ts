// Kernels that end a connection over one late request (fs.fuse.default_request_timeout, max_request_timeout): what can be asked
// for is asked for, what waits for the network answers in time, and a connection that is ended all the same is named.

import { spawn } from 'node:child_process';
import { closeSync, openSync, readFileSync, writeFileSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { createDisk } from '../../src/disk/index.ts';
import { drawnRows } from '../support/drawn-rows.ts';
import { EVERY_KIND } from '../support/every-kind.ts';
import { readAll, withDisk } from '../support/image-files.ts';
import { RangeServer } from '../support/range-server.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, outlives, until } from './cli-harness.ts';

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

function writeAt(path: string, text: string, offset: number): void {
  const file = openSync(path, 'r+');
  writeSync(file, text, offset);
  closeSync(file);
}

/** Begins to read a disk in another process, which may have to wait. */
function reader(
  mountpoint: string,
  at = 0,
): { readonly ended: Promise<number | string>; readonly error: () => string } {
  const child = spawn('tail', ['-c', `+${at + 1}`, bench.path(`${mountpoint}/disk.raw`)], {
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

it('an image of every kind is closed clean after such an end, with what was written before', async () => {
  const mounts = EVERY_KIND.map(({ isWritable, make, name }, index) => {
    const { content, image } = make(bench.makeDirectory(`image${index}`));
    bench.makeDirectory(`m${index}`);
    return { name, content, image, isWritable, at: `m${index}`, pid: 0 };
  });
  setTimeouts('0', String(SECONDS));
  // at once, because others who mount meanwhile get the same limit
  const started = mounts.map(({ at, image, isWritable }) =>
    bench.start('mount', '--workers', '1', ...(isWritable ? [] : ['-o', 'ro']), image, at),
  );
  const codes = await Promise.all(started.map(exitOf));
  setTimeouts(...before);
  expect(codes).toEqual(mounts.map(() => 0));
  for (const each of mounts) {
    each.pid = bench.records().find(({ mountpoint }) => mountpoint === bench.path(each.at))!.pid;
    if (!each.isWritable) continue;
    each.content.write('written', 20 * 512);
    writeAt(bench.path(`${each.at}/disk.raw`), 'written', 20 * 512);
  }
  try {
    for (const { pid } of mounts) process.kill(pid, 'SIGSTOP');
    const readers = mounts.map(({ at }) => reader(at));
    expect(await Promise.all(readers.map(({ ended }) => ended))).toEqual(mounts.map(() => 1));
  } finally {
    for (const { pid } of mounts) process.kill(pid, 'SIGCONT');
  }
  for (const { at, content, image, name, pid } of mounts) {
    expect(await outlives(pid, 20_000), name).toBe(false);
    const { code, stderr } = bench.imgfuse('unmount', at);
    expect({ name, code, stderr }).toEqual({
      ...{ name, code: 0 },
      stderr: expect.stringMatching(
        /a request took longer than 15 seconds .* is closed and clean; the dead mount is removed\n$/,
      ),
    });
    withDisk(image, { readOnly: true }, (disk) => expect(readAll(disk).equals(content), name).toBe(true));
  }
});

const REMOTE = drawnRows(['qcow', 'vdi', 'vpc', 'vmdk', 'vhdx', 'parallels']);

it('a base of any format fails in time, its tables as well as its data, and is read when its server answers again', {
  timeout: 240_000,
}, async () => {
  const size = 64 * 1024 * 1024;
  // an open fetches the first and the last block of a file
  const written = Buffer.alloc(1024 * 1024, 'x');
  const at = size - written.length / 2;
  const remotes = REMOTE.map((format) => {
    const base = bench.path(`base.${format}`);
    createDisk(base, format, { size, options: new Map() });
    withDisk(base, { readOnly: false, format }, (disk) =>
      disk.write(written, 0, written.length, guestOffset(size - written.length)),
    );
    const server = new RangeServer(readFileSync(base));
    const url = `${server.origin}/base`;
    const overlay = `${format}.qcow2`;
    createDisk(bench.path(overlay), 'qcow2', { size, options: new Map(), backing: url, backingFormat: format });
    bench.makeDirectory(format);
    return { format, server, url, overlay };
  });
  try {
    setTimeouts('0', String(SECONDS));
    const started = remotes.map(({ format, overlay, url }) =>
      bench.start('mount', '--workers', '1', '--allow-backing', url, overlay, format),
    );
    const codes = await Promise.all(started.map(exitOf));
    setTimeouts(...before);
    expect(codes).toEqual(REMOTE.map(() => 0));
    for (const { server } of remotes) server.plan({ do: 'silence', times: 1000 });
    const start = performance.now();
    const readers = remotes.map(({ format }) => reader(format, at));
    expect(await Promise.all(readers.map(({ ended }) => ended))).toEqual(REMOTE.map(() => 1));
    expect(performance.now() - start).toBeLessThan(SECONDS * 1000);
    for (const { error } of readers) expect(error()).toMatch(/Input\/output error/);
    for (const { format, server } of remotes) {
      server.plan();
      // the block that was asked for is on its way until its answer is given up
      const again = (): string => bench.run('tail', ['-c', String(size - at), `${format}/disk.raw`]).stdout;
      await until(() => again() === 'x'.repeat(size - at), `the disk over ${format} is read`);
      expect(bench.imgfuse('unmount', format)).toMatchObject({ code: 0, stderr: '' });
    }
  } finally {
    for (const { server } of remotes) await server.close();
  }
});
