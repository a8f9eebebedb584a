// unmount and status on real mounts: busy mounts, dead mounts, the helper of umount(8), mount(8) itself, ordinary users.

import { execFileSync, spawn } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, exitOf, lines, mountsUnder, NOBODY, outlives, type Result, until } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.imgfuse('create', '-f', 'qed', 'a.qed', '64M');
});
afterEach(() => bench?.cleanUp());

function mount(): number {
  expect(bench.imgfuse('mount', 'a.qed', 'mnt')).toEqual({ code: 0, stdout: '', stderr: '' });
  return bench.daemonPid();
}

function dirty(): void {
  const fd = openSync(bench.path('mnt/disk.raw'), 'r+');
  writeSync(fd, Buffer.alloc(100_000, 1));
  closeSync(fd);
}

function statusOf(...parameters: readonly string[]): Record<string, unknown>[] {
  const all = JSON.parse(bench.imgfuse('status', '--output=json', ...parameters).stdout) as Record<string, unknown>[];
  // others may have mounts on this machine
  return all.filter((each) => String(each['mountpoint']).startsWith(`${bench.directory}/`));
}

function infoOf(image: string): Record<string, unknown> {
  return JSON.parse(bench.imgfuse('info', '--output=json', image).stdout) as Record<string, unknown>;
}

