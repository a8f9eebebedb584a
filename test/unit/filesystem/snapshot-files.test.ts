// snapshots/ of the tree: what it lists and finds, that nothing changes what is in it, and that a node stays what it is.

import { describe, expect, test } from 'vitest';
import { SEEK_DATA, SEEK_HOLE } from '../../../src/bytes/linux.ts';
import { guestOffset, hostOffset } from '../../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ERRNO, errnoOf } from '../../../src/errors/index.ts';
import { createTree, nodesOf } from '../../../src/filesystem/index.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { get64, put32, put64, putSnapshots } from '../../support/qcow2-bytes.ts';
import { TreeOfFiles } from '../../support/tree-of-files.ts';

const [ROOT, DISK, SNAPSHOTS] = [1, 2, 5];
const [O_RDONLY, O_WRONLY, O_RDWR] = [0, 1, 2];
const CLUSTER = 65536;
const SIZE = 8 * CLUSTER;
const SNAPSHOT_SIZE = 4 * CLUSTER + 512;
const TAKEN_SECONDS = 1_700_000_000;

/** A disk of sevens whose snapshots have data, fives, in their third cluster. */
function imageWith(...snapshots: readonly { readonly id: string; readonly name: string }[]): MemoryHostFile {
  const file = createMemoryImage(qcow2, SIZE, {});
  const image = openImage(qcow2, file);
  image.write(new Uint8Array(SIZE).fill(7), 0, SIZE, guestOffset(0));
  image.close();
  const tables = Math.ceil(file.size() / CLUSTER) * CLUSTER;
  file.truncate(tables + (2 * snapshots.length + 1) * CLUSTER);
  const data = tables + 2 * snapshots.length * CLUSTER;
  file.write(new Uint8Array(CLUSTER).fill(5), 0, CLUSTER, hostOffset(data));
  const entries = snapshots.map((snapshot, position) => {
    const l1 = tables + 2 * position * CLUSTER;
    put64(file, l1, l1 + CLUSTER);
    put64(file, l1 + CLUSTER + 2 * 8, data);
    return { ...snapshot, l1Offset: l1, l1Size: 1, diskSize: SNAPSHOT_SIZE };
  });
  const table = putSnapshots(file, entries);
  put32(file, table + 16, TAKEN_SECONDS);
  // counts what the snapshots use
  expect(qcow2.check(file, { repair: 'all', log: () => undefined }).checkErrors).toBe(0);
  return file;
}

const TWO = [
  { id: '1', name: 'one' },
  { id: '2', name: 'a/b' },
] as const;

class Subject {
  readonly file: MemoryHostFile;
  readonly disk: VirtualDisk;
  readonly tree: ReturnType<typeof createTree>;
  readonly filesystem: TreeOfFiles;

  constructor(file = imageWith(...TWO), umask = 0o022) {
    this.file = file;
    this.disk = this.open();
    this.tree = createTree(this.disk, { rootIsFile: false, shows: ['partitions', 'snapshots'], uid: 5, gid: 6, umask });
    this.filesystem = new TreeOfFiles(this.disk, this.tree);
  }

  open(file = this.file): VirtualDisk {
    return new VirtualDisk(openImage(qcow2, file, { wantsSnapshots: true }));
  }

  list(): [name: string, node: number][] {
    return this.filesystem.readdir(SNAPSHOTS).map(({ name, attributes }) => [name, attributes.ino]);
  }

  node(name: string): number {
    return this.filesystem.lookup(SNAPSHOTS, name).ino;
  }
}

function errnoFrom(action: () => unknown): number | null {
  try {
    action();
    return null;
  } catch (error) {
    return errnoOf(error);
  }
}

