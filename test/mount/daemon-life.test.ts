// The life of a mount process: it starts in the background, and whatever ends the mount, it ends with a clean image.

import { execFileSync, spawn } from 'node:child_process';
import {
  closeSync,
  existsSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  readSync,
  statSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, lines, mountsUnder, outlives, until } from './cli-harness.ts';

const DATA = Buffer.alloc(300_000, 'imgfuse');
let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-f', 'qed', 'a.qed', '64M');
});
afterEach(() => bench?.cleanUp());

function mount(...parameters: readonly string[]): number {
  const result = bench.imgfuse('mount', 'a.qed', 'mnt', ...parameters);
  expect(result).toEqual({ code: 0, stdout: '', stderr: '' });
  return bench.daemonPid();
}

function writeData(file = 'mnt/disk.raw'): void {
  const fd = openSync(bench.path(file), 'r+');
  writeSync(fd, DATA, 0, DATA.length, 1_000_000);
  closeSync(fd);
}

/** The image holds the data, is marked clean, checks clean, and nobody has it open. */
function expectCleanWithData(): void {
  const info = JSON.parse(bench.imgfuse('info', '--output=json', 'a.qed').stdout) as Record<string, unknown>;
  expect(info['dirty-flag']).toBe(false);
  expect(bench.imgfuse('check', 'a.qed').code).toBe(0);
  expect(mount('-o', 'ro')).toBeGreaterThan(0);
  const found = Buffer.alloc(DATA.length);
  const fd = openSync(bench.path('mnt/disk.raw'), 'r');
  readSync(fd, found, 0, found.length, 1_000_000);
  closeSync(fd);
  expect(found.equals(DATA)).toBe(true);
  expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
}

function loopOver(file: string): string {
  return execFileSync('losetup', ['--find', '--show', bench.path(file)], { encoding: 'utf8' }).trim();
}

