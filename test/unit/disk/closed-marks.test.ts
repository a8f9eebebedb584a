// The mark of a clean close: an image that nothing has changed since opens without a walk, and any other image is walked.

import { execFileSync } from 'node:child_process';
import {
  appendFileSync,
  chmodSync,
  closeSync,
  copyFileSync,
  linkSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  truncateSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import { createDisk, openDisk, type VirtualDisk } from '../../../src/disk/index.ts';
import { tellsChangesApart } from '../../../src/host/file-version.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';

const SIZE = 8 * 1024 * 1024;
const CLUSTER = 65536;
/** The option that makes a cluster of one of 64 KiB, where it is not. */
const UNITS: Readonly<Record<string, string>> = { vdi: 'block_size', parallels: 'cluster_size', vhdx: 'block_size' };

/** VHDX has no smaller blocks. */
function clusterOf(format: string): number {
  return format === 'vhdx' ? 16 * CLUSTER : CLUSTER;
}

interface EditableMark {
  version: number;
  boot: string;
  format: string;
  header: string;
  file: { device: string; inode: string; size: number; modified: string; changed: string };
  facts?: { allocatedClusters: unknown; free: unknown } | [];
}

let folder: string;
let marks: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  marks = join(folder, 'closed');
});
afterEach(() => removeTemporaryDirectory(folder));

/** A read-write disk, and whether its open has walked the tables. */
function open(path: string, format?: string): { disk: VirtualDisk; walked: boolean } {
  let walked = false;
  const progress = ({ doing }: { readonly doing: string }) => {
    walked ||= doing.startsWith('checking');
  };
  return { disk: openDisk(path, { readOnly: false, closedMarks: marks, format, progress }), walked };
}

function walksAtOpen(path: string): boolean {
  const { disk, walked } = open(path);
  disk.close();
  return walked;
}

/** An image with data, closed clean. */
function closedImage(format: string): string {
  const path = join(folder, `disk.${format}`);
  const unit = UNITS[format];
  const cluster = clusterOf(format);
  const options = new Map(unit === undefined ? [] : [[unit, String(cluster)]]);
  createDisk(path, format, { size: SIZE, options });
  const { disk } = open(path);
  for (let at = 0; at < SIZE; at += 2 * cluster)
    disk.write(new Uint8Array(cluster).fill(at / cluster), 0, cluster, guestOffset(at));
  disk.close();
  return path;
}

function editMark(change: (mark: EditableMark) => void): void {
  const path = join(marks, readdirSync(marks)[0]!);
  const mark = JSON.parse(readFileSync(path, 'utf8')) as EditableMark;
  change(mark);
  writeFileSync(path, JSON.stringify(mark));
}

function facts(mark: EditableMark): { allocatedClusters: unknown; free: unknown } {
  return mark.facts as { allocatedClusters: unknown; free: unknown };
}

function overwrite(path: string, at: number, bytes: Uint8Array): void {
  const descriptor = openSync(path, 'r+');
  writeSync(descriptor, bytes, 0, bytes.length, at);
  closeSync(descriptor);
}

