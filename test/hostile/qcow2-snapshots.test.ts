// Snapshot tables that lie: a snapshot that cannot be read is not shown, with a sentence, and the disk is served all the same.
// Memory and time are bounded, and what the tables of a snapshot say is checked by the read that meets it (R10).

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import type { Image, SnapshotImage } from '../../src/format/image-format.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { MAX_READABLE_SNAPSHOTS } from '../../src/format/qcow2/snapshots/readable-snapshots.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import {
  COMPRESSED,
  COPIED,
  get64,
  placesOf,
  put32,
  put64,
  putSnapshots,
  type RawSnapshot,
} from '../support/qcow2-bytes.ts';

const CLUSTER = 65536;
const SIZE = 4 * CLUSTER;

interface Victim {
  readonly file: MemoryHostFile;
  /** of a snapshot whose L2 table maps nothing yet */
  readonly l1: number;
  readonly l2: number;
}

/** A disk of sevens, and room for the tables of a snapshot. */
function victim(options: Readonly<Record<string, string>> = {}): Victim {
  const file = createMemoryImage(qcow2, SIZE, options);
  const image = openImage(qcow2, file);
  image.write(new Uint8Array(SIZE).fill(7), 0, SIZE, guestOffset(0));
  image.close();
  const l1 = Math.ceil(file.size() / CLUSTER) * CLUSTER;
  file.truncate(l1 + 2 * CLUSTER);
  put64(file, l1, l1 + CLUSTER);
  return { file, l1, l2: l1 + CLUSTER };
}

function open(file: MemoryHostFile): { image: Image; sentences: string[]; names: string[] } {
  const sentences: string[] = [];
  const log = (sentence: string): void => void sentences.push(sentence);
  const image = openImage(qcow2, file.clone(true), { readOnly: true, wantsSnapshots: true, log });
  const bytes = new Uint8Array(SIZE);
  image.read(bytes, 0, SIZE, guestOffset(0));
  expect(
    bytes.every((byte) => byte === 7),
    'the disk',
  ).toBe(true);
  return { image, sentences, names: (image.snapshots?.list ?? []).map(({ name }) => name) };
}

function snapshotOf(file: MemoryHostFile): SnapshotImage {
  return open(file).image.snapshots!.open(0);
}

function readFirst(snapshot: SnapshotImage, length = CLUSTER): Uint8Array {
  const bytes = new Uint8Array(length);
  snapshot.read(bytes, 0, length, guestOffset(0));
  return bytes;
}

