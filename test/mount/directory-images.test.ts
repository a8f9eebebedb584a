// Images that are directories, at the command line: a sparsebundle of macOS and a disk of Parallels, with a real file system in each.

import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { infoPlist, writeBundle } from '../support/bundle-bytes.ts';
import { run } from '../support/guest-images.ts';
import { firstDifference } from '../support/image-files.ts';
import { hasQemu, QemuHolder } from '../support/qemu.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, lines } from './cli-harness.ts';

const MIB = 1024 * 1024;
const SIZE = 24 * MIB;

let bench: Bench;
const holders: QemuHolder[] = [];
beforeEach((context) => {
  requireOrSkip(
    context,
    canMountAsRoot() && hasQemu && hasCommand('mkfs.ext4'),
    'root, /dev/fuse, qemu-img and mkfs.ext4',
  );
  bench = new Bench();
  bench.makeDirectory('mnt');
  bench.makeDirectory('files');
  writeFileSync(bench.path('files/hello'), 'what the guest wrote');
  run('truncate', ['-s', String(SIZE), bench.path('raw')]);
  run('mkfs.ext4', ['-q', '-F', '-d', bench.path('files'), bench.path('raw')]);
});
afterEach(async () => {
  for (const holder of holders.splice(0)) await holder.kill();
  bench?.cleanUp();
});

/** Bands of 1 MiB; those of zeros are left out. */
function makeBundle(folder: string, disk: Buffer): void {
  const bands = new Map<string, Buffer>();
  for (let at = 0; at < SIZE; at += MIB) {
    const band = disk.subarray(at, at + MIB);
    if (band.some((byte) => byte !== 0)) bands.set((at / MIB).toString(16), band);
  }
  expect(bands.size).toBeLessThan(SIZE / MIB);
  const image = infoPlist({ band: `<integer>${MIB}</integer>`, size: `<integer>${SIZE}</integer>` });
  writeBundle(folder, { image, content: disk, bands });
}

/** One expanding file. */
function makeHdd(folder: string): void {
  run('qemu-img', ['convert', '-f', 'raw', '-O', 'parallels', bench.path('raw'), `${folder}/root.hds`]);
  const guid = '{5fbaabe3-6958-40ff-92a7-860e329aab41}';
  const image = `<Image><GUID>${guid}</GUID><Type>Compressed</Type><File>root.hds</File></Image>`;
  writeFileSync(
    `${folder}/DiskDescriptor.xml`,
    `<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version="1.0">\n` +
      `<Disk_Parameters><Disk_size>${SIZE / 512}</Disk_size><Padding>0</Padding></Disk_Parameters>\n<StorageData><Storage>` +
      `<Start>0</Start><End>${SIZE / 512}</End><Blocksize>2048</Blocksize>${image}</Storage></StorageData>\n` +
      `<Snapshots><Shot><GUID>${guid}</GUID><ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID></Shot></Snapshots>\n` +
      '</Parallels_disk_image>\n',
  );
}

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
  return stdout;
}

function refused(code: number, ...parameters: readonly string[]): string {
  const result = bench.imgfuse(...parameters);
  expect(result, parameters.join(' ')).toMatchObject({ code, stdout: '' });
  expect(lines(result.stderr)).toHaveLength(1);
  return result.stderr;
}

