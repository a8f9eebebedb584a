// Live migration: an image that another program writes is read with ro,share, and taken over with remount -o rw once that
// program has let go. The mount and open files stay, nothing of the image changes before, and nothing stale is seen after.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  fstatSync,
  fsyncSync,
  openSync,
  readFileSync,
  readSync,
  statSync,
  truncateSync,
  writeSync,
} from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { drawnFormats } from '../support/drawn-rows.ts';
import { hasQemu, QemuHolder, qemuCheck, qemuIo } from '../support/qemu.ts';
import { canMountAsRoot, requireOrSkip } from '../support/requirements.ts';
import { Bench, exitOf, type Result } from './cli-harness.ts';

const READER = fileURLToPath(new URL('../support/block-reader.mjs', import.meta.url));
const SIZE = 16 << 20;
const BLOCK = 65536;

let bench: Bench;
let image: string;
let mountpoint: string;
let disk: string;
const holders: QemuHolder[] = [];
const descriptors: number[] = [];

beforeEach((context) => {
  requireOrSkip(context, canMountAsRoot() && hasQemu, 'root, /dev/fuse, qemu-img and qemu-io');
  bench = new Bench();
  mountpoint = bench.makeDirectory('mnt');
  disk = `${mountpoint}/disk.raw`;
});
afterEach(async () => {
  for (const descriptor of descriptors.splice(0)) closeSync(descriptor);
  for (const holder of holders.splice(0)) await holder.kill();
  await bench?.cleanUp();
});

function imgfuse(...parameters: readonly string[]): Result {
  const result = bench.imgfuse(...parameters);
  expect(result.code, `imgfuse ${parameters.join(' ')}: ${result.stderr}`).toBe(0);
  return result;
}

function create(format: string): void {
  image = bench.path(`disk.${format}`);
  imgfuse('create', '-q', '-f', format, image, String(SIZE));
  qemuIo(image, format, 'write -P 1 0 1M');
}

async function writer(format: string, ...commands: readonly string[]): Promise<QemuHolder> {
  const holder = await QemuHolder.open(image, ['-f', format], ...commands);
  holders.push(holder);
  return holder;
}

function open(flags: string): number {
  const descriptor = openSync(disk, flags);
  descriptors.push(descriptor);
  return descriptor;
}

function byteAt(descriptor: number, offset: number): number {
  const bytes = Buffer.alloc(4096);
  expect(readSync(descriptor, bytes, 0, bytes.length, offset)).toBe(bytes.length);
  expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
  return bytes[0]!;
}

function status(): Record<string, unknown> {
  return (JSON.parse(imgfuse('status', '--output=json', mountpoint).stdout) as Record<string, unknown>[])[0]!;
}

function fingerprint(): string {
  return createHash('sha256').update(readFileSync(image)).digest('hex');
}

