// partitions/N.raw in a real mount: as good as a block device for file systems, loop devices, dd and cp; tables that sfdisk and parted
// make and rewrite through the mount; and -o partition=N, which shows one of them as the mountpoint.

import { spawnSync } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statfsSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { fuseNativeAvailable } from '../../src/fuse/fuse-native-package.ts';
import { drawnRows } from '../support/drawn-rows.ts';
import { mbrSector } from '../support/partition-bytes.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, until } from './cli-harness.ts';

const MiB = 1024 * 1024;

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  requireOrSkip(context, ['sfdisk', 'parted', 'mkfs.ext4', 'e2fsck'].every(hasCommand), 'sfdisk, parted, e2fsprogs');
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.makeDirectory('guest');
});
afterEach(() => bench?.cleanUp());

const disk = () => bench.path('mnt/disk.raw');
const part = (number: number) => bench.path(`mnt/partitions/${number}.raw`);
const listed = () => readdirSync(bench.path('mnt/partitions')).sort();

function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect(code, `${command} ${parameters.join(' ')}: ${stderr}${stdout}`).toBe(0);
  return stdout.trim();
}

function mount(format: string, size: string, ...options: readonly string[]): void {
  // Linux hands on discards of whole blocks only, and those of a VHDX are 8 MiB
  const small = format === 'vhdx' ? ['-o', 'block_size=1M'] : [];
  expect(bench.imgfuse('create', '-q', '-f', format, ...small, 'a.img', size)).toMatchObject({ code: 0 });
  expect(bench.imgfuse('mount', 'a.img', 'mnt', '--format', format, ...options)).toMatchObject({ code: 0 });
}

function sfdisk(script: string, ...options: readonly string[]): void {
  const made = spawnSync('sfdisk', ['--quiet', ...options, disk()], { input: script, encoding: 'utf8' });
  expect(made, made.stderr).toMatchObject({ status: 0 });
}

describe.each(
  drawnRows(
    [
      ['raw', 'dos'],
      ['qed', 'gpt'],
      ['qcow2', 'dos'],
      ['qcow2', 'gpt'],
      ['vdi', 'dos'],
      ['vpc', 'gpt'],
      ['vmdk', 'dos'],
      ['vhdx', 'gpt'],
      ['parallels', 'dos'],
    ],
    ([format]) => format === 'qcow2',
  ),
)('in %s images with a %s table', (format, label) => {
  it('have a loop device with ext4 on it, whose files and trimmed space are those of the image', () => {
    mount(format, '256M');
    sfdisk(`label: ${label}\nsize=1M\nsize=128M\n`);
    const loop = run('losetup', '--find', '--show', part(2));
    run('mkfs.ext4', '-q', loop);
    run('mount', loop, bench.path('guest'));
    const bytes = randomBytes(40 * MiB);
    writeFileSync(bench.path('guest/kept'), bytes.subarray(0, 5 * MiB));
    writeFileSync(bench.path('guest/gone'), bytes);
    run('sync', '--file-system', bench.path('guest'));
    const full = statSync(bench.path('a.img')).blocks;
    run('rm', bench.path('guest/gone'));
    // ext4 gives blocks back after the commit
    run('sync', '--file-system', bench.path('guest'));
    run('fstrim', bench.path('guest'));
    run('umount', bench.path('guest'));
    run('losetup', '--detach', loop);
    expect(statSync(bench.path('a.img')).blocks, 'discards reach the image').toBeLessThan(full / 2);
    run('e2fsck', '-f', '-n', part(2));
    expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0, stderr: '' });
    expect(bench.imgfuse('mount', 'a.img', 'mnt', '--format', format, '-o', 'ro')).toMatchObject({ code: 0 });
    run('mount', '-o', 'ro,loop', part(2), bench.path('guest'));
    expect(readFileSync(bench.path('guest/kept')).equals(bytes.subarray(0, 5 * MiB))).toBe(true);
    run('umount', bench.path('guest'));
    expect(() => openSync(part(2), 'r+')).toThrow('EROFS');
  });
});

