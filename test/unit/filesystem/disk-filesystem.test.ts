// The tree that a mount shows: every method and every errno, over a small QED image in memory.

import { describe, expect, test, vi } from 'vitest';
import { SEEK_DATA, SEEK_HOLE } from '../../../src/bytes/linux.ts';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { Mutex } from '../../../src/concurrency/mutex.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ERRNO, errnoOf } from '../../../src/errors/index.ts';
import { createTree, DISK_NAME, type TreeOptions } from '../../../src/filesystem/index.ts';
import type { WritableImage } from '../../../src/format/image-format.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { raw } from '../../../src/format/raw/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { TreeOfFiles } from '../../support/tree-of-files.ts';
import { CountingHostFile } from '../../support/wrapping-files.ts';

const SIZE = 1024 * 1024;
const ROOT = 1;
const DISK = 2;
const O_RDWR = 2;
const O_TRUNC = 0o1000;
const KEEP_SIZE = 1;
const PUNCH_HOLE = 2;
const ZERO_RANGE = 16;
const COLLAPSE_RANGE = 8;

interface Subject {
  readonly filesystem: TreeOfFiles;
  readonly disk: VirtualDisk;
  readonly file: MemoryHostFile;
  readonly counting: CountingHostFile;
}

function make(options: Partial<TreeOptions> & { readOnly?: boolean } = {}): Subject {
  const { readOnly = false, ...tree } = options;
  const created = createMemoryImage(qed, SIZE, { cluster_size: '4k', table_size: '1' });
  const file = readOnly ? new MemoryHostFile(created.bytes(), '/memory', true) : created;
  const counting = new CountingHostFile(file);
  const disk = new VirtualDisk(openImage(qed, counting, { readOnly }));
  const state = createTree(disk, { rootIsFile: false, uid: 1000, gid: 1001, timeMs: 5000, ...tree });
  return { filesystem: new TreeOfFiles(disk, state), disk, file, counting };
}

function errno(action: () => unknown): number {
  try {
    action();
  } catch (error) {
    return errnoOf(error);
  }
  return 0;
}

describe('the directory', () => {
  test('holds the disk and nothing else', () => {
    const { filesystem } = make();
    expect(filesystem.lookup(ROOT, DISK_NAME).ino).toBe(DISK);
    expect([filesystem.lookup(ROOT, '.').ino, filesystem.lookup(ROOT, '..').ino]).toEqual([ROOT, ROOT]);
    expect(filesystem.readdir(ROOT).map(({ name, attributes }) => [name, attributes.ino])).toEqual([[DISK_NAME, DISK]]);
    expect(errno(() => filesystem.lookup(ROOT, 'other'))).toBe(ERRNO.ENOENT);
    expect(errno(() => filesystem.lookup(DISK, DISK_NAME))).toBe(ERRNO.ENOTDIR);
    expect(errno(() => filesystem.readdir(DISK))).toBe(ERRNO.ENOTDIR);
  });

  test('is EISDIR for what is done to files, and an unknown node is ENOENT', () => {
    const { filesystem } = make();
    const bytes = new Uint8Array(10);
    const actions: readonly ((node: number) => unknown)[] = [
      (node) => filesystem.open(node, 0),
      (node) => filesystem.read(node, 1, bytes, 0, 10, 0),
      (node) => filesystem.write(node, 2, bytes, 0, 10, 0),
      (node) => filesystem.fallocate(node, 2, 0, 0, 10),
      (node) => filesystem.lseek(node, 1, 0, SEEK_DATA),
      (node) => filesystem.setattr(node, { size: 512 }),
    ];
    for (const action of actions) {
      expect(errno(() => action(ROOT))).toBe(ERRNO.EISDIR);
      expect(errno(() => action(77))).toBe(ERRNO.ENOENT);
    }
    expect(errno(() => filesystem.getattr(77))).toBe(ERRNO.ENOENT);
    expect(errno(() => filesystem.listxattr(77))).toBe(ERRNO.ENOENT);
  });

  test('is the disk itself where the mountpoint is a file', () => {
    const { filesystem } = make({ rootIsFile: true });
    expect(filesystem.getattr(ROOT)).toMatchObject({ size: SIZE, mode: 0o100600, nlink: 1 });
    expect(errno(() => filesystem.lookup(ROOT, DISK_NAME))).toBe(ERRNO.ENOTDIR);
    expect(errno(() => filesystem.getattr(DISK))).toBe(ERRNO.ENOENT);
    expect(filesystem.write(ROOT, filesystem.open(ROOT, O_RDWR).handle, new Uint8Array(9), 0, 9, 0)).toBe(9);
  });
});

