// partitions/N.raw: which of them there are and when the table is read again, what one shows of the disk, and the rules for two
// files with the same bytes. Two objects over the same tree stand for two threads.

import { describe, expect, test, vi } from 'vitest';
import { SEEK_DATA, SEEK_HOLE } from '../../../src/bytes/linux.ts';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ERRNO, errnoOf } from '../../../src/errors/index.ts';
import { NO_PAGES } from '../../../src/filesystem/handles.ts';
import { createTree, dropStalePages, nodesOf, type Refusal, setTreeReadOnly } from '../../../src/filesystem/index.ts';
import { handlesOf } from '../../../src/filesystem/tree-state.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { mbrSector, type Slot } from '../../support/partition-bytes.ts';
import { TreeOfFiles } from '../../support/tree-of-files.ts';

const [ROOT, DISK, PARTITIONS] = [1, 2, 3];
const [O_RDONLY, O_WRONLY, O_RDWR, O_TRUNC] = [0, 1, 2, 0o1000];
const [KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE] = [1, 2, 16];
const SECTOR = 512;
const KiB = 1024;
const SIZE = 1024 * KiB;
const FIRST: Slot = { type: 0x83, start: 128, size: 512 };
const SECOND: Slot = { type: 0x83, start: 1024, size: 256 };
/** partition 1 in bytes */
const [START, LENGTH] = [128 * SECTOR, 512 * SECTOR];

class Subject {
  readonly disk = new VirtualDisk(openImage(qcow2, createMemoryImage(qcow2, SIZE, { cluster_size: '4k' })));
  readonly tree: ReturnType<typeof createTree>;
  readonly refusals: Refusal[] = [];
  readonly filesystem: TreeOfFiles;
  readonly other: TreeOfFiles;

  /** nodes whose pages the kernel has dropped */
  readonly dropped: number[] = [];

  constructor(slots: readonly (Slot | null)[] = [FIRST, SECOND]) {
    this.disk.write(mbrSector(slots), 0, SECTOR, guestOffset(0));
    this.tree = createTree(this.disk, {
      rootIsFile: false,
      shows: ['partitions'],
      uid: 5,
      gid: 6,
      timeMs: 5000,
    });
    const pages = { ...NO_PAGES, drop: (node: number) => this.dropped.push(node) };
    this.filesystem = new TreeOfFiles(this.disk, this.tree, (refusal) => this.refusals.push(refusal), undefined, pages);
    this.other = new TreeOfFiles(this.disk, this.tree, undefined, undefined, pages);
  }

  /** Through disk.raw, in a handle of its own. */
  writeTable(...slots: (Slot | null)[]): void {
    const { handle } = this.filesystem.open(DISK, O_RDWR);
    this.filesystem.write(DISK, handle, mbrSector(slots), 0, SECTOR, 0);
    this.filesystem.release(DISK, handle);
  }

  list(filesystem = this.filesystem): [name: string, size: number, node: number][] {
    const entries = filesystem.readdir(PARTITIONS);
    return entries.map(({ name, attributes }) => [name, attributes.size, attributes.ino]);
  }

  node(number: number, filesystem = this.filesystem): number {
    return filesystem.lookup(PARTITIONS, `${number}.raw`).ino;
  }

  readings(): ReturnType<typeof vi.spyOn> {
    return vi.spyOn(this.disk, 'read');
  }
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
  test('has a file for each partition, with its number, its size and the owner of the disk', () => {
    const subject = new Subject([FIRST, null, SECOND]);
    expect(subject.filesystem.readdir(ROOT).map(({ name }) => name)).toEqual(['disk.raw', 'partitions']);
    const nodes = [subject.node(1), subject.node(3)] as const;
    expect(subject.list()).toEqual([
      ['1.raw', LENGTH, nodes[0]],
      ['3.raw', 256 * SECTOR, nodes[1]],
    ]);
    expect(subject.filesystem.getattr(nodes[0])).toMatchObject({
      mode: 0o100600,
      nlink: 1,
      uid: 5,
      gid: 6,
      mtimeMs: 5000,
    });
    expect(subject.filesystem.getattr(PARTITIONS)).toMatchObject({ mode: 0o040700, nlink: 2 });
  });