describe.each(['qcow2', 'qed', 'vdi', 'vmdk', 'parallels', 'vhdx'])('a %s image that was closed clean', (format) => {
  const cluster = clusterOf(format);

  test('opens without a walk, as often as it is closed clean again', () => {
    const path = closedImage(format);
    for (let round = 0; round < 3; round++) {
      const { disk, walked } = open(path);
      expect(walked).toBe(false);
      expect(disk.allocatedBytes()).toBe(SIZE / 2 + round * cluster);
      disk.write(new Uint8Array(cluster).fill(7), 0, cluster, guestOffset((2 * round + 1) * cluster));
      disk.close();
    }
    expect(statSync(marks).mode & 0o777).toBe(0o700);
    expect(readdirSync(marks)).toHaveLength(1);
  });

  test('has no mark while it is open for writing', () => {
    const path = closedImage(format);
    const { disk } = open(path);
    expect(readdirSync(marks)).toEqual([]);
    disk.close();
    expect(readdirSync(marks)).toHaveLength(1);
    openDisk(path, { readOnly: true, closedMarks: marks }).close();
    expect(readdirSync(marks)).toHaveLength(1);
  });

  const changes: Readonly<Record<string, (path: string) => void>> = {
    'has a byte changed': (path) => overwrite(path, CLUSTER * 7, Uint8Array.of(1)),
    'has a byte written that was there before': (path) => overwrite(path, 100, Uint8Array.of(readFileSync(path)[100]!)),
    'is touched': (path) => utimesSync(path, new Date(), new Date()),
    'is longer': (path) => appendFileSync(path, new Uint8Array(CLUSTER)),
    'was renamed': (path) => {
      renameSync(path, `${path}.old`);
      renameSync(`${path}.old`, path);
    },
    'has a second name': (path) => linkSync(path, `${path}.link`),
    'has another mode': (path) => chmodSync(path, 0o640),
    'is a copy': (path) => {
      const { atime, mtime } = statSync(path);
      copyFileSync(path, `${path}.copy`);
      utimesSync(`${path}.copy`, atime, mtime);
      renameSync(`${path}.copy`, path);
    },
  };
  test.each(Object.keys(changes))('and %s is walked', (what) => {
    const path = closedImage(format);
    changes[what]!(path);
    expect(walksAtOpen(path)).toBe(true);
  });

  test('and has a byte changed and its old times again is walked', () => {
    const path = closedImage(format);
    const before = statSync(path, { bigint: true }).mtimeNs;
    const times = join(folder, 'times');
    execFileSync('touch', ['-r', path, times]);
    overwrite(path, CLUSTER * 7, Uint8Array.of(1));
    execFileSync('touch', ['-r', times, path]);
    expect(statSync(path, { bigint: true }).mtimeNs).toBe(before);
    expect(walksAtOpen(path)).toBe(true);
  });

  const forgeries: Readonly<Record<string, (mark: EditableMark) => void>> = {
    version: (mark) => (mark.version = 2),
    'running kernel': (mark) => (mark.boot = 'another'),
    format: (mark) => (mark.format = 'raw'),
    header: (mark) => (mark.header = '0'.repeat(64)),
    device: (mark) => (mark.file.device = '1'),
    inode: (mark) => (mark.file.inode = '1'),
    size: (mark) => (mark.file.size += CLUSTER),
    'time of the last write': (mark) => (mark.file.modified = '0'),
    'time of the last change': (mark) => (mark.file.changed = `${BigInt(mark.file.changed) - 1n}`),
    'facts (none)': (mark) => delete mark.facts,
    'facts (a list)': (mark) => (mark.facts = []),
    'number of clusters (too many)': (mark) => (facts(mark).allocatedClusters = SIZE / cluster + 1),
    'number of clusters (a fraction)': (mark) => (facts(mark).allocatedClusters = 1.5),
    'number of clusters (a word)': (mark) => (facts(mark).allocatedClusters = 'many'),
  };
  test.each(Object.keys(forgeries))('is walked if its mark has another %s', (what) => {
    const path = closedImage(format);
    editMark(forgeries[what]!);
    expect(walksAtOpen(path)).toBe(true);
  });

  test.each(['', 'no mark', '{"version":1}', 'null', '[]'])('is walked if its mark is %j', (text) => {
    const path = closedImage(format);
    writeFileSync(join(marks, readdirSync(marks)[0]!), text);
    expect(walksAtOpen(path)).toBe(true);
  });

  test('is walked if it was truncated, and the mark does not hide that', () => {
    const path = closedImage(format);
    truncateSync(path, statSync(path).size - cluster);
    expect(() => open(path)).toThrow();
  });

  test('is walked after a process that was killed', () => {
    const path = closedImage(format);
    const { disk } = open(path);
    disk.write(new Uint8Array(cluster).fill(9), 0, cluster, guestOffset(cluster));
    disk.flush();
    const copy = readFileSync(path);
    disk.close();
    writeFileSync(path, copy);
    expect(walksAtOpen(path)).toBe(true);
  });
});

test.each([
  'free',
  '{"stretch":1}',
  [[0]],
  [[0, 1, 2]],
  [[1, 5]],
  [[0, 0]],
  [[0, 16385]],
  [[-1, 5]],
  [[0.5, 5]],
])('a qcow2 image is walked if its mark says %j of free clusters', (free) => {
  const path = closedImage('qcow2');
  editMark((mark) => (facts(mark).free = free));
  expect(walksAtOpen(path)).toBe(true);
});

test('more marks than anybody needs are forgotten', () => {
  const path = closedImage('qcow2');
  for (let mark = 0; mark < 1000; mark++) writeFileSync(join(marks, `other-${mark}`), '');
  expect(walksAtOpen(path)).toBe(false);
  expect(readdirSync(marks)).toHaveLength(1);
});

test('a kernel from 6.13 on tells two changes within a tick of its clock apart', () => {
  expect(['6.13.0', '6.18.1-custom', '7.0'].map(tellsChangesApart)).toEqual([true, true, true]);
  expect(['6.12.9', '5.15.0', '4.19', 'x'].map(tellsChangesApart)).toEqual([false, false, false, false]);
});