describe('unmount', () => {
  it('of a mount under a loop device names the device and the cure, and leaves the mount alone', async () => {
    mount();
    const loop = execFileSync('losetup', ['--find', '--show', bench.path('mnt/disk.raw')], { encoding: 'utf8' }).trim();
    const busy = bench.imgfuse('unmount', 'mnt');
    expect(busy.code).toBe(32);
    expect(lines(busy.stderr)).toHaveLength(1);
    expect(busy.stderr).toContain(`is in use by ${loop}; run "losetup -d ${loop}" and unmount again`);
    expect(readdirSync(bench.path('mnt'))).toContain('disk.raw');
    execFileSync('losetup', ['-d', loop]);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });

  it('of a mount under a guest file system names the order of the cure', (context) => {
    requireOrSkip(context, existsSync('/sbin/mkfs.ext4'), 'mkfs.ext4');
    mount();
    bench.makeDirectory('guest');
    const loop = execFileSync('losetup', ['--find', '--show', bench.path('mnt/disk.raw')], { encoding: 'utf8' }).trim();
    execFileSync('mkfs.ext4', ['-q', loop]);
    execFileSync('mount', [loop, bench.path('guest')]);
    const busy = bench.imgfuse('unmount', 'mnt');
    expect(busy.code).toBe(32);
    expect(busy.stderr).toContain(`${loop} (mounted at ${bench.path('guest')})`);
    expect(busy.stderr).toContain(`run "umount ${bench.path('guest')}; losetup -d ${loop}"`);
    execFileSync('umount', [bench.path('guest')]);
    execFileSync('losetup', ['-d', loop]);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });

  it('of a mount that a process works in names the process', () => {
    mount();
    const user = spawn('sleep', ['60'], { cwd: bench.path('mnt') });
    const busy = bench.imgfuse('unmount', 'mnt');
    user.kill();
    expect(busy.code).toBe(32);
    expect(busy.stderr).toContain(`is in use by process ${user.pid} (sleep)`);
  });

  it('says closed and clean as JSON', () => {
    mount();
    dirty();
    const result = JSON.parse(bench.imgfuse('unmount', 'mnt', '--output=json').stdout) as unknown;
    expect(result).toEqual({
      mountpoint: bench.path('mnt'),
      image: bench.path('a.qed'),
      closed: true,
      clean: true,
      notes: [],
    });
    expect(infoOf('a.qed')['dirty-flag']).toBe(false);
  });

  it('of an image that is mounted twice asks for the mountpoint', () => {
    bench.makeDirectory('two');
    for (const where of ['mnt', 'two']) expect(bench.imgfuse('a.qed', where, '-o', 'ro').code).toBe(0);
    const both = bench.imgfuse('unmount', 'a.qed');
    expect(both.code).toBe(1);
    expect(both.stderr).toMatch(/is mounted at .*mnt and .*two; name the mountpoint/);
    for (const where of ['mnt', 'two']) expect(bench.imgfuse('unmount', where).code).toBe(0);
  });

  it('waits for an image that was detached before', async () => {
    const pid = mount();
    const fd = openSync(bench.path('mnt/disk.raw'), 'r');
    execFileSync('umount', ['-i', '-l', bench.path('mnt')]);
    const waiting = bench.start('unmount', 'mnt');
    await until(() => waiting.output().includes('waiting for'), 'the wait');
    closeSync(fd);
    expect(await exitOf(waiting)).toBe(0);
    expect(await outlives(pid, 5000)).toBe(false);
  });

  it('of a dead mount removes it and prints the recovery steps; the next mount repairs', async () => {
    const pid = mount();
    const fd = openSync(bench.path('mnt/disk.raw'), 'r+');
    writeSync(fd, Buffer.alloc(100_000, 1));
    process.kill(pid, 'SIGKILL');
    try {
      closeSync(fd);
    } catch {
      // ENOTCONN: the server is gone
    }
    expect(infoOf('a.qed')['dirty-flag']).toBe(true);
    expect(await outlives(pid, 5000)).toBe(false);
    const dead = statusOf();
    expect(dead[0]).toMatchObject({ mountpoint: bench.path('mnt'), state: 'dead', pid });
    expect(bench.imgfuse('status').stderr).toContain(`"imgfuse unmount ${bench.path('mnt')}"`);

    const result = bench.imgfuse('unmount', 'mnt');
    expect(result.code).toBe(0);
    expect(result.stderr).toMatch(/had ended without closing it; the dead mount is removed/);
    expect(result.stderr).toMatch(/next read-write mount checks and repairs it/);
    expect(result.stderr).toContain(`imgfuse check ${bench.path('a.qed')}`);
    expect(mountsUnder(bench.directory)).toEqual([]);
    expect(bench.records()).toEqual([]);

    const again = bench.imgfuse('mount', 'a.qed', 'mnt');
    expect(again.code).toBe(0);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(infoOf('a.qed')['dirty-flag']).toBe(false);
  });

  it('a mount on a dead mount is refused with the cure', async () => {
    const pid = mount();
    process.kill(pid, 'SIGKILL');
    await outlives(pid, 5000);
    const refused = bench.imgfuse('mount', 'a.qed', 'mnt');
    expect(refused.code).toBe(32);
    expect(refused.stderr).toMatch(/by a process that has ended.*"imgfuse unmount .*mnt" frees it/);
  });

  it('is the helper of umount(8): umount-helper DIR -v -n -t fuse.imgfuse', () => {
    mount();
    dirty();
    const result = bench.imgfuse('umount-helper', bench.path('mnt'), '-v', '-n', '-t', 'fuse.imgfuse');
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(result.stdout).toContain('is closed and clean');
    expect(bench.imgfuse('umount-helper', bench.path('mnt'), '-x').code).toBe(1);
    expect(bench.imgfuse('umount-helper').code).toBe(1);
    expect(bench.imgfuse('umount-helper', bench.path('mnt')).code).toBe(32);
  });

  it('the helper returns at once for umount -l of a busy mount', async () => {
    const pid = mount();
    const fd = openSync(bench.path('mnt/disk.raw'), 'r');
    const result = bench.imgfuse('umount-helper', bench.path('mnt'), '-l');
    expect(result.code).toBe(0);
    expect(result.stderr).toMatch(/is detached and closes when its users end: process \d+/);
    expect(mountsUnder(bench.directory)).toEqual([]);
    closeSync(fd);
    expect(await outlives(pid, 5000)).toBe(false);
  });
});

/** The table of status: its heading, and the lines about mounts of this test; others on the machine are none of its business. */
function ownTable(): string[] {
  return lines(bench.imgfuse('status').stdout).filter(
    (line) => /^MOUNTPOINT /.test(line) || line.includes(bench.directory),
  );
}