  test.each([
    '01.raw',
    '2',
    '2.raw',
    '0.raw',
    '-1.raw',
    '1.raw ',
    ' 1.raw',
    '1.RAW',
    '99999999999.raw',
    'disk.raw',
    '',
  ])('has no %j', (name) => {
    const { filesystem } = new Subject([FIRST]);
    expect(errno(() => filesystem.lookup(PARTITIONS, name))).toBe(ERRNO.ENOENT);
  });

  test('leads up to the root, and a partition leads nowhere', () => {
    const { filesystem } = new Subject();
    expect(filesystem.lookup(PARTITIONS, '..').ino).toBe(ROOT);
    expect(filesystem.lookup(PARTITIONS, '.').ino).toBe(PARTITIONS);
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    expect(errno(() => filesystem.lookup(node, 'x'))).toBe(ERRNO.ENOTDIR);
    expect(errno(() => filesystem.readdir(node))).toBe(ERRNO.ENOTDIR);
  });

  test('is empty without a table, and its names cannot be changed', () => {
    const { filesystem } = new Subject([]);
    expect(filesystem.readdir(PARTITIONS)).toEqual([]);
    expect(errno(() => filesystem.changeNames(PARTITIONS))).toBe(ERRNO.EPERM);
    expect(errno(() => filesystem.open(PARTITIONS, O_RDONLY))).toBe(ERRNO.EISDIR);
  });

  test('lets the kernel keep no name of a partition, and every other one', () => {
    const { filesystem } = new Subject();
    expect(filesystem.lookup(PARTITIONS, '1.raw').entrySeconds).toBe(0);
    for (const name of ['disk.raw', 'partitions'])
      expect(filesystem.lookup(ROOT, name).entrySeconds).toBeGreaterThan(0);
  });

  test('follows the mode of the mount', () => {
    const subject = new Subject();
    const node = subject.node(1);
    setTreeReadOnly(subject.tree, true);
    expect(subject.filesystem.getattr(node).mode).toBe(0o100400);
    expect(errno(() => subject.filesystem.open(node, O_RDWR))).toBe(ERRNO.EROFS);
  });
});