describe('mount', () => {
  it('returns 0 when the mount answers, and leaves a process of its own in the background', () => {
    const pid = mount();
    expect(readdirSync(bench.path('mnt'))).toContain('disk.raw');
    expect(statSync(bench.path('mnt/disk.raw')).size).toBe(64 * 2 ** 20);
    expect(statSync(bench.path('mnt/disk.raw')).mode & 0o777).toBe(0o600);
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
    expect(Number(stat[3])).toBe(pid); // a session of its own
    expect(readFileSync(`/proc/${pid}/comm`, 'utf8').trim()).toBe('imgfuse');
    expect(execFileSync('readlink', [`/proc/${pid}/cwd`], { encoding: 'utf8' }).trim()).toBe('/');
    expect(bench.imgfuse('unmount', 'mnt')).toEqual({ code: 0, stdout: '', stderr: '' });
  });

  it('understands what mount(8) passes, and shows nosuid, nodev and the image in the mount table', () => {
    expect(bench.imgfuse('a.qed', 'mnt', '-o', 'rw,dev,suid,noatime', '-o', 'allow_other').code).toBe(0);
    const line = readFileSync('/proc/self/mountinfo', 'utf8')
      .split('\n')
      .find((each) => each.includes(` ${bench.path('mnt')} `));
    expect(line).toMatch(/nosuid,nodev,noatime/);
    expect(line).toContain(` - fuse.imgfuse ${bench.path('a.qed')} `);
    expect(line).toMatch(/allow_other/);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });

  it('writes and removes the pid file', () => {
    const pid = mount('--pid-file', 'mount.pid');
    expect(readFileSync(bench.path('mount.pid'), 'utf8')).toBe(`${pid}\n`);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(existsSync(bench.path('mount.pid'))).toBe(false);
  });

  it('removes a pid file only while it holds its own process id', () => {
    const first = mount('--pid-file', 'mount.pid');
    bench.makeDirectory('mnt2');
    bench.imgfuse('create', '-f', 'qed', 'b.qed', '1M');
    expect(bench.imgfuse('mount', 'b.qed', 'mnt2', '--pid-file', 'mount.pid').code).toBe(0);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(Number(readFileSync(bench.path('mount.pid'), 'utf8'))).not.toBe(first);
    expect(bench.imgfuse('unmount', 'mnt2').code).toBe(0);
    expect(existsSync(bench.path('mount.pid'))).toBe(false);
  });

  it('writes a pid file through no link, and over nothing but a regular file', () => {
    writeFileSync(bench.path('precious'), 'precious');
    for (const name of ['mount.pid.tmp', 'link']) symlinkSync('precious', bench.path(name));
    bench.makeDirectory('directory');
    execFileSync('mkfifo', [bench.path('fifo')]);
    const before = readdirSync(bench.directory);
    for (const name of ['link', 'directory', 'fifo']) {
      const { code, stderr } = bench.imgfuse('mount', 'a.qed', 'mnt', '--pid-file', name);
      expect(stderr).toContain(`the pid file ${bench.path(name)} cannot be written: it is no regular file`);
      expect(code).toBe(1);
      expect(mountsUnder(bench.directory)).toEqual([]);
    }
    mount('--pid-file', 'mount.pid');
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(readdirSync(bench.directory)).toEqual(before);
    expect(readFileSync(bench.path('precious'), 'utf8')).toBe('precious');
  });

  it('makes a regular file the disk itself, also on top of the image', () => {
    expect(bench.imgfuse('mount', 'a.qed', 'a.qed').code).toBe(0);
    expect(statSync(bench.path('a.qed')).size).toBe(64 * 2 ** 20);
    writeData('a.qed');
    expect(bench.imgfuse('unmount', 'a.qed')).toEqual({ code: 0, stdout: '', stderr: '' });
    expectCleanWithData();
  });

  it('mounts raw images and paths with spaces', () => {
    bench.makeDirectory('my mnt');
    writeFileSync(bench.path('my disk.raw'), Buffer.alloc(2 ** 20, 7));
    expect(bench.imgfuse('mount', 'my disk.raw', 'my mnt').stderr).toBe('');
    expect(readFileSync(bench.path('my mnt/disk.raw'))[4096]).toBe(7);
    expect(bench.imgfuse('unmount', 'my disk.raw').code).toBe(0);
  });

  it('read-only never opens the image for writing', () => {
    const before = readFileSync(bench.path('a.qed'));
    const pid = mount('-o', 'ro');
    expect(() => openSync(bench.path('mnt/disk.raw'), 'r+')).toThrow(/EROFS/);
    const flags = readdirSync(`/proc/${pid}/fd`).filter(
      (fd) => linkOf(`/proc/${pid}/fd/${fd}`) === bench.path('a.qed'),
    );
    expect(flags).toHaveLength(1);
    expect(readFileSync(`/proc/${pid}/fdinfo/${flags[0]}`, 'utf8')).toMatch(/flags:\s+0\d*[0]\n/);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(readFileSync(bench.path('a.qed')).equals(before)).toBe(true);
  });
});

/** Where a link leads; '' when it has gone meanwhile. */
function linkOf(path: string): string {
  try {
    return readlinkSync(path);
  } catch {
    return '';
  }
}

