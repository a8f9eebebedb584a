// snapshots/ of a mount: each internal snapshot is a read-only file that holds what QEMU reads of it, while the disk is written,
// discarded and flushed beside it, through every transport, and through loop devices.

import { execFile, execFileSync } from 'node:child_process';
import { constants, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { fuseNativeAvailable } from '../../src/fuse/index.ts';
import { firstDifference } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { RangeServer } from '../support/range-server.ts';
import { canMountAsRoot, hasCommand, requireOrSkip } from '../support/requirements.ts';
import { SNAPSHOT_KINDS, SNAPSHOT_NAMES, SnapshotImageFile } from '../support/snapshot-images.ts';
import { Bench } from './cli-harness.ts';

const run = promisify(execFile);
const MIB = 1024 * 1024;
/** How long the disk is changed beside the readers. */
const BUSY_MS = 2500;

let bench: Bench;
beforeEach((context) => {
  requireOrSkip(context, hasQemu && canMountAsRoot(), 'qemu-img, root and /dev/fuse');
  bench = new Bench();
});
afterEach(() => bench?.cleanUp());

function mount(image: string, ...options: readonly string[]): string {
  const at = bench.makeDirectory('mnt');
  expect(bench.imgfuse('mount', image, at, ...options)).toMatchObject({ code: 0 });
  return at;
}

function fileOf(at: string, name: string): string {
  return join(at, 'snapshots', `${name.replaceAll('/', '%2F')}.raw`);
}

/** Reads a file past the pages of the kernel, in pieces that begin anywhere. */
async function readDirect(path: string, random: () => number): Promise<Buffer> {
  const file = await open(path, constants.O_RDONLY | constants.O_DIRECT);
  try {
    const bytes = Buffer.alloc((await file.stat()).size, 0xee);
    for (let at = 0; at < bytes.length; ) {
      const length = Math.min(bytes.length - at, 512 * (1 + Math.floor(random() * 600)));
      at += (await file.read(bytes, at, length, at)).bytesRead;
    }
    return bytes;
  } finally {
    await file.close();
  }
}

/** Writes, discards and flushes random parts of a file until it is told to stop. */
async function change(path: string, random: () => number, isOver: () => boolean): Promise<number> {
  const file = await open(path, 'r+');
  const { size } = await file.stat();
  let count = 0;
  try {
    for (; !isOver(); count++) {
      const pick = random();
      const at = Math.floor((random() * (size - 4096)) / 512) * 512;
      const length = Math.min(size - at, 512 * (1 + Math.floor(random() * (pick < 0.5 ? 16 : 400))));
      if (pick < 0.75) await file.write(Buffer.alloc(length, 1 + random() * 255), 0, length, at);
      else if (pick < 0.9) await run('fallocate', ['-p', '-o', String(at), '-l', String(length), path]);
      else await file.sync();
    }
  } finally {
    await file.close();
  }
  return count;
}

describe.each([
  SNAPSHOT_KINDS.find(({ name }) => name === 'clusters of 64 KiB')!,
  SNAPSHOT_KINDS.find(({ name }) => name === 'a backing file')!,
  SNAPSHOT_KINDS.find(({ name }) => name === 'extended L2')!,
])('an image with $name', (kind) => {
  test('shows its snapshots byte for byte while its disk is written, discarded and flushed', async () => {
    const image = new SnapshotImageFile(bench.directory, kind, 500);
    const wanted = new Map(SNAPSHOT_NAMES.map((name) => [name, image.contentWhenApplied(name)]));
    const at = mount(image.path, '--workers', '4');
    expect(readdirSync(join(at, 'snapshots')).sort()).toEqual(
      SNAPSHOT_NAMES.map((name) => `${name.replaceAll('/', '%2F')}.raw`).sort(),
    );
    const end = performance.now() + BUSY_MS;
    const isOver = (): boolean => performance.now() > end;
    const writers = [1, 2, 3].map((seed) => change(join(at, 'disk.raw'), seededRandom(seed), isOver));
    const readers = SNAPSHOT_NAMES.map(async (name, position) => {
      const random = seededRandom(50 + position);
      let rounds = 0;
      for (; !isOver() || rounds === 0; rounds++) {
        const bytes = await readDirect(fileOf(at, name), random);
        expect(firstDifference(bytes, wanted.get(name)!), `${name}, round ${rounds}`).toBe('none');
      }
      return rounds;
    });
    const changes = await Promise.all(writers);
    expect(Math.min(...(await Promise.all(readers)), ...changes)).toBeGreaterThan(0);
    // and through pages of the kernel
    for (const name of SNAPSHOT_NAMES) {
      expect(firstDifference(readFileSync(fileOf(at, name)), wanted.get(name)!), name).toBe('none');
    }
    expect(bench.imgfuse('unmount', at)).toMatchObject({ code: 0 });
    image.check();
    for (const name of SNAPSHOT_NAMES) {
      expect(firstDifference(image.contentWhenApplied(name), wanted.get(name)!), name).toBe('none');
    }
  });
});

/** An image of 2 MiB with snapshots of these names: the first of ones, the second of twos, and so on; the disk is of nines. */
function imageWith(...names: readonly string[]): string {
  const image = bench.path('disk.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', image, '2M');
  for (const [position, name] of names.entries()) {
    qemuIo(image, 'qcow2', `write -P ${position + 1} 0 2M`);
    qemuImg('snapshot', '-c', name, image);
  }
  qemuIo(image, 'qcow2', 'write -P 9 0 2M');
  return image;
}

function byteOf(path: string): number {
  const bytes = readFileSync(path);
  expect(bytes.length).toBe(2 * MIB);
  expect(bytes.every((byte) => byte === bytes[0])).toBe(true);
  return bytes[0]!;
}

test('names that no file can have are escaped, and every snapshot is found by its id as well', () => {
  const at = mount(imageWith('a/b', '..', 'neue Zeile\n', 'größe 50%', '2'));
  expect(readdirSync(join(at, 'snapshots')).sort()).toEqual(
    ['...raw', '5.raw', 'a%2Fb.raw', 'größe 50%25.raw', 'neue Zeile%0A.raw'].sort(),
  );
  for (const [name, byte] of [
    ['a%2Fb', 1],
    ['..', 2],
    ['neue Zeile%0A', 3],
    ['größe 50%25', 4],
    ['1', 1],
    ['2', 2],
    ['5', 5],
  ] as const) {
    expect(byteOf(join(at, 'snapshots', `${name}.raw`)), name).toBe(byte);
  }
  expect(() => statSync(join(at, 'snapshots', '6.raw'))).toThrow('ENOENT');
  expect(byteOf(join(at, 'disk.raw'))).toBe(9);
});

test('a snapshot cannot be changed, in any way: EROFS, so that losetup and mount fall back to read-only', () => {
  const at = mount(imageWith('one'), '-o', 'umask=0');
  const path = fileOf(at, 'one');
  expect(statSync(path).mode & 0o7777).toBe(0o444);
  expect(statSync(path).size).toBe(2 * MIB);
  const { mtimeMs } = statSync(path);
  expect(Math.abs(Date.now() - mtimeMs)).toBeLessThan(600_000);
  for (const script of [
    'echo x > FILE',
    'truncate -s 1M FILE',
    'chmod 600 FILE',
    'touch FILE',
    'fallocate -p -l 4096 FILE',
  ]) {
    const { code, stderr } = bench.run('sh', ['-c', script.replace('FILE', path)]);
    expect(code, script).not.toBe(0);
    expect(stderr, script).toContain('Read-only file system');
  }
  expect(() => writeFileSync(join(at, 'snapshots', 'new'), 'x')).toThrow('EPERM');
  const loop = execFileSync('losetup', ['-f', '--show', path], { encoding: 'utf8' }).trim();
  try {
    expect(readFileSync(`/sys/block/${loop.slice(5)}/ro`, 'utf8').trim()).toBe('1');
    expect(readFileSync(loop).equals(readFileSync(path))).toBe(true);
  } finally {
    execFileSync('losetup', ['-d', loop]);
  }
});

test.each(['ro', 'rw'])('no other program can delete or make one while the image is mounted %s', (mode) => {
  const image = imageWith('one', 'two');
  const at = mount(image, '-o', mode);
  for (const how of [
    ['-d', 'one'],
    ['-a', 'one'],
    ['-c', 'three'],
  ]) {
    const { code, output } = tryQemu('qemu-img', 'snapshot', ...how, image);
    expect(code, output).not.toBe(0);
    expect(output).toContain('lock');
  }
  expect(byteOf(fileOf(at, 'one'))).toBe(1);
});

test('there is no directory without snapshots, and none where the mountpoint is a file', () => {
  const image = imageWith();
  const at = mount(image);
  expect(readdirSync(at)).not.toContain('snapshots');
  expect(() => statSync(join(at, 'snapshots'))).toThrow('ENOENT');
  expect(bench.imgfuse('unmount', at)).toMatchObject({ code: 0 });
  qemuImg('snapshot', '-c', 'one', image);
  const file = bench.path('file');
  writeFileSync(file, '');
  expect(bench.imgfuse('mount', image, file)).toMatchObject({ code: 0 });
  expect(byteOf(file)).toBe(9);
});

test('a snapshot keeps its file and its bytes when the image is opened anew', () => {
  const at = mount(imageWith('one', 'two'));
  const inodes = (): number[] => ['one', 'two'].map((name) => statSync(fileOf(at, name)).ino);
  const before = inodes();
  for (const mode of ['ro', 'rw', 'ro']) {
    expect(bench.imgfuse('remount', '-o', mode, at)).toMatchObject({ code: 0 });
    expect(inodes()).toEqual(before);
    expect(byteOf(fileOf(at, 'one'))).toBe(1);
    expect(byteOf(fileOf(at, 'two'))).toBe(2);
  }
});

test.each(['overlay=over.qcow2', 'snapshot'])('with -o %s the snapshots are those of the image below', (option) => {
  const at = mount(imageWith('one', 'two'), '-o', option);
  writeFileSync(join(at, 'disk.raw'), Buffer.alloc(MIB, 8), { flag: 'r+', flush: true });
  expect(readdirSync(join(at, 'snapshots')).sort()).toEqual(['one.raw', 'two.raw']);
  expect(byteOf(fileOf(at, 'one'))).toBe(1);
  expect(byteOf(fileOf(at, 'two'))).toBe(2);
});

test('an image on a server shows its snapshots, read-only and below an overlay', async () => {
  const server = new RangeServer(readFileSync(imageWith('one', 'two')));
  try {
    const at = mount(`${server.origin}/disk.qcow2`, '-o', 'ro');
    expect(byteOf(fileOf(at, 'one'))).toBe(1);
    expect(bench.imgfuse('unmount', at)).toMatchObject({ code: 0 });
    expect(bench.imgfuse('mount', `${server.origin}/disk.qcow2`, at, '-o', 'snapshot')).toMatchObject({ code: 0 });
    expect(byteOf(fileOf(at, 'two'))).toBe(2);
    expect(bench.imgfuse('unmount', at)).toMatchObject({ code: 0 });
  } finally {
    await server.close();
  }
});

test('status and status.json say which there are', () => {
  const at = mount(imageWith('one', 'a/b'));
  const [status] = JSON.parse(bench.imgfuse('status', '--output=json', at).stdout);
  expect(status.snapshots).toEqual([
    expect.objectContaining({ id: '1', name: 'one', file: 'one.raw', 'virtual-size': 2 * MIB }),
    expect.objectContaining({ id: '2', name: 'a/b', file: 'a%2Fb.raw', 'virtual-size': 2 * MIB }),
  ]);
  expect(status.snapshots[0]['date-sec']).toBe(Math.floor(statSync(fileOf(at, 'one')).mtimeMs / 1000));
  expect(JSON.parse(readFileSync(join(at, 'status.json'), 'utf8')).snapshots).toEqual(status.snapshots);
  expect(bench.imgfuse('status', at).stdout).toMatch(/^a%2Fb\.raw +2 +2 MiB +\d{4}-.* a\/b$/m);
});

test('fuse-native shows them as well', (context) => {
  requireOrSkip(context, fuseNativeAvailable(), 'fuse-native and libfuse.so.2');
  const at = mount(imageWith('one', 'a/b'), '--transport', 'fuse-native');
  expect(readdirSync(join(at, 'snapshots')).sort()).toEqual(['a%2Fb.raw', 'one.raw']);
  expect(byteOf(fileOf(at, 'one'))).toBe(1);
  expect(byteOf(join(at, 'snapshots', '2.raw'))).toBe(2);
  expect(() => writeFileSync(fileOf(at, 'one'), 'x')).toThrow('EROFS');
});

test('a snapshot that cannot be read is left out with a sentence in the log, and the disk is served', async () => {
  const image = imageWith('one', 'two');
  const file = await open(image, 'r+');
  const table = Buffer.alloc(8);
  await file.read(table, 0, 8, 64);
  // the place of the L1 table of the first snapshot
  await file.write(Buffer.from('00000fffffff0000', 'hex'), 0, 8, Number(table.readBigUInt64BE()));
  await file.close();
  const at = mount(image, '-o', 'ro');
  expect(readdirSync(join(at, 'snapshots'))).toEqual(['two.raw']);
  expect(byteOf(fileOf(at, 'two'))).toBe(2);
  expect(byteOf(join(at, 'disk.raw'))).toBe(9);
  expect(readFileSync(bench.records()[0]!.log!, 'utf8')).toContain('a snapshot is not shown');
});

test('a file system in a snapshot is mounted beside the one on the disk that is being changed', async (context) => {
  requireOrSkip(context, hasCommand('mkfs.ext4'), 'mkfs.ext4');
  const image = bench.path('guest.qcow2');
  qemuImg('create', '-q', '-f', 'qcow2', image, '64M');
  const at = mount(image);
  const [now, then] = [bench.makeDirectory('now'), bench.makeDirectory('then')];
  const script = (text: string): void => {
    const { code, stderr } = bench.run('sh', ['-euc', text]);
    expect(code, stderr).toBe(0);
  };
  script(
    `mkfs.ext4 -q ${at}/disk.raw; mount -o loop ${at}/disk.raw ${now}; head -c 8M /dev/urandom >${now}/file; cp ${now}/file ${now}/copy; umount ${now}`,
  );
  await delay(100);
  expect(bench.imgfuse('unmount', at)).toMatchObject({ code: 0 });
  qemuImg('snapshot', '-c', 'old', image);
  expect(bench.imgfuse('mount', image, at)).toMatchObject({ code: 0 });
  script(`
    mount -o loop ${at}/disk.raw ${now}
    mount -o loop,ro ${at}/snapshots/old.raw ${then}
    sha256sum <${then}/file >before
    rm ${now}/copy; sync -f ${now}; fstrim ${now} || true
    for n in 1 2 3 4 5 6; do
      head -c 6M /dev/urandom >${now}/file; sync -f ${now}; cp ${now}/file ${now}/more-$n; sync -f ${now}
    done
    cmp ${then}/file ${then}/copy
    # a loop device of its own, without the pages of the first one
    umount ${then}; mount -o loop,ro ${at}/snapshots/old.raw ${then}
    sha256sum <${then}/file >after; cmp before after; cmp ${then}/file ${then}/copy
    umount ${then} ${now}`);
  await delay(100);
  expect(bench.imgfuse('unmount', at)).toMatchObject({ code: 0 });
  qemuCheck(image, 'qcow2');
});
