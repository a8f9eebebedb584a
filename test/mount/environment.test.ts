// What surrounds a mount process: no debugger, no core, no guest data in a log, files for its owner only, marked threads, and
// mountpoints and images that are each other's.

import { execFileSync, spawnSync } from 'node:child_process';
import {
  closeSync,
  copyFileSync,
  existsSync,
  fsyncSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, mountsUnder, until } from './cli-harness.ts';

const UNIT = fileURLToPath(new URL('../../scripts/imgfuse@.service', import.meta.url));
const MARKER = 'GUEST-SECRET-7f3a';
/** of the flags in /proc/PID/stat: PF_MEMALLOC_NOIO and PF_LOCAL_THROTTLE */
const IO_FLUSHER = 0x00080000 | 0x00100000;
const CAP_SYS_RESOURCE = 24n;

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-q', '-f', 'qed', 'a.qed', '64M');
});
afterEach(() => bench?.cleanUp());

function mounted(...parameters: readonly string[]): number {
  const result = bench.imgfuse('mount', ...parameters);
  expect(result.code, result.stderr).toBe(0);
  return bench.daemonPid();
}

function unmounted(target = 'mnt'): void {
  const { code, stderr } = bench.imgfuse('unmount', target);
  expect(code, stderr).toBe(0);
}

describe('the mount process', () => {
  test('marks its threads as I/O flushers where it may, and says and serves without where it may not', async () => {
    const child = bench.start('mount', '-d', '--workers', '3', 'a.qed', 'mnt');
    await until(() => existsSync(bench.path('mnt/disk.raw')) && bench.records().length === 1, 'the mount');
    const pid = bench.daemonPid();
    const flags = readdirSync(`/proc/${pid}/task`).map((task) => {
      const stat = readFileSync(`/proc/${pid}/task/${task}/stat`, 'utf8');
      return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[6]);
    });
    const marked = flags.filter((each) => (each & IO_FLUSHER) === IO_FLUSHER).length;
    const capabilities = /^CapEff:\s*([0-9a-f]+)$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))![1]!;
    const mayMark = ((BigInt(`0x${capabilities}`) >> CAP_SYS_RESOURCE) & 1n) === 1n;
    // the main thread, the first worker and the keeper thread; helpers of V8 may have started before
    if (mayMark) expect(marked).toBeGreaterThanOrEqual(3);
    else expect(child.output()).toMatch(/not marked as an I\/O flusher: .*EPERM/);
    child.kill('SIGTERM');
    expect(await exitOf(child)).toBe(0);
  });

  test('leaves no core, whatever limit it was started with', () => {
    const started = bench.run('bash', [
      '-c',
      `ulimit -c unlimited; exec "$0" "$@"`,
      process.execPath,
      CLI,
      'mount',
      'a.qed',
      'mnt',
    ]);
    expect(started.code, started.stderr).toBe(0);
    // 1 byte: not even a program that collects cores gets one
    expect(readFileSync(`/proc/${bench.daemonPid()}/limits`, 'utf8')).toMatch(/Max core file size +1 +1 /);
    unmounted();
  });

  test('creates files for its owner only, and a pid file for everybody, whatever the umask', () => {
    const started = bench.run('sh', [
      '-c',
      `umask 000; exec "$0" "$@"`,
      process.execPath,
      CLI,
      'mount',
      '--pid-file',
      'pid',
      'a.qed',
      'mnt',
    ]);
    expect(started.code, started.stderr).toBe(0);
    const names = readdirSync(bench.runtime);
    expect(names.map((name) => name.replace(/^.*\./, '')).sort()).toEqual(['json', 'log', 'sock']);
    for (const name of names) expect(statSync(join(bench.runtime, name)).mode & 0o077, name).toBe(0);
    expect(statSync(bench.path('pid')).mode & 0o777).toBe(0o644);
    expect(statSync(bench.path('mnt/disk.raw')).mode & 0o777).toBe(0o600);
    unmounted();
  });

  test('has no inspector, also when NODE_OPTIONS asks for one, and says so', async () => {
    const port = 20000 + (process.pid % 20000);
    const environment = { ...bench.environment(), NODE_OPTIONS: `--inspect=127.0.0.1:${port} --no-warnings` };
    const started = bench.run(process.execPath, [CLI, 'mount', 'a.qed', 'mnt'], { env: environment });
    expect(started.code, started.stderr).toBe(0);
    const pid = bench.daemonPid();
    expect(readFileSync(`/proc/${pid}/environ`, 'latin1')).toContain('NODE_OPTIONS=--no-warnings');
    process.kill(pid, 'SIGUSR1');
    expect(bench.imgfuse('status', 'mnt').code).toBe(0);
    expect(await listens(port)).toBe(false);
    expect(await listens(9229)).toBe(false);
    unmounted();

    process.env['NODE_OPTIONS'] = environment.NODE_OPTIONS;
    const child = bench.start('mount', '-f', 'a.qed', 'mnt');
    delete process.env['NODE_OPTIONS'];
    await until(() => child.output().includes('is mounted at'), 'the mount');
    expect(child.output()).toMatch(/the inspector of Node is closed/);
    expect(await listens(port)).toBe(false);
    child.kill('SIGTERM');
    expect(await exitOf(child)).toBe(0);
  });

  test('writes nothing of the guest into its log, also when requests fail and with -d', async () => {
    const child = bench.start('mount', '-d', 'a.qed', 'mnt');
    await until(() => existsSync(bench.path('mnt/disk.raw')), 'the mount');
    const data = Buffer.alloc(1 << 20, MARKER);
    const disk = openSync(bench.path('mnt/disk.raw'), 'r+');
    writeSync(disk, data, 0, data.length, 0);
    fsyncSync(disk);
    // clusters that end beyond the file: reads fail from now on
    truncateSync(bench.path('a.qed'), 400_000);
    const again = execReads();
    closeSync(disk);
    child.kill('SIGUSR1');
    await until(() => /qed, read-write/.test(child.output()), 'the status line');
    child.kill('SIGTERM');
    await exitOf(child);
    expect(again).toMatch(/Input\/output error/);
    expect(child.output()).toMatch(/READ failed: .*offset/);
    expect(child.output()).not.toContain('GUEST');
  });
});