describe('the directory', () => {
  test('lists snapshots by their names, and finds them by their ids as well', () => {
    const subject = new Subject();
    expect(subject.filesystem.readdir(ROOT).map(({ name }) => name)).toEqual(['disk.raw', 'partitions', 'snapshots']);
    expect(subject.list().map(([name]) => name)).toEqual(['one.raw', 'a%2Fb.raw']);
    expect(subject.node('1.raw')).toBe(subject.node('one.raw'));
    expect(subject.node('2.raw')).toBe(subject.node('a%2Fb.raw'));
    expect(subject.node('.')).toBe(SNAPSHOTS);
    expect(subject.node('..')).toBe(ROOT);
    for (const name of ['3.raw', 'one', '1', 'a/b.raw', '']) {
      expect(
        errnoFrom(() => subject.node(name)),
        name,
      ).toBe(ERRNO.ENOENT);
    }
    expect(errnoFrom(() => subject.filesystem.changeNames(SNAPSHOTS))).toBe(ERRNO.EPERM);
    expect(errnoFrom(() => subject.filesystem.readdir(subject.node('1.raw')))).toBe(ERRNO.ENOTDIR);
  });

  test('is not there in a tree that does not show it', () => {
    const { disk } = new Subject();
    const tree = createTree(disk, { rootIsFile: false, shows: ['partitions'], uid: 0, gid: 0 });
    const filesystem = new TreeOfFiles(disk, tree);
    expect(errnoFrom(() => filesystem.lookup(ROOT, 'snapshots'))).toBe(ERRNO.ENOENT);
    expect(errnoFrom(() => filesystem.readdir(SNAPSHOTS))).toBe(ERRNO.ENOENT);
    expect(nodesOf(tree)).not.toContain(SNAPSHOTS);
  });

  test('of 4096 snapshots is listed within a second of CPU time', () => {
    const file = imageWith(...TWO);
    const l1Offset = Number(get64(file, Number(get64(file, 64))));
    const all = Array.from({ length: 4096 }, (_, i) => ({ id: String(i), name: `n${i}`, l1Offset, l1Size: 1 }));
    putSnapshots(file, all);
    const disk = new VirtualDisk(openImage(qcow2, file.clone(true), { readOnly: true, wantsSnapshots: true }));
    const tree = createTree(disk, { rootIsFile: false, shows: ['snapshots'], uid: 0, gid: 0 });
    const filesystem = new TreeOfFiles(disk, tree);
    const start = process.cpuUsage();
    const entries = filesystem.readdir(SNAPSHOTS);
    const { user, system } = process.cpuUsage(start);
    expect(new Set(entries.map(({ attributes }) => attributes.ino)).size).toBe(4096);
    expect((user + system) / 1e6).toBeLessThan(1);
  });
});

