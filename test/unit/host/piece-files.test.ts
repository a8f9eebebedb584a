// A directory of pieces as one file: what is there and what is missing, what is not followed, and what it costs.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { hostOffset } from '../../../src/bytes/offsets.ts';
import { attachHostFile } from '../../../src/host/attach.ts';
import type { HostFile } from '../../../src/host/host-file.ts';
import { PieceFiles } from '../../../src/host/piece-files.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const PIECE = 8192;
const opened: HostFile[] = [];
let folder: string;
let pieces: string;

beforeEach(() => {
  folder = makeTemporaryDirectory();
  pieces = join(folder, 'pieces');
  mkdirSync(pieces);
});
afterEach(() => {
  for (const file of opened.splice(0)) file.close();
  removeTemporaryDirectory(folder);
});

function open(count: number, path = pieces): PieceFiles {
  const file = PieceFiles.open(path, { pieceBytes: PIECE, length: count * PIECE - 512 });
  opened.push(file);
  return file;
}

function read(file: HostFile, offset: number, length: number): Buffer {
  const bytes = Buffer.alloc(length, 0xee);
  return bytes.subarray(0, file.read(bytes, 0, length, hostOffset(offset)));
}

test('pieces have hexadecimal names, what is missing or short reads as zeros, and what is too long is cut', () => {
  writeFileSync(join(pieces, '1f'), Buffer.alloc(PIECE, 1));
  writeFileSync(join(pieces, '1E'), Buffer.alloc(PIECE, 2));
  writeFileSync(join(pieces, '01d'), Buffer.alloc(PIECE, 3));
  writeFileSync(join(pieces, '1c'), Buffer.alloc(100, 4));
  writeFileSync(join(pieces, '1b'), Buffer.alloc(3 * PIECE, 5));
  const file = open(40);
  const wanted = Buffer.alloc(40 * PIECE - 512);
  wanted.fill(1, 0x1f * PIECE, 0x20 * PIECE).fill(4, 0x1c * PIECE, 0x1c * PIECE + 100);
  wanted.fill(5, 0x1b * PIECE, 0x1c * PIECE);
  expect(Buffer.compare(read(file, 0, 50 * PIECE), wanted)).toBe(0);
  expect(read(file, 0x1f * PIECE - 10, 20)).toEqual(wanted.subarray(0x1f * PIECE - 10, 0x1f * PIECE + 10));
  expect(read(file, file.size(), 10)).toHaveLength(0);
  const other = attachHostFile(structuredClone(file.share()));
  expect(Buffer.compare(read(other, 0, 50 * PIECE), wanted)).toBe(0);
});

test('data and holes are found across pieces that are missing, sparse or short', () => {
  writeFileSync(join(pieces, '2'), Buffer.alloc(PIECE, 1));
  writeFileSync(join(pieces, '3'), Buffer.alloc(100, 1));
  writeFileSync(join(pieces, '5'), '');
  truncateSync(join(pieces, '5'), PIECE);
  writeFileSync(join(pieces, '200'), 'x');
  // a name that no piece has leads nowhere
  writeFileSync(join(pieces, 'ff.bak'), 'x');
  const file = open(1000);
  const data = (at: number): number => file.seekData(hostOffset(at));
  const hole = (at: number): number => file.seekHole(hostOffset(at));
  expect([data(0), data(2 * PIECE + 5), data(3 * PIECE + 99)]).toEqual(
    [2, 2, 3].map((n, i) => n * PIECE + [0, 5, 99][i]!),
  );
  expect([hole(0), hole(2 * PIECE), hole(3 * PIECE + 100)]).toEqual([0, 3 * PIECE + 100, 3 * PIECE + 100]);
  expect([data(3 * PIECE + 100), data(0x201 * PIECE)]).toEqual([0x200 * PIECE, file.size()]);
  expect(file.seekData(hostOffset(3 * PIECE + 100), 20 * PIECE)).toBeGreaterThanOrEqual(20 * PIECE);
});

test('a search across a million missing pieces takes no look at each', () => {
  writeFileSync(join(pieces, 'f0000'), 'x');
  const file = open(0x100000);
  const start = performance.now();
  expect(file.seekData(hostOffset(0))).toBe(0xf0000 * PIECE);
  expect(performance.now() - start).toBeLessThan(1000);
});

test('a piece that is a link, a pipe or a directory is refused by its name, and not opened', () => {
  writeFileSync(join(folder, 'outside'), Buffer.alloc(PIECE, 9));
  symlinkSync('../outside', join(pieces, '0'));
  execFileSync('mkfifo', [join(pieces, '1')]);
  mkdirSync(join(pieces, '2'));
  const file = open(4);
  for (const index of [0, 1, 2]) {
    expect(() => read(file, index * PIECE, 10)).toThrow(`${pieces}/${index} is no regular file`);
  }
  expect(read(file, 3 * PIECE, 10)).toEqual(Buffer.alloc(10));
});

test('the directory itself is not reached through a link, and stays the same when its name leads elsewhere', () => {
  symlinkSync('pieces', join(folder, 'link'));
  expect(() => open(1, join(folder, 'link'))).toThrow();
  writeFileSync(join(pieces, '0'), 'kept');
  const file = open(1);
  execFileSync('mv', [pieces, join(folder, 'moved')]);
  mkdirSync(pieces);
  writeFileSync(join(pieces, '0'), 'else');
  expect(read(file, 0, 4).toString()).toBe('kept');
});

test('thousands of pieces are one descriptor, and the space of many is not added up', () => {
  const descriptors = (): number => readdirSync('/proc/self/fd').length;
  for (let i = 0; i < 5000; i++) writeFileSync(join(pieces, i.toString(16)), 'x');
  const before = descriptors();
  const file = open(10_000);
  const all = Buffer.alloc(1);
  for (let i = 0; i < 5000; i++) file.read(all, 0, 1, hostOffset(i * PIECE));
  expect(descriptors()).toBe(before + 1);
  expect(file.allocatedBytes()).toBe(file.size());
});

test('its space is that of the pieces, and nothing of it is written', () => {
  for (const name of ['0', '7', 'other']) writeFileSync(join(pieces, name), Buffer.alloc(PIECE, 1));
  const file = open(8);
  expect(file.allocatedBytes()).toBe(2 * PIECE);
  for (const change of ['write', 'truncate', 'punchHole', 'zeroRange', 'allocateRange'] as const)
    expect(() => file[change]()).toThrow('holds a disk in pieces, which is only read');
  expect([file.punchesHoles(), file.isDevice, file.readOnly]).toEqual([false, false, true]);
  rmSync(join(pieces, '7'));
  expect(read(file, 7 * PIECE, 5)).toEqual(Buffer.alloc(5));
});
