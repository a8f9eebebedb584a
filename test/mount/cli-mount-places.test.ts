// One mount at several places, or not where it was: bound, moved with its directory, covered by something else, kept by another
// mount namespace. Nothing of it may end in a wait without a reason, or in "unmounted" for what is not.

import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, chownSync, closeSync, mkdirSync, openSync, renameSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, isRunning, mountsUnder, NOBODY, outlives } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.imgfuse('create', '-q', '-f', 'qed', 'a.qed', '8M');
});

afterEach(async () => {
  await bench?.cleanUp();
});

function mount(...path: readonly string[]): string {
  const mountpoint = bench.path(path.join('/'));
  mkdirSync(mountpoint, { recursive: true });
  expect(bench.imgfuse('mount', 'a.qed', mountpoint)).toMatchObject({ code: 0, stderr: '' });
  return mountpoint;
}

function bind(from: string, to: string): string {
  const target = bench.makeDirectory(to);
  execFileSync('mount', ['--bind', from, target]);
  return target;
}

function isDirty(): boolean {
  return JSON.parse(bench.imgfuse('info', '--output=json', 'a.qed').stdout)['dirty-flag'];
}

/** Keeps what is mounted now mounted in a mount namespace of its own. */
async function keepInNamespace(): Promise<() => void> {
  const child = spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', 'echo; exec sleep 60'], {
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  await new Promise((resolve) => child.stdout.once('data', resolve));
  return () => child.kill('SIGKILL');
}

it('a mount that was bound elsewhere, too, is closed with its last place', () => {
  const mountpoint = mount('mnt');
  const other = bind(mountpoint, 'other');
  const first = bench.imgfuse('unmount', mountpoint);
  expect(first.stderr).toMatch(
    /mnt is unmounted, but .*a\.qed stays open: it is still mounted at .*other; unmount that/,
  );
  expect(first.code).toBe(32);
  expect(bench.imgfuse('status').stdout).toMatch(/other .*a\.qed +qed +mounted/);
  expect(bench.imgfuse('unmount', other)).toMatchObject({ code: 0, stderr: '' });
  expect(isDirty()).toBe(false);
});

it('SIGTERM unmounts every place', async () => {
  bind(mount('mnt'), 'other');
  const pid = bench.daemonPid();
  process.kill(pid, 'SIGTERM');
  expect(await outlives(pid, 5000)).toBe(false);
  expect(mountsUnder(bench.directory)).toEqual([]);
  expect(isDirty()).toBe(false);
});

it('a mount that was moved with its directory is found where it is', async () => {
  const mountpoint = mount('before', 'mnt');
  renameSync(bench.path('before'), bench.path('after'));
  expect(bench.imgfuse('status').stdout).toMatch(/after\/mnt .*a\.qed +qed +mounted/);
  expect(bench.imgfuse('unmount', mountpoint).stderr).toMatch(/is not mounted by imgfuse/);
  expect(bench.imgfuse('unmount', 'a.qed')).toMatchObject({ code: 0, stderr: '' });
  expect(isDirty()).toBe(false);

  mount('before', 'mnt');
  renameSync(bench.path('before'), bench.path('later'));
  const pid = bench.daemonPid();
  process.kill(pid, 'SIGTERM');
  expect(await outlives(pid, 5000)).toBe(false);
  expect(mountsUnder(bench.directory)).toEqual([]);
  expect(isDirty()).toBe(false);
});

it('a mount that something else covers stays, and the refusal says what covers it', () => {
  const mountpoint = mount('mnt');
  execFileSync('mount', ['-t', 'tmpfs', 'cover', mountpoint]);
  const covered = bench.imgfuse('unmount', mountpoint);
  expect(covered.stderr).toMatch(
    /mnt is covered by cover \(tmpfs\), which was mounted there later; unmount that first/,
  );
  expect(covered.code).toBe(32);
  expect(isRunning(bench.daemonPid())).toBe(true);
  execFileSync('umount', [mountpoint]);
  expect(bench.imgfuse('unmount', mountpoint)).toMatchObject({ code: 0, stderr: '' });
});

it('SIGTERM closes the image although another mount namespace has it mounted', async () => {
  mount('mnt');
  const release = await keepInNamespace();
  try {
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGTERM');
    expect(await outlives(pid, 10_000)).toBe(false);
    expect(isDirty()).toBe(false);
  } finally {
    release();
  }
});

