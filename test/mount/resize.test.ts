// `imgfuse resize` at the command line: a disk has whole sectors, and what is printed is what it has.

import { statSync, truncateSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { Bench } from './cli-harness.ts';

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
  bench.makeDirectory('mnt');
});
afterEach(() => bench.cleanUp());

function virtualSize(...parameters: readonly string[]): number {
  return JSON.parse(bench.imgfuse('info', '--output=json', ...parameters).stdout)['virtual-size'];
}

describe.each(
  drawnFormats(['raw', 'qed', 'qcow2', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels']),
)('an image in %s', (format) => {
  it('gets whole sectors, says so, and can be mounted afterwards', () => {
    bench.imgfuse('create', '-q', '-f', format, 'disk.img', '1M');
    const answer = bench.imgfuse('resize', '--output=json', 'disk.img', '+1');
    expect(answer).toMatchObject({ code: 0, stderr: '' });
    expect(JSON.parse(answer.stdout)).toEqual({
      filename: 'disk.img',
      'virtual-size': 1_049_088,
      'previous-size': 1_048_576,
    });
    expect(virtualSize('disk.img')).toBe(1_049_088);
    // a number below the size that it is rounded up to is no smaller disk
    expect(bench.imgfuse('resize', 'disk.img', '1048577')).toMatchObject({
      code: 0,
      stdout: 'Image resized to 1049088 bytes, which are whole sectors.\n',
    });
    expect(bench.imgfuse('resize', 'disk.img', '1048576')).toMatchObject({ code: 1 });
    expect(bench.imgfuse('mount', 'disk.img', 'mnt')).toMatchObject({ code: 0, stderr: '' });
    expect(statSync(bench.path('mnt/disk.raw')).size).toBe(1_049_088);
    truncateSync(bench.path('mnt/disk.raw'), 2_000_001);
    expect(statSync(bench.path('mnt/disk.raw')).size).toBe(2_000_384);
    expect(bench.imgfuse('unmount', 'mnt')).toMatchObject({ code: 0 });
    expect(bench.imgfuse('mount', 'disk.img', 'mnt')).toMatchObject({ code: 0, stderr: '' });
  });
});

it('a file that ends inside a sector is a raw disk only for whoever says so, and has whole sectors then', () => {
  writeFileSync(bench.path('disk.img'), Buffer.alloc(10_000, 7));
  expect(bench.imgfuse('mount', 'disk.img', 'mnt').stderr).toMatch(/10000 bytes.*--format raw/);
  expect(virtualSize('-f', 'raw', 'disk.img')).toBe(10_240);
  expect(bench.imgfuse('mount', '--format', 'raw', 'disk.img', 'mnt')).toMatchObject({ code: 0, stderr: '' });
  expect(statSync(bench.path('mnt/disk.raw')).size).toBe(10_240);
});
