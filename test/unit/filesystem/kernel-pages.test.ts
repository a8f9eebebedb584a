// Pages of the kernel beneath which bytes change otherwise than it knows: by the gap of a handle opened with O_TRUNC, or by a write that
// goes past them. They are dropped before the reply where somebody uses them, and where nobody does they count as untrue.

import { describe, expect, test, vi } from 'vitest';
import { O_DIRECT, O_TRUNC } from '../../../src/bytes/linux.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ERRNO, ImgfuseError } from '../../../src/errors/index.ts';
import { createTree } from '../../../src/filesystem/index.ts';
import { raw } from '../../../src/format/raw/index.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { TreeOfFiles } from '../../support/tree-of-files.ts';

const NODE = 2;
const O_RDWR = 2;
const ZERO_RANGE = 16;

/** Bytes of pages that were dropped before a reply. */
type Drop = readonly [node: number, start: number, end: number];

function withPages(bypassedByDirect = true) {
  const disk = new VirtualDisk(openImage(raw, createMemoryImage(raw, 64 * 1024, {})));
  const tree = createTree(disk, { rootIsFile: false, uid: 0, gid: 0 });
  const drops: Drop[] = [];
  const whole: number[] = [];
  const filesystem = new TreeOfFiles(disk, tree, undefined, undefined, {
    bypassedByDirect,
    drop: (node) => whole.push(node),
    dropBeforeReply: (...drop) => drops.push(drop),
  });
  const write = (handle: number, at: number) => filesystem.write(NODE, handle, new Uint8Array(1), 0, 1, at);
  return { filesystem, drops, whole, write };
}

test('the pages of a skipped gap are dropped before the reply, if somebody uses pages of the file', () => {
  const { filesystem, drops, whole, write } = withPages();
  const reader = filesystem.open(NODE, 0);
  const { handle } = filesystem.open(NODE, O_RDWR | O_TRUNC);
  write(handle, 0);
  expect(drops, 'nothing was skipped').toEqual([]);
  write(handle, 100);
  filesystem.fallocate(NODE, handle, ZERO_RANGE, 200, 10);
  filesystem.setattr(NODE, { size: 300 }, handle);
  expect(drops).toEqual([
    [NODE, 1, 100],
    [NODE, 101, 200],
    [NODE, 210, 300],
  ]);
  // the pages that are left are true, so nobody need go past them
  for (const flags of [0, O_RDWR]) expect(filesystem.open(NODE, flags).pages).toBe('keep');
  filesystem.release(NODE, reader.handle);
  expect(whole).toEqual([]);
});

test('after a gap that nobody has seen, whoever opens the file goes past the pages, and when all have closed it they are dropped', () => {
  const { filesystem, drops, whole, write } = withPages();
  const { handle } = filesystem.open(NODE, O_RDWR | O_TRUNC);
  const early = filesystem.open(NODE, 0);
  expect(early.pages).toBe('keep');
  filesystem.release(NODE, early.handle);
  write(handle, 100);
  const late = filesystem.open(NODE, O_RDWR);
  expect([late.pages, drops, whole]).toEqual(['bypass', [], []]);
  filesystem.release(NODE, late.handle);
  filesystem.release(NODE, handle);
  expect([filesystem.open(NODE, O_RDWR).pages, drops, whole]).toEqual(['keep', [], [NODE]]);
});

test('a gap that could be zeroed in part only has its pages dropped all the same', () => {
  const { filesystem, drops, write } = withPages();
  filesystem.open(NODE, 0);
  const { handle } = filesystem.open(NODE, O_RDWR | O_TRUNC);
  const full = () => {
    throw new ImgfuseError('no-space', 'the host is full', { errno: ERRNO.ENOSPC });
  };
  const discard = vi.spyOn(VirtualDisk.prototype, 'discard').mockImplementationOnce(full);
  expect(() => write(handle, 100)).toThrow('full');
  discard.mockRestore();
  expect(drops).toEqual([[NODE, 0, 100]]);
});

test('where the handle itself uses pages they are dropped, too', () => {
  const { filesystem, drops, write } = withPages(false);
  const { handle } = filesystem.open(NODE, O_RDWR | O_TRUNC);
  write(handle, 100);
  expect(drops).toEqual([[NODE, 0, 100]]);
});

describe('a write past the pages', () => {
  const direct = ({ filesystem }: ReturnType<typeof withPages>, handle: number) =>
    filesystem.write(NODE, handle, new Uint8Array(10), 0, 10, 5000, true);

  test('has the pages of its bytes dropped before the reply while somebody else uses pages, and only then', () => {
    const subject = withPages();
    const { filesystem, drops } = subject;
    const [one, two] = [filesystem.open(NODE, O_RDWR | O_DIRECT), filesystem.open(NODE, O_RDWR | O_DIRECT)];
    direct(subject, one.handle);
    expect(drops, 'nobody uses pages').toEqual([]);
    const reader = filesystem.open(NODE, 0);
    direct(subject, two.handle);
    subject.write(two.handle, 100);
    expect([reader.pages, drops]).toEqual(['keep', [[NODE, 5000, 5010]]]);
    filesystem.release(NODE, reader.handle);
    direct(subject, one.handle);
    expect(drops).toHaveLength(1);
  });

  test('through a handle that uses pages itself counts the others only: a loop device may do so', () => {
    const subject = withPages();
    const loop = subject.filesystem.open(NODE, O_RDWR);
    direct(subject, loop.handle);
    expect(subject.drops).toEqual([]);
    subject.filesystem.open(NODE, 0);
    direct(subject, loop.handle);
    expect(subject.drops).toEqual([[NODE, 5000, 5010]]);
  });

  test('may be under way when the last reader of pages goes: the next one goes past them, until all have closed the file', () => {
    const { filesystem, whole } = withPages();
    const writer = filesystem.open(NODE, O_RDWR | O_DIRECT);
    const reader = filesystem.open(NODE, 0);
    filesystem.release(NODE, reader.handle);
    const next = filesystem.open(NODE, 0);
    expect([reader.pages, next.pages, whole]).toEqual(['keep', 'bypass', []]);
    for (const { handle } of [writer, next]) filesystem.release(NODE, handle);
    expect([filesystem.open(NODE, 0).pages, whole]).toEqual(['keep', [NODE]]);
  });
});