describe('a snapshot is not shown, and the disk is, with', () => {
  const wrong: readonly (readonly [string, (victim: Victim) => RawSnapshot, RegExp])[] = [
    ['an L1 table behind the end of the file', () => ({ l1Offset: 2 ** 40, l1Size: 1 }), /inside the file/],
    ['an L1 table that ends behind the file', ({ l1 }) => ({ l1Offset: l1, l1Size: 100_000 }), /inside the file/],
    ['an L1 table that is not aligned', ({ l1 }) => ({ l1Offset: l1 + 8, l1Size: 1 }), /aligned/],
    ['an L1 table at 2^64 - 1', () => ({ l1Offset: 2n ** 64n - 1n, l1Size: 1 }), /aligned/],
    ['an L1 table of 2^32 - 1 entries', ({ l1 }) => ({ l1Offset: l1, l1Size: 2 ** 32 - 1 }), /at most/],
    ['the L1 table of the disk', ({ file }) => ({ l1Offset: placesOf(file).l1, l1Size: 1 }), /in that of the image/],
    [
      'its L1 table in the refcount table',
      ({ file }) => ({ l1Offset: placesOf(file).refcountTable, l1Size: 1 }),
      /refcount/,
    ],
    [
      'a disk that the L1 table does not map',
      ({ l1 }) => ({ l1Offset: l1, l1Size: 1, diskSize: 2 ** 40 }),
      /map fewer/,
    ],
    ['a disk of 2^64 - 1 bytes', ({ l1 }) => ({ l1Offset: l1, l1Size: 1, diskSize: 2n ** 64n - 1n }), /map fewer/],
    ['no L1 entry for the disk', ({ l1 }) => ({ l1Offset: l1, l1Size: 0 }), /map fewer/],
    ['a name of 65535 bytes', ({ l1 }) => ({ l1Offset: l1, l1Size: 1, name: 'x'.repeat(65_535) }), /name of more than/],
  ];
  test.each(wrong)('%s', (_, snapshotFor, sentence) => {
    const made = victim();
    const good = { l1Offset: made.l1, l1Size: 1, id: '2', name: 'good' };
    putSnapshots(made.file, [{ name: 'bad\n\x1b[2J', ...snapshotFor(made) }, good]);
    const { names, sentences } = open(made.file);
    expect(names).toEqual(['good']);
    expect(sentences).toHaveLength(1);
    expect(sentences[0]).toMatch(sentence);
  });

  test('a table that ends before it says: the snapshots before its end are shown', () => {
    const { file, l1 } = victim();
    putSnapshots(file, [{ l1Offset: l1, l1Size: 1, name: 'a' }]);
    put32(file, 60, 3);
    const { names, sentences } = open(file);
    // what lies behind the entry is zeros up to the end of the file
    expect(names).toEqual(['a']);
    expect(sentences).toEqual([expect.stringContaining('1 of 3 snapshots are shown')]);
  });

  test.each([
    ['70000 snapshots', (file: MemoryHostFile) => put32(file, 60, 70_000)],
    ['a table that is not aligned', (file: MemoryHostFile) => put64(file, 64, get64(file, 64) + 8n)],
    ['a table behind the end of the file', (file: MemoryHostFile) => put64(file, 64, 2n ** 50n)],
  ])('%s', (_, damage) => {
    const { file, l1 } = victim();
    putSnapshots(file, [{ l1Offset: l1, l1Size: 1 }]);
    damage(file);
    const { names, sentences } = open(file);
    expect(names).toEqual([]);
    expect(sentences).toEqual([expect.stringContaining('0 of ')]);
  });

  test('an external data file, which keeps no old data', () => {
    const dataFile = new MemoryHostFile(new Uint8Array(0), 'x');
    const other = createMemoryImage(qcow2, SIZE, { data_file: 'x' }, undefined, { dataFile });
    putSnapshots(other, [{ l1Offset: placesOf(other).l1, l1Size: 1 }]);
    const sentences: string[] = [];
    const log = (sentence: string): void => void sentences.push(sentence);
    const image = openImage(qcow2, other.clone(true), { readOnly: true, wantsSnapshots: true, dataFile, log });
    expect(image.snapshots).toBeUndefined();
    expect(sentences).toEqual([expect.stringContaining('external data file')]);
  });
});

describe('the list of snapshots', () => {
  test('has names and ids as they are: empty, doubled, with NUL, slash and newline, and not UTF-8', () => {
    const { file, l1 } = victim();
    const names = ['', '.', '..', 'a/b', 'a\0b', 'a\nb', 'twice', 'twice'];
    const odd = { l1Offset: l1, l1Size: 1, name: Buffer.from([0xff, 0x41]), id: '' };
    putSnapshots(file, [...names.map((name) => ({ l1Offset: l1, l1Size: 1, id: '1', name })), odd]);
    const { image, names: found, sentences } = open(file);
    expect(found).toEqual([...names, '\udcffA']);
    expect(image.snapshots!.list.map(({ id }) => id)).toEqual([...names.map(() => '1'), '']);
    expect(sentences).toEqual([]);
  });

  test('of 65536 snapshots is as long as the limit, and takes less than two seconds of CPU time', () => {
    const { file, l1 } = victim();
    const all = Array.from({ length: 65_536 }, (_, i) => ({ l1Offset: l1, l1Size: 1, id: String(i), name: `n${i}` }));
    putSnapshots(file, all);
    const start = process.cpuUsage();
    const { names, sentences } = open(file);
    const { user, system } = process.cpuUsage(start);
    expect(names).toHaveLength(MAX_READABLE_SNAPSHOTS);
    expect(sentences).toEqual([expect.stringContaining(`the first ${MAX_READABLE_SNAPSHOTS} are shown`)]);
    expect((user + system) / 1e6).toBeLessThan(2);
  });

  test('of 65536 snapshots that cannot be read says a few sentences', () => {
    const { file } = victim();
    putSnapshots(
      file,
      Array.from({ length: 65_536 }, () => ({ l1Offset: 12, l1Size: 1 })),
    );
    const { names, sentences } = open(file);
    expect(names).toEqual([]);
    expect(sentences.length).toBeLessThan(20);
    expect(sentences.at(-1)).toContain('more snapshots are not shown');
  });
});

