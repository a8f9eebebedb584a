// The file system below an image runs full, or fails, while the image is mounted. Full: the guest's write gets ENOSPC, and works
// again once there is space. A fdatasync that fails: the image is read-only for the rest of the mount, says so, stays marked.

import { closeSync, fdatasyncSync, openSync, readFileSync, readSync, statSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI } from './cli-harness.ts';

const MIB = 1024 * 1024;
const DISK_MIB = 32;

let bench: Bench;
let host: string;
beforeEach((context) => {
  const commands = ['losetup', 'mkfs.ext2', 'qemu-img', 'cmp'];
  requireOrSkip(context, canMountAsRoot() && commands.every(hasCommand), `root, /dev/fuse, ${commands.join(', ')}`);
  bench = new Bench();
  host = bench.makeDirectory('host');
});
afterEach(() => bench?.cleanUp());

function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect([command, ...parameters, code, stderr]).toEqual([command, ...parameters, 0, '']);
  return stdout.trim();
}

function imgfuse(...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect([parameters, code, stderr]).toEqual([parameters, 0, '']);
  return stdout;
}

function statusOf(mountpoint: string): Record<string, unknown> {
  return (JSON.parse(imgfuse('status', '--output', 'json', mountpoint)) as Record<string, unknown>[])[0]!;
}

/** Writes the MiB `index` of a disk full of `index` + 1. @returns 0 or the name of the error */
function writeMib(disk: number, index: number): string {
  try {
    writeSync(disk, Buffer.alloc(MIB, index + 1), 0, MIB, index * MIB);
    return '';
  } catch (error) {
    return (error as NodeJS.ErrnoException).code!;
  }
}

function readMib(disk: number, index: number): Buffer {
  const bytes = Buffer.alloc(MIB);
  readSync(disk, bytes, 0, MIB, index * MIB);
  return bytes;
}