describe('the end of a mount leaves a clean image and no process', () => {
  const ends: readonly (readonly [string, (pid: number) => void])[] = [
    ['imgfuse unmount MOUNTPOINT', () => expect(bench.imgfuse('unmount', 'mnt').code).toBe(0)],
    ['imgfuse unmount IMAGE', () => expect(bench.imgfuse('unmount', 'a.qed').code).toBe(0)],
    ['umount', () => execFileSync('umount', ['-i', bench.path('mnt')])],
    ['umount -l', () => execFileSync('umount', ['-i', '-l', bench.path('mnt')])],
    ['fusermount3 -u', () => execFileSync('fusermount3', ['-u', bench.path('mnt')])],
    ['SIGTERM', (pid) => process.kill(pid, 'SIGTERM')],
    ['SIGINT', (pid) => process.kill(pid, 'SIGINT')],
    ['SIGTERM twice', (pid) => [process.kill(pid, 'SIGTERM'), process.kill(pid, 'SIGTERM')]],
  ];
  for (const [title, end] of ends) {
    it(title, async (context) => {
      requireOrSkip(context, title !== 'fusermount3 -u' || hasCommand('fusermount3'), 'fusermount3');
      const pid = mount();
      writeData();
      end(pid);
      expect(await outlives(pid, 10_000)).toBe(false);
      expect(mountsUnder(bench.directory)).toEqual([]);
      expect(bench.runtimeFiles()).toEqual([]);
      expectCleanWithData();
    });
  }

  it('umount -l of a busy mount: the image closes when its last user ends', async () => {
    const pid = mount();
    writeData();
    const fd = openSync(bench.path('mnt/disk.raw'), 'r');
    execFileSync('umount', ['-i', '-l', bench.path('mnt')]);
    expect(await outlives(pid, 500)).toBe(true);
    closeSync(fd);
    expect(await outlives(pid, 10_000)).toBe(false);
    expectCleanWithData();
  });

  it('SIGTERM on a busy mount: detached, users get errors, what was written is kept, the log names it', async () => {
    const child = bench.start('mount', 'a.qed', 'mnt', '-f');
    await until(() => mountsUnder(bench.directory).length === 1, 'the mount');
    writeData();
    const user = spawn('sleep', ['60'], { cwd: bench.path('mnt') });
    child.kill('SIGTERM');
    expect(await exitOf(child)).toBe(0);
    expect(child.output()).toMatch(/was in use by process \d+ \(sleep\) and has been detached/);
    expect(mountsUnder(bench.directory)).toEqual([]);
    user.kill();
    expectCleanWithData();
  });

  it('SIGTERM under a mounted guest: the guest is written back first', async (context) => {
    requireOrSkip(context, hasCommand('mkfs.ext4') || existsSync('/sbin/mkfs.ext4'), 'mkfs.ext4');
    const pid = mount();
    const loop = loopOver('mnt/disk.raw');
    execFileSync('mkfs.ext4', ['-q', loop]);
    bench.makeDirectory('guest');
    execFileSync('mount', [loop, bench.path('guest')]);
    writeFileSync(bench.path('guest/file'), DATA);
    process.kill(pid, 'SIGTERM');
    expect(await outlives(pid, 20_000)).toBe(false);
    execFileSync('umount', ['-l', bench.path('guest')], { stdio: 'ignore' });
    execFileSync('losetup', ['-d', loop]);
    expect(bench.imgfuse('check', 'a.qed').code).toBe(0);
    expect(bench.imgfuse('mount', 'a.qed', 'mnt').code).toBe(0);
    execFileSync('mount', ['-o', 'loop', bench.path('mnt/disk.raw'), bench.path('guest')]);
    expect(readFileSync(bench.path('guest/file')).equals(DATA)).toBe(true);
    execFileSync('umount', [bench.path('guest')]);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });
});

