// The mark of a clean close in the life of mounts: unmount leaves it, a read-write mount takes it away, a killed one leaves none.

import { closeSync, openSync, statSync, writeSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, isRunning, until } from './cli-harness.ts';

let bench: Bench;

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench = new Bench();
  bench.makeDirectory('mnt');
});
afterEach(() => bench?.cleanUp());

function imgfuse(...parameters: readonly string[]): void {
  const { code, stderr } = bench.imgfuse(...parameters);
  expect(stderr).toBe('');
  expect(code).toBe(0);
}

function write(value: number): void {
  const descriptor = openSync(bench.path('mnt/disk.raw'), 'r+');
  writeSync(descriptor, Buffer.alloc(100_000, value), 0, 100_000, 1_000_000);
  closeSync(descriptor);
}

function markOf(image: string): string {
  const { dev, ino } = statSync(bench.path(image), { bigint: true });
  return `${dev}-${ino}`;
}

describe.each(drawnFormats(['qcow2', 'qed', 'vdi', 'vmdk', 'parallels', 'vhdx']))('an image in %s', (format) => {
  test('is marked by every clean end, and by nothing else', async () => {
    imgfuse('create', '-f', format, 'image', '64M');
    expect(bench.closedMarks()).toEqual([]);
    for (let round = 1; round < 4; round++) {
      imgfuse('mount', 'image', 'mnt');
      expect(bench.closedMarks()).toEqual([]);
      write(round);
      imgfuse('unmount', 'mnt');
      expect(bench.closedMarks()).toEqual([markOf('image')]);
      imgfuse('check', 'image');
    }
    imgfuse('mount', '-o', 'ro', 'image', 'mnt');
    imgfuse('unmount', 'mnt');
    expect(bench.closedMarks()).toEqual([markOf('image')]);
    imgfuse('resize', '-q', 'image', '80M');
    expect(bench.closedMarks()).toEqual([markOf('image')]);

    imgfuse('mount', 'image', 'mnt');
    write(9);
    const pid = bench.daemonPid();
    process.kill(pid, 'SIGKILL');
    await until(() => !isRunning(pid), 'the killed process is gone');
    bench.imgfuse('unmount', 'mnt');
    expect(bench.closedMarks()).toEqual([]);
  });
});

test.each([
  ['raw', 'no open walks'],
  ['vpc', 'every open walks'],
])('a %s image, which %s, has no mark', (format) => {
  imgfuse('create', '-f', format, 'image', '64M');
  imgfuse('mount', '--format', format, 'image', 'mnt');
  imgfuse('unmount', 'mnt');
  expect(bench.closedMarks()).toEqual([]);
});