describe.each(
  drawnFormats(['qed', 'qcow2', 'qcow', 'vdi', 'vmdk', 'vpc', 'vhdx', 'parallels', 'raw']),
)('a %s image', (format) => {
  beforeEach(() => create(format));

  test('is read beside its writer, refused while that is there, and then taken over under open files', async () => {
    const source = await writer(format, 'write -P 2 1M 1M', 'flush');
    const before = fingerprint();
    const mounted = imgfuse('mount', '-o', 'ro,share', '--format', format, image, mountpoint);
    expect(mounted.stderr).toMatch(/may look inconsistent; qemu-io \(process \d+\) has it open for writing/);
    const reader = open('r');
    expect([byteAt(reader, 0), byteAt(reader, 1 << 20), byteAt(reader, 2 << 20)]).toEqual([1, 2, 0]);
    expect(status()).toMatchObject({ 'read-only': true, shared: true });
    expect(imgfuse('status').stdout).toContain('ro,share');
    expect(imgfuse('status', mountpoint).stdout).toContain('possibly inconsistent');
    for (const change of [
      () => openSync(disk, 'r+'),
      () => truncateSync(disk, SIZE * 2),
      () => chmodSync(disk, 0o666),
    ]) {
      expect(change).toThrow(/EROFS/);
    }

    const refused = bench.imgfuse('remount', '-o', 'rw', mountpoint);
    expect(refused.code).toBe(32);
    expect(refused.stderr).toContain(`${mountpoint} stays as it was`);
    expect(refused.stderr).toContain(`qemu-io (process ${source.pid})`);
    expect(fingerprint(), 'nothing is marked or repaired beside a writer').toBe(before);
    expect(byteAt(reader, 4096)).toBe(1);
    expect(status()).toMatchObject({ 'read-only': true, shared: true });

    // what was read is cached by now, in the kernel and in the tables; who opens the disk after a change sees it
    await source.run('write -P 6 5M 64k');
    await source.run('write -P 7 0 64k');
    await source.run('flush');
    const later = open('r');
    expect([0, 1 << 20, 5 << 20].map((offset) => byteAt(later, offset))).toEqual([7, 2, 6]);
    await source.close();
    qemuIo(image, format, 'write -P 3 0 64k', 'write -P 4 2M 64k', 'write -P 5 9M 64k');
    expect(imgfuse('remount', '-o', 'rw', mountpoint).stdout).toContain(`${image} is read-write at ${mountpoint}`);
    expect([0, 1 << 20, 2 << 20, 9 << 20].map((offset) => byteAt(reader, offset))).toEqual([3, 2, 4, 5]);
    expect(status()).toMatchObject({ 'read-only': false, shared: false, failure: null });
    expect(statSync(disk).mode & 0o777).toBe(0o600);

    const both = open('r+');
    writeSync(both, Buffer.alloc(BLOCK, 6), 0, BLOCK, 12 << 20);
    writeSync(both, Buffer.alloc(4096, 7), 0, 4096, 0);
    fsyncSync(both);
    expect([byteAt(reader, 12 << 20), byteAt(reader, 0), byteAt(reader, 8192)]).toEqual([6, 7, 3]);
    for (const descriptor of descriptors.splice(0)) closeSync(descriptor);
    imgfuse('unmount', mountpoint);
    bench.assertSound(image, format);
    qemuIo(image, format, 'read -P 7 0 4k', 'read -P 3 4k 60k', 'read -P 2 1M 1M', 'read -P 6 12M 64k');
  });

  test('is given away clean while it stays mounted, and taken back', async () => {
    imgfuse('mount', '--format', format, image, mountpoint);
    const reader = open('r');
    const both = openSync(disk, 'r+');
    writeSync(both, Buffer.alloc(BLOCK, 8), 0, BLOCK, 5 << 20);
    const refused = bench.imgfuse('remount', '-o', 'ro', mountpoint);
    expect(refused.code).toBe(32);
    expect(refused.stderr).toMatch(/open for writing \(in use by process \d+ .*\); close it first/);
    writeSync(both, Buffer.alloc(BLOCK, 8), 0, BLOCK, 6 << 20);
    closeSync(both);
    imgfuse('remount', '-o', 'ro', mountpoint);
    expect(() => openSync(disk, 'r+')).toThrow(/EROFS/);
    expect(statSync(disk).mode & 0o777).toBe(0o400);
    expect(status()).toMatchObject({ 'read-only': true, shared: true, 'dirty-flag': false });
    bench.assertSound(image, format);
    qemuIo(image, format, 'read -P 8 5M 64k', 'read -P 8 6M 64k', 'write -P 9 5M 64k');
    expect(byteAt(reader, 6 << 20)).toBe(8);
    imgfuse('remount', '-o', 'rw', mountpoint);
    expect(byteAt(reader, 5 << 20)).toBe(9);
    closeSync(open('r+'));
    descriptors.pop();
    for (const descriptor of descriptors.splice(0)) closeSync(descriptor);
    imgfuse('unmount', mountpoint);
    bench.assertSound(image, format);
  });

  test('goes to and fro under readers that see old or new blocks, and never an error', async () => {
    const rounds = 4;
    imgfuse('mount', '--format', format, '--workers', '3', image, mountpoint);
    // each round of QEMU takes places for one MiB more, which the readers read beside it
    const end = (rounds + 1) << 20;
    const readers = Array.from({ length: 2 }, () => spawn(process.execPath, [READER, disk, String(end)]));
    try {
      for (let round = 1; round <= rounds; round++) {
        imgfuse('remount', '-o', 'ro', mountpoint);
        qemuIo(image, format, `write -P ${round} 0 ${round + 1}M`);
        imgfuse('remount', '-o', 'rw', mountpoint);
        const descriptor = openSync(disk, 'r+');
        expect(byteAt(descriptor, 0)).toBe(round);
        writeSync(descriptor, Buffer.alloc(BLOCK, 100 + round), 0, BLOCK, 8 << 20);
        closeSync(descriptor);
      }
    } finally {
      for (const child of readers) child.stdin.end();
    }
    expect(await Promise.all(readers.map(exitOf))).toEqual([0, 0]);
    imgfuse('unmount', mountpoint);
    bench.assertSound(image, format);
    qemuIo(image, format, `read -P ${rounds} 0 ${end}`, `read -P ${100 + rounds} 8M 64k`);
  });
});

