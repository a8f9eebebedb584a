// Mounts whose files in the runtime directory are gone, or lie where a command does not look: the process of the mount is found
// all the same, and asked.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chownSync, closeSync, mkdirSync, openSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { processStartTime } from '../../src/host/processes.ts';
import { EVERY_KIND } from '../support/every-kind.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, NOBODY, outlives } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-q', '-f', 'qcow2', 'a.qcow2', '8M');
});
afterEach(() => bench?.cleanUp());

function loseRuntimeFiles(): void {
  rmSync(bench.runtime, { recursive: true });
  mkdirSync(bench.runtime, { mode: 0o700 });
}

it.each([
  'mnt',
  'a.qcow2',
])('status and unmount of %s ask the process although its record was removed', async (target) => {
  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt').code).toBe(0);
  const pid = bench.daemonPid();
  loseRuntimeFiles();
  const [status] = JSON.parse(bench.imgfuse('status', '--output=json', 'mnt').stdout) as Record<string, unknown>[];
  expect(status).toMatchObject({ state: 'mounted', pid, format: 'qcow2', 'dirty-flag': false });
  const unmounted = bench.imgfuse('unmount', '--output=json', target);
  expect(JSON.parse(unmounted.stdout)).toMatchObject({ closed: true, clean: true });
  expect(unmounted).toMatchObject({ code: 0, stderr: '' });
  expect(await outlives(pid, 5000)).toBe(false);
});

it.each(EVERY_KIND)('status and unmount by the name of an image that is $name ask the process', async (kind) => {
  const { format, isWritable, make } = kind;
  const { image } = make(bench.directory);
  expect(bench.imgfuse('mount', ...(isWritable ? [] : ['-o', 'ro']), image, 'mnt')).toMatchObject({ code: 0 });
  const pid = bench.daemonPid();
  loseRuntimeFiles();
  const [status] = JSON.parse(bench.imgfuse('status', '--output=json', 'mnt').stdout) as Record<string, unknown>[];
  expect(status).toMatchObject({ state: 'mounted', pid, format, 'read-only': !isWritable });
  const unmounted = bench.imgfuse('unmount', '--output=json', image);
  expect(unmounted).toMatchObject({ code: 0, stderr: '' });
  expect(JSON.parse(unmounted.stdout)).toMatchObject({ closed: true, clean: true });
  expect(await outlives(pid, 5000)).toBe(false);
});

it('a command with another runtime directory asks the process as well', () => {
  expect(bench.imgfuse('mount', '-o', 'ro,share', 'a.qcow2', 'mnt').code).toBe(0);
  const other = { IMGFUSE_RUNTIME_DIR: bench.makeDirectory('elsewhere') };
  expect(bench.runCli(['remount', '-o', 'rw', 'mnt'], other)).toMatchObject({ code: 0, stderr: '' });
  // its record was written anew, and the new one is held
  expect(bench.runCli(['status', 'mnt'], other).stdout).toMatch(/^mode: +read-write$/m);
  loseRuntimeFiles();
  expect(bench.runCli(['status', 'mnt'], other).stdout).toMatch(/^mode: +read-write$/m);
  expect(bench.runCli(['unmount', 'mnt'], other)).toMatchObject({ code: 0, stderr: '' });
});

it('a detached mount without a record is found by its image, and waited for', async () => {
  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt').code).toBe(0);
  const pid = bench.daemonPid();
  bench.run('sh', ['-c', 'exec 3<mnt/disk.raw; umount -i -l mnt; rm run/*; (sleep 1) & exec 3<&-; wait']);
  expect(bench.imgfuse('unmount', 'a.qcow2').stderr).not.toMatch(/could not be asked/);
  expect(await outlives(pid, 5000)).toBe(false);
});

it('an ordinary user is answered by the process, too', (context) => {
  requireOrSkip(context, hasCommand('fusermount3') && hasCommand('setpriv'), 'fusermount3 and setpriv');
  const home = bench.makeDirectory('home');
  mkdirSync(`${home}/mnt`);
  for (const path of [home, `${home}/mnt`, bench.runtime]) chownSync(path, NOBODY, NOBODY);
  const imgfuse = `${process.execPath} ${CLI}`;
  const result = bench.runAsNobody(`
    cd ${home}
    ${imgfuse} create -q -f qed u.qed 8M
    ${imgfuse} mount u.qed mnt
    rm ${bench.runtime}/*
    ${imgfuse} status mnt
    ${imgfuse} unmount mnt
  `);
  expect(result.stdout).toMatch(/^state: +mounted$/m);
  expect(result).toMatchObject({ code: 0, stderr: '' });
});

it('remount says of a mount whose process was killed that it is dead', async () => {
  expect(bench.imgfuse('mount', '-o', 'ro,share', 'a.qcow2', 'mnt').code).toBe(0);
  const pid = bench.daemonPid();
  process.kill(pid, 'SIGKILL');
  expect(await outlives(pid, 5000)).toBe(false);
  const { code, stderr } = bench.imgfuse('remount', '-o', 'rw', 'mnt');
  const place = bench.path('mnt');
  expect(stderr).toBe(`imgfuse: ${place} is dead, its process ${pid} has ended; run "imgfuse unmount ${place}"\n`);
  expect(code).toBe(32);
  expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
});

it('an unmount that sees the process die leaves no record of it', async () => {
  expect(bench.imgfuse('mount', 'a.qcow2', 'mnt').code).toBe(0);
  const pid = bench.daemonPid();
  const user = openSync(bench.path('mnt/disk.raw'), 'r');
  const unmount = spawn(process.execPath, [CLI, 'unmount', '-l', 'mnt'], {
    cwd: bench.directory,
    env: bench.environment(),
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  // it says what it waits for
  await once(unmount.stderr!, 'data');
  process.kill(pid, 'SIGKILL');
  expect(await exitOf(unmount)).toBe(32);
  expect(readdirSync(bench.runtime).filter((name) => !name.endsWith('.log'))).toEqual([]);
  try {
    closeSync(user);
  } catch {
    // ENOTCONN: nobody serves the file any more
  }
});

/** Serves a control socket; asked to wait, it lets go of the socket, as a killed process does, and ends a while later. */
const SLOW_TO_DIE = `
const server = require('node:net').createServer((socket) => {
  socket.on('data', (lines) => {
    if (!String(lines).includes('wait')) return;
    setTimeout(() => process.exit(9), 700);
    socket.destroy();
  });
});
server.listen(process.argv[1], () => console.log('listening'));
`;

it('unmount waits for a process that lets go of its socket before it has ended, and leaves no record of it', async () => {
  const name = `${bench.runtime}/1-dead`;
  const server = spawn(process.execPath, ['-e', SLOW_TO_DIE, `${name}.sock`], { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    await once(server.stdout, 'data');
    const record = { image: bench.path('a.qcow2'), mountpoint: bench.path('mnt'), log: null };
    const identity = { pid: server.pid, processStart: processStartTime(server.pid!) };
    writeFileSync(`${name}.json`, JSON.stringify({ ...record, ...identity }), { mode: 0o600 });
    const { code, stderr } = bench.imgfuse('unmount', 'mnt');
    expect(stderr).toContain(`the process ${server.pid} that served ${record.image} ended without saying whether`);
    expect(code).toBe(32);
    expect(readdirSync(bench.runtime)).toEqual([]);
  } finally {
    server.kill('SIGKILL');
  }
});
