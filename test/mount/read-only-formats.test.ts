// Formats that are only read, at the command line: mounted with -o ro, refused for everything that writes, and below an
// overlay. A new one adds its row to READ_ONLY_IMAGES.

import { readFileSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { formatByName, formats } from '../../src/disk/registry.ts';
import { EVERY_KIND } from '../support/every-kind.ts';
import { firstDifference } from '../support/image-files.ts';
import { READ_ONLY_IMAGES, writeReadOnlyImage } from '../support/read-only-images.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { unreplayedVhdx } from '../support/vhdx-bytes.ts';
import { vhdxContent } from '../support/vhdx-judge.ts';
import { Bench, lines } from './cli-harness.ts';

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
});
afterEach(() => bench?.cleanUp());

it('are all in the table', () => {
  expect(Object.keys(READ_ONLY_IMAGES)).toEqual(formats.filter(({ can }) => !can.write).map(({ name }) => name));
});

describe.each(Object.entries(READ_ONLY_IMAGES))('%s', (format, make) => {
  let content: Buffer;
  let image: Uint8Array;
  beforeEach(() => {
    const made = make();
    ({ content, image } = made);
    writeReadOnlyImage(bench.path('disk.img'), made);
  });
  afterEach(() => expect(Buffer.compare(readFileSync(bench.path('disk.img')), image)).toBe(0));

  it('is mounted read-only', () => {
    expect(bench.imgfuse('mount', '-o', 'ro', 'disk.img', 'mnt')).toMatchObject({ code: 0, stderr: '' });
    expect(firstDifference(readFileSync(bench.path('mnt/disk.raw')), content)).toBe('none');
    expect(() => writeFileSync(bench.path('mnt/disk.raw'), 'x')).toThrow(/EROFS|EACCES/);
    const mounts: unknown = JSON.parse(bench.imgfuse('status', '--output=json').stdout);
    const own = { mountpoint: bench.path('mnt'), format, 'read-only': true };
    expect(mounts).toEqual(expect.arrayContaining([expect.objectContaining(own)]));
    expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0, stderr: '' });
  });

  it('is refused for writing, with the way out', () => {
    for (const [code, parameters] of [
      [32, ['mount', 'disk.img', 'mnt']],
      [1, ['resize', 'disk.img', '+1M']],
    ] as const) {
      const refused = bench.imgfuse(...parameters);
      expect(refused).toMatchObject({ code, stdout: '' });
      expect(lines(refused.stderr)).toHaveLength(1);
      expect(refused.stderr).toMatch(
        /images of that format are only read; mount it with -o ro, or with -o overlay=FILE/,
      );
    }
    const hasCheck = formatByName(format).check !== undefined;
    expect(bench.imgfuse('check', 'disk.img')).toMatchObject({ code: hasCheck ? 0 : 63 });
  });

  it('is shown by info and map', () => {
    const info = JSON.parse(bench.imgfuse('info', '--output=json', 'disk.img').stdout) as Record<string, unknown>;
    expect(info).toMatchObject({ format, 'virtual-size': content.length, 'dirty-flag': false });
    const map = JSON.parse(bench.imgfuse('map', '--output=json', 'disk.img').stdout) as { length: number }[];
    expect(map.reduce((sum, { length }) => sum + length, 0)).toBe(content.length);
  });

  it('is mounted read-write below the overlay that the refusal tells of', () => {
    expect(bench.imgfuse('mount', '-o', 'overlay=overlay', 'disk.img', 'mnt')).toMatchObject({ code: 0, stderr: '' });
    expect(firstDifference(readFileSync(bench.path('mnt/disk.raw')), content)).toBe('none');
    writeFileSync(bench.path('mnt/disk.raw'), 'new', { flag: 'r+' });
    const { code, stderr, stdout } = bench.imgfuse('unmount', 'mnt');
    expect([code, stderr]).toEqual([0, '']);
    // only what can be written can be committed to
    expect(stdout).not.toContain('imgfuse commit');
    // an overlay like any other
    expect(bench.imgfuse('mount', '-o', 'ro', 'overlay', 'mnt')).toMatchObject({ code: 0 });
    expect(readFileSync(bench.path('mnt/disk.raw')).subarray(0, 3).toString()).toBe('new');
    expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
  });
});

it.each(
  EVERY_KIND.filter(({ format, isWritable }) => !isWritable && formatByName(format).can.write),
)('an image that is $name is no base to commit to', ({ make }) => {
  const { image } = make(bench.directory);
  expect(bench.imgfuse('mount', '-o', 'overlay=overlay', image, 'mnt')).toMatchObject({ code: 0 });
  writeFileSync(bench.path('mnt/disk.raw'), 'new', { flag: 'r+' });
  expect(bench.imgfuse('status', 'mnt').stdout).not.toContain('imgfuse commit');
  const { code, stdout } = bench.imgfuse('unmount', 'mnt');
  expect([code, stdout]).toEqual([0, expect.stringContaining('changes are kept in')]);
  expect(stdout).not.toContain('imgfuse commit');
});

it('a VHDX that was not closed is read through its log, by every thread of a mount, and is closed by a repair', () => {
  const { image } = unreplayedVhdx();
  const content = vhdxContent(image);
  writeFileSync(bench.path('disk.vhdx'), image);
  for (const workers of ['1', '4']) {
    const mounted = bench.imgfuse('mount', '-o', 'ro', '--workers', workers, 'disk.vhdx', 'mnt');
    expect(mounted.code).toBe(0);
    expect(mounted.stderr).toMatch(
      /disk\.vhdx was not closed; what its log holds \(2 entries\) is read as if it had been/,
    );
    expect(firstDifference(readFileSync(bench.path('mnt/disk.raw')), content)).toBe('none');
    expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0, stderr: '' });
  }
  expect(firstDifference(readFileSync(bench.path('disk.vhdx')), image)).toBe('none');
  expect(bench.imgfuse('check', '-r', 'all', 'disk.vhdx')).toMatchObject({ code: 0 });
  expect(bench.imgfuse('mount', '-o', 'ro', 'disk.vhdx', 'mnt')).toMatchObject({ code: 0, stderr: '' });
  expect(firstDifference(readFileSync(bench.path('mnt/disk.raw')), content)).toBe('none');
  expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0, stderr: '' });
});