describe('-o lazy_refcounts', () => {
  beforeEach((context) => {
    requireOrSkip(context, hasCommand('qemu-img'), 'qemu-img');
    expect(bench.imgfuse('create', '-f', 'qcow2', 'a.qcow2', '64M').code).toBe(0);
  });

  /** @returns the disk, open for writing */
  function mountAndOpen(...parameters: readonly string[]): number {
    expect(bench.imgfuse('mount', 'a.qcow2', 'mnt', ...parameters)).toMatchObject({ code: 0, stdout: '' });
    return openSync(bench.path('mnt/disk.raw'), 'r+');
  }

  function write(disk: number, at: number): void {
    writeSync(disk, DATA, 0, DATA.length, at);
    fsyncSync(disk);
  }

  /** The bit in the header of the file, and what status says. */
  function isDirty(): boolean {
    type Status = { readonly image: string; readonly 'dirty-flag': boolean };
    const all = JSON.parse(bench.imgfuse('status', '--output=json').stdout) as Status[];
    const status = all.find(({ image }) => image === bench.path('a.qcow2'));
    const dirty = (readFileSync(bench.path('a.qcow2'))[79]! & 1) !== 0;
    if (status !== undefined) expect(status['dirty-flag']).toBe(dirty);
    return dirty;
  }

  function expectClean(): void {
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(isDirty()).toBe(false);
    expect(bench.run('qemu-img', ['check', '-f', 'qcow2', 'a.qcow2'])).toMatchObject({ code: 0 });
  }

  it('marks a qcow2 image while it is written, and no longer when its last writer has gone or it is unmounted', () => {
    let disk = mountAndOpen('-o', 'lazy_refcounts');
    expect(isDirty()).toBe(false);
    write(disk, 1_000_000);
    expect(isDirty()).toBe(true);
    closeSync(disk);
    expect(isDirty()).toBe(false);
    disk = openSync(bench.path('mnt/disk.raw'), 'r+');
    write(disk, 10_000_000);
    expect(isDirty()).toBe(true);
    closeSync(disk);
    expectClean();
  });

  it('marks nothing where it is not given', () => {
    const disk = mountAndOpen();
    write(disk, 1_000_000);
    expect(isDirty()).toBe(false);
    closeSync(disk);
    expectClean();
  });

  it('leaves the mark when the daemon is killed, and the next mount repairs and keeps what was flushed', async () => {
    const disk = mountAndOpen('-o', 'lazy_refcounts');
    write(disk, 1_000_000);
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGKILL');
    expect(await outlives(pid, 10_000)).toBe(false);
    expect(() => closeSync(disk)).toThrow(/ENOTCONN|ECONNABORTED/);
    execFileSync('umount', ['-i', bench.path('mnt')]);
    expect(readFileSync(bench.path('a.qcow2'))[79]! & 1).toBe(1);
    const again = mountAndOpen();
    expect(isDirty()).toBe(false);
    const found = Buffer.alloc(DATA.length);
    readSync(again, found, 0, found.length, 1_000_000);
    expect(found.equals(DATA)).toBe(true);
    closeSync(again);
    expectClean();
  });

  it('is refused for an image that has no such bit', () => {
    expect(bench.imgfuse('mount', 'a.qed', 'mnt', '-o', 'lazy_refcounts')).toMatchObject({ code: 1, stdout: '' });
    expect(mountsUnder(bench.directory)).toEqual([]);
  });
});

describe('-f', () => {
  it('stays in the foreground, logs to stderr, and SIGINT closes clean with exit code 0', async () => {
    const child = bench.start('mount', '-f', 'a.qed', 'mnt');
    await until(() => existsSync(bench.path('mnt/disk.raw')), 'the mount');
    writeData();
    child.kill('SIGINT');
    expect(await exitOf(child)).toBe(0);
    expect(child.output()).toMatch(/is mounted at .*mnt/);
    expect(child.output()).toMatch(/a\.qed is closed and clean/);
    expectCleanWithData();
  });

  it('a hangup of the terminal closes clean', async () => {
    const child = bench.start('mount', '-f', 'a.qed', 'mnt');
    await until(() => existsSync(bench.path('mnt/disk.raw')), 'the mount');
    child.kill('SIGHUP');
    expect(await exitOf(child)).toBe(0);
  });

  it('SIGUSR1 prints a status line and opens no debugger port', async () => {
    const child = bench.start('mount', '-f', 'a.qed', 'mnt');
    await until(() => existsSync(bench.path('mnt/disk.raw')), 'the mount');
    child.kill('SIGUSR1');
    await until(() => /qed, read-write, clean, .* of 64 MiB allocated/.test(child.output()), 'the status line');
    expect(child.output()).not.toMatch(/[Dd]ebugger/);
    child.kill('SIGTERM');
    expect(await exitOf(child)).toBe(0);
  });

  it('under the journal every line has a priority', async () => {
    process.env['JOURNAL_STREAM'] = '8:1';
    const child = bench.start('mount', '-f', 'a.qed', 'mnt');
    delete process.env['JOURNAL_STREAM'];
    await until(() => existsSync(bench.path('mnt/disk.raw')), 'the mount');
    child.kill('SIGTERM');
    expect(await exitOf(child)).toBe(0);
    for (const line of lines(child.output())) expect(line).toMatch(/^<[3-7]>/);
  });
});