test('an image that its writer left unclean is not touched while it is shared, and repaired when it is taken over', async () => {
  create('qed');
  const source = await writer('qed', 'write -P 2 1M 1M', 'flush');
  imgfuse('mount', '-o', 'ro,share', image, mountpoint);
  await source.kill();
  const left = fingerprint();
  const reader = open('r');
  expect(byteAt(reader, 1 << 20)).toBe(2);
  await delay(600);
  expect(fingerprint()).toBe(left);
  expect(status()['dirty-flag']).toBe(true);
  imgfuse('remount', '-o', 'rw', mountpoint);
  expect(readFileSync(bench.records()[0]!.log!, 'utf8')).toMatch(/was not closed clean; checked/);
  expect(byteAt(reader, 1 << 20)).toBe(2);
  closeSync(descriptors.pop()!);
  imgfuse('unmount', mountpoint);
  qemuCheck(image, 'qed');
});

test('an image that cannot be repaired safely stays read-only, as it is', async () => {
  create('qed');
  imgfuse('mount', '-o', 'ro,share', image, mountpoint);
  // two entries of the first L2 table with the same cluster
  const bytes = openSync(image, 'r+');
  const l1 = Buffer.alloc(8);
  readSync(bytes, l1, 0, 8, 65536);
  const l2 = Number(l1.readBigUInt64LE());
  const entry = Buffer.alloc(8);
  readSync(bytes, entry, 0, 8, l2);
  writeSync(bytes, entry, 0, 8, l2 + 8);
  closeSync(bytes);
  const before = fingerprint();
  const { code, stderr } = bench.imgfuse('remount', '-o', 'rw', mountpoint);
  expect(code).toBe(32);
  expect(stderr).toMatch(/clusters used twice/);
  expect(fingerprint()).toBe(before);
  expect(byteAt(open('r'), 0)).toBe(1);
  closeSync(descriptors.pop()!);
  // its locks are free again
  expect(bench.imgfuse('check', '-r', 'all', image).code).toBe(0);
  imgfuse('remount', '-o', 'rw', mountpoint);
  imgfuse('unmount', mountpoint);
});

test('a disk that its writer has grown has its new size under the old descriptor', async () => {
  create('raw');
  imgfuse('mount', '-o', 'ro,share', '--format', 'raw', image, mountpoint);
  const reader = open('r');
  expect(fstatSync(reader).size).toBe(SIZE);
  truncateSync(image, SIZE * 2);
  imgfuse('remount', '-o', 'rw', mountpoint);
  expect(fstatSync(reader).size).toBe(SIZE * 2);
  expect(byteAt(reader, SIZE)).toBe(0);
});

