// A handle opened with O_TRUNC: what it skips reads as zeros, the disk keeps its size and what lies beyond, and no byte that
// another handle has written meanwhile is lost.

import { threadId } from 'node:worker_threads';
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ERRNO, ImgfuseError } from '../../../src/errors/index.ts';
import { abandonTree, createTree } from '../../../src/filesystem/index.ts';
import { createTruncationStates, DISK_EXTENTS, Truncation } from '../../../src/filesystem/truncation.ts';
import type { WritableFormat } from '../../../src/format/image-format.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { raw } from '../../../src/format/raw/index.ts';
import { vdi } from '../../../src/format/vdi/index.ts';
import { vhdx } from '../../../src/format/vhdx/index.ts';
import { vmdk } from '../../../src/format/vmdk/index.ts';
import { vpc } from '../../../src/format/vpc/index.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { plainParallels } from '../../support/plain-parallels.ts';
import { TreeOfFiles } from '../../support/tree-of-files.ts';

const SIZE = 64 * 1024;
const NODE = 2;
const [O_WRONLY, O_RDWR, O_TRUNC] = [1, 2, 0o1000];
const [KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE] = [1, 2, 16];
const GUESSED = 0;

const FORMATS: readonly (readonly [WritableFormat, Readonly<Record<string, string>>])[] = [
  [raw, {}],
  [qed, { cluster_size: '4k', table_size: '1' }],
  [qcow2, { cluster_size: '512' }],
  [vdi, { block_size: '4k' }],
  [vpc, { block_size: '4k' }],
  [vmdk, { grain_size: '4k' }],
  [vhdx, { block_size: '1M' }],
  [plainParallels, { cluster_size: '4k' }],
];

class Subject {
  readonly disk: VirtualDisk;
  readonly tree: ReturnType<typeof createTree>;
  readonly filesystem: TreeOfFiles;

  constructor(format: WritableFormat = raw, options: Readonly<Record<string, string>> = {}) {
    this.disk = new VirtualDisk(openImage(format, createMemoryImage(format, SIZE, options)));
    this.tree = createTree(this.disk, { rootIsFile: false, uid: 0, gid: 0 });
    this.filesystem = new TreeOfFiles(this.disk, this.tree);
    this.disk.write(new Uint8Array(SIZE).fill(255), 0, SIZE, guestOffset(0));
  }

  open(flags = 0): number {
    return this.filesystem.open(NODE, O_WRONLY | flags).handle;
  }

  write(handle: number, value: number, start: number, end: number): void {
    this.filesystem.write(NODE, handle, new Uint8Array(end - start).fill(value), 0, end - start, start);
  }

  bytes(): Uint8Array {
    const bytes = new Uint8Array(this.disk.size());
    this.disk.read(bytes, 0, bytes.length, guestOffset(0));
    return bytes;
  }

  /** What the disk holds, as [first byte, value] of each run. */
  runs(): [number, number][] {
    const runs: [number, number][] = [];
    this.bytes().forEach((value, at) => {
      if (runs.at(-1)?.[1] !== value) runs.push([at, value]);
    });
    return runs;
  }
}

describe.each(FORMATS)('$name', (format, options) => {
  const make = () => new Subject(format, options);

  test('the holes of a copied file become zeros, and what lies beyond its last byte stays', () => {
    const subject = make();
    const handle = subject.open(O_TRUNC);
    subject.write(handle, 1, 1000, 2000);
    subject.write(handle, 2, 30_000, 30_001);
    expect(subject.runs()).toEqual([
      [0, 0],
      [1000, 1],
      [2000, 0],
      [30_000, 2],
      [30_001, 255],
    ]);
  });

  test('ftruncate ends the file with a hole and leaves the size alone', () => {
    const subject = make();
    const handle = subject.open(O_TRUNC);
    subject.write(handle, 1, 0, 10);
    expect(subject.filesystem.setattr(NODE, { size: 5000 }, handle).size).toBe(SIZE);
    expect(subject.runs()).toEqual([
      [0, 1],
      [10, 0],
      [5000, 255],
    ]);
    subject.filesystem.setattr(NODE, { size: SIZE }, handle);
    expect(subject.runs()).toEqual([
      [0, 1],
      [10, 0],
    ]);
    expect(subject.filesystem.setattr(NODE, { size: 2 * SIZE }, handle).size).toBe(2 * SIZE);
  });
});

test('an opening with O_TRUNC alone changes nothing, nor does a write of a handle without it', () => {
  const subject = new Subject();
  subject.filesystem.release(NODE, subject.open(O_TRUNC));
  subject.write(subject.open(), 1, 5000, 5001);
  expect(subject.runs()).toEqual([
    [0, 255],
    [5000, 1],
    [5001, 255],
  ]);
});