describe('attributes', () => {
  test('show size, allocation, owner, modes and the cluster size', () => {
    const { filesystem } = make();
    expect(filesystem.getattr(ROOT)).toMatchObject({ mode: 0o040700, nlink: 2, uid: 1000, gid: 1001 });
    expect(filesystem.getattr(DISK)).toMatchObject({ mode: 0o100600, size: SIZE, allocatedBytes: 0, blockSize: 4096 });
    filesystem.write(DISK, 2, new Uint8Array(5000).fill(1), 0, 5000, 100);
    expect(filesystem.getattr(DISK).allocatedBytes).toBe(8192);
    filesystem.fallocate(DISK, 2, PUNCH_HOLE | KEEP_SIZE, 0, SIZE);
    expect(filesystem.getattr(DISK).allocatedBytes).toBe(0);
    expect(make({ readOnly: true }).filesystem.getattr(DISK).mode).toBe(0o100400);
    expect(make({ umask: 0o077 }).filesystem.getattr(ROOT).mode).toBe(0o040700);
  });

  test('have the time of the image, or of its data file where that changed later; the directory has the time of the mount', () => {
    class DatedFile extends CountingHostFile {
      readonly time: number;
      constructor(file: MemoryHostFile, time: number) {
        super(file);
        this.time = time;
      }
      override modifiedMs(): number {
        return this.time;
      }
    }
    const mtimes = (image: WritableImage) => {
      const disk = new VirtualDisk(image);
      const filesystem = new TreeOfFiles(disk, createTree(disk, { rootIsFile: false, uid: 0, gid: 0 }));
      return [ROOT, DISK].map((node) => filesystem.getattr(node).mtimeMs);
    };
    const before = Date.now();
    const [root, disk] = mtimes(openImage(raw, new DatedFile(new MemoryHostFile(new Uint8Array(512)), 7000)));
    expect(disk).toBe(7000);
    expect(root).toBeGreaterThanOrEqual(before);
    const dataFile = new MemoryHostFile(new Uint8Array(0), '/data');
    const file = createMemoryImage(qcow2, SIZE, { data_file: 'data' }, undefined, { dataFile });
    const image = openImage(qcow2, new DatedFile(file, 7000), { dataFile: new DatedFile(dataFile, 9000) });
    expect(mtimes(image)[1]).toBe(9000);
    // a device does not say
    expect(mtimes(openImage(raw, new MemoryHostFile(new Uint8Array(512))))[1]).toBeGreaterThanOrEqual(before);
  });

  test.each([
    [512, 4096],
    [65_536, 65_536],
    [2_097_152, 1_048_576],
  ])('recommend buffers of a page to a MiB: clusters of %d bytes, buffers of %d', (clusterSize, buffer) => {
    const image = openImage(qcow2, createMemoryImage(qcow2, SIZE, { cluster_size: String(clusterSize) }));
    const disk = new VirtualDisk(image);
    const filesystem = new TreeOfFiles(disk, createTree(disk, { rootIsFile: false, uid: 0, gid: 0 }));
    expect(filesystem.getattr(DISK).blockSize).toBe(buffer);
    // the granularity of discards
    expect(filesystem.statfs(ROOT).blockSize).toBe(clusterSize);
  });

  test('have times that looking does not change, and that a change of content does', () => {
    const { filesystem } = make();
    const before = filesystem.getattr(DISK);
    filesystem.read(DISK, 1, new Uint8Array(10), 0, 10, 0);
    expect(filesystem.getattr(DISK)).toEqual(before);
    expect(before.mtimeMs).toBe(5000);
    filesystem.write(DISK, 2, new Uint8Array(10), 0, 10, 0);
    expect(filesystem.getattr(DISK).mtimeMs).toBeGreaterThan(5000);
    expect(filesystem.getattr(DISK).atimeMs).toBe(5000);
  });

  test('are set: mode without the type, owner, times, and the size as a resize', () => {
    const { filesystem, disk } = make();
    expect(filesystem.setattr(DISK, { mode: 0o040640, uid: 7, gid: 8, atimeMs: 11, mtimeMs: 12.5 })).toMatchObject({
      mode: 0o100640,
      uid: 7,
      gid: 8,
      atimeMs: 11,
      mtimeMs: 12.5,
    });
    expect(filesystem.setattr(DISK, { size: 2 * SIZE }).size).toBe(2 * SIZE);
    expect(disk.size()).toBe(2 * SIZE);
    expect(filesystem.setattr(DISK, { size: 700 }).size).toBe(1024);
    expect(errno(() => filesystem.setattr(DISK, { size: 2 ** 40 }))).toBe(ERRNO.EFBIG);
    expect(errno(() => make({ readOnly: true }).filesystem.setattr(DISK, { size: 512 }))).toBe(ERRNO.EROFS);
  });

  test('of the image are extended attributes of the disk', () => {
    const { filesystem } = make();
    const names = filesystem.listxattr(DISK);
    expect(names).toContain('user.imgfuse.format');
    expect(new TextDecoder().decode(filesystem.getxattr(DISK, 'user.imgfuse.format'))).toBe('qed');
    expect(filesystem.listxattr(ROOT)).toEqual([]);
    expect(errno(() => filesystem.getxattr(DISK, 'user.other'))).toBe(ERRNO.ENODATA);
    expect(errno(() => filesystem.getxattr(DISK, 'toString'))).toBe(ERRNO.ENODATA);
    expect(errno(() => filesystem.getxattr(ROOT, 'user.imgfuse.format'))).toBe(ERRNO.ENODATA);
  });

  test('statfs counts clusters', () => {
    const { filesystem } = make();
    filesystem.write(DISK, 2, new Uint8Array(5000), 0, 5000, 0);
    expect(filesystem.statfs(ROOT)).toMatchObject({
      blockSize: 4096,
      blocks: 256,
      blocksFree: 254,
      blocksAvailable: 254,
    });
  });

  test('access follows the mode for owner, group, others, and lets root pass', () => {
    const { filesystem } = make();
    filesystem.setattr(DISK, { mode: 0o640 });
    expect(errno(() => filesystem.access(DISK, 6, 1000, 5))).toBe(0);
    expect(errno(() => filesystem.access(DISK, 4, 5, 1001))).toBe(0);
    expect(errno(() => filesystem.access(DISK, 2, 5, 1001))).toBe(ERRNO.EACCES);
    expect(errno(() => filesystem.access(DISK, 4, 5, 5))).toBe(ERRNO.EACCES);
    expect(errno(() => filesystem.access(DISK, 6, 0, 0))).toBe(0);
  });
});

