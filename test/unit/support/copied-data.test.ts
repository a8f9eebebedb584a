// The copy of an image that another thread may be changing (copyData).

import { closeSync, openSync, readFileSync, statSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { PosixHostFile } from '../../../src/host/posix-file.ts';
import { copyData } from '../../support/image-files.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const MIB = 1024 * 1024;

let folder: string;
let from: string;
let to: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  [from, to] = [join(folder, 'from'), join(folder, 'to')];
});
afterEach(() => {
  vi.restoreAllMocks();
  removeTemporaryDirectory(folder);
});

test('has the bytes and the length, and holes where there are holes', () => {
  const file = openSync(from, 'w');
  for (const at of [0, 5 * MIB, 9 * MIB - 4096]) writeSync(file, Buffer.alloc(4096, 1 + at / 4096), 0, 4096, at);
  closeSync(file);
  truncateSync(from, 64 * MIB);
  copyData(from, to);
  expect(Buffer.compare(readFileSync(to), readFileSync(from))).toBe(0);
  expect(statSync(to).blocks * 512).toBeLessThan(MIB);
});

test('ends when the file becomes shorter meanwhile', () => {
  writeFileSync(from, Buffer.alloc(MIB, 7));
  vi.spyOn(PosixHostFile.prototype, 'size').mockReturnValueOnce(8 * MIB);
  copyData(from, to);
  expect(
    readFileSync(to)
      .subarray(0, MIB)
      .every((byte) => byte === 7),
  ).toBe(true);
});