describe('are written like block devices', () => {
  beforeEach(() => {
    mount('qcow2', '64M');
    sfdisk('size=8M\nsize=8M\n');
  });

  it('by dd, with and without conv=notrunc, and by cp, whose holes are zeros then', () => {
    const bytes = randomBytes(2 * MiB);
    writeFileSync(bench.path('bytes'), bytes);
    run('dd', `if=${bench.path('bytes')}`, `of=${part(1)}`, 'bs=1M', 'seek=6', 'conv=notrunc', 'status=none');
    run('dd', `if=${bench.path('bytes')}`, `of=${part(1)}`, 'bs=1M', 'status=none');
    const seen = readFileSync(part(1));
    expect(seen.length).toBe(8 * MiB);
    expect(seen.subarray(0, 2 * MiB).equals(bytes)).toBe(true);
    expect(seen.subarray(6 * MiB).equals(bytes)).toBe(true);
    run('truncate', '--size', '3M', bench.path('bytes'));
    run('cp', '--sparse=always', bench.path('bytes'), part(1));
    expect(
      readFileSync(part(1))
        .subarray(0, 3 * MiB)
        .equals(readFileSync(bench.path('bytes'))),
    ).toBe(true);
    run('cp', part(1), bench.path('copy'));
    expect(readFileSync(bench.path('copy')).equals(readFileSync(part(1)))).toBe(true);
    expect(readFileSync(part(2)).every((byte) => byte === 0)).toBe(true);
  });

  it('up to their end and no further', () => {
    const fd = openSync(part(1), constants.O_RDWR | constants.O_DIRECT);
    expect(() => writeSync(fd, Buffer.alloc(4096), 0, 4096, 8 * MiB)).toThrow('EFBIG');
    expect(readSync(fd, Buffer.alloc(4096), 0, 4096, 8 * MiB)).toBe(0);
    closeSync(fd);
    const filled = bench.run('dd', ['if=/dev/zero', `of=${part(1)}`, 'bs=1M']);
    expect(filled.stderr).toMatch(/File too large[\s\S]*\n8388608 bytes/);
    expect(bench.run('truncate', ['--size', '1M', part(1)])).toMatchObject({ code: 1 });
    expect(bench.run('truncate', ['--size', '8M', part(1)])).toMatchObject({ code: 0 });
    expect(bench.run('fallocate', ['--length', '9M', part(1)]).stderr).toContain('File too large');
    expect(statSync(part(1)).size).toBe(8 * MiB);
    expect(statfsSync(part(1)).bsize).toBe(65536);
  });

  it('and who has one open is named when the mount is busy', () => {
    const loop = run('losetup', '--find', '--show', part(1));
    const busy = bench.imgfuse('unmount', 'mnt');
    expect(busy.code).toBe(32);
    expect(busy.stderr).toContain(`in use by ${loop}`);
    run('losetup', '--detach', loop);
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
  });
});