describe('a partition', () => {
  test('is read and written where it lies, and no byte beside it', () => {
    const { filesystem, disk } = new Subject();
    disk.write(new Uint8Array(SIZE - 4096).fill(7), 0, SIZE - 4096, guestOffset(4096));
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    const { handle } = filesystem.open(node, O_RDWR);
    const bytes = new Uint8Array(2 * LENGTH).fill(9);
    expect(filesystem.write(node, handle, bytes, 0, bytes.length, 1000)).toBe(LENGTH - 1000);
    const seen = new Uint8Array(SIZE);
    disk.read(seen, 0, SIZE, guestOffset(0));
    const runs = [4096, START + 999, START + 1000, START + LENGTH - 1, START + LENGTH].map((at) => seen[at]);
    expect(runs).toEqual([7, 7, 9, 9, 7]);
    expect(filesystem.read(node, handle, seen, 0, 4096, LENGTH - 10)).toBe(10);
    for (const at of [LENGTH, LENGTH + 1, SIZE, 2 ** 50]) {
      expect(filesystem.read(node, handle, seen, 0, 4096, at)).toBe(0);
      expect(errno(() => filesystem.write(node, handle, bytes, 0, 10, at))).toBe(ERRNO.EFBIG);
      expect(filesystem.write(node, handle, bytes, 0, 0, at)).toBe(0);
    }
  });

  test('has holes punched and zeros written inside it only, and data and holes are found inside it', () => {
    const { filesystem, disk } = new Subject();
    disk.write(new Uint8Array(SIZE - 4096).fill(7), 0, SIZE - 4096, guestOffset(4096));
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    const seek = (at: number, whence: number) => filesystem.lseek(node, 1, at, whence);
    expect([seek(0, SEEK_DATA), seek(0, SEEK_HOLE)]).toEqual([0, LENGTH]);
    filesystem.fallocate(node, 2, PUNCH_HOLE | KEEP_SIZE, 0, SIZE);
    expect(errno(() => seek(0, SEEK_DATA))).toBe(ERRNO.ENXIO);
    expect(seek(5, SEEK_HOLE)).toBe(5);
    expect(errno(() => seek(LENGTH, SEEK_HOLE))).toBe(ERRNO.ENXIO);
    const seen = new Uint8Array(SIZE);
    disk.read(seen, 0, SIZE, guestOffset(0));
    expect([START - 1, START, START + LENGTH - 1, START + LENGTH].map((at) => seen[at])).toEqual([7, 0, 0, 7]);
    filesystem.write(node, 2, new Uint8Array(4096).fill(1), 0, 4096, LENGTH - 4096);
    filesystem.fallocate(node, 2, ZERO_RANGE | KEEP_SIZE, LENGTH - 100, 10_000);
    disk.read(seen, 0, SIZE, guestOffset(0));
    expect([START + LENGTH - 101, START + LENGTH - 100, START + LENGTH].map((at) => seen[at])).toEqual([1, 0, 7]);
    expect(seek(0, SEEK_DATA)).toBe(LENGTH - 4096);
  });

  test('keeps its size: EPERM for truncate, EFBIG for fallocate beyond the end, nothing for its own size', () => {
    const { filesystem, disk } = new Subject();
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    for (const size of [0, LENGTH - SECTOR, LENGTH + SECTOR]) {
      expect(errno(() => filesystem.setattr(node, { size }))).toBe(ERRNO.EPERM);
      expect(errno(() => filesystem.setattr(node, { size }, filesystem.open(node, O_RDWR).handle))).toBe(ERRNO.EPERM);
    }
    expect(filesystem.setattr(node, { size: LENGTH }).size).toBe(LENGTH);
    for (const mode of [0, ZERO_RANGE]) {
      expect(errno(() => filesystem.fallocate(node, 2, mode, LENGTH - 512, 1024))).toBe(ERRNO.EFBIG);
    }
    filesystem.fallocate(node, 2, KEEP_SIZE, LENGTH - 512, 1024);
    expect([disk.size(), filesystem.getattr(node).size]).toEqual([SIZE, LENGTH]);
  });

  test('opened with O_TRUNC reads as zeros where the opener skips, up to the end that it gives and no further', () => {
    const { filesystem, disk } = new Subject();
    disk.write(new Uint8Array(LENGTH).fill(7), 0, LENGTH, guestOffset(START));
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    const { handle } = filesystem.open(node, O_WRONLY | O_TRUNC);
    filesystem.write(node, handle, new Uint8Array(10).fill(1), 0, 10, 5000);
    filesystem.setattr(node, { size: 9000 }, handle);
    expect(errno(() => filesystem.setattr(node, { size: LENGTH + 1 }, handle))).toBe(ERRNO.EFBIG);
    filesystem.release(node, handle);
    const seen = new Uint8Array(LENGTH);
    filesystem.read(node, 1, seen, 0, LENGTH, 0);
    expect([0, 4999, 5000, 5010, 8999, 9000].map((at) => seen[at])).toEqual([0, 0, 1, 0, 0, 7]);
    expect(filesystem.getattr(node).size).toBe(LENGTH);
  });

  test('tells what it is in its extended attributes, and shows no more blocks than it has', () => {
    const { filesystem, disk } = new Subject();
    disk.write(new Uint8Array(SIZE - 4096).fill(7), 0, SIZE - 4096, guestOffset(4096));
    const { ino: node, allocatedBytes } = filesystem.lookup(PARTITIONS, '1.raw');
    expect(allocatedBytes).toBe(LENGTH);
    expect(Buffer.from(filesystem.getxattr(node, 'user.imgfuse.partition')).toString()).toBe('1');
    expect(filesystem.listxattr(node)).toContain('user.imgfuse.format');
    expect(errno(() => filesystem.getxattr(DISK, 'user.imgfuse.partition'))).toBe(ERRNO.ENODATA);
  });
});

