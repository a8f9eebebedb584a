// Images in formats that are not opened here, made by qemu-img, at the command line: every command that guesses a format
// refuses them by name and leaves them alone, and mount(8) cannot hide what they are behind a loop device.

import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { withBytes } from '../support/foreign-files.ts';
import { fingerprints } from '../support/image-files.ts';
import { hasQemu, qemuImg } from '../support/qemu.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench, CLI, lines, mountsUnder, type Result } from './cli-harness.ts';

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img');
  bench = new Bench();
  bench.makeDirectory('mnt');
});
afterEach(() => bench?.cleanUp());

function make(format: string, name: string, ...parameters: string[]): string {
  qemuImg('create', '-q', '-f', format, ...parameters, bench.path(name), '8M');
  return bench.path(name);
}

/** Runs imgfuse; it says one sentence, and no file of the bench changes. */
function expectRefused(...parameters: readonly string[]): { readonly code: number | null; readonly sentence: string } {
  const before = fingerprints(bench.directory);
  const { code, stdout, stderr } = bench.imgfuse(...parameters);
  expect(stdout).toBe('');
  expect(lines(stderr)).toHaveLength(1);
  expect(mountsUnder(bench.directory)).toEqual([]);
  expect(fingerprints(bench.directory)).toEqual(before);
  return { code, sentence: stderr };
}

/** As little as its magic allows: qemu-img takes seconds for one. */
function makeLuks(name: string): string {
  writeFileSync(bench.path(name), withBytes(0, 'LUKS\xba\xbe\0\x02'));
  return bench.path(name);
}

const LUKS_OPTIONS = ['--object', 'secret,id=key,data=password', '-o', 'key-secret=key,iter-time=10'];

it.each([
  ['luks', 'LUKS', LUKS_OPTIONS],
])('mount refuses what qemu-img makes as %s: %s %j', (format, name, parameters) => {
  const { code, sentence } = expectRefused('mount', make(format, 'disk.img', ...parameters), bench.path('mnt'));
  expect(code).toBe(32);
  expect(sentence).toContain(bench.path('disk.img'));
  expect(sentence).toContain(name);
  expect(sentence).toContain('--format raw');
});

it.each([
  ['info', 'disk.luks'],
  ['map', 'disk.luks'],
  ['check', 'disk.luks'],
  ['check', '-r', 'all', 'disk.luks'],
  ['resize', 'disk.luks', '+1M'],
  ['resize', '--shrink', 'disk.luks', '64k'],
])('%s %s refuses it as well', (...parameters) => {
  makeLuks('disk.luks');
  const { code, sentence } = expectRefused(...parameters);
  expect(code).toBe(1);
  expect(sentence).toMatch(/disk\.luks is a LUKS container.*--format raw/);
});

describe('whoever says --format raw', () => {
  it('gets the bytes of the image from mount, and is told what they are', () => {
    const image = makeLuks('disk.luks');
    const mounted = bench.imgfuse('mount', '--format', 'raw', image, bench.path('mnt'));
    expect(mounted.stderr).toMatch(/^imgfuse: \S+disk\.luks is a LUKS container.*--format raw.*\n$/);
    expect(mounted.code).toBe(0);
    expect(readFileSync(bench.path('mnt/disk.raw')).equals(readFileSync(image))).toBe(true);
  });

  it.each([['info'], ['map']])('gets an answer from %s, and is told as well', (command) => {
    makeLuks('disk.luks');
    const { code, stdout, stderr } = bench.imgfuse(command, '--format', 'raw', 'disk.luks');
    expect(code).toBe(0);
    expect(stdout).not.toBe('');
    expect(stderr).toMatch(/disk\.luks is a LUKS container/);
  });
});

it('remount does not take over a disk that another program has made a LUKS container', () => {
  writeFileSync(bench.path('disk.img'), Buffer.alloc(1024 * 1024));
  expect(bench.imgfuse('mount', '-o', 'ro,share', 'disk.img', 'mnt')).toMatchObject({ code: 0 });
  makeLuks('disk.img');
  const { code, stderr } = bench.imgfuse('remount', '-o', 'rw', 'mnt');
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/disk\.img is a LUKS container/);
});

describe('mount(8), which puts a loop device over an image that it is given offset= for,', () => {
  beforeEach((context) => {
    requireOrSkip(context, canMountAsRoot() && hasCommand('unshare'), 'root, loop devices and unshare');
  });

  /** Runs a shell script in a mount namespace where mount(8) finds the imgfuse under test. */
  function withMountHelper(script: string): Result {
    const folder = bench.makeDirectory('bin');
    const program = join(folder, 'imgfuse');
    writeFileSync(program, `#!/bin/sh\nexec '${process.execPath}' '${CLI}' "$@"\n`);
    chmodSync(program, 0o755);
    return bench.runAlone(`mount --bind ${folder} /usr/local/sbin\n${script}`);
  }

  it.each([
    ['qcow2', 'a qcow2 image', 'offset=65536'],
    ['qcow2', 'a qcow2 image', 'sizelimit=65536'],
    ['qcow2', 'a qcow2 image', 'offset=1048576'],
    ['vhdx', 'a VHDX image', 'ro,offset=65536'],
    // its footer has 511 bytes, and the loop device cuts them off
    ['vpc', 'a VHD image', 'loop'],
  ])('is refused for %s (%s) with %s', (format, name, options) => {
    const image = make(format, 'disk.img', ...(format === 'vpc' ? ['-o', 'subformat=fixed,force_size=on'] : []));
    if (format === 'vpc') writeFileSync(image, readFileSync(image).subarray(0, -1));
    const before = readFileSync(image);
    const { code, stderr } = withMountHelper(`mount -t fuse.imgfuse ${image} ${bench.path('mnt')} -o ${options}`);
    expect(stderr).toMatch(/^imgfuse: \/dev\/loop\d+ is bytes \d+ to \d+ of /);
    expect(stderr).toContain(`${image}, which is ${name}`);
    expect(code).not.toBe(0);
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  it('shows a part of a raw disk', () => {
    const disk = Buffer.alloc(1024 * 1024, 1).fill(2, 65_536);
    writeFileSync(bench.path('disk.img'), disk);
    const result = withMountHelper(`
      mount -t fuse.imgfuse ${bench.path('disk.img')} ${bench.path('mnt')} -o ro,offset=65536
      cp ${bench.path('mnt/disk.raw')} ${bench.path('copy')}
      umount -i ${bench.path('mnt')}
    `);
    expect(result).toMatchObject({ code: 0, stderr: '' });
    expect(readFileSync(bench.path('copy')).equals(disk.subarray(65_536))).toBe(true);
  });
});