describe('status', () => {
  it('prints a table, details of one mount, and JSON with every fact', () => {
    const pid = mount();
    // the dirty bit is cleared when the last writable handle closes, so one stays open
    const fd = openSync(bench.path('mnt/disk.raw'), 'r+');
    writeSync(fd, Buffer.alloc(100_000, 1));
    const table = ownTable();
    expect(table).toHaveLength(2);
    expect(table[0]).toMatch(/^MOUNTPOINT +IMAGE +FORMAT +STATE +MODE +DIRTY +SIZE +ALLOCATED +WORKERS +PID$/);
    expect(table[1]).toMatch(/mnt .*a\.qed +qed +mounted +rw +yes +64 MiB/);
    expect(bench.imgfuse('status', 'mnt').stdout).toMatch(/^dirty: +yes$/m);
    const [status] = statusOf('a.qed');
    expect(status).toMatchObject({
      image: bench.path('a.qed'),
      mountpoint: bench.path('mnt'),
      state: 'mounted',
      format: 'qed',
      transport: 'kernel',
      pid,
      'read-only': false,
      'dirty-flag': true,
      'virtual-size': 64 * 2 ** 20,
      'cluster-size': 65536,
      failure: null,
    });
    expect(status!['allocated-size']).toBeGreaterThanOrEqual(100_000);
    expect((status!['requests'] as Record<string, number>)['WRITE']).toBeGreaterThan(0);
    expect(existsSync(status!['log'] as string)).toBe(true);
    closeSync(fd);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    expect(ownTable().slice(1)).toEqual([]);
  });

  it('the control socket answers status and wait as JSON lines, and nonsense with an error', async () => {
    mount();
    const name = readdirSync(bench.runtime).find((each) => each.endsWith('.sock'))!;
    const socket = connect(join(bench.runtime, name));
    let text = '';
    socket.on('data', (chunk) => {
      text += chunk;
    });
    socket.write('{"request":"wait"}\nnonsense\n{"request":"status"}\n');
    await until(() => lines(text).length === 2, 'two answers');
    expect(JSON.parse(lines(text)[0]!)).toHaveProperty('error');
    expect(JSON.parse(lines(text)[1]!)).toHaveProperty('image', bench.path('a.qed'));
    execFileSync('umount', ['-i', bench.path('mnt')]);
    await until(() => lines(text).length === 3, 'the answer to wait');
    expect(JSON.parse(lines(text)[2]!)).toEqual({ closed: true, clean: true });
    socket.destroy();
  });

  it('a record of a process id that another process has now counts as dead', () => {
    writeFileSync(
      join(bench.runtime, '1-dead.json'),
      JSON.stringify({ image: bench.path('a.qed'), mountpoint: bench.path('mnt'), pid: process.pid, processStart: 1 }),
    );
    expect(ownTable().slice(1)).toEqual([]);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(32);
    expect(bench.records()).toEqual([]);
  });

  it('a runtime directory that others can enter is refused', () => {
    chmodSync(bench.runtime, 0o777);
    const result = bench.imgfuse('mount', 'a.qed', 'mnt');
    expect(result.code).toBe(1);
    expect(result.stderr).toMatch(/others can enter it \(mode 777, and 700 is needed\)/);
    chmodSync(bench.runtime, 0o700);
  });
});