test('a raw image whose guest has written the header of another format is not taken for that', async () => {
  create('raw');
  imgfuse('mount', '-o', 'ro,share', image, mountpoint);
  bench.run('qemu-img', ['create', '-q', '-f', 'qcow2', bench.path('other.qcow2'), '1M']);
  qemuIo(image, 'raw', `write -s ${bench.path('other.qcow2')} 0 128k`);
  const { code, stderr } = bench.imgfuse('remount', '-o', 'rw', mountpoint);
  expect(code).toBe(32);
  expect(stderr).toMatch(/was raw when it was opened first and looks like qcow2 now; .*--format/);
  expect(status()).toMatchObject({ format: 'raw', 'read-only': true });
});

test('the whole chain is opened anew, and the image may lie under its own mountpoint', async () => {
  create('qcow2');
  image = bench.path('overlay.qcow2');
  imgfuse('create', '-q', '-f', 'qcow2', '-b', 'disk.qcow2', '-F', 'qcow2', image);
  imgfuse('mount', '-o', 'ro,share', image, mountpoint);
  const reader = open('r');
  expect(byteAt(reader, 0)).toBe(1);
  qemuIo(bench.path('disk.qcow2'), 'qcow2', 'write -P 3 0 64k');
  imgfuse('remount', '-o', 'rw', mountpoint);
  expect(byteAt(reader, 0)).toBe(3);
  closeSync(descriptors.pop()!);
  imgfuse('unmount', mountpoint);

  imgfuse('mount', '-o', 'ro,share', bench.path('disk.qcow2'), bench.path('disk.qcow2'));
  imgfuse('remount', '-o', 'rw', bench.path('disk.qcow2'));
  const both = openSync(bench.path('disk.qcow2'), 'r+');
  writeSync(both, Buffer.alloc(BLOCK, 4), 0, BLOCK, 0);
  closeSync(both);
  imgfuse('remount', '-o', 'ro', bench.path('disk.qcow2'));
  imgfuse('unmount', bench.path('disk.qcow2'));
  qemuIo(bench.path('disk.qcow2'), 'qcow2', 'read -P 4 0 64k');
});

describe('what is refused by name', () => {
  beforeEach(() => create('qed'));

  test('share without ro', () => {
    const { code, stderr } = bench.imgfuse('mount', '-o', 'share', image, mountpoint);
    expect(code).toBe(1);
    expect(stderr).toContain('-o ro,share');
  });

  test('a takeover of a mount that is read-only for the kernel', () => {
    imgfuse('mount', '-o', 'ro', image, mountpoint);
    const { code, stderr } = bench.imgfuse('remount', '-o', 'rw', mountpoint);
    expect(code).toBe(32);
    expect(stderr).toMatch(/was mounted read-only without share; unmount it/);
    expect(bench.imgfuse('remount', '-o', 'ro', mountpoint).code).toBe(0);
  });

  test('a takeover under fuse-native', () => {
    imgfuse('mount', '-o', 'ro,share', '--transport', 'fuse-native', image, mountpoint);
    const { code, stderr } = bench.imgfuse('remount', '-o', 'rw', mountpoint);
    expect(code).toBe(32);
    expect(stderr).toMatch(/fuse-native.*--transport kernel/);
    expect(byteAt(open('r'), 0)).toBe(1);
    closeSync(descriptors.pop()!);
  });

  test('other options, and what is not mounted', () => {
    imgfuse('mount', '-o', 'ro,share', image, mountpoint);
    expect(bench.imgfuse('remount', '-o', 'noatime', mountpoint)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('remount takes -o rw or -o ro, and not "noatime"'),
    });
    expect(bench.imgfuse('remount', mountpoint).code).toBe(1);
    expect(bench.imgfuse('remount', '-o', 'rw', bench.directory).stderr).toContain('is not mounted by imgfuse');
  });
});
