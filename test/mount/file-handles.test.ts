// File handles (what NFS clients keep) of a mount: they open its disk, and never that of another image mounted in its place.

import { closeSync, openSync, readSync, writeFileSync } from 'node:fs';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { EVERY_KIND } from '../support/every-kind.ts';
import { fileHandle, openFileHandle } from '../support/file-handles.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

const ESTALE = 116;

let bench: Bench;
beforeEach(() => {
  bench = new Bench();
});
afterEach(() => bench.cleanUp());

/** The first byte of what a handle opens in the mount at `m`, or the negative errno. */
function openedByte(handle: Buffer): string | number {
  const mount = openSync(bench.path('m'), 'r');
  const descriptor = openFileHandle(mount, handle);
  closeSync(mount);
  if (descriptor < 0) return descriptor;
  const byte = Buffer.alloc(1);
  readSync(descriptor, byte, 0, 1, 0);
  closeSync(descriptor);
  return byte.toString();
}

test('a file handle opens the disk of its own mount, and is stale in the next', (context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench.makeDirectory('m');
  const handles = ['a', 'b'].map((content) => {
    writeFileSync(bench.path(`${content}.raw`), Buffer.alloc(65_536, content));
    expect(bench.imgfuse('mount', `${content}.raw`, 'm').code).toBe(0);
    const handle = fileHandle(bench.path('m/disk.raw'));
    expect(openedByte(handle)).toBe(content);
    if (content === 'a') expect(bench.imgfuse('unmount', 'm').code).toBe(0);
    return handle;
  });
  expect(openedByte(handles[0]!)).toBe(-ESTALE);
  // the failed one has not hurt the disk that is there
  expect(openedByte(handles[1]!)).toBe('b');
  expect(openedByte(fileHandle(bench.path('m/disk.raw')))).toBe('b');
});

test('a file handle of an image of any kind is stale in every later mount at its place', (context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  bench.makeDirectory('m');
  const earlier: Buffer[] = [];
  for (const { name, isWritable, make } of EVERY_KIND) {
    const { image, content } = make(bench.makeDirectory(name));
    expect(bench.imgfuse('mount', ...(isWritable ? [] : ['-o', 'ro']), image, 'm'), name).toMatchObject({ code: 0 });
    for (const handle of earlier) expect(openedByte(handle), name).toBe(-ESTALE);
    const handle = fileHandle(bench.path('m/disk.raw'));
    expect(openedByte(handle), name).toBe(content.subarray(0, 1).toString());
    earlier.push(handle);
    expect(bench.imgfuse('unmount', 'm'), name).toMatchObject({ code: 0, stderr: '' });
  }
});