describe('mount.fuse3', () => {
  it('mounts through mount.fuse3, which is given the program by its path', (context) => {
    requireOrSkip(context, existsSync('/sbin/mount.fuse3'), 'mount.fuse3');
    // an installed imgfuse, which is found by its name, is in cli-install.test.ts
    const wrapper = bench.path('imgfuse');
    writeFileSync(wrapper, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`, { mode: 0o755 });
    const mounted = bench.run('mount.fuse3', [
      `${wrapper}#${bench.path('a.qed')}`,
      bench.path('mnt'),
      '-o',
      'ro,noatime',
    ]);
    expect(mounted).toMatchObject({ code: 0, stderr: '' });
    expect(statusOf()[0]).toMatchObject({ 'read-only': true, state: 'mounted' });
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });

  it('the exit code and the sentence of a failed mount are those of mount.fuse3', (context) => {
    requireOrSkip(context, existsSync('/sbin/mount.fuse3'), 'mount.fuse3');
    const wrapper = bench.path('imgfuse');
    writeFileSync(wrapper, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`, { mode: 0o755 });
    const failed = bench.run('mount.fuse3', [`${wrapper}#${bench.path('nope.qed')}`, bench.path('mnt')]);
    expect(failed.code).toBe(32);
    expect(failed.stderr).toMatch(/nope\.qed does not exist/);
  });

  it('drop_privileges: a descriptor that is mounted already is served', async (context) => {
    requireOrSkip(context, existsSync('/sbin/mount.fuse3'), 'mount.fuse3');
    const wrapper = bench.path('imgfuse');
    writeFileSync(wrapper, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`, { mode: 0o755 });
    const mounted = bench.run('mount.fuse3', [
      `${wrapper}#${bench.path('a.qed')}`,
      bench.path('mnt'),
      '-o',
      'drop_privileges',
    ]);
    expect(mounted).toMatchObject({ code: 0, stderr: '' });
    const pid = bench.daemonPid();
    expect(readFileSync(`/proc/${pid}/status`, 'utf8')).toMatch(/^CapEff:\s+0+$/m);
    dirty();
    execFileSync('umount', ['-i', bench.path('mnt')]);
    expect(await outlives(pid, 5000)).toBe(false);
    expect(infoOf('a.qed')['dirty-flag']).toBe(false);
  });

  it('drop_privileges: a mount that lets everybody write is not served', (context) => {
    requireOrSkip(context, existsSync('/sbin/mount.fuse3'), 'mount.fuse3');
    const wrapper = bench.path('imgfuse');
    writeFileSync(wrapper, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`, { mode: 0o755 });
    const mount = (options: string): Result =>
      bench.run('mount.fuse3', [
        `${wrapper}#${bench.path('a.qed')}`,
        bench.path('mnt'),
        '-o',
        `drop_privileges,${options}`,
      ]);
    const open = mount('allow_other');
    expect(open.stderr).toMatch(/allow_other without default_permissions would let every user write the disk/);
    expect(open.code).toBe(1);
    execFileSync('umount', ['-i', bench.path('mnt')]);
    expect(mount('allow_other,default_permissions')).toMatchObject({ code: 0, stderr: '' });
    const asNobody = ['--reuid', String(NOBODY), '--clear-groups', 'head', '-c1', join(bench.path('mnt'), 'disk.raw')];
    expect(bench.run('setpriv', asNobody).stderr).toMatch(/Permission denied/);
    expect(bench.imgfuse('unmount', bench.path('mnt')).code).toBe(0);
  });
});

