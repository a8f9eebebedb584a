// Programs that copy a disk with its holes, out of a mount and onto one: what arrives is what was sent, on both transports.

import { spawn } from 'node:child_process';
import {
  closeSync,
  constants,
  ftruncateSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { fuseNativeAvailable } from '../../src/fuse/fuse-native-package.ts';
import { drawnFormats } from '../support/drawn-rows.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { Bench } from './cli-harness.ts';

const MIB = 1024 * 1024;
const SIZE = 8 * MIB;

let bench: Bench;
let disk: string;
beforeEach(() => {
  bench = new Bench();
  disk = `${bench.makeDirectory('m')}/disk.raw`;
});
afterEach(() => bench.cleanUp());

function run(command: string, ...parameters: readonly string[]): string {
  const { code, stdout, stderr } = bench.run(command, parameters);
  expect(code, `${command} ${parameters.join(' ')}: ${stderr}`).toBe(0);
  return stdout;
}

function imgfuse(...parameters: readonly string[]): void {
  const { code, stderr } = bench.imgfuse(...parameters);
  expect(code, `imgfuse ${parameters.join(' ')}: ${stderr}`).toBe(0);
}

function fill(path: string, value: string): void {
  const file = openSync(path, 'r+');
  writeFileSync(file, Buffer.alloc(SIZE, value));
  closeSync(file);
}

/** A mounted disk of SIZE bytes, all of them 'x'. */
function mountFull(format: string, transport: string): void {
  imgfuse('create', '-f', format, 'd.img', String(SIZE));
  imgfuse('mount', 'd.img', 'm', '--format', format, '--transport', transport);
  fill(disk, 'x');
}

/** Makes a sparse file of `size` bytes with a MiB of data at each of these offsets. @returns its content */
function makeSparse(name: string, size: number, offsets: readonly number[]): Buffer {
  const content = Buffer.alloc(size);
  const file = openSync(bench.path(name), 'w');
  ftruncateSync(file, size);
  for (const offset of offsets) {
    content.fill(1 + offset / MIB, offset, offset + MIB);
    writeSync(file, content, offset, MIB, offset);
  }
  closeSync(file);
  return content;
}

/** Whether the disk holds `copied`, and behind it what it held before. */
function expectDisk(copied: Buffer): void {
  const held = readFileSync(disk);
  expect(held.length).toBe(SIZE);
  expect(Buffer.compare(held.subarray(0, copied.length), copied), 'what was copied').toBe(0);
  expect(Buffer.compare(held.subarray(copied.length), Buffer.alloc(SIZE - copied.length, 'x')), 'the rest').toBe(0);
}

describe.each(['kernel', 'fuse-native'])('transport %s', (transport) => {
  function requireTransport(context: Parameters<typeof requireOrSkip>[0]): void {
    requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
    requireOrSkip(context, transport === 'kernel' || fuseNativeAvailable(), 'fuse-native and libfuse.so.2');
  }

  test.for(
    drawnFormats(['raw', 'qcow2', 'qed', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels']),
  )('cp brings the holes of a file onto a %s disk', (format, context) => {
    requireTransport(context);
    mountFull(format, transport);
    for (const offsets of [[], [3 * MIB], [0, 7 * MIB]]) {
      const content = makeSparse('s', SIZE, offsets);
      run('cp', 's', 'm/disk.raw');
      expectDisk(content);
      fill(disk, 'x');
    }
    const smaller = makeSparse('small', 4 * MIB, [MIB]);
    run('cp', 'small', 'm/disk.raw');
    expectDisk(smaller);
    imgfuse('unmount', 'm');
  });

  test('dd conv=sparse and tar -xS bring the holes onto the disk, and > alone changes nothing', (context) => {
    requireTransport(context);
    mountFull('qcow2', transport);
    run('sh', '-c', ': > m/disk.raw');
    expectDisk(Buffer.alloc(0));
    const first = makeSparse('disk.raw', 6 * MIB, [MIB, 5 * MIB]);
    run('dd', 'if=disk.raw', 'of=m/disk.raw', 'bs=64K', 'conv=sparse', 'status=none');
    expectDisk(first);
    const second = makeSparse('disk.raw', 7 * MIB, [3 * MIB]);
    fill(disk, 'x');
    run('tar', '-cSf', 't.tar', 'disk.raw');
    run('tar', '-C', 'm', '--overwrite', '-xSf', 't.tar');
    expectDisk(second);
  });

  test('tar -cS and cp --sparse keep what only a backing file holds', (context) => {
    requireTransport(context);
    makeSparse('base.raw', SIZE, [2 * MIB, 6 * MIB]);
    imgfuse('create', '-f', 'qcow2', '-b', 'base.raw', '-F', 'raw', 'top.qcow2');
    imgfuse('mount', 'top.qcow2', 'm', '-o', 'ro', '--transport', transport);
    expect(statSync(disk).blocks * 512).toBeGreaterThanOrEqual(2 * MIB);
    run('tar', '-C', 'm', '-cSf', 't.tar', 'disk.raw');
    run('tar', '-xSf', 't.tar');
    run('cmp', 'base.raw', 'disk.raw');
    run('cp', '--sparse=auto', 'm/disk.raw', 'copy.raw');
    run('cmp', 'base.raw', 'copy.raw');
    expect(run('du', '-B1', 'm/disk.raw')).not.toMatch(/^0\s/);
  });
});

test('tar -cS keeps what a raw image on a block device holds', (context) => {
  requireOrSkip(context, canMountAsRoot() && hasCommand('losetup'), 'root, /dev/fuse and losetup');
  makeSparse('base.raw', SIZE, [2 * MIB]);
  const device = run('losetup', '--show', '-f', 'base.raw').trim();
  imgfuse('mount', device, 'm', '-o', 'ro', '--format', 'raw');
  run('tar', '-C', 'm', '-cSf', 't.tar', 'disk.raw');
  run('tar', '-xSf', 't.tar');
  run('cmp', 'base.raw', 'disk.raw');
});

test('direct writes that arrive in any order lose no byte to the zeros between them', async (context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  mountFull('qcow2', 'kernel');
  const BLOCK = 16 * 1024;
  const { O_DIRECT, O_TRUNC, O_WRONLY } = constants;
  for (let round = 0; round < 3; round++) {
    const expected = Buffer.alloc(SIZE);
    const file = await open(disk, O_WRONLY | O_TRUNC | O_DIRECT);
    const offsets = Array.from({ length: SIZE / BLOCK }, (_, index) => index * BLOCK)
      .filter((offset) => (offset / BLOCK + round) % 3 !== 0 || offset === SIZE - BLOCK)
      .sort((a, b) => ((a * 7919 + round) % 1009) - ((b * 7919 + round) % 1009));
    const writes = offsets.map((offset) => {
      const block = Buffer.alloc(BLOCK, 1 + ((offset / BLOCK) % 100));
      expected.set(block, offset);
      return file.write(block, 0, BLOCK, offset);
    });
    await Promise.all(writes);
    await file.close();
    expect(Buffer.compare(readFileSync(disk), expected)).toBe(0);
  }
});

test.for([
  1, 4,
])('a reader beside the copy sees its zeros at once, and so does whoever opens the disk afterwards (%i threads)', (workers, context) => {
  requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
  imgfuse('create', '-f', 'raw', 'd.img', String(SIZE));
  imgfuse('mount', 'd.img', 'm', '--format', 'raw', '--workers', String(workers));
  const { O_RDWR, O_TRUNC } = constants;
  const byte = (file: number, offset: number) => {
    const target = Buffer.alloc(1);
    return readSync(file, target, 0, 1, offset) === 1 ? target.toString() : 'end';
  };
  for (let round = 0; round < 20; round++) {
    fill(disk, 'x');
    const reader = openSync(disk, round % 2 === 0 ? 'r' : 'r+');
    const copy = openSync(disk, O_RDWR | O_TRUNC);
    // the size is asked for anew first: the opening has made the kernel forget it
    statSync(disk);
    expect([byte(reader, 2 * MIB), byte(copy, 3 * MIB), byte(reader, 5 * MIB + 1)]).toEqual(['x', 'x', 'x']);
    if (round % 3 === 0) ftruncateSync(copy, 5 * MIB + 1);
    else writeSync(copy, Buffer.from('y'), 0, 1, 5 * MIB);
    expect(byte(reader, 2 * MIB), 'who reads all the time').toBe('\0');
    expect(byte(reader, 5 * MIB + 1), 'what lies behind').toBe('x');
    expect(byte(copy, 3 * MIB), 'the copier').toBe('\0');
    const late = openSync(disk, 'r');
    expect(byte(late, 2 * MIB), 'who opens later').toBe('\0');
    for (const file of [reader, copy, late]) closeSync(file);
  }
});

/** Reads the start of the disk for as long as it runs, and prints how many reads in a row found no byte there. */
const READER = `
  const fs = require('node:fs');
  const file = fs.openSync(process.argv[1], 'r');
  const target = Buffer.alloc(4096);
  let [longest, row] = [0, 0];
  process.stdout.write('ready');
  const until = Date.now() + Number(process.argv[2]);
  while (Date.now() < until) {
    row = fs.readSync(file, target, 0, target.length, 0) > 0 ? 0 : row + 1;
    longest = Math.max(longest, row);
  }
  process.stdout.write(' ' + longest);
`;

describe.each(['kernel', 'fuse-native'])('transport %s', (transport) => {
  test('an opening with O_TRUNC leaves the disk its size for whoever reads it meanwhile', async (context) => {
    requireOrSkip(context, canMountAsRoot(), 'root and /dev/fuse');
    if (transport === 'fuse-native') requireOrSkip(context, fuseNativeAvailable(), 'fuse-native');
    mountFull('raw', transport);
    const reader = spawn(process.execPath, ['-e', READER, disk, '4000']);
    let output = '';
    reader.stdout.on('data', (data: Buffer) => {
      output += data.toString();
    });
    const ended = new Promise((resolve) => reader.once('close', resolve));
    await vi.waitFor(() => expect(output).toBe('ready'), 5000);
    for (let opening = 0; opening < 30; opening++) {
      closeSync(openSync(disk, constants.O_WRONLY | constants.O_TRUNC));
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    await ended;
    // the kernel's size is 0 for a moment at each opening; it was so until its attributes ran out, for thousands of reads
    expect(Number(output.split(' ')[1])).toBeLessThan(100);
  });
});
