// `imgfuse map` beside `qemu-img map` on the same images, and what cp is told of preallocated clusters: those that nobody has
// written are zeros, whatever the tables say.

import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { type MapEntry, mapDisk } from '../../src/cli/commands/map.ts';
import { type OpenDiskOptions, openDisk } from '../../src/disk/index.ts';
import { readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuImg, qemuIo } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

const MIB = 1024 * 1024;

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function path(name: string): string {
  return join(folder, name);
}

type Entry = Omit<MapEntry, 'filename'>;

/** What QEMU says; a zero cluster that keeps its place has an offset there, which it has not got here. */
function theirs(name: string, format: string): Entry[] {
  const entries = JSON.parse(qemuImg('map', '-f', format, '--output=json', path(name))) as Entry[];
  return joined(format === 'raw' ? entries : entries.map((entry) => (entry.data ? entry : withoutOffset(entry))));
}

function ours(name: string, format: string): Entry[] {
  return withDisk(path(name), { readOnly: true, format }, (disk) =>
    [...mapDisk(disk)].map(({ filename: _, ...entry }) => entry),
  );
}

function withoutOffset({ offset: _, ...entry }: Entry): Entry {
  return entry;
}

function joined(entries: readonly Entry[]): Entry[] {
  const list: Entry[] = [];
  for (const next of entries) {
    const last = list.at(-1);
    const end = last?.offset === undefined ? undefined : last.offset + last.length;
    const same = last !== undefined && end === next.offset;
    if (same && (['depth', 'present', 'zero', 'data'] as const).every((key) => last[key] === next[key]))
      list[list.length - 1] = { ...last, length: last.length + next.length };
    else list.push(next);
  }
  return list;
}

const WHOLE_CLUSTERS = ['write 1M 64k', 'write -z 4M 64k', 'write 6M 192k'];
/** The first cluster of these has a hole behind what is written. QEMU looks for holes where it takes an image for preallocated. */
const WRITES = ['write 3M 4k', ...WHOLE_CLUSTERS];
/** The same in blocks of 2 MiB: QEMU leaves the rest of a block alone. */
const WHOLE_BLOCKS = ['write 6M 2M', 'write 0 4M'];

function writesFor(format: string, options: readonly string[]): string[] {
  if (format === 'vpc' && !options.includes('subformat=fixed')) return WHOLE_BLOCKS;
  if (format === 'parallels') return options.length === 0 ? WHOLE_BLOCKS : WHOLE_CLUSTERS;
  const writes = format === 'qcow2' && options.length === 0 ? WHOLE_CLUSTERS : WRITES;
  // version 2 has no zero clusters
  return writes.filter((write) => !write.includes('-z') || !options.includes('compat=0.10'));
}

/** Of VHDX QEMU says nothing: all of the disk is data for it, without a place. */
describe('the ranges of', () => {
  test.each([
    ['qcow2', []],
    ['qcow2', ['preallocation=metadata']],
    ['qcow2', ['preallocation=metadata', 'extended_l2=on']],
    ['qcow2', ['preallocation=full']],
    ['qcow2', ['compat=0.10', 'preallocation=metadata']],
    ['qed', []],
    ['qcow', []],
    ['vdi', []],
    ['vdi', ['static=on']],
    ['vmdk', []],
    ['vmdk', ['zeroed_grain=on']],
    ['vmdk', ['subformat=twoGbMaxExtentSparse']],
    ['parallels', []],
    ['parallels', ['cluster_size=64k']],
    // but for flat extents, whose holes are data and zeros at once for QEMU
    ['vpc', []],
    ['vpc', ['force_size=on']],
    ['vpc', ['subformat=fixed']],
    ['raw', []],
  ])('a %s image with %j are those of qemu-img', (format, options) => {
    const list = options.length === 0 ? [] : ['-o', options.join(',')];
    qemuImg('create', '-q', '-f', format, ...list, path('disk'), '8M');
    expect(ours('disk', format)).toEqual(theirs('disk', format));
    qemuIo(path('disk'), format, ...writesFor(format, options));
    expect(ours('disk', format)).toEqual(theirs('disk', format));
  });

  test('an overlay over preallocated clusters, longer than its backing file, are those of qemu-img', () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', path('base'), '8M');
    qemuIo(path('base'), 'qcow2', ...WRITES);
    qemuImg('create', '-q', '-f', 'qcow2', '-b', path('base'), '-F', 'qcow2', path('middle'), '12M');
    qemuIo(path('middle'), 'qcow2', 'write 2M 64k', 'write -z 1M 32k');
    qemuImg('create', '-q', '-f', 'qed', '-b', path('middle'), '-F', 'qcow2', path('top'), '16M');
    qemuIo(path('top'), 'qed', 'write 5M 64k');
    for (const [name, format] of [
      ['middle', 'qcow2'],
      ['top', 'qed'],
    ] as const)
      expect(ours(name, format)).toEqual(theirs(name, format));
  });

  test('a Parallels cluster that was written in part are those of qemu-img, and say where the host has nothing', () => {
    qemuImg('create', '-q', '-f', 'parallels', path('disk'), '8M');
    qemuIo(path('disk'), 'parallels', ...WRITES);
    const entries = ours('disk', 'parallels');
    expect(entries.filter(({ data, zero }) => data && zero).length).toBeGreaterThan(0);
    expect(joined(entries.map((entry) => (entry.data ? { ...entry, zero: false } : entry)))).toEqual(
      theirs('disk', 'parallels'),
    );
  });

  test('space that the host has allocated and nobody has written are zeros at least where QEMU says so', () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'preallocation=falloc', path('disk'), '8M');
    qemuIo(path('disk'), 'qcow2', ...WRITES);
    const bytes = withDisk(path('disk'), { readOnly: true }, readAll);
    const entries = ours('disk', 'qcow2');
    for (const { start, length, zero } of entries)
      if (zero) expect(bytes.subarray(start, start + length).every((byte) => byte === 0)).toBe(true);
    for (const { start, length } of theirs('disk', 'qcow2').filter((entry) => entry.zero)) {
      const inside = entries.filter((entry) => entry.start < start + length && entry.start + entry.length > start);
      expect(inside.every((entry) => entry.zero)).toBe(true);
    }
  });
});

describe('a preallocated disk of 20 GiB', () => {
  const open = (options: Partial<OpenDiskOptions> = {}) => openDisk(path('disk'), { readOnly: false, ...options });

  test('has data for cp where something was written, and nowhere else', () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', path('disk'), '20G');
    const disk = open();
    try {
      expect(disk.seek(0, true)).toBe(disk.size());
      disk.write(new Uint8Array(MIB).fill(1), 0, MIB, guestOffset(10_000 * MIB));
      expect(disk.seek(0, true)).toBe(10_000 * MIB);
      expect(disk.seek(10_000 * MIB, false)).toBe(10_001 * MIB);
      expect(disk.seek(10_001 * MIB, true)).toBe(disk.size());
    } finally {
      disk.close();
    }
  });

  test('has none for cp below an overlay, either', () => {
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'preallocation=metadata', path('base'), '20G');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', path('base'), '-F', 'qcow2', path('disk'), '24G');
    const disk = open();
    try {
      expect(disk.seek(0, true)).toBe(disk.size());
      expect(disk.seek(0, false)).toBe(0);
    } finally {
      disk.close();
    }
  });
});