describe('the table', () => {
  test('is read once, however often somebody looks, and again after a change of it', () => {
    const subject = new Subject();
    const read = subject.readings();
    subject.list();
    const once = read.mock.calls.length;
    expect(once).toBeGreaterThan(0);
    for (let look = 0; look < 10; look++) subject.list(look % 2 === 0 ? subject.filesystem : subject.other);
    expect(read.mock.calls.length).toBe(once);
    const { handle } = subject.filesystem.open(DISK, O_RDWR);
    // behind everything that the reading looked at
    subject.filesystem.write(DISK, handle, new Uint8Array(SECTOR).fill(1), 0, SECTOR, SIZE / 2);
    subject.list();
    expect(read.mock.calls.length).toBe(once);
    subject.filesystem.fallocate(DISK, handle, ZERO_RANGE | KEEP_SIZE, 0, SECTOR);
    expect(subject.list(subject.other)).toEqual([]);
    expect(read.mock.calls.length).toBeGreaterThan(once);
  });

  test('gives a partition that begins or ends elsewhere another node, and the others keep theirs', () => {
    const subject = new Subject();
    const [first, second] = [subject.node(1), subject.node(2)];
    subject.filesystem.setattr(second, { mode: 0o640, uid: 77 });
    subject.writeTable({ ...FIRST, size: FIRST.size + 8 }, SECOND);
    const again = subject.node(1, subject.other);
    expect(again).not.toBe(first);
    expect(subject.node(1)).toBe(again);
    expect(subject.node(2)).toBe(second);
    expect(subject.filesystem.getattr(second)).toMatchObject({ mode: 0o100640, uid: 77 });
    for (const action of [
      () => subject.filesystem.getattr(first),
      () => subject.other.open(first, O_RDONLY),
      () => subject.other.read(first, 1, new Uint8Array(9), 0, 9, 0),
    ]) {
      expect(errno(action)).toBe(ERRNO.ENOENT);
    }
    // back where it was it is a third one: its pages are of another time
    subject.writeTable(FIRST, SECOND);
    expect([first, again]).not.toContain(subject.node(1));
    expect(nodesOf(subject.tree)).toHaveLength(5);
  });

  test('stays as it is while a partition is open, whoever has it', () => {
    const subject = new Subject([FIRST]);
    const node = subject.node(1);
    const { handle } = subject.other.open(node, O_RDONLY);
    // the guest overwrites the table through an overlapping partition, or another program does it in the image
    subject.disk.write(mbrSector([SECOND]), 0, SECTOR, guestOffset(0));
    subject.filesystem.takeOver(subject.disk);
    expect([subject.list(), subject.node(1)]).toEqual([[['1.raw', LENGTH, node]], node]);
    subject.other.release(node, handle);
    expect(subject.list()).toEqual([['1.raw', 256 * SECTOR, expect.any(Number)]]);
    expect(subject.node(1)).not.toBe(node);
  });

  test('is read again after a resize, and after a gap of an O_TRUNC handle became zeros', () => {
    const beyond: Slot = { type: 0x83, start: 1024, size: 8192 };
    const subject = new Subject([FIRST, beyond]);
    expect(subject.list()[1]).toEqual(['2.raw', SIZE - 1024 * SECTOR, expect.any(Number)]);
    subject.filesystem.setattr(DISK, { size: 8 * SIZE });
    expect(subject.list()[1]![1]).toBe(8192 * SECTOR);
    const { handle } = subject.filesystem.open(DISK, O_WRONLY | O_TRUNC);
    subject.filesystem.write(DISK, handle, new Uint8Array(1), 0, 1, 4096);
    expect(subject.list(subject.other)).toEqual([]);
  });

  test('is read again if it changed while it was being read', () => {
    const subject = new Subject([FIRST]);
    const { handle } = subject.other.open(DISK, O_RDWR);
    const read = subject.readings() as ReturnType<typeof vi.fn>;
    read.mockImplementationOnce((target: Uint8Array) => {
      target.set(mbrSector([FIRST]));
      subject.other.write(DISK, handle, mbrSector([SECOND]), 0, SECTOR, 0);
      return SECTOR;
    });
    subject.list();
    expect(subject.list()[0]![1]).toBe(256 * SECTOR);
  });

  test('that cannot be read is an error, and is read again at the next look', () => {
    const subject = new Subject();
    const read = subject.readings() as ReturnType<typeof vi.fn>;
    read.mockImplementationOnce(() => {
      throw new Error('the server does not answer');
    });
    expect(errno(() => subject.list())).toBe(ERRNO.EIO);
    expect(subject.list()).toHaveLength(2);
  });
});