test('writes that arrive out of order lose nothing', () => {
  const subject = new Subject();
  const handle = subject.open(O_TRUNC);
  subject.write(handle, 3, 9000, 10_000);
  subject.write(handle, 1, 0, 1000);
  subject.write(handle, 2, 1000, 3000);
  expect(subject.runs()).toEqual([
    [0, 1],
    [1000, 2],
    [3000, 0],
    [9000, 3],
    [10_000, 255],
  ]);
});

test('what another handle, or a mapping, has written since the opening stays', () => {
  const subject = new Subject();
  const other = subject.open();
  subject.write(other, 9, 0, 10);
  const handle = subject.open(O_TRUNC);
  subject.write(other, 7, 4000, 4100);
  subject.write(GUESSED, 8, 4100, 4200);
  subject.write(other, 6, 20_000, 20_001);
  subject.write(handle, 1, 5000, 6000);
  expect(subject.runs()).toEqual([
    [0, 0],
    [4000, 7],
    [4100, 8],
    [4200, 0],
    [5000, 1],
    [6000, 255],
    [20_000, 6],
    [20_001, 255],
  ]);
});

test('a second opening with O_TRUNC empties the file of the first', () => {
  const subject = new Subject();
  const first = subject.open(O_TRUNC);
  subject.write(first, 1, 0, 1000);
  const second = subject.open(O_TRUNC);
  subject.write(second, 2, 500, 600);
  subject.filesystem.release(NODE, second);
  subject.write(first, 3, 1000, 1100);
  expect(subject.runs()).toEqual([
    [0, 0],
    [500, 2],
    [600, 0],
    [1000, 3],
    [1100, 255],
  ]);
});

test('fallocate ends the file where it would end a plain one', () => {
  const subject = new Subject();
  const handle = subject.open(O_TRUNC);
  subject.filesystem.fallocate(NODE, handle, KEEP_SIZE, 0, 3000);
  subject.filesystem.fallocate(NODE, handle, PUNCH_HOLE | KEEP_SIZE, 100, 100);
  expect(subject.runs()).toEqual([
    [0, 255],
    [100, 0],
    [200, 255],
  ]);
  subject.filesystem.fallocate(NODE, handle, 0, 500, 500);
  expect(subject.runs()).toEqual([
    [0, 0],
    [1000, 255],
  ]);
  subject.filesystem.fallocate(NODE, handle, ZERO_RANGE, 3000, 1000);
  expect(subject.runs()).toEqual([
    [0, 0],
    [4000, 255],
  ]);
});

test('a write beyond the end of the disk fails and zeroes nothing', () => {
  const subject = new Subject();
  const handle = subject.open(O_TRUNC);
  expect(() => subject.write(handle, 1, SIZE, SIZE + 1)).toThrow('beyond the end');
  expect(subject.runs()).toEqual([[0, 255]]);
});

test('a gap that could not be zeroed fails the write, and the next write tries again', () => {
  const subject = new Subject();
  const handle = subject.open(O_TRUNC);
  const full = () => {
    throw new ImgfuseError('no-space', 'the host is full', { errno: ERRNO.ENOSPC });
  };
  const discard = vi.spyOn(subject.disk, 'discard').mockImplementationOnce(full);
  expect(() => subject.write(handle, 1, 500, 600)).toThrow('full');
  expect(subject.runs()).toEqual([[0, 255]]);
  subject.write(handle, 1, 500, 600);
  expect(subject.runs()).toEqual([
    [0, 0],
    [500, 1],
    [600, 255],
  ]);
  discard.mockRestore();
});

test('more extents of others than there is room for lose none of their bytes', () => {
  const truncation = new Truncation(createTruncationStates(1, DISK_EXTENTS));
  truncation.open();
  const isWritten = new Uint8Array(3 * 4096);
  for (let round = 0; round < 3; round++) {
    for (let at = round; at < isWritten.length; at += 6 - round) {
      truncation.note(at, at + 1);
      isWritten[at] = 1;
    }
  }
  let lost = 0;
  truncation.extend(isWritten.length, isWritten.length, (start, length) => {
    lost += isWritten.subarray(start, start + length).filter((written) => written === 1).length;
  });
  expect(lost).toBe(0);
});