test('names are fixed: EPERM, EROFS on a read-only disk, ENOTDIR in what is no directory', () => {
  expect(errno(() => make().filesystem.changeNames(ROOT))).toBe(ERRNO.EPERM);
  expect(errno(() => make({ readOnly: true }).filesystem.changeNames(ROOT))).toBe(ERRNO.EROFS);
  expect(errno(() => make().filesystem.changeNames(DISK))).toBe(ERRNO.ENOTDIR);
});

test('every mount gives its disk another generation, and the root none, because the kernel has 0 for it', () => {
  const [one, two] = [make().filesystem, make().filesystem];
  expect(one.lookup(ROOT, DISK_NAME).generation).not.toBe(two.lookup(ROOT, DISK_NAME).generation);
  expect(one.getattr(DISK).generation).toBe(one.readdir(ROOT)[0]!.attributes.generation);
  expect(one.getattr(DISK).generation).toBeGreaterThan(0);
  expect([one.lookup(ROOT, '..').generation, make({ rootIsFile: true }).filesystem.getattr(ROOT).generation]).toEqual([
    0, 0,
  ]);
});

describe('an open file', () => {
  test('reads and writes, short at the end, EFBIG behind it', () => {
    const { filesystem } = make();
    const { handle } = filesystem.open(DISK, O_RDWR);
    expect(filesystem.write(DISK, handle, new Uint8Array(1000).fill(3), 0, 1000, SIZE - 400)).toBe(400);
    const target = new Uint8Array(1000);
    expect(filesystem.read(DISK, handle, target, 0, 1000, SIZE - 400)).toBe(400);
    expect(target.filter((byte) => byte === 3)).toHaveLength(400);
    expect(filesystem.read(DISK, handle, target, 0, 1000, SIZE)).toBe(0);
    expect(errno(() => filesystem.write(DISK, handle, target, 0, 1000, SIZE))).toBe(ERRNO.EFBIG);
  });

  test('is refused for writing with EROFS on a read-only disk, and O_TRUNC does not cut a writable one', () => {
    const readOnly = make({ readOnly: true }).filesystem;
    expect(errno(() => readOnly.open(DISK, O_RDWR))).toBe(ERRNO.EROFS);
    expect(errno(() => readOnly.open(DISK, 1))).toBe(ERRNO.EROFS);
    readOnly.release(DISK, readOnly.open(DISK, 0).handle);
    const { filesystem } = make();
    filesystem.open(DISK, O_RDWR | O_TRUNC);
    expect(filesystem.getattr(DISK).size).toBeGreaterThan(0);
  });

  test('flushes on flush and fsync, and the last writable close marks the image clean', () => {
    const { filesystem, file, counting } = make();
    const isDirty = () => qed.inspect(file).dirty;
    const [one, two, reader] = [O_RDWR, 1, 0].map((flags) => filesystem.open(DISK, flags).handle) as [
      number,
      number,
      number,
    ];
    filesystem.write(DISK, one, new Uint8Array(10).fill(1), 0, 10, 0);
    counting.reset();
    filesystem.flush(DISK, reader);
    expect(counting.calls.sync).toBe(0);
    filesystem.flush(DISK, one);
    expect(counting.calls.sync).toBe(1);
    filesystem.write(DISK, one, new Uint8Array(10).fill(2), 0, 10, 0);
    filesystem.fsync(DISK);
    expect(counting.calls.sync).toBe(2);
    filesystem.release(DISK, one);
    expect(isDirty()).toBe(true);
    filesystem.release(DISK, two);
    expect(isDirty()).toBe(false);
    filesystem.release(DISK, reader);
  });
});