describe('two files with the same bytes', () => {
  const OVERLAPPING: readonly (Slot | null)[] = [FIRST, SECOND, { type: 0x83, start: 600, size: 100 }];

  test.each([
    ['a writer refuses a writer', O_RDWR, O_RDWR, ERRNO.EBUSY],
    ['a reader refuses a writer', O_RDONLY, O_RDWR, ERRNO.EBUSY],
    ['a writer lets a reader in, past the pages', O_RDWR, O_RDONLY, 0],
    ['a reader lets a reader in', O_RDONLY, O_RDONLY, 0],
  ])('%s', (_name, first, second, expected) => {
    for (const [one, two] of [
      [0, 1],
      [1, 0],
      [1, 3],
      [3, 1],
    ] as const) {
      const subject = new Subject(OVERLAPPING);
      const node = (number: number) => (number === 0 ? DISK : subject.node(number));
      const held = subject.other.open(node(one), first, 4711);
      let opened: ReturnType<TreeOfFiles['open']> | null = null;
      const answer = errno(() => {
        opened = subject.filesystem.open(node(two), second);
      });
      expect(answer).toBe(expected);
      if (expected === 0) expect(opened!.pages).toBe(first === O_RDONLY ? 'keep' : 'bypass');
      const name = (number: number) => (number === 0 ? 'disk.raw' : `partitions/${number}.raw`);
      const refusal = { name: name(two), holderName: name(one), holderWrites: first !== O_RDONLY, holder: 4711 };
      expect(subject.refusals).toEqual(expected === 0 ? [] : [refusal]);
      subject.other.release(node(one), held.handle);
      expect(errno(() => subject.filesystem.open(node(two), second))).toBe(0);
    }
  });

  test('that lie beside each other are none: each has its writer, and one file has several', () => {
    const subject = new Subject();
    for (const number of [1, 2, 1]) expect(subject.filesystem.open(subject.node(number), O_RDWR).pages).toBe('keep');
  });

  const close = ({ filesystem }: Subject, at: number, { handle }: { handle: number }) => filesystem.release(at, handle);

  test('never keep pages from before the other was open for writing: they are dropped before the file is open', () => {
    const subject = new Subject();
    const { filesystem, other, dropped } = subject;
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    close(subject, node, filesystem.open(node, O_RDONLY));
    close(subject, DISK, filesystem.open(DISK, O_RDWR));
    expect(dropped).toEqual([]);
    const [one, two] = [filesystem.open(node, O_RDONLY), other.open(node, O_RDWR)];
    expect([one.pages, two.pages, dropped]).toEqual(['keep', 'keep', [node]]);
    close(subject, node, one);
    close(subject, node, two);
    expect(other.open(node, O_RDONLY).pages).toBe('keep');
    expect(dropped, 'the pages are true').toEqual([node]);
    expect(filesystem.open(DISK, O_RDONLY).pages).toBe('keep');
    expect(dropped).toEqual([node, DISK]);
    expect(filesystem.getattr(node).mtimeMs).toBe(5000);
    expect(subject.refusals).toEqual([]);
  });

  test('drop no pages while somebody has the file open: who comes then goes past them, until all have closed it', () => {
    const subject = new Subject();
    const { filesystem, dropped } = subject;
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    const writer = filesystem.open(DISK, O_RDWR);
    const beside = filesystem.open(node, O_RDONLY);
    expect([beside.pages, dropped]).toEqual(['bypass', [node]]);
    filesystem.write(DISK, writer.handle, new Uint8Array(10), 0, 10, START);
    close(subject, DISK, writer);
    // the reader may have mapped the file while it was written
    const next = filesystem.open(node, O_RDWR);
    close(subject, node, beside);
    const last = filesystem.open(node, O_RDONLY);
    expect([next.pages, last.pages, dropped]).toEqual(['bypass', 'bypass', [node]]);
    close(subject, node, next);
    close(subject, node, last);
    expect([filesystem.open(node, O_RDWR).pages, dropped]).toEqual(['keep', [node, node]]);
    expect(filesystem.getattr(node).mtimeMs, 'what was written through the disk').toBeGreaterThan(5000);
  });

  test('drop the pages of a mapping before each opening beside the writer, and never count them as true meanwhile', () => {
    const subject = new Subject();
    const { filesystem, dropped } = subject;
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    const writer = filesystem.open(DISK, O_RDWR);
    for (const count of [1, 2]) {
      const beside = filesystem.open(node, O_RDONLY);
      close(subject, node, beside);
      expect([beside.pages, dropped.length]).toEqual(['bypass', count]);
    }
    close(subject, DISK, writer);
  });

  test('a write beside a reader that may have mapped the bytes makes the kernel drop the pages of that reader only', async () => {
    const subject = new Subject();
    const { filesystem, tree } = subject;
    const node = filesystem.lookup(PARTITIONS, '1.raw').ino;
    const writer = filesystem.open(node, O_RDWR);
    const beside = filesystem.open(DISK, O_RDONLY);
    filesystem.write(node, writer.handle, new Uint8Array(10), 0, 10, 0);
    const drops: number[] = [];
    let isOver = false;
    const dropping = dropStalePages(tree, async (each) => {
      drops.push(each);
      // a writer through pages that comes while the kernel drops them would lose what it is writing
      close(subject, DISK, beside);
      close(subject, node, writer);
      const late = filesystem.open(DISK, O_RDWR);
      expect(late.pages).toBe('bypass');
      close(subject, DISK, late);
      isOver = true;
      throw new Error('the test is over');
    });
    await expect(dropping).rejects.toThrow('the test is over');
    expect([drops, isOver]).toEqual([[DISK], true]);
    expect(filesystem.open(DISK, O_RDWR).pages, 'the drop has ended').toBe('keep');
    await handlesOf(tree).dropBeside(() => Promise.reject(new Error('nobody reads beside a writer')));
  });

  test('more open files than there is room to remember are closed like the others', () => {
    const subject = new Subject();
    const node = subject.node(1);
    const handles = Array.from({ length: 1500 }, () => subject.filesystem.open(node, O_RDWR).handle);
    expect(errno(() => subject.filesystem.open(DISK, O_RDWR))).toBe(ERRNO.EBUSY);
    for (const handle of handles) subject.filesystem.release(node, handle);
    expect(errno(() => subject.filesystem.open(DISK, O_RDWR))).toBe(0);
  });
});

test('a hostile table with as many partitions as there can be is listed, found and closed like any other', () => {
  const subject = new Subject(Array.from({ length: 4 }, (_, index) => ({ type: 0x83, start: 1 + index, size: 2000 })));
  expect(subject.list().map(([name]) => name)).toEqual(['1.raw', '2.raw', '3.raw', '4.raw']);
  expect(errno(() => subject.filesystem.open(subject.node(4), O_RDWR))).toBe(0);
  expect(errno(() => subject.filesystem.open(subject.node(1), O_RDWR))).toBe(ERRNO.EBUSY);
});