describe.each(
  drawnFormats(['qed', 'qcow2', 'qcow', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels', 'raw']),
)('a %s image on a file system that runs full', (format) => {
  test('answers ENOSPC, keeps what it has, and goes on once there is space', () => {
    run('mount', '-t', 'tmpfs', '-o', 'size=12m', 'tmpfs', host);
    const image = `${host}/disk`;
    imgfuse('create', '-q', '-f', format, image, `${DISK_MIB}M`);
    imgfuse('mount', '--format', format, image, bench.makeDirectory('mnt'));
    const disk = openSync(bench.path('mnt/disk.raw'), 'r+');
    try {
      const results = Array.from({ length: DISK_MIB }, (_, index) => writeMib(disk, index));
      const written = results.indexOf('ENOSPC');
      expect(written).toBeGreaterThan(5);
      expect(new Set(results.slice(written))).toEqual(new Set(['ENOSPC']));
      for (let index = 0; index < written; index++)
        expect(readMib(disk, index).equals(Buffer.alloc(MIB, index + 1))).toBe(true);
      expect(statusOf(bench.path('mnt'))).toMatchObject({ failure: null, 'read-only': false });

      run('mount', '-o', 'remount,size=64m', host);
      for (let index = written; index < DISK_MIB; index++) expect([index, writeMib(disk, index)]).toEqual([index, '']);
      fdatasyncSync(disk);
    } finally {
      closeSync(disk);
    }
    imgfuse('unmount', bench.path('mnt'));
    bench.assertSound(image, format);
    run('qemu-img', 'convert', '-f', format, '-O', 'raw', image, bench.path('copy.raw'));
    const wanted = Buffer.concat(Array.from({ length: DISK_MIB }, (_, index) => Buffer.alloc(MIB, index + 1)));
    expect(readFileSync(bench.path('copy.raw')).equals(wanted)).toBe(true);
  });
});

describe.each(
  drawnFormats(['qed', 'qcow2', 'qcow', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels']),
)('a %s image whose file may not grow (ulimit -f)', (format) => {
  test('takes new data where the guest has discarded', () => {
    const image = bench.path('disk');
    // the blocks of a large VHDX are larger than what is written here
    imgfuse('create', '-q', '-f', format, ...(format === 'vhdx' ? ['-o', 'block_size=1M'] : []), image, '1G');
    const mountpoint = bench.makeDirectory('mnt');
    // KiB
    run('bash', '-c', `ulimit -f ${14 * 1024}; exec "$@"`, 'bash', process.execPath, CLI, 'mount', image, mountpoint);
    const disk = openSync(`${mountpoint}/disk.raw`, 'r+');
    const written = Array.from({ length: 16 }, (_, index) => writeMib(disk, index)).indexOf('EFBIG');
    expect(written).toBeGreaterThan(8);
    closeSync(disk);
    // the last writable handle is closed afterwards, and an idle QED image gives its free clusters away
    run('fallocate', '--punch-hole', '--offset', '0', '--length', '8M', `${mountpoint}/disk.raw`);
    const again = openSync(`${mountpoint}/disk.raw`, 'r+');
    try {
      for (let index = 100; index < 107; index++) expect([index, writeMib(again, index)]).toEqual([index, '']);
      fdatasyncSync(again);
      for (let index = 100; index < 107; index++)
        expect(readMib(again, index).equals(Buffer.alloc(MIB, index + 1))).toBe(true);
      expect(readMib(again, 8).equals(Buffer.alloc(MIB, 9))).toBe(true);
      expect(statusOf(mountpoint)).toMatchObject({ failure: null, 'read-only': false });
    } finally {
      closeSync(again);
    }
    imgfuse('unmount', mountpoint);
    bench.assertSound(image, format);
  });
});

describe.each(
  drawnFormats(['qed', 'qcow2', 'qcow', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels', 'raw']),
)('a %s image on a file system whose disk fails', (format) => {
  test('is read-only after a fdatasync that failed, says so, and is checked by the next mount', () => {
    // a loop device over a sparse file: what its tmpfs has no room for is an I/O error when it is written back
    const below = bench.makeDirectory('below');
    run('mount', '-t', 'tmpfs', '-o', 'size=10m', 'tmpfs', below);
    run('truncate', '-s', '64M', `${below}/device`);
    const loop = run('losetup', '--find', '--show', `${below}/device`);
    run('mkfs.ext2', '-q', loop);
    run('mount', '-t', 'ext2', '-o', 'errors=continue', loop, host);
    const image = `${host}/disk`;
    imgfuse('create', '-q', '-f', format, image, `${DISK_MIB}M`);
    imgfuse('mount', '--format', format, image, bench.makeDirectory('mnt'));
    const mountpoint = bench.path('mnt');
    const { log } = statusOf(mountpoint);
    const disk = openSync(`${mountpoint}/disk.raw`, 'r+');
    try {
      let error = '';
      expect(writeMib(disk, 0)).toBe('');
      fdatasyncSync(disk);
      for (let index = 1; index < DISK_MIB && error === ''; index++) {
        error = writeMib(disk, index);
        if (error !== '') break;
        try {
          fdatasyncSync(disk);
        } catch (failure) {
          error = (failure as NodeJS.ErrnoException).code!;
        }
      }
      // a loop device may answer ENOSPC; no space that comes later brings back what it did not write
      expect(error).toBe('EIO');
      // room below, too late: what the failed fdatasync has dropped is not known
      run('mount', '-o', 'remount,size=64m', below);
      expect(writeMib(disk, 0)).toBe('EROFS');
      expect(() => fdatasyncSync(disk)).toThrow('EIO');
      expect(readMib(disk, 0).equals(Buffer.alloc(MIB, 1))).toBe(true);
      const { failure } = statusOf(mountpoint);
      expect(failure).toContain('fdatasync failed');
      expect(readFileSync(log as string, 'utf8')).toContain('is read-only from now on');
    } finally {
      expect(() => closeSync(disk)).toThrow('EIO');
    }
    expect(bench.imgfuse('unmount', mountpoint).code).not.toBe(0);
    // which may say on stderr that a log is read
    const shown = bench.imgfuse('info', '--output', 'json', '-f', format, image);
    expect(shown.code).toBe(0);
    const info = JSON.parse(shown.stdout) as Record<string, unknown>;
    if (format === 'qed') expect(info['dirty-flag']).toBe(true);

    // which may say on stderr that it repairs
    expect(bench.imgfuse('mount', '--format', format, image, mountpoint).code).toBe(0);
    const again = openSync(`${mountpoint}/disk.raw`, 'r+');
    try {
      expect(readMib(again, 0).equals(Buffer.alloc(MIB, 1))).toBe(true);
      expect(writeMib(again, 3)).toBe('');
      fdatasyncSync(again);
    } finally {
      closeSync(again);
    }
    imgfuse('unmount', mountpoint);
    if (format === 'qcow2') imgfuse('check', '-q', '-r', 'leaks', image);
    bench.assertSound(image, format);
    expect(statSync(image).size).toBeGreaterThan(MIB);
  });
});