describe('a file of a snapshot', () => {
  test('has the size and the date of the snapshot, and the owner of the disk', () => {
    const { filesystem } = new Subject();
    const attributes = filesystem.lookup(SNAPSHOTS, 'one.raw');
    expect(attributes).toMatchObject({ size: SNAPSHOT_SIZE, mode: 0o100444, uid: 5, gid: 6, nlink: 1 });
    expect(attributes).toMatchObject({ mtimeMs: TAKEN_SECONDS * 1000, ctimeMs: TAKEN_SECONDS * 1000 });
    expect(attributes.allocatedBytes).toBeGreaterThan(0);
    expect(attributes.generation).toBe(filesystem.getattr(DISK).generation);
    expect(new Subject(imageWith(...TWO), 0o077).filesystem.lookup(SNAPSHOTS, '1.raw').mode).toBe(0o100400);
  });

  test('shows its own bytes, data and holes, whatever the disk becomes', () => {
    const subject = new Subject();
    const { filesystem } = subject;
    const node = subject.node('a%2Fb.raw');
    const { handle, pages } = filesystem.open(node, O_RDONLY);
    expect(pages).toBe('keep');
    const wanted = Buffer.alloc(SNAPSHOT_SIZE);
    wanted.fill(5, 2 * CLUSTER, 3 * CLUSTER);
    for (let round = 0; round < 3; round++) {
      const bytes = Buffer.alloc(SNAPSHOT_SIZE + 100, 0xee);
      expect(filesystem.read(node, handle, bytes, 0, bytes.length, 0)).toBe(SNAPSHOT_SIZE);
      expect(bytes.subarray(0, SNAPSHOT_SIZE).equals(wanted)).toBe(true);
      const { handle: writer } = filesystem.open(DISK, O_RDWR);
      filesystem.write(DISK, writer, Buffer.alloc(3 * CLUSTER, round), 0, 3 * CLUSTER, CLUSTER);
      filesystem.release(DISK, writer);
    }
    expect(filesystem.lseek(node, handle, 0, SEEK_DATA)).toBe(2 * CLUSTER);
    expect(filesystem.lseek(node, handle, 2 * CLUSTER, SEEK_HOLE)).toBe(3 * CLUSTER);
    expect(errnoFrom(() => filesystem.lseek(node, handle, 3 * CLUSTER, SEEK_DATA))).toBe(ERRNO.ENXIO);
    expect(filesystem.lseek(node, handle, 3 * CLUSTER, SEEK_HOLE)).toBe(3 * CLUSTER);
    expect(errnoFrom(() => filesystem.lseek(node, handle, SNAPSHOT_SIZE, SEEK_HOLE))).toBe(ERRNO.ENXIO);
    filesystem.flush(node, handle);
    filesystem.fsync(node);
    filesystem.release(node, handle);
  });

  test('is read-only: every change is EROFS, and a writer of the disk does not mind its readers', () => {
    const subject = new Subject();
    const { filesystem } = subject;
    const node = subject.node('1.raw');
    const { handle } = filesystem.open(node, O_RDONLY);
    const changes: readonly (() => unknown)[] = [
      () => filesystem.open(node, O_WRONLY),
      () => filesystem.open(node, O_RDWR),
      () => filesystem.write(node, handle, new Uint8Array(512), 0, 512, 0),
      () => filesystem.fallocate(node, handle, 0, 0, 512),
      () => filesystem.setattr(node, { size: 512 }),
      () => filesystem.setattr(node, { mode: 0o600 }),
      () => filesystem.setattr(node, { mtimeMs: 1 }),
    ];
    for (const change of changes) expect(errnoFrom(change)).toBe(ERRNO.EROFS);
    const { handle: writer } = filesystem.open(DISK, O_RDWR);
    filesystem.release(DISK, writer);
    filesystem.release(node, handle);
  });

  test('says which snapshot it is in its extended attributes', () => {
    const subject = new Subject();
    const node = subject.node('a%2Fb.raw');
    expect(Buffer.from(subject.filesystem.getxattr(node, 'user.imgfuse.snapshot')).toString()).toBe('2');
    expect(subject.filesystem.listxattr(DISK)).not.toContain('user.imgfuse.snapshot');
  });
});

describe('a node', () => {
  test('means the same snapshot in every thread and after the image was opened anew', () => {
    const subject = new Subject();
    const before = subject.list();
    expect(
      new TreeOfFiles(subject.disk, subject.tree).readdir(SNAPSHOTS).map(({ attributes }) => attributes.ino),
    ).toEqual(before.map(([, node]) => node));
    subject.disk.flush();
    subject.filesystem.takeOver(subject.open(subject.file.clone()));
    expect(subject.list()).toEqual(before);
  });

  test('of a snapshot that is gone is ENOENT, and those behind it keep theirs', () => {
    const subject = new Subject();
    const [first, second] = subject.list();
    const changed = imageWith(TWO[1]);
    // the date is part of what it is
    put32(changed, Number(get64(changed, 64)) + 16, 0);
    subject.filesystem.takeOver(subject.open(changed));
    expect(subject.list()).toEqual([second]);
    expect(errnoFrom(() => subject.filesystem.getattr(first![1]))).toBe(ERRNO.ENOENT);
  });

  test('that never was is ENOENT', () => {
    const { filesystem } = new Subject();
    expect(errnoFrom(() => filesystem.getattr(2 ** 48 + 12_345))).toBe(ERRNO.ENOENT);
    expect(errnoFrom(() => filesystem.open(2 ** 48 + 12_345, O_RDONLY))).toBe(ERRNO.ENOENT);
  });
});