describe('fallocate', () => {
  test('punches and zeroes inside the disk, keeps the size with KEEP_SIZE and grows it without', () => {
    const { filesystem } = make();
    const full = new Uint8Array(SIZE).fill(9);
    filesystem.write(DISK, 2, full, 0, SIZE, 0);
    filesystem.fallocate(DISK, 2, PUNCH_HOLE | KEEP_SIZE, 100, 10_000);
    filesystem.fallocate(DISK, 2, ZERO_RANGE | KEEP_SIZE, SIZE - 50, 10_000);
    full.fill(0, 100, 10_100).fill(0, SIZE - 50);
    const target = new Uint8Array(SIZE);
    filesystem.read(DISK, 1, target, 0, SIZE, 0);
    expect(Buffer.compare(target, full)).toBe(0);
    expect(filesystem.getattr(DISK).size).toBe(SIZE);
    filesystem.fallocate(DISK, 2, KEEP_SIZE, SIZE, 8192);
    expect(filesystem.getattr(DISK).size).toBe(SIZE);
    filesystem.fallocate(DISK, 2, 0, SIZE, 8192);
    expect(filesystem.getattr(DISK).size).toBe(SIZE + 8192);
    filesystem.fallocate(DISK, 2, ZERO_RANGE, SIZE, 16_384);
    expect(filesystem.getattr(DISK).size).toBe(SIZE + 16_384);
  });

  /** A file whose host punches no holes. */
  class SolidFile extends CountingHostFile {
    override punchesHoles(): boolean {
      return false;
    }
  }

  function serve(image: WritableImage): TreeOfFiles {
    const disk = new VirtualDisk(image);
    return new TreeOfFiles(disk, createTree(disk, { rootIsFile: false, uid: 0, gid: 0 }));
  }

  test.each([
    [
      'a raw image whose host punches no holes',
      () => openImage(raw, new SolidFile(new MemoryHostFile(new Uint8Array(SIZE)))),
    ],
    [
      'a version 2 overlay',
      () => {
        const backing = openImage(raw, new MemoryHostFile(new Uint8Array(SIZE).fill(1), '/base'));
        return openImage(qcow2, createMemoryImage(qcow2, SIZE, { compat: '0.10' }, '/base'), { backing });
      },
    ],
    [
      'a data file whose host punches no holes',
      () => {
        const dataFile = new MemoryHostFile(new Uint8Array(0), '/data');
        const file = createMemoryImage(qcow2, SIZE, { data_file: 'data' }, undefined, { dataFile });
        return openImage(qcow2, file, { dataFile: new SolidFile(dataFile) });
      },
    ],
  ])('punches no hole into %s, because it would write zeros; ZERO_RANGE writes them', (_name, open) => {
    const image = open();
    image.write(new Uint8Array(SIZE / 4).fill(7), 0, SIZE / 4, guestOffset(0));
    const filesystem = serve(image);
    const bytes = () => {
      const target = new Uint8Array(SIZE);
      filesystem.read(DISK, 1, target, 0, SIZE, 0);
      return target;
    };
    const before = bytes();
    const blocks = image.allocatedBytes();
    expect(errno(() => filesystem.fallocate(DISK, 2, PUNCH_HOLE | KEEP_SIZE, 0, SIZE))).toBe(ERRNO.EOPNOTSUPP);
    expect(Buffer.compare(bytes(), before)).toBe(0);
    expect(image.allocatedBytes()).toBe(blocks);
    filesystem.fallocate(DISK, 2, ZERO_RANGE | KEEP_SIZE, 0, SIZE);
    expect(bytes().every((byte) => byte === 0)).toBe(true);
  });

  test('punches holes wherever an image can free its clusters, whatever the host can', () => {
    const backing = () => openImage(raw, new MemoryHostFile(new Uint8Array(SIZE).fill(1), '/base'));
    const images = [
      openImage(qcow2, new SolidFile(createMemoryImage(qcow2, SIZE, { compat: '0.10' }))),
      openImage(qcow2, new SolidFile(createMemoryImage(qcow2, SIZE, {}, '/base')), { backing: backing() }),
      openImage(qed, new SolidFile(createMemoryImage(qed, SIZE, {}, '/base')), { backing: backing() }),
    ];
    for (const image of images) {
      image.write(new Uint8Array(SIZE).fill(7), 0, SIZE, guestOffset(0));
      serve(image).fallocate(DISK, 2, PUNCH_HOLE | KEEP_SIZE, 0, SIZE);
      expect(image.allocatedBytes()).toBe(0);
    }
  });

  test('takes space for what reads as zeros', () => {
    const { filesystem } = make();
    filesystem.fallocate(DISK, 2, 0, 0, 40_960);
    expect(filesystem.getattr(DISK).allocatedBytes).toBe(40_960);
  });

  test('never shrinks a disk that another thread has made longer meanwhile', () => {
    const { filesystem, disk } = make();
    disk.resize(4 * SIZE);
    const size = vi.spyOn(disk, 'size').mockReturnValueOnce(SIZE);
    filesystem.fallocate(DISK, 2, 0, SIZE, 8192);
    size.mockRestore();
    expect(disk.size()).toBe(4 * SIZE);
  });

  test('is EOPNOTSUPP for other modes, EFBIG above the format, EROFS on a read-only disk', () => {
    const { filesystem } = make();
    for (const mode of [PUNCH_HOLE, COLLAPSE_RANGE, 32, 64, PUNCH_HOLE | ZERO_RANGE | KEEP_SIZE]) {
      expect(errno(() => filesystem.fallocate(DISK, 2, mode, 0, 4096))).toBe(ERRNO.EOPNOTSUPP);
    }
    expect(errno(() => filesystem.fallocate(DISK, 2, 0, 2 ** 45, 4096))).toBe(ERRNO.EFBIG);
    const readOnly = make({ readOnly: true }).filesystem;
    for (const mode of [0, PUNCH_HOLE | KEEP_SIZE, ZERO_RANGE]) {
      expect(errno(() => readOnly.fallocate(DISK, 2, mode, 0, 4096))).toBe(ERRNO.EROFS);
    }
  });
});

