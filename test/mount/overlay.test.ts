// -o overlay=FILE and -o snapshot: every change goes beside the image, which is only read, by many mounts at once, from a server,
// and beside programs that use it.

import { existsSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { formats } from '../../src/disk/registry.ts';
import { drawnFormats } from '../support/drawn-rows.ts';
import { fingerprints, firstDifference } from '../support/image-files.ts';
import { QemuHolder, qemuCheck, qemuImg } from '../support/qemu.ts';
import { RangeServer } from '../support/range-server.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { isRunning, until } from './cli-harness.ts';
import {
  bench,
  holders,
  imgfuse,
  MIB,
  makeBase,
  overlayOf,
  read,
  refused,
  run,
  sha256,
  useBench,
  write,
} from './overlay-scene.ts';

useBench();

/** QEMU has no driver of these. */
const UNKNOWN_TO_QEMU = ['sparseimage', 'sparsebundle', 'asif'];

describe.each(drawnFormats(formats.map(({ name }) => name)))('an overlay on %s', (format) => {
  /** What qemu-img can say of the overlay: it opens the image below, too. */
  const judge = (): void => {
    if (!UNKNOWN_TO_QEMU.includes(format)) qemuCheck(bench.path('changes.qcow2'), 'qcow2');
  };

  test('takes every change, is found again, and leaves each byte of the image as it was', () => {
    const base = bench.path('base.img');
    const content = makeBase(format, base);
    const before = fingerprints(bench.directory);
    imgfuse('mount', '--format', format, '-o', 'overlay=changes.qcow2', base, 'mnt');
    expect(firstDifference(readFileSync(bench.path('mnt/disk.raw')), content)).toBe('none');
    write('mnt', 'changed', 100);
    expect(overlayOf('mnt')).toEqual({
      ...{ filename: bench.path('changes.qcow2'), temporary: false, base },
      'allocated-size': 65536,
      committable: formats.some(({ name, can }) => name === format && can.write),
    });
    expect(imgfuse('status', 'mnt').stdout).toContain(`${bench.path('changes.qcow2')} with 64 KiB of changes`);
    expect(imgfuse('unmount', 'mnt').stdout).toContain(`changes are kept in ${bench.path('changes.qcow2')} (64 KiB)`);
    expect(fingerprints(bench.directory)).toMatchObject(before);
    judge();
    const info = JSON.parse(qemuImg('info', '--output=json', bench.path('changes.qcow2'))) as Record<string, unknown>;
    // the name alone: both files can be moved together
    expect(info).toMatchObject({ 'backing-filename': 'base.img', 'backing-filename-format': format });

    content.write('changed', 100);
    imgfuse('mount', '-o', 'overlay=changes.qcow2', base, 'mnt');
    expect(firstDifference(readFileSync(bench.path('mnt/disk.raw')), content)).toBe('none');
    write('mnt', 'again', content.length - 100);
    imgfuse('unmount', 'changes.qcow2');
    expect(fingerprints(bench.directory)).toMatchObject(before);
    // ro looks at what the overlay holds
    imgfuse('mount', '-o', 'ro,overlay=changes.qcow2', base, 'mnt');
    expect(read('mnt', 7, 100)).toBe('changed');
    expect(() => writeFileSync(bench.path('mnt/disk.raw'), 'x')).toThrow(/EROFS|EACCES/);
    imgfuse('unmount', 'mnt');
    judge();
  });
});

test('an image that was written after its overlay is named at the next mount, and nothing is said before that', () => {
  const base = bench.path('base.img');
  makeBase('qcow2', base);
  const mountOverlay = (): string => imgfuse('mount', '-o', 'overlay=changes.qcow2', base, 'mnt').stderr;
  expect(mountOverlay()).toBe('');
  write('mnt', 'changed', 100);
  imgfuse('unmount', 'mnt');
  expect(mountOverlay()).toBe('');
  imgfuse('unmount', 'mnt');

  imgfuse('mount', base, 'mnt');
  write('mnt', 'below', 5000);
  imgfuse('unmount', 'mnt');
  // a minute later than the overlay, without waiting for it
  const changed = bench.path('changes.qcow2');
  const before = statSync(changed).mtimeMs / 1000 - 60;
  utimesSync(changed, before, before);
  expect(mountOverlay()).toMatch(
    /base\.img was written at \S+, after its overlay \S+changes\.qcow2 at \S+: unless .* the disk is a mixture of two states\n$/,
  );
  imgfuse('unmount', 'mnt');
  imgfuse('commit', 'changes.qcow2');
  expect(mountOverlay(), 'a commit changes both').toBe('');
  imgfuse('unmount', 'mnt');
});

describe('one image', () => {
  test('carries many overlays at once, beside QEMU that reads it', async () => {
    const base = bench.path('base.qcow2');
    makeBase('qcow2', base);
    const before = sha256(base);
    holders.push(await QemuHolder.open(base, ['-r', '-f', 'qcow2'], 'read 0 4k'));
    const names = ['a', 'b', 'c'];
    for (const name of names) {
      bench.makeDirectory(name);
      imgfuse('mount', '-o', name === 'c' ? 'snapshot' : `overlay=${name}.qcow2`, base, name);
    }
    for (const name of names) write(name, `I am ${name}`);
    for (const name of names) expect(read(name, 6)).toBe(`I am ${name}`);
    expect(await holders[0]!.run('read -P 98 0 4k')).not.toMatch(/mismatch/);
    expect(refused(1, 'unmount', base)).toMatch(/is mounted at .*; name the mountpoint/);
    // and each overlay has one writer
    expect(refused(32, 'mount', '-o', 'overlay=a.qcow2', base, 'mnt')).toMatch(/a\.qcow2 is in use by/);
    for (const name of names) imgfuse('unmount', name);
    expect(sha256(base)).toBe(before);
    for (const name of ['a', 'b']) qemuCheck(bench.path(`${name}.qcow2`), 'qcow2');
  });

  test('with a writer is refused, and used with share, which says so', async () => {
    const base = bench.path('base.qcow2');
    makeBase('qcow2', base);
    holders.push(await QemuHolder.open(base, ['-f', 'qcow2'], 'write -P 1 2M 64k'));
    expect(refused(32, 'mount', '-o', 'overlay=o.qcow2', base, 'mnt')).toMatch(/base\.qcow2 is in use by .*qemu-io/);
    expect(refused(32, 'mount', '-o', 'snapshot', base, 'mnt')).toMatch(/base\.qcow2 is in use by .*qemu-io/);
    expect(existsSync(bench.path('o.qcow2'))).toBe(false);
    for (const option of ['overlay=o.qcow2', 'snapshot']) {
      const { stderr } = imgfuse('mount', '-o', `share,${option}`, base, 'mnt');
      expect(stderr).toMatch(/is read beside its writer \(share\).*has it open for writing/);
      write('mnt', 'mine');
      expect(read('mnt', 5)).toBe('mineb');
      expect(JSON.parse(imgfuse('status', '--output=json', 'mnt').stdout)).toMatchObject([
        { shared: true, 'read-only': false },
      ]);
      expect(imgfuse('status').stdout).toMatch(/ rw,share /);
      imgfuse('unmount', 'mnt');
    }
    expect(await holders[0]!.run('read -P 98 0 4k')).not.toMatch(/mismatch/);
  });

  test('may have a backing chain of its own, under the policy for backing files', () => {
    const below = bench.makeDirectory('below');
    makeBase('qcow2', `${below}/deep.qcow2`);
    const base = `${bench.makeDirectory('images')}/base.qcow2`;
    qemuImg('create', '-q', '-f', 'qcow2', '-b', `${below}/deep.qcow2`, '-F', 'qcow2', base);
    // the base need not lie beside its overlay, because the user names it; what the base names is another matter
    expect(refused(1, 'mount', '-o', 'overlay=o.qcow2', base, 'mnt')).toMatch(/--allow-backing/);
    expect(existsSync(bench.path('o.qcow2'))).toBe(false);
    for (let round = 0; round < 2; round++) {
      imgfuse('mount', '-o', `overlay=o.qcow2,allow_backing=${below}`, base, 'mnt');
      expect(read('mnt', 2, 1)).toBe('bb');
      write('mnt', 'x');
      imgfuse('unmount', 'mnt');
    }
    expect(qemuImg('info', bench.path('o.qcow2'))).toContain(`backing file: ${base}\n`);
  });

  test('on a server is mounted read-write', async () => {
    makeBase('qcow2', bench.path('base.qcow2'));
    const server = new RangeServer(readFileSync(bench.path('base.qcow2')));
    const url = `${server.origin}/base.qcow2`;
    expect(refused(32, 'mount', url, 'mnt')).toMatch(/mount it with -o ro, or with -o overlay=FILE/);
    for (const option of ['overlay=o.qcow2', 'overlay=o.qcow2', 'snapshot']) {
      imgfuse('mount', '-o', option, url, 'mnt');
      expect(read('mnt', 2, MIB)).toBe('\x07\x07');
      write('mnt', 'web');
      expect(overlayOf('mnt').base).toBe(url);
      imgfuse('unmount', 'mnt');
    }
    expect(qemuImg('info', bench.path('o.qcow2'))).toContain(`backing file: ${url}\n`);
    expect(refused(1, 'mount', '-o', 'overlay=o.qcow2', `${server.origin}/other`, 'mnt')).toMatch(
      /o\.qcow2 is an overlay on http/,
    );
    imgfuse('mount', '--allow-backing', url, 'o.qcow2', 'mnt');
    expect(read('mnt', 3)).toBe('web');
    imgfuse('unmount', 'mnt');
    await server.close();
  });
});

describe('snapshot', () => {
  test('throws the changes away, and leaves nothing, after SIGKILL either', async () => {
    const base = bench.path('base.qcow2');
    makeBase('qcow2', base);
    const before = sha256(base);
    const temporary = bench.makeDirectory('temporary');
    const mount = () => {
      const { code, stderr } = bench.runCli(['mount', '-o', 'snapshot', base, 'mnt'], { TMPDIR: temporary });
      expect(code, stderr).toBe(0);
    };
    mount();
    run('dd', 'if=/dev/urandom', `of=${bench.path('mnt/disk.raw')}`, 'bs=1M', 'count=2', 'conv=notrunc', 'status=none');
    expect(overlayOf('mnt')).toEqual({
      ...{ filename: null, temporary: true, base },
      'allocated-size': 2 * MIB,
      committable: false,
    });
    expect(readdirSync(temporary)).toEqual([]);
    const inside = run('sh', '-c', `ls -l /proc/${bench.daemonPid()}/fd`);
    expect(inside).toMatch(new RegExp(`${temporary}/.*\\(deleted\\)`));
    expect(refused(32, 'remount', '-o', 'ro', 'mnt')).toMatch(/temporary overlay of .* can be given to nobody/);
    expect(imgfuse('unmount', 'mnt').stdout).toBe(`2 MiB of changes were thrown away, ${base} is as it was\n`);
    expect(sha256(base)).toBe(before);

    mount();
    write('mnt', 'doomed');
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGKILL');
    await until(() => !isRunning(pid), 'the end of the daemon');
    const { stderr } = imgfuse('unmount', 'mnt');
    expect(stderr).toMatch(/the changes were thrown away, .*base\.qcow2 is as it was/);
    expect(stderr).not.toContain('imgfuse check');
    expect(readdirSync(temporary)).toEqual([]);
    mount();
    expect(read('mnt', 2)).toBe('bb');
    imgfuse('unmount', 'mnt');
    expect(sha256(base)).toBe(before);
  });

  test('says where its file cannot be made', () => {
    makeBase('raw', bench.path('base.raw'));
    const { code, stderr } = bench.runCli(['mount', '-o', 'snapshot', 'base.raw', 'mnt'], {
      TMPDIR: bench.path('none'),
    });
    expect(code).toBe(32);
    expect(stderr).toContain(`${bench.path('none')} does not exist`);
  });
});

describe('a guest', () => {
  test('changes its ext4 through an overlay, and the image keeps each byte', (context) => {
    requireOrSkip(context, hasCommand('mkfs.ext4'), 'mkfs.ext4');
    const base = bench.path('base.qcow2');
    imgfuse('create', '-q', '-f', 'qcow2', base, '64M');
    imgfuse('mount', base, 'mnt');
    run('mkfs.ext4', '-q', '-F', bench.path('mnt/disk.raw'));
    imgfuse('unmount', 'mnt');
    const before = sha256(base);
    const guest = bench.makeDirectory('guest');
    for (const option of ['overlay=o.qcow2', 'overlay=o.qcow2', 'snapshot']) {
      imgfuse('mount', '-o', option, base, 'mnt');
      run('mount', '-o', 'loop', bench.path('mnt/disk.raw'), guest);
      const already = readdirSync(guest).filter((name) => name !== 'lost+found').length;
      run('cp', '-a', bench.path('base.qcow2'), `${guest}/file-${already}`);
      run('umount', guest);
      run('e2fsck', '-f', '-n', bench.path('mnt/disk.raw'));
      imgfuse('unmount', 'mnt');
    }
    expect(sha256(base)).toBe(before);
    imgfuse('mount', '-o', 'ro,overlay=o.qcow2', base, 'mnt');
    run('mount', '-o', 'loop,ro,noload', bench.path('mnt/disk.raw'), guest);
    // of the snapshot there is nothing
    expect(
      readdirSync(guest)
        .filter((name) => name !== 'lost+found')
        .sort(),
    ).toEqual(['file-0', 'file-1']);
    run('umount', guest);
    imgfuse('unmount', 'mnt');
  });
});