describe.each([
  [
    'sparsebundle',
    'disk.sparsebundle',
    'Info.plist',
    (folder: string) => makeBundle(folder, readFileSync(bench.path('raw'))),
  ],
  ['parallels', 'disk.hdd', 'DiskDescriptor.xml', makeHdd],
] as const)('a directory that is a %s image', (format, directory, file, make) => {
  let content: Buffer;
  beforeEach(() => {
    mkdirSync(bench.path(directory));
    make(bench.path(directory));
    content = readFileSync(bench.path('raw'));
  });

  it('is mounted, shown by status, info and map, and unmounted, by the name of the directory', () => {
    symlinkSync(directory, bench.path('link'));
    for (const name of [directory, `${directory}/`, 'link', `${directory}/${file}`]) {
      expect(bench.imgfuse('mount', '-o', 'ro', name, 'mnt')).toMatchObject({ code: 0, stderr: '' });
      expect(firstDifference(readFileSync(bench.path('mnt/disk.raw')), content)).toBe('none');
      const [status] = JSON.parse(imgfuse('status', '--output=json', name)) as Record<string, unknown>[];
      expect(status).toMatchObject({ format, mountpoint: bench.path('mnt'), 'read-only': true });
      expect(bench.imgfuse('unmount', name)).toMatchObject({ code: 0, stderr: '' });
      const info = JSON.parse(imgfuse('info', '--output=json', name)) as Record<string, unknown>;
      expect(info).toMatchObject({ format, filename: name, 'virtual-size': SIZE });
      const map = JSON.parse(imgfuse('map', '--output=json', name)) as { length: number }[];
      expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(SIZE);
    }
    expect(bench.imgfuse('check', directory).code).toBe(63);
  });

  it('shows the files of its guest, and takes changes in an overlay', () => {
    const guest = bench.makeDirectory('guest');
    imgfuse('attach', '-o', 'ro', directory, 'guest');
    expect(readFileSync(`${guest}/hello`, 'utf8')).toBe('what the guest wrote');
    imgfuse('detach', directory);
    imgfuse('attach', '-o', 'overlay=changes.qcow2', directory, 'guest');
    writeFileSync(`${guest}/hello`, 'something else');
    imgfuse('detach', directory);
    for (const [name, text] of [
      [directory, 'what the guest wrote'],
      ['changes.qcow2', 'something else'],
    ] as const) {
      imgfuse('attach', '-o', 'ro', name, 'guest');
      expect(readFileSync(`${guest}/hello`, 'utf8')).toBe(text);
      imgfuse('detach', 'guest');
    }
    imgfuse('attach', '-o', 'overlay=changes.qcow2', directory, 'guest');
    expect(readFileSync(`${guest}/hello`, 'utf8')).toBe('something else');
    imgfuse('detach', 'guest');
    imgfuse('create', '-f', 'qcow2', '-b', directory, '-F', format, 'other.qcow2');
    expect(JSON.parse(imgfuse('info', '--output=json', 'other.qcow2'))).toMatchObject({
      'backing-filename': `${directory}/${file}`,
    });
  });

  it('is refused for writing, with the way out', () => {
    expect(refused(32, 'mount', directory, 'mnt')).toMatch(/ are only read; mount it with/);
    expect(refused(32, 'mount', directory, 'mnt')).toMatch(/overlay=FILE/);
    expect(refused(1, 'resize', directory, '+1M')).toMatch(/overlay=FILE/);
  });

  it('is read by two mounts at once, and not beside a writer of the file that stands for it', async () => {
    bench.makeDirectory('mnt2');
    imgfuse('mount', '-o', 'ro', directory, 'mnt');
    imgfuse('mount', '-o', 'ro', directory, 'mnt2');
    imgfuse('unmount', 'mnt');
    imgfuse('unmount', 'mnt2');
    const locked = format === 'parallels' ? 'root.hds' : file;
    holders.push(await QemuHolder.open(bench.path(`${directory}/${locked}`), ['-f', 'raw']));
    expect(refused(32, 'mount', '-o', 'ro', directory, 'mnt')).toMatch(
      new RegExp(`${directory}/${locked} is in use by`),
    );
    imgfuse('mount', '-o', 'ro,share', directory, 'mnt');
    imgfuse('unmount', 'mnt');
  });
});

it.each(['mount', 'attach'])('a directory that is none is refused in one sentence by %s', (command) => {
  bench.makeDirectory('empty');
  for (const parameters of [
    [command, 'empty', 'mnt'],
    [command, '-o', 'ro', 'empty', 'mnt'],
    [command, '-o', 'overlay=o.qcow2', 'empty', 'mnt'],
  ]) {
    expect(refused(1, ...parameters)).toMatch(/empty is a directory and no disk image: it has no/);
  }
  expect(refused(1, 'info', 'empty')).toMatch(/empty is a directory and no disk image/);
  expect(refused(1, 'check', 'empty')).toMatch(/empty is a directory and no disk image/);
});