describe.each(['kernel', 'fuse-native'])('a table that is rewritten through the mount, over %s', (transport) => {
  it('shows its new partitions, and those that stayed keep their node', (context) => {
    if (transport === 'fuse-native') requireOrSkip(context, fuseNativeAvailable(), 'fuse-native and libfuse.so.2');
    mount('qcow2', '128M', '--transport', transport);
    expect(listed()).toEqual([]);
    sfdisk('label: gpt\nsize=16M\nsize=16M\nsize=16M\n');
    expect(listed()).toEqual(['1.raw', '2.raw', '3.raw']);
    const [one, three] = [statSync(part(1)).ino, statSync(part(3)).ino];
    const names = [
      '',
      'disk.raw',
      'partitions',
      'status.json',
      'partitions/1.raw',
      'partitions/2.raw',
      'partitions/3.raw',
    ];
    const inodes = names.map((name) => statSync(bench.path(`mnt/${name}`)).ino);
    expect(new Set([0, ...inodes]).size, `${inodes}`).toBe(names.length + 1);
    run('mkfs.ext4', '-q', part(3));
    run('parted', '--script', disk(), 'rm', '2', 'resizepart', '1', '20MiB');
    expect(listed()).toEqual(['1.raw', '3.raw']);
    expect(statSync(part(1)).size).toBe(19 * MiB);
    expect(statSync(part(1)).ino).not.toBe(one);
    expect(statSync(part(3)).ino).toBe(three);
    run('e2fsck', '-f', '-n', part(3));
    run(
      'parted',
      '--script',
      disk(),
      'mklabel',
      'msdos',
      'mkpart',
      'primary',
      '1MiB',
      '9MiB',
      'mkpart',
      'extended',
      '9MiB',
      '100%',
    );
    run('parted', '--script', disk(), 'mkpart', 'logical', '10MiB', '20MiB', 'mkpart', 'logical', '21MiB', '25MiB');
    expect(listed()).toEqual(['1.raw', '5.raw', '6.raw']);
    expect([1, 5, 6].map((number) => statSync(part(number)).size / MiB)).toEqual([8, 10, 4]);
    // the extended partition's chain lies in the middle of the disk
    run('parted', '--script', disk(), 'rm', '5');
    expect(listed()).toEqual(['1.raw', '5.raw']);
    expect(statSync(part(5)).size).toBe(4 * MiB);
    sfdisk('label: gpt\n');
    expect(listed()).toEqual([]);
    expect(() => statSync(part(5))).toThrow('ENOENT');
  });
});

it('a table that is rewritten through a loop device over the disk is seen as well, once the device has written it', async () => {
  mount('qed', '64M');
  const loop = run('losetup', '--find', '--show', disk());
  expect(spawnSync('sfdisk', ['--quiet', '--no-reread', loop], { input: 'size=8M\nsize=9M\n' }).status).toBe(0);
  run('blockdev', '--flushbufs', loop);
  expect(listed()).toEqual(['1.raw', '2.raw']);
  run('losetup', '--detach', loop);
  await until(() => run('losetup', '--associated', disk()) === '', 'the loop device is gone');
  run('mkfs.ext4', '-q', part(2));
  sfdisk('size=8M\n');
  expect(listed()).toEqual(['1.raw']);
});

it('names of other files lead nowhere, a damaged table stops nothing, and 255 partitions are listed', () => {
  mount('raw', '600M');
  for (const name of ['01.raw', '1.raw/', '1', '256.raw', '999999999999.raw', '../partitions/9.raw', '%2e.raw']) {
    expect(() => statSync(`${bench.path('mnt/partitions')}/${name}`), name).toThrow(/ENOENT|ENOTDIR/);
  }
  expect(statSync(bench.path('mnt/partitions/../disk.raw')).size).toBe(600 * MiB);
  const script = Array.from({ length: 255 }, () => 'size=1M').join('\n');
  sfdisk(`label: gpt\ntable-length: 255\n${script}\n`);
  expect(listed()).toHaveLength(255);
  expect(run('ls', '-U', bench.path('mnt/partitions')).split('\n')).toHaveLength(255);
  expect(statSync(part(255)).size).toBe(MiB);
  const fd = openSync(disk(), 'r+');
  writeSync(fd, randomBytes(64 * 512), 0, 64 * 512, 512);
  expect(listed(), 'the backup is used').toHaveLength(255);
  writeSync(fd, mbrSector([{ type: 0x0f, start: 1, size: 9 }]), 0, 512, 0);
  writeSync(
    fd,
    mbrSector([
      { type: 0x83, start: 0, size: 0 },
      { type: 0x05, start: 0, size: 1 },
    ]),
    0,
    512,
    512,
  );
  closeSync(fd);
  expect(listed().length).toBeLessThan(3);
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0, stderr: '' });
});