test('lseek finds data and holes; behind the end, and where there is no more data, it is ENXIO', () => {
  const { filesystem } = make();
  filesystem.write(DISK, 2, new Uint8Array(100).fill(1), 0, 100, 40_960);
  const seek = (offset: number, whence: number) => filesystem.lseek(DISK, 1, offset, whence);
  expect([seek(0, SEEK_DATA), seek(41_000, SEEK_DATA)]).toEqual([40_960, 41_000]);
  expect([seek(0, SEEK_HOLE), seek(40_960, SEEK_HOLE)]).toEqual([0, 45_056]);
  filesystem.write(DISK, 2, new Uint8Array(100).fill(1), 0, 100, SIZE - 100);
  expect(seek(SIZE - 100, SEEK_HOLE)).toBe(SIZE);
  expect(errno(() => seek(SIZE, SEEK_DATA))).toBe(ERRNO.ENXIO);
  expect(errno(() => seek(SIZE, SEEK_HOLE))).toBe(ERRNO.ENXIO);
  expect(errno(() => seek(0, 0))).toBe(ERRNO.EINVAL);
  expect(errno(() => make().filesystem.lseek(DISK, 1, 5, SEEK_DATA))).toBe(ERRNO.ENXIO);
});

test('lseek over clusters in random order asks once for many of them, because the kernel holds back writes meanwhile', () => {
  const { filesystem, disk } = make();
  for (let at = SIZE - 4096; at >= 0; at -= 4096) disk.write(new Uint8Array(4096).fill(1), 0, 4096, guestOffset(at));
  const lock = vi.spyOn(Mutex.prototype, 'lock');
  try {
    expect(filesystem.lseek(DISK, 1, 0, SEEK_HOLE)).toBe(SIZE);
    expect(lock.mock.calls.length).toBeLessThan(5);
  } finally {
    lock.mockRestore();
  }
});