/** Reads the disk past the page cache. */
function execReads(): string {
  const { stderr } = spawnSync(
    'dd',
    [`if=${bench.path('mnt/disk.raw')}`, 'of=/dev/null', 'bs=64k', 'iflag=direct', 'count=16'],
    {
      encoding: 'utf8',
    },
  );
  return stderr;
}

function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('error', () => resolve(false));
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
  });
}

describe('one image', () => {
  const refused = (code: number, ...parameters: readonly string[]): string => {
    const result = bench.imgfuse('mount', ...parameters);
    expect(result.code, result.stderr).toBe(code);
    return result.stderr;
  };

  test('is written by one process, also without locks, and by the next one after that has ended', () => {
    bench.makeDirectory('two');
    expect(bench.imgfuse('mount', '--no-lock', 'a.qed', 'mnt').stderr).toMatch(/is opened without locks/);
    expect(refused(32, '--no-lock', 'a.qed', 'two')).toMatch(
      /^imgfuse: \S*a\.qed is open for writing by another imgfuse already, also without locks; "imgfuse status" names it\n$/,
    );
    expect(mountsUnder(bench.directory)).toEqual([bench.path('mnt')]);
    unmounted();
    mounted('--no-lock', 'a.qed', 'two');
    unmounted('two');
  });

  test('may lie below its mountpoint: it is said, and the image is closed by its name all the same', () => {
    copyFileSync(bench.path('a.qed'), bench.path('mnt/b.qed'));
    const result = bench.imgfuse('mount', 'mnt/b.qed', 'mnt');
    expect(result.code, result.stderr).toBe(0);
    expect(result.stderr).toMatch(/mnt\/b\.qed cannot be seen while .*mnt is mounted over it/);
    const disk = openSync(bench.path('mnt/disk.raw'), 'r+');
    writeSync(disk, Buffer.alloc(4096, 5), 0, 4096, 0);
    closeSync(disk);
    unmounted(bench.path('mnt/b.qed'));
    expect(bench.imgfuse('check', 'mnt/b.qed').code).toBe(0);
    mounted('-o', 'ro', 'mnt/b.qed', 'mnt/b.qed');
    const bytes = Buffer.alloc(4096);
    const again = openSync(bench.path('mnt/b.qed'), 'r');
    readSync(again, bytes, 0, bytes.length, 0);
    closeSync(again);
    expect(bytes.every((byte) => byte === 5)).toBe(true);
    unmounted('mnt/b.qed');
  });

  test('is not mounted on one of its backing files, nor on a symbolic link', () => {
    bench.imgfuse('create', '-q', '-f', 'qed', '-b', 'a.qed', '-F', 'qed', 'top.qed');
    expect(refused(1, 'top.qed', 'a.qed')).toMatch(/the mountpoint .*a\.qed is a backing file of .*top\.qed/);
    execFileSync('ln', ['-s', 'mnt', bench.path('link')]);
    expect(refused(1, 'a.qed', 'link')).toMatch(/is a symbolic link; mount on .*mnt itself/);
    expect(mountsUnder(bench.directory)).toEqual([]);
    expect(bench.runtimeFiles()).toEqual([]);
  });
});

test('the systemd unit is one that systemd takes, and has the settings that a mount needs', (context) => {
  requireOrSkip(context, hasCommand('systemd-analyze'), 'systemd-analyze');
  const unit = readFileSync(UNIT, 'utf8');
  for (const setting of ['Type=notify', 'OOMScoreAdjust=-', 'TimeoutStopSec=', 'LimitCORE=1'])
    expect(unit).toContain(setting);
  const copy = bench.path('imgfuse@.service');
  writeFileSync(copy, unit.replaceAll('/usr/local/bin/imgfuse', '/bin/true'));
  const { code, stdout, stderr } = bench.run('systemd-analyze', ['verify', '--man=no', copy.replace('@', '@web')]);
  expect(code, stdout + stderr).toBe(0);
  expect(stdout + stderr).not.toMatch(/imgfuse@/);
});

test('the .mount unit that the service tells of comes after it, and holds up no target of the boot', (context) => {
  requireOrSkip(context, hasCommand('systemd-analyze'), 'systemd-analyze');
  const service = readFileSync(UNIT, 'utf8');
  const example = /^# {3}\[Unit\]\n(?:#.*\n)*?#\n(?=# and the same)/m.exec(service)![0].replaceAll(/^# {0,3}/gm, '');
  expect(example).toContain('[Mount]');
  writeFileSync(bench.path('mnt-guest.mount'), example);
  writeFileSync(bench.path('imgfuse@web.service'), service.replaceAll('/usr/local/bin/imgfuse', '/bin/true'));
  const path = `SYSTEMD_UNIT_PATH=${bench.directory}:`;
  const { code, stdout, stderr } = bench.run('env', [
    ...[path, 'systemd-analyze', 'verify', '--man=no'],
    ...[bench.path('mnt-guest.mount'), bench.path('imgfuse@web.service')],
  ]);
  expect(code, stdout + stderr).toBe(0);
  expect(stdout + stderr).not.toMatch(/cycle|mnt-guest/);
});
