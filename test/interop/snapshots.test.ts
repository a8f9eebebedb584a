// Internal snapshots that QEMU has made, read here byte for byte as `qemu-img convert -l` reads them: of an image that is only
// read, and of one whose disk is written, discarded and resized meanwhile.

import { copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { type OpenDiskOptions, openDisk, type SnapshotDisk, type VirtualDisk } from '../../src/disk/index.ts';
import { firstDifference, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import {
  PASSWORD,
  SNAPSHOT_KINDS,
  SNAPSHOT_NAMES,
  SnapshotImageFile,
  type SnapshotKind,
} from '../support/snapshot-images.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;

beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

function optionsFor({ isEncrypted }: SnapshotKind, readOnly: boolean): OpenDiskOptions {
  const password = isEncrypted === true ? { password: () => new TextEncoder().encode(PASSWORD) } : {};
  // a few slices: those of the disk and of the snapshots drive each other out
  return { readOnly, snapshots: true, tableCacheBytes: 8192, ...password };
}

function contentOf(disk: Pick<SnapshotDisk, 'read' | 'size'>): Buffer {
  const bytes = Buffer.alloc(disk.size(), 0xee);
  for (let at = 0; at < bytes.length; at += 300_000) {
    disk.read(bytes, at, Math.min(300_000, bytes.length - at), guestOffset(at));
  }
  return bytes;
}

/** Where seek() finds no data there are zeros. */
function expectZerosWithoutData(snapshot: SnapshotDisk, content: Buffer): void {
  for (let at = 0; at < content.length; ) {
    const data = snapshot.seek(at, true);
    expect(
      content.subarray(at, data).every((byte) => byte === 0),
      `no data from ${at} to ${data}`,
    ).toBe(true);
    at = data === content.length ? data : snapshot.seek(data, false);
  }
}

/** One random request that changes the disk. */
function changeDisk(disk: VirtualDisk, random: () => number, canResize: boolean): void {
  const size = disk.size();
  const pick = random();
  const at = Math.floor(random() * (size - 512));
  const length = 1 + Math.floor(random() * Math.min(size - at, pick < 0.5 ? 10_000 : 300_000));
  if (pick < 0.1 && canResize) disk.resize(Math.floor((1 + random() * 5) * 2048) * 512);
  else if (pick < 0.6) disk.write(new Uint8Array(length).fill(1 + random() * 255), 0, length, guestOffset(at));
  else if (pick < 0.75) disk.discard(at, length);
  else if (pick < 0.85) disk.writeZeroes(at, length);
  else disk.flush();
}

describe.each(
  SNAPSHOT_KINDS.map((kind, index) => ({ kind, index, name: kind.name })),
)('snapshots of an image with $name', ({ kind, index }) => {
  let image: SnapshotImageFile;
  let own: string;
  /** of each snapshot, once it has been applied */
  let applied: readonly Buffer[];

  beforeAll(() => {
    if (!hasQemu) return;
    own = makeTemporaryDirectory();
    image = new SnapshotImageFile(own, kind, 100 + index);
    applied = SNAPSHOT_NAMES.map((name) => image.contentWhenApplied(name));
  });
  afterAll(() => {
    if (own !== undefined) removeTemporaryDirectory(own);
  });

  test('hold what QEMU reads of them, and only zeros where they have no data', () => {
    withDisk(image.path, optionsFor(kind, true), (disk) => {
      expect(disk.snapshots().map(({ name }) => name)).toEqual(SNAPSHOT_NAMES);
      expect(disk.snapshots().map(({ id }) => id)).toEqual(['1', '2', '3', '4']);
      for (const [position, { name, virtualSize }] of disk.snapshots().entries()) {
        const snapshot = disk.openSnapshot(position);
        const content = contentOf(snapshot);
        const wanted = image.contentOf(name);
        expect(virtualSize, name).toBe(image.sizeOf(name));
        expect(firstDifference(content.subarray(0, wanted.length), wanted), name).toBe('none');
        expect(firstDifference(content, applied[position]!), name).toBe('none');
        expectZerosWithoutData(snapshot, content);
        expect(snapshot.occupiedBytes()).toBeGreaterThan(0);
        expect(snapshot.read(content, 0, 10, guestOffset(virtualSize))).toBe(0);
        expect(snapshot.read(content, 0, 10, guestOffset(virtualSize - 4))).toBe(4);
      }
    });
  });

  test('stay as they are while the disk changes, and afterwards', () => {
    const random = seededRandom(300 + index);
    const canResize = !kind.options.includes('compat=0.10');
    withDisk(image.path, optionsFor(kind, false), (disk) => {
      const snapshots = SNAPSHOT_NAMES.map((_, position) => disk.openSnapshot(position));
      for (let round = 0; round < 30; round++) {
        for (let n = 0; n < 5; n++) changeDisk(disk, random, canResize);
        const position = Math.floor(random() * snapshots.length);
        const difference = firstDifference(contentOf(snapshots[position]!), applied[position]!);
        expect(difference, `${SNAPSHOT_NAMES[position]} in round ${round}`).toBe('none');
      }
    });
    image.check();
    for (const [position, name] of SNAPSHOT_NAMES.entries()) {
      const content = image.contentOf(name);
      expect(firstDifference(content, applied[position]!.subarray(0, content.length)), name).toBe('none');
    }
  });
});

test.each([
  ['with late counters', 'lazy refcounts', /was not closed clean/],
  ['with leaks', 'a backing file', /freed \d+ leaked clusters/],
])('the repair of what a crash leaves %s counts the references of the snapshots', (_, kindName, report) => {
  const kind = SNAPSHOT_KINDS.find(({ name }) => name === kindName)!;
  const image = new SnapshotImageFile(folder, kind, 400);
  const wanted = SNAPSHOT_NAMES.map((name) => image.contentWhenApplied(name));
  const crashed = join(folder, 'crashed.qcow2');
  const random = seededRandom(401);
  withDisk(image.path, optionsFor(kind, false), (disk) => {
    for (let n = 0; n < 100; n++) changeDisk(disk, random, true);
    disk.discard(0, disk.size());
    disk.flush();
    // written, counted, and not linked yet
    for (let at = 0; at < 100_000; at += 8192) disk.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(at));
    copyFileSync(image.path, crashed);
  });
  const log: string[] = [];
  withDisk(crashed, { ...optionsFor(kind, false), log: (sentence) => log.push(sentence) }, (disk) => {
    expect(log[0]).toMatch(report);
    for (let n = 0; n < 100; n++) changeDisk(disk, random, true);
    for (let position = 0; position < wanted.length; position++) {
      const difference = firstDifference(contentOf(disk.openSnapshot(position)), wanted[position]!);
      expect(difference, SNAPSHOT_NAMES[position]).toBe('none');
    }
  });
  qemuCheck(crashed, 'qcow2');
});

describe('the list of snapshots', () => {
  test('is empty for an image without snapshots, and for a disk that was opened without asking for them', () => {
    const path = join(folder, 'disk.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', path, '1M');
    withDisk(path, { readOnly: true, snapshots: true }, (disk) => expect(disk.snapshots()).toEqual([]));
    qemuImg('snapshot', '-c', 'one', path);
    withDisk(path, { readOnly: true }, (disk) => expect(disk.snapshots()).toEqual([]));
  });

  test('shows a snapshot of a disk that has become larger than its backing file with its own size', () => {
    const base = join(folder, 'base.raw');
    qemuImg('create', '-q', '-f', 'raw', base, '4M');
    qemuIo(base, 'raw', 'write -P 9 0 4M');
    const path = join(folder, 'disk.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', path, '1M');
    qemuImg('snapshot', '-c', 'small', path);
    const disk = openDisk(path, { readOnly: false, snapshots: true });
    try {
      disk.resize(4 * 1024 * 1024);
      const snapshot = disk.openSnapshot(0);
      expect(snapshot.size()).toBe(1024 * 1024);
      expect(contentOf(snapshot).every((byte) => byte === 9)).toBe(true);
    } finally {
      disk.close();
    }
  });
});
