// -o overlay=FILE: which file is meant, what is refused by name without a changed byte, and what the other mount options mean
// beside it.

import { copyFileSync, existsSync, readdirSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { beforeEach, describe, expect, test } from 'vitest';
import { fingerprints } from '../support/image-files.ts';
import { qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { hasCommand, requireOrSkip } from '../support/requirements.ts';
import { CLI, isRunning, until } from './cli-harness.ts';
import { bench, imgfuse, MIB, makeBase, read, refused, run, useBench, write } from './overlay-scene.ts';

useBench();

describe('an overlay', () => {
  beforeEach(() => void makeBase('qcow2', bench.path('base.qcow2')));

  test('is the file that the user types: relative, with a comma, behind a link to a directory', () => {
    bench.makeDirectory('there');
    symlinkSync('there', bench.path('link'));
    for (const [typed, path] of [
      ['a\\,b.qcow2', 'a,b.qcow2'],
      ['"c,d.qcow2"', 'c,d.qcow2'],
      ['./x:y.qcow2', 'x:y.qcow2'],
      ['link/o.qcow2', 'there/o.qcow2'],
      ['link/../up.qcow2', 'up.qcow2'],
    ]) {
      // as mount(8) and fstab call it
      imgfuse('base.qcow2', 'mnt', '-o', `rw,nosuid,overlay=${typed}`);
      imgfuse('unmount', 'mnt');
      expect(existsSync(bench.path(path!)), typed).toBe(true);
    }
    copyFileSync(bench.path('base.qcow2'), bench.path('nbd:x'));
    imgfuse('mount', '-o', 'overlay=colon.qcow2', 'nbd:x', 'mnt');
    imgfuse('unmount', 'mnt');
    expect(qemuImg('info', bench.path('colon.qcow2'))).toContain('backing file: ./nbd:x');
  });

  test('is a mount option of mount(8) and of fstab, from the directory that mount runs in', (context) => {
    requireOrSkip(context, hasCommand('mount.fuse3'), 'mount.fuse3');
    const folder = bench.makeDirectory('bin');
    writeFileSync(`${folder}/imgfuse`, `#!/bin/sh\nexec ${process.execPath} ${CLI} "$@"\n`, { mode: 0o755 });
    const table = `${bench.path('base.qcow2')} ${bench.path('mnt')} fuse.imgfuse overlay=${bench.path('table.qcow2')} 0 0\n`;
    writeFileSync(bench.path('fstab'), table);
    const script = `set -eu
      mount --bind ${folder} /usr/local/bin
      mount -t fuse.imgfuse base.qcow2 mnt -o 'overlay=typed\\,here.qcow2,noatime'
      imgfuse unmount mnt
      mount -T fstab ${bench.path('mnt')}
      imgfuse unmount mnt
      mount -t fuse.imgfuse base.qcow2 mnt -o snapshot
      imgfuse unmount mnt`;
    const { code, stdout, stderr } = bench.run('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script]);
    expect(code, stderr).toBe(0);
    expect(stdout).toMatch(/kept in .*typed,here\.qcow2.*kept in .*table\.qcow2.*thrown away/s);
  });

  test('is made on an image whose format the user calls by its other name', () => {
    makeBase('vpc', bench.path('disk.vhd'));
    for (const text of ['first', 'again']) {
      imgfuse('mount', '-o', 'overlay=o.qcow2', '--format', 'vhd', 'disk.vhd', 'mnt');
      write('mnt', text);
      imgfuse('unmount', 'mnt');
    }
    qemuIo(bench.path('o.qcow2'), 'qcow2', 'read -P 97 0 1', 'read -P 7 1M 1M');
    expect(refused(1, 'mount', '-o', 'overlay=o.qcow2,format=vdi', 'disk.vhd', 'mnt')).toMatch(/vdi/);
  });

  test('that is anything else is refused by name, and no byte of it changes', () => {
    copyFileSync(bench.path('base.qcow2'), bench.path('copy.qcow2'));
    writeFileSync(bench.path('empty'), '');
    writeFileSync(bench.path('text'), 'my only copy\n');
    makeBase('qed', bench.path('disk.qed'));
    imgfuse('create', '-q', '-f', 'qcow2', '-b', 'copy.qcow2', '-F', 'qcow2', 'wrong.qcow2');
    imgfuse('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'raw', 'raw.qcow2', '4M');
    symlinkSync('base.qcow2', bench.path('link'));
    symlinkSync('nowhere', bench.path('dangling'));
    const before = fingerprints(bench.directory);
    const cases: readonly [string, RegExp][] = [
      ['base.qcow2', /is the image itself/],
      ['link', /is the image itself/],
      ['empty', /is there already and is no image of a known format; it is not overwritten/],
      ['text', /is no image of a known format; it is not overwritten/],
      ['disk.qed', /is there already and is a QED image; it is not overwritten/],
      ['copy.qcow2', /has no backing file, so it is no overlay on/],
      ['wrong.qcow2', /wrong\.qcow2 is an overlay on .*copy\.qcow2 and not on .*base\.qcow2/],
      ['dangling', /exists already; it is not overwritten/],
      ['mnt', /is a directory, and an overlay is a regular file/],
      ['/dev/null', /is a special file, and an overlay is a regular file/],
      ['none/o.qcow2', /none does not exist/],
    ];
    for (const [name, sentence] of cases) {
      const { code, stderr } = bench.imgfuse('mount', '-o', `overlay=${name}`, 'base.qcow2', 'mnt');
      expect([1, 32], name).toContain(code);
      expect(stderr).toMatch(sentence);
    }
    expect(refused(1, 'mount', '--format', 'qcow2', '-o', 'overlay=raw.qcow2', 'base.qcow2', 'mnt')).toMatch(
      /says that .*base\.qcow2 is raw, and --format says qcow2/,
    );
    expect(fingerprints(bench.directory)).toEqual(before);
  });

  test('on a block device, in a read-only directory or on a full disk is an error that names it', () => {
    const small = bench.makeDirectory('small');
    run('mount', '-t', 'tmpfs', '-o', 'size=600k', 'tmpfs', small);
    writeFileSync(bench.path('device.img'), Buffer.alloc(MIB));
    const loop = run('losetup', '--find', '--show', bench.path('device.img'));
    expect(refused(1, 'mount', '-o', `overlay=${loop}`, 'base.qcow2', 'mnt')).toMatch(/is a block device/);
    imgfuse('mount', '-o', 'overlay=small/o.qcow2', 'base.qcow2', 'mnt');
    const full = bench.run('dd', ['if=/dev/urandom', 'of=mnt/disk.raw', 'bs=64k', 'count=20', 'conv=notrunc,fsync']);
    expect(full.stderr).toMatch(/No space left/);
    expect(read('mnt', 2, MIB + 512 * 1024)).toBe('\x07\x07');
    run('mount', '-o', 'remount,size=2M', small);
    imgfuse('unmount', 'mnt');
    qemuCheck(bench.path('small/o.qcow2'), 'qcow2');
    run('mount', '-o', 'remount,ro', small);
    expect(refused(32, 'mount', '-o', 'overlay=small/new.qcow2', 'base.qcow2', 'mnt')).toMatch(
      /small\/new\.qcow2 .*read-only/,
    );
    expect(refused(32, 'mount', '-o', 'overlay=small/o.qcow2', 'base.qcow2', 'mnt')).toMatch(
      /small\/o\.qcow2 .*read-only/,
    );
    imgfuse('mount', '-o', 'ro,overlay=small/o.qcow2', 'base.qcow2', 'mnt');
    imgfuse('unmount', 'mnt');
    run('umount', small);
    run('mount', '-t', 'tmpfs', '-o', 'size=16k', 'tmpfs', small);
    expect(bench.imgfuse('mount', '-o', 'overlay=small/o.qcow2', 'base.qcow2', 'mnt').stderr).toMatch(
      /cannot grow: the host file system is full/,
    );
    expect(readdirSync(small)).toEqual([]);
    run('umount', small);
  });

  test('that a mount has made is removed again if the mount fails, and one that was there stays', () => {
    bench.makeDirectory('tree');
    writeFileSync(bench.path('file'), '');
    const failing = [
      ['-o', 'partition=3', bench.path('file')],
      ['--pid-file', '/nowhere/pid', bench.path('tree')],
    ] as const;
    for (const [name, option, mountpoint] of failing) {
      const mount = () => bench.imgfuse('mount', '-o', 'overlay=new.qcow2', name, option, 'base.qcow2', mountpoint);
      expect(mount().code, option).not.toBe(0);
      expect(existsSync(bench.path('new.qcow2')), option).toBe(false);
      qemuImg('create', '-q', '-f', 'qcow2', '-b', 'base.qcow2', '-F', 'qcow2', bench.path('new.qcow2'));
      expect(mount().code, option).not.toBe(0);
      expect(existsSync(bench.path('new.qcow2')), option).toBe(true);
      rmSync(bench.path('new.qcow2'));
    }
  });

  test('keeps its sense of other options', () => {
    expect(refused(1, 'mount', '-o', 'snapshot,ro', 'base.qcow2', 'mnt')).toMatch(/leave out one of the two/);
    expect(refused(1, 'mount', '-o', 'snapshot,overlay=x', 'base.qcow2', 'mnt')).toMatch(/leave out one of the two/);
    expect(refused(1, 'mount', '-o', 'ro,overlay=x', 'base.qcow2', 'mnt')).toMatch(/x does not exist/);
    expect(refused(1, 'mount', '-o', 'overlay=', 'base.qcow2', 'mnt')).toMatch(/needs a value/);
    // the mark that says how the last one ended is that of the overlay; lazy counters and copy-on-read are its own, too
    for (let round = 0; round < 2; round++) {
      imgfuse('mount', '-o', 'overlay=o.qcow2,lazy_refcounts,copy_on_read', 'base.qcow2', 'mnt');
      expect(read('mnt', 2, MIB)).toBe('\x07\x07');
      write('mnt', 'lazy');
      expect(JSON.parse(imgfuse('status', '--output=json', 'mnt').stdout)).toMatchObject([
        { 'lazy-refcounts': true, 'copy-on-read': 'on' },
      ]);
      imgfuse('unmount', 'mnt');
      qemuCheck(bench.path('o.qcow2'), 'qcow2');
      expect(JSON.parse(qemuImg('map', '--output=json', bench.path('o.qcow2')))).toContainEqual(
        expect.objectContaining({ start: MIB, depth: 0, data: true }),
      );
      expect(bench.closedMarks()).toHaveLength(1);
    }
    const unlocked = imgfuse('mount', '-o', 'overlay=n.qcow2,nolock', 'base.qcow2', 'mnt');
    expect(unlocked.stderr).toMatch(/n\.qcow2 is opened without locks/);
    bench.makeDirectory('two');
    expect(refused(32, 'mount', '-o', 'overlay=n.qcow2,nolock', 'base.qcow2', 'two')).toMatch(
      /open for writing by another imgfuse/,
    );
    imgfuse('unmount', 'mnt');
  });

  test('is given away and taken over again', () => {
    imgfuse('mount', '-o', 'overlay=o.qcow2', 'base.qcow2', 'mnt');
    write('mnt', 'one');
    expect(tryQemu('qemu-io', '-f', 'qcow2', '-c', 'write -P 1 0 1k', bench.path('o.qcow2')).code).not.toBe(0);
    imgfuse('remount', '-o', 'ro', 'mnt');
    qemuIo(bench.path('o.qcow2'), 'qcow2', 'write -P 84 0 512');
    imgfuse('remount', '-o', 'rw', 'o.qcow2');
    expect(read('mnt', 4)).toBe('TTTT');
    write('mnt', 'two');
    expect(imgfuse('unmount', 'mnt').stdout).toContain(`changes are kept in ${bench.path('o.qcow2')}`);
    qemuCheck(bench.path('o.qcow2'), 'qcow2');
    qemuIo(bench.path('o.qcow2'), 'qcow2', 'read -P 84 3 509');
  });

  test('on an encrypted image asks for its password, and says that it is not encrypted itself', () => {
    writeFileSync(bench.path('key'), 'secret');
    const options = 'encrypt.format=luks,encrypt.iter-time=20';
    imgfuse('create', '-q', '-f', 'qcow2', '-o', options, '--key-file', 'key', 'luks.qcow2', '4M');
    for (const option of ['overlay=o.qcow2', 'overlay=o.qcow2', 'snapshot']) {
      const { stderr } = imgfuse('mount', '--key-file', 'key', '-o', option, 'luks.qcow2', 'mnt');
      expect(stderr).toMatch(
        /luks\.qcow2 is encrypted, and its overlay .* is not: what is written to the disk can be read there/,
      );
      write('mnt', 'plain');
      imgfuse('unmount', 'mnt');
    }
  });

  test('of a mount whose daemon was killed is named, not the image', async () => {
    imgfuse('mount', '-o', 'overlay=o.qcow2', 'base.qcow2', 'mnt');
    write('mnt', 'kept');
    run('sync', bench.path('mnt/disk.raw'));
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGKILL');
    await until(() => !isRunning(pid), 'the end of the daemon');
    const { stderr } = imgfuse('unmount', 'mnt');
    expect(stderr).toContain(`imgfuse check -r all ${bench.path('o.qcow2')}`);
    expect(stderr).not.toMatch(/check.*base\.qcow2/);
    imgfuse('mount', '-o', 'overlay=o.qcow2', 'base.qcow2', 'mnt');
    expect(read('mnt', 4)).toBe('kept');
    imgfuse('unmount', 'mnt');
    expect(statSync(bench.path('o.qcow2')).mode & 0o777).toBe(0o600);
  });
});