describe('a daemon', () => {
  it('ignores a hangup', async () => {
    const pid = mount();
    process.kill(pid, 'SIGHUP');
    expect(await outlives(pid, 500)).toBe(true);
    expect(readdirSync(bench.path('mnt'))).toContain('disk.raw');
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });

  /** Mounts from a shell that has taken a lock on descriptor 200; those up to 15 Node closes itself. */
  const MOUNT_UNDER_LOCK = 'exec 200>lock && flock -n 200 && exec "$0" "$@"';
  const fileAt200 = (pid: number): string => linkOf(`/proc/${pid}/fd/200`);

  it('keeps nothing open that its starter had open', (context) => {
    requireOrSkip(context, hasCommand('flock') && hasCommand('bash'), 'flock and bash');
    const parameters = ['-c', MOUNT_UNDER_LOCK, process.execPath, CLI, 'mount', 'a.qed', 'mnt'];
    expect(bench.run('bash', parameters)).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(fileAt200(bench.daemonPid())).not.toBe(bench.path('lock'));
    expect(bench.run('flock', ['-n', 'lock', 'true']).code).toBe(0);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });

  it('in the foreground keeps open what its starter had open', async (context) => {
    requireOrSkip(context, hasCommand('flock') && hasCommand('bash'), 'flock and bash');
    const parameters = ['-c', MOUNT_UNDER_LOCK, process.execPath, CLI, 'mount', '-f', 'a.qed', 'mnt'];
    const child = spawn('bash', parameters, { cwd: bench.directory, env: bench.environment(), stdio: 'ignore' });
    await until(() => existsSync(bench.path('mnt/disk.raw')), 'the mount');
    expect(fileAt200(child.pid!)).toBe(bench.path('lock'));
    child.kill('SIGTERM');
    expect(await exitOf(child)).toBe(0);
  });

  it('keeps its files in a runtime directory that is given relative to where the command is run', () => {
    const relative = { IMGFUSE_RUNTIME_DIR: './run' };
    expect(bench.runCli(['mount', 'a.qed', 'mnt'], relative)).toEqual({ code: 0, stdout: '', stderr: '' });
    expect(bench.records()).toMatchObject([{ mountpoint: bench.path('mnt') }]);
    expect(bench.runCli(['unmount', 'mnt'], relative)).toEqual({ code: 0, stdout: '', stderr: '' });
  });

  it('that was started by a command that died at once unmounts again, or has not mounted', async () => {
    const parent = spawn(process.execPath, [CLI, 'mount', 'a.qed', 'mnt'], {
      cwd: bench.directory,
      env: bench.environment(),
      stdio: 'ignore',
    });
    await until(() => childOf(parent.pid!) !== null || parent.exitCode !== null, 'the mount process');
    const child = childOf(parent.pid!);
    if (child === null && parent.exitCode === 0) {
      // the whole mount was faster than the first look
      expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
      return;
    }
    parent.kill('SIGKILL');
    if (child !== null) expect(await outlives(child, 10_000)).toBe(false);
    expect(mountsUnder(bench.directory)).toEqual([]);
  });

  it('interrupted while it starts: the command ends, nothing stays mounted', async () => {
    const child = bench.start('mount', 'a.qed', 'mnt');
    await until(() => childOf(child.pid!) !== null || child.exitCode !== null, 'the mount process');
    const daemon = childOf(child.pid!);
    child.kill('SIGINT');
    // the mount may have been there before the signal, and before anybody saw its process
    if ((await exitOf(child)) === 0) expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
    if (daemon !== null) expect(await outlives(daemon, 10_000)).toBe(false);
    expect(mountsUnder(bench.directory)).toEqual([]);
  });
});

function childOf(pid: number): number | null {
  try {
    const child = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')[0];
    return child === undefined || child === '' ? null : Number(child);
  } catch {
    return null;
  }
}