it('unmount of a mount that another mount namespace keeps names a process there, and ends', async () => {
  const mountpoint = mount('mnt');
  const pid = bench.daemonPid();
  const release = await keepInNamespace();
  try {
    const result = bench.imgfuse('unmount', mountpoint);
    expect(result.stderr).toMatch(
      /mnt is unmounted, but \S*a\.qed is still mounted at \S*mnt in the mount namespace of process \d+ \((sh|sleep)\)/,
    );
    expect(result.code).toBe(32);
    expect(isRunning(pid)).toBe(true);
  } finally {
    release();
  }
  expect(await outlives(pid, 10_000)).toBe(false);
  expect(isDirty()).toBe(false);
});

it('unmount of a mount made in another mount namespace ends with a command that works', async () => {
  const mountpoint = bench.makeDirectory('mnt');
  const imgfuse = bench.path('imgfuse');
  writeFileSync(imgfuse, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`, { mode: 0o755 });
  bench.run('unshare', ['--mount', imgfuse, 'mount', 'a.qed', 'mnt']);
  const pid = bench.daemonPid();
  for (const target of ['mnt', 'a.qed']) {
    const result = bench.imgfuse('unmount', target);
    expect(result.stderr).toContain(
      `a.qed is mounted at ${mountpoint} in the mount namespace of process ${pid} (imgfuse)`,
    );
    expect(result.code).toBe(32);
  }
  expect(bench.imgfuse('status', 'mnt').stdout).toMatch(/^state: +elsewhere$/m);
  const there = /run "(nsenter .*)"/.exec(bench.imgfuse('unmount', 'mnt').stderr)![1]!;
  const path = `${bench.directory}:${process.env['PATH']}`;
  const unmounted = bench.run('sh', ['-c', there], { env: { ...bench.environment(), PATH: path } });
  expect(unmounted).toMatchObject({ code: 0, stderr: '' });
  expect(await outlives(pid, 10_000)).toBe(false);
  expect(isDirty()).toBe(false);
});

it('unmount of what was detached and is in use speaks of no mount namespace', async () => {
  const mountpoint = mount('mnt');
  const pid = bench.daemonPid();
  const user = openSync(`${mountpoint}/disk.raw`, 'r');
  execFileSync('umount', ['-i', '-l', mountpoint]);
  const waiting = bench.start('unmount', mountpoint);
  const ended = new Promise((resolve) => waiting.once('exit', resolve));
  await expect.poll(waiting.output, { timeout: 20_000 }).toMatch(/a\.qed: its process \d+ still serves it/);
  expect(waiting.output()).not.toContain('namespace');
  closeSync(user);
  expect(await ended).toBe(0);
  expect(await outlives(pid, 10_000)).toBe(false);
});

/** What an attacker could put into a runtime directory: a record that names a mount of root, and what no reader comes back from. */
const ATTACK = `
  const fs = require('node:fs');
  const [directory, record] = process.argv.slice(1);
  const processStart = Number(fs.readFileSync('/proc/self/stat', 'utf8').split(' ')[21]);
  const own = { ...JSON.parse(record), pid: process.pid, processStart };
  fs.writeFileSync(directory + '/own.json', JSON.stringify(own));
  fs.writeFileSync(directory + '/roots.json', record);
  fs.symlinkSync('/dev/zero', directory + '/link.json');
  fs.writeFileSync(directory + '/large.json', '');
  fs.truncateSync(directory + '/large.json', 3 * 2 ** 30);
  const answer = '{"closed":true,"clean":true}\\n';
  require('node:net').createServer((socket) => socket.end(answer)).listen(directory + '/own.sock', () => console.log());
`;

it('records of other users speak of no mount of root, and reading them takes nothing', async () => {
  const mountpoint = mount('mnt');
  const [record] = bench.records();
  const theirs = bench.makeDirectory('theirs');
  execFileSync('mkfifo', [`${theirs}/pipe.json`]);
  chownSync(theirs, NOBODY, NOBODY);
  chmodSync(theirs, 0o700);
  const user = [`--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];
  const child = spawn('setpriv', [...user, process.execPath, '-e', ATTACK, theirs, JSON.stringify(record)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  try {
    await new Promise((resolve) => child.stdout.once('data', resolve));
    const seen = bench.runCli(['status'], { IMGFUSE_RUNTIME_DIR: theirs });
    expect(seen.code).toBe(0);
    expect(seen.stdout).toMatch(new RegExp(`mnt +\\S*a\\.qed +qed +mounted .* ${bench.daemonPid()}$`, 'm'));
    const daemon = bench.daemonPid();
    process.kill(daemon, 'SIGSTOP');
    const lied = bench.start('unmount', mountpoint);
    await delay(2000);
    expect(lied.exitCode).toBe(null);
    process.kill(daemon, 'SIGCONT');
    expect(await exitOf(lied)).toBe(0);
    expect(isDirty()).toBe(false);
  } finally {
    child.kill('SIGKILL');
  }
});