it('a mount beside a writer shows partitions, and after a takeover they are read again', () => {
  expect(bench.imgfuse('create', '-q', '-f', 'qcow2', 'a.img', '64M').code).toBe(0);
  expect(bench.imgfuse('mount', 'a.img', 'mnt', '-o', 'ro,share').code).toBe(0);
  expect(listed()).toEqual([]);
  bench.makeDirectory('writer');
  expect(bench.imgfuse('mount', 'a.img', 'writer')).toMatchObject({ code: 0 });
  expect(spawnSync('sfdisk', ['-q', bench.path('writer/disk.raw')], { input: 'size=8M\n' }).status).toBe(0);
  expect(bench.imgfuse('unmount', 'writer').code).toBe(0);
  expect(bench.imgfuse('remount', '-o', 'rw', 'mnt').code).toBe(0);
  expect(listed()).toEqual(['1.raw']);
  run('mkfs.ext4', '-q', part(1));
  expect(statSync(part(1)).mode & 0o777).toBe(0o600);
});

describe('-o partition=N', () => {
  beforeEach(() => {
    mount('qcow2', '64M');
    sfdisk('label: gpt\nsize=8M\nsize=16M\n');
    expect(bench.imgfuse('unmount', 'mnt').code).toBe(0);
    writeFileSync(bench.path('file'), 'what was here before');
  });

  it('shows the partition as the mountpoint', () => {
    expect(bench.imgfuse('mount', 'a.img', 'file', '-o', 'partition=2')).toMatchObject({ code: 0, stderr: '' });
    expect(statSync(bench.path('file')).size).toBe(16 * MiB);
    run('mkfs.ext4', '-q', bench.path('file'));
    run('mount', '-o', 'loop', bench.path('file'), bench.path('guest'));
    writeFileSync(bench.path('guest/text'), 'in partition 2');
    run('umount', bench.path('guest'));
    const [status] = JSON.parse(bench.imgfuse('status', '--output=json', 'file').stdout) as Record<string, unknown>[];
    expect(status).toMatchObject({
      partition: 2,
      'virtual-size': 64 * MiB,
      partitions: [{ number: 1 }, { content: { type: 'ext4' } }],
    });
    expect(bench.imgfuse('unmount', 'file')).toMatchObject({ code: 0, stderr: '' });
    expect(readFileSync(bench.path('file'), 'utf8')).toBe('what was here before');
    expect(bench.imgfuse('mount', 'a.img', 'mnt', '-o', 'ro').code).toBe(0);
    run('mount', '-o', 'ro,loop', part(2), bench.path('guest'));
    expect(readFileSync(bench.path('guest/text'), 'utf8')).toBe('in partition 2');
    run('umount', bench.path('guest'));
  });

  it.each([
    [['file', '-o', 'partition=3'], 32, 'has no partition 3: its partitions are 1 (8 MiB), 2 (16 MiB)'],
    [['mnt', '-o', 'partition=2'], 1, 'must be a regular file, and '],
    [['file', '-o', 'partition=0'], 1, 'give a whole number from 1 to 255'],
    [['file', '-o', 'partition=x'], 1, 'give a whole number from 1 to 255'],
    [['file', '-o', 'partition'], 1, 'needs a value'],
  ])('is refused with a sentence: %j', (parameters, code, sentence) => {
    const refused = bench.imgfuse('mount', 'a.img', ...parameters);
    expect(refused.code).toBe(code);
    expect(refused.stderr).toContain(sentence);
    expect(bench.records()).toEqual([]);
    expect(bench.imgfuse('check', 'a.img').code).toBe(0);
  });

  it('says so if there is no table', () => {
    expect(bench.imgfuse('create', '-q', '-f', 'raw', 'empty.img', '1M').code).toBe(0);
    const refused = bench.imgfuse('mount', 'empty.img', 'file', '--format', 'raw', '-o', 'partition=1');
    expect(refused).toMatchObject({ code: 32 });
    expect(refused.stderr).toContain('has no partition 1: it has no partition table that can be read');
  });
});