describe('a read of a snapshot', () => {
  test('gives zeros where its tables map nothing, and the size is that of the entry', () => {
    const { file, l1 } = victim();
    putSnapshots(file, [{ l1Offset: l1, l1Size: 1, diskSize: CLUSTER + 512 }]);
    const snapshot = snapshotOf(file);
    expect(snapshot.virtualSize()).toBe(CLUSTER + 512);
    expect(readFirst(snapshot).every((byte) => byte === 0)).toBe(true);
    expect(snapshot.mapContent(guestOffset(0), CLUSTER + 512)).toEqual({ status: 'zero', length: CLUSTER + 512 });
  });

  test.each([
    ['its own L1 table', ({ l1 }: Victim) => l1],
    ['the L1 table of the disk', ({ file }: Victim) => placesOf(file).l1],
    ['the refcount table', ({ file }: Victim) => placesOf(file).refcountTable],
    ['a place behind the end of the file', () => 2 ** 40],
    ['a place that is not aligned', ({ l2 }: Victim) => l2 + 512],
  ])('of an L1 or an L2 entry that leads to %s is an error, and nothing of it is read', (_, placeOf) => {
    for (const level of ['L1', 'L2'] as const) {
      const made = victim();
      put64(made.file, level === 'L1' ? made.l1 : made.l2, COPIED | BigInt(placeOf(made)));
      putSnapshots(made.file, [{ l1Offset: made.l1, l1Size: 1, name: 'evil\x1b' }]);
      expect(() => readFirst(snapshotOf(made.file))).toThrow(new RegExp(`snapshot "evil\\\\033": ${level} entry 0`));
    }
  });

  test('of an L2 table that refers to itself is an error', () => {
    const { file, l1, l2 } = victim();
    put64(file, l2, l2);
    putSnapshots(file, [{ l1Offset: l1, l1Size: 1 }]);
    expect(() => readFirst(snapshotOf(file))).toThrow(/L2 entry 0/);
  });

  test('of a compressed cluster of noise is an error', () => {
    const { file, l1, l2 } = victim();
    file.write(new Uint8Array(CLUSTER).fill(0xfe), 0, CLUSTER, hostOffset(l2 + CLUSTER));
    put64(file, l2, COMPRESSED | BigInt(l2 + CLUSTER));
    putSnapshots(file, [{ l1Offset: l1, l1Size: 1 }]);
    expect(() => readFirst(snapshotOf(file))).toThrow(/compressed cluster/);
  });

  test('of a damaged entry leaves a disk that is written as it is, and does not mark it corrupt', () => {
    const { file, l1, l2 } = victim();
    putSnapshots(file, [{ l1Offset: l1, l1Size: 1 }]);
    expect(qcow2.check(file, { repair: 'all', log: () => undefined }).checkErrors).toBe(0);
    const image = openImage(qcow2, file, { wantsSnapshots: true });
    const snapshot = image.snapshots!.open(0);
    // somebody writes past all locks
    put64(file, l2, 2 ** 40);
    expect(() => readFirst(snapshot)).toThrow(/L2 entry 0/);
    expect(image.failure()).toBeNull();
    image.write(new Uint8Array(512).fill(9), 0, 512, guestOffset(0));
    image.flush();
    expect(image.details().specific['corrupt']).toBe(false);
  });
});