describe('an ordinary user', () => {
  it('mounts and unmounts through fusermount3; nobody else may look', (context) => {
    requireOrSkip(context, hasCommand('fusermount3') && hasCommand('setpriv'), 'fusermount3 and setpriv');
    const home = bench.makeDirectory('home');
    mkdirSync(join(home, 'mnt'));
    for (const path of [home, join(home, 'mnt'), bench.runtime]) chownSync(path, NOBODY, NOBODY);
    const imgfuse = `${process.execPath} ${CLI}`;
    const result = bench.runAsNobody(`
      cd ${home}
      ${imgfuse} create -q -f qed u.qed 8M
      ${imgfuse} mount u.qed mnt
      ls mnt
      dd if=/dev/zero of=mnt/disk.raw bs=64k count=4 conv=notrunc status=none
      ${imgfuse} status
      ${imgfuse} mount u.qed mnt -o allow_other 2>&1 || echo "code $?"
      ${imgfuse} unmount mnt
      ${imgfuse} info --output=json u.qed | grep dirty
    `);
    expect(result.stderr).toBe('');
    expect(result.stdout).toMatch(/^disk\.raw$/m);
    expect(result.stdout).toMatch(/home\/mnt .*u\.qed +qed +mounted +rw/);
    expect(result.stdout).toMatch(/^code 32$/m);
    expect(result.stdout).toMatch(/"dirty-flag": false/);
    expect(result.code).toBe(0);
  });

  it('has a mount that root cannot make a loop device of, as status tells root', (context) => {
    const commands = ['fusermount3', 'setpriv', 'losetup'];
    requireOrSkip(context, commands.every(hasCommand), commands.join(', '));
    const home = bench.makeDirectory('home');
    mkdirSync(join(home, 'mnt'));
    for (const path of [home, join(home, 'mnt'), bench.runtime]) chownSync(path, NOBODY, NOBODY);
    const imgfuse = `${process.execPath} ${CLI}`;
    const user = `setpriv --reuid=${NOBODY} --regid=${NOBODY} --clear-groups`;
    const result = bench.runInNamespaceWithFuse(`
      cd ${home}
      ${user} ${imgfuse} create -q -f qed u.qed 8M
      ${user} ${imgfuse} mount u.qed mnt
      losetup --find --show mnt/disk.raw || echo "losetup failed"
      ${imgfuse} status mnt
      ${user} ${imgfuse} status mnt | grep usable || echo "nothing to say to the user"
      ${user} ${imgfuse} unmount mnt
    `);
    expect(result.stderr).toMatch(/Permission denied/);
    expect(result.stdout).toContain('losetup failed');
    expect(result.stdout).toMatch(/^usable: +by user 65534 alone: losetup .* root included, need .* allow_other$/m);
    expect(result.stdout).toContain('nothing to say to the user');
  });

  it('is told which mount options need root or a line in fuse.conf, and has the others', (context) => {
    requireOrSkip(context, hasCommand('fusermount3') && hasCommand('setpriv'), 'fusermount3 and setpriv');
    const home = bench.makeDirectory('home');
    mkdirSync(join(home, 'mnt'));
    writeFileSync(join(home, 'key'), 'secret', { mode: 0o600 });
    for (const path of [home, join(home, 'mnt'), bench.runtime]) chownSync(path, NOBODY, NOBODY);
    const imgfuse = `${process.execPath} ${CLI}`;
    const result = bench.runAsNobody(`
      cd ${home}
      ${imgfuse} create -q -f qed u.qed 8M
      ${imgfuse} mount u.qed mnt -o noatime,nodiratime
      grep " ${home}/mnt " /proc/self/mountinfo
      ${imgfuse} unmount mnt
      grep -s -q "^user_allow_other" /etc/fuse.conf && echo allowed
      ${imgfuse} mount u.qed mnt -o allow_other || echo "allow_other $?"
      ${imgfuse} mount u.qed mnt --key-file key || echo "closed key $?"
      ${imgfuse} mount u.qed mnt --key-file nokey || echo "no key $?"
    `);
    const sentences = lines(result.stderr);
    expect(sentences[0]).toMatch(/mounted without nodiratime.*only root/);
    expect(result.stdout).toMatch(/noatime/);
    if (!result.stdout.includes('allowed')) {
      expect(sentences[1]).toMatch(/user_allow_other/);
      expect(result.stdout).toContain('allow_other 1');
    }
    expect(result.stdout).toContain('closed key 1');
    expect(result.stdout).toContain('no key 32');
  });

  it('is told by one sentence what is not allowed', (context) => {
    requireOrSkip(context, hasCommand('fusermount3') && hasCommand('setpriv'), 'fusermount3 and setpriv');
    const home = bench.makeDirectory('home');
    for (const path of [home, bench.runtime]) chownSync(path, NOBODY, NOBODY);
    const imgfuse = `${process.execPath} ${CLI}`;
    const result = bench.runAsNobody(`
      cd ${home}
      ${imgfuse} create -q -f qed u.qed 8M
      ${imgfuse} mount u.qed ${bench.path('mnt')} || echo "code $?"
      ${imgfuse} mount ${bench.path('a.qed')} . -o ro 2>/dev/null && ${imgfuse} unmount . || echo "code $?"
    `);
    expect(lines(result.stderr)).toHaveLength(1);
    expect(result.stderr).toMatch(/mnt.*(permission|not allowed|write access)/i);
    expect(lines(result.stdout)[0]).toBe('code 1');
  });
});