test('a thread that died while it zeroed a gap leaves an error, and nobody waiting', () => {
  const { filesystem, tree, disk } = new Subject();
  const { handle } = filesystem.open(NODE, O_RDWR | O_TRUNC);
  const byOther = () => new TreeOfFiles(disk, tree).write(NODE, handle, new Uint8Array(1), 0, 1, 200);
  const discard = vi.spyOn(disk, 'discard').mockImplementationOnce(() => {
    // this thread holds the mutex; for the others it is dead from here on
    abandonTree(tree, threadId);
    expect(byOther).toThrow(/a thread died .* O_TRUNC/);
  });
  filesystem.write(NODE, handle, new Uint8Array(1), 0, 1, 100);
  expect(discard).toHaveBeenCalledOnce();
  // the death of a thread that held nothing hurts nobody
  abandonTree(tree, threadId);
  expect(byOther()).toBe(1);
});

/** The rule, byte by byte: a file cut to nothing by each opening, over a disk that keeps the rest. */
class Model {
  bytes = new Uint8Array(SIZE).fill(255);
  private written: boolean[] = [];
  private end = 0;
  private handles = 0;

  open(): void {
    this.handles++;
    this.end = 0;
    this.written = [];
  }

  release(): void {
    this.handles--;
  }

  private fill(value: number, start: number, end: number): void {
    if (end > this.bytes.length) {
      const longer = new Uint8Array(end);
      longer.set(this.bytes);
      this.bytes = longer;
    }
    this.bytes.fill(value, start, end);
  }

  other(value: number, start: number, end: number): void {
    this.fill(value, start, end);
    if (this.handles === 0) return;
    for (let at = start; at < end; at++) if (at >= this.end) this.written[at] = true;
  }

  extend(start: number, end: number): void {
    if (end > this.bytes.length) this.fill(0, this.bytes.length, end);
    for (let at = this.end; at < start; at++) if (this.written[at] !== true) this.bytes[at] = 0;
    this.end = Math.max(this.end, end);
  }

  cut(end: number): void {
    for (let at = end; at < this.end; at++) this.written[at] = false;
    this.end = Math.min(this.end, end);
  }
}

const range = fc.tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 6000 })).map(([start, length]) => ({
  start,
  end: Math.min(SIZE, start + length),
}));
const operation = fc.oneof(
  fc.record({ kind: fc.constant('open' as const), truncates: fc.boolean() }),
  fc.record({ kind: fc.constant('release' as const), which: fc.nat() }),
  fc.record({ kind: fc.constantFrom('write', 'page', 'punch', 'zero', 'allocate'), which: fc.nat(), range }),
  fc.record({ kind: fc.constant('ftruncate' as const), which: fc.nat(), size: fc.nat(SIZE / 512) }),
);

test.each(FORMATS)('any history of handles does what the rule says ($name)', (format, options) => {
  fc.assert(
    fc.property(fc.array(operation, { minLength: 5, maxLength: 40 }), (operations) => {
      const subject = new Subject(format, options);
      const model = new Model();
      const { filesystem } = subject;
      const handles: { handle: number; truncates: boolean }[] = [];
      let value = 0;
      for (const each of operations) {
        value = (value % 250) + 1;
        if (each.kind === 'open') {
          handles.push({ handle: subject.open(each.truncates ? O_TRUNC : 0), truncates: each.truncates });
          if (each.truncates) model.open();
          continue;
        }
        if (handles.length === 0) continue;
        const which = each.which % handles.length;
        const { handle, truncates } = handles[which]!;
        if (each.kind === 'release') {
          handles.splice(which, 1);
          filesystem.release(NODE, handle);
          if (truncates) model.release();
        } else if ('size' in each) {
          const size = each.size * 512;
          if (!truncates) continue;
          filesystem.setattr(NODE, { size }, handle);
          model.cut(size);
          model.extend(size, size);
        } else {
          const { start, end } = each.range;
          const length = end - start;
          if (each.kind === 'write') {
            subject.write(handle, value, start, end);
            if (truncates) {
              model.extend(start, end);
              model.bytes.fill(value, start, end);
            } else model.other(value, start, end);
          } else if (each.kind === 'page') {
            subject.write(GUESSED, value, start, end);
            model.other(value, start, end);
          } else if (each.kind === 'punch') {
            filesystem.fallocate(NODE, handle, PUNCH_HOLE | KEEP_SIZE, start, length);
            model.bytes.fill(0, start, end);
          } else if (each.kind === 'zero') {
            filesystem.fallocate(NODE, handle, ZERO_RANGE, start, length);
            if (truncates) model.extend(start, end);
            model.bytes.fill(0, start, end);
          } else {
            filesystem.fallocate(NODE, handle, 0, start, length);
            if (truncates) model.extend(end, end);
          }
        }
        expect(Buffer.compare(subject.bytes(), model.bytes)).toBe(0);
      }
    }),
    { numRuns: 150 },
  );
});
