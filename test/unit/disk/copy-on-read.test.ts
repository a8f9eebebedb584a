// Copy-on-read: each byte of the backing file is read once and then never again, whatever the cluster size; no read fails
// because of it; and what was copied is the image's own, so that the backing file could go.

import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../src/bytes/offsets.ts';
import { CopyOnRead, createCopyOnReadState } from '../../../src/disk/copy-on-read.ts';
import { createDisk, openDisk } from '../../../src/disk/index.ts';
import { VirtualDisk } from '../../../src/disk/virtual-disk.ts';
import { ERRNO, ImgfuseError } from '../../../src/errors/index.ts';
import type { WritableFormat, WritableImage } from '../../../src/format/image-format.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { raw } from '../../../src/format/raw/index.ts';
import type { HostFile } from '../../../src/host/host-file.ts';
import { firstDifference, readAll, withDisk } from '../../support/image-files.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../support/memory-images.ts';
import { canMountAsRoot, requireOrSkip } from '../../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';
import { CountingHostFile, FaultyHostFile } from '../../support/wrapping-files.ts';

interface Subject {
  readonly name: string;
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
  /** bytes that are copied at once */
  readonly cluster: number;
}

const KIB = 1024;
const SUBJECTS: readonly Subject[] = [
  { name: 'qed 4k', format: qed, options: { cluster_size: '4k', table_size: '1' }, cluster: 4 * KIB },
  { name: 'qed 64k', format: qed, options: {}, cluster: 64 * KIB },
  { name: 'qed 2M', format: qed, options: { cluster_size: '2M', table_size: '1' }, cluster: 2048 * KIB },
  { name: 'qcow2 512', format: qcow2, options: { cluster_size: '512' }, cluster: 512 },
  { name: 'qcow2 64k', format: qcow2, options: {}, cluster: 64 * KIB },
  { name: 'qcow2 2M', format: qcow2, options: { cluster_size: '2M' }, cluster: 2048 * KIB },
  { name: 'qcow2 v2', format: qcow2, options: { compat: '0.10' }, cluster: 64 * KIB },
  { name: 'qcow2 subclusters', format: qcow2, options: { extended_l2: 'on', cluster_size: '64k' }, cluster: 64 * KIB },
];

/** A multiple of every cluster size; the disk ends 512 bytes behind it. */
const BASE = 4 * 1024 * KIB;
const SIZE = BASE + 512;

const PATTERN = new Uint8Array(BASE).map((_, i) => 1 + ((i * 31 + (i >> 9)) % 255));

/** Bytes that are never zero. */
function pattern(length: number): Uint8Array {
  return PATTERN.slice(0, length);
}

interface Bench {
  readonly disk: VirtualDisk;
  readonly file: MemoryHostFile;
  readonly below: CountingHostFile;
  readonly logged: string[];
}

/** An empty overlay over raw `content`. @param wrap around the overlay's file, after it was created */
function overlay(subject: Subject, content: Uint8Array, wrap: (file: HostFile) => HostFile = (file) => file): Bench {
  const file = createMemoryImage(subject.format, SIZE, subject.options, '/base');
  return { ...open(subject, file, content, wrap), file };
}

function open(
  { format }: Subject,
  file: HostFile,
  content: Uint8Array,
  wrap: (file: HostFile) => HostFile = (each) => each,
): Omit<Bench, 'file'> {
  const below = new CountingHostFile(new MemoryHostFile(content, '/base', true));
  const logged: string[] = [];
  const log = (sentence: string): void => void logged.push(sentence);
  const backing = openImage(raw, below, { readOnly: true });
  const image = openImage(format, wrap(file), { backing, log });
  below.reset();
  return {
    disk: new VirtualDisk(image, { copyOnRead: new CopyOnRead(image, createCopyOnReadState(), log) }),
    below,
    logged,
  };
}

/** Opens an overlay over a backing file that must not be read any more. */
function openAlone({ format }: Subject, file: HostFile): VirtualDisk {
  const base = new FaultyHostFile(new MemoryHostFile(pattern(BASE), '/base', true), () => ERRNO.EIO);
  return new VirtualDisk(
    openImage(format, file, { backing: openImage(raw, base, { readOnly: true }), readOnly: true }),
  );
}

function read(disk: VirtualDisk, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length).fill(0xee);
  expect(disk.read(bytes, 0, length, guestOffset(offset))).toBe(length);
  return bytes;
}

function onDisk(content: Uint8Array): Buffer {
  const bytes = Buffer.alloc(SIZE);
  bytes.set(content);
  return bytes;
}

function expectSound({ format }: Subject, file: HostFile): void {
  const findings: string[] = [];
  checkImage(format, file, { repair: 'none', log: (finding) => findings.push(finding) });
  expect(findings).toEqual([]);
}

describe.each(SUBJECTS)('$name', (subject) => {
  test('reads each byte of the backing file once, and then never again', () => {
    const { disk, file, below } = overlay(subject, pattern(BASE));
    const bytes = Buffer.alloc(SIZE);
    // pieces that begin and end anywhere
    for (let at = 0; at < SIZE; at += 99_999) bytes.set(read(disk, at, Math.min(99_999, SIZE - at)), at);
    expect(firstDifference(bytes, onDisk(pattern(BASE)))).toBe('none');
    expect(below.bytes.read).toBe(BASE);
    below.reset();
    expect(firstDifference(readAll(disk), onDisk(pattern(BASE)))).toBe('none');
    expect(below.calls.read).toBe(0);
    expect(disk.status()).toMatchObject({ copyOnRead: 'on', share: { local: SIZE, below: 0 } });
    disk.close();
    expectSound(subject, file);
    expect(firstDifference(readAll(openAlone(subject, file)), onDisk(pattern(BASE)))).toBe('none');
  });

  test('copies the whole cluster of a byte that is read, and no other', () => {
    const { disk, below } = overlay(subject, pattern(BASE));
    read(disk, subject.cluster + 7, 1);
    expect(below.bytes.read).toBe(subject.cluster);
    expect(disk.status().share).toEqual({ local: SIZE - BASE + subject.cluster, below: BASE - subject.cluster });
    expect(disk.allocatedBytes()).toBe(subject.cluster);
    disk.close();
  });

  test('copies around what the guest has written, also within a cluster, and keeps it', () => {
    const { disk, file, below } = overlay(subject, pattern(BASE));
    const wanted = onDisk(pattern(BASE));
    for (const [offset, length] of [
      [100, 50],
      [70_000, 5000],
      [1_000_000, 300_000],
      [BASE - 3, 200],
    ] as const) {
      wanted.fill(0, offset, offset + length);
      disk.write(new Uint8Array(length), 0, length, guestOffset(offset));
    }
    disk.discard(2_000_000, 400_000);
    wanted.fill(0, 2_000_000, 2_400_000);
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
    below.reset();
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
    expect(below.calls.read).toBe(0);
    disk.write(pattern(5000), 0, 5000, guestOffset(123_456));
    wanted.set(pattern(5000), 123_456);
    expect(firstDifference(readAll(disk), wanted)).toBe('none');
    disk.close();
    expectSound(subject, file);
    expect(firstDifference(readAll(openAlone(subject, file)), wanted)).toBe('none');
  });

  test('zeros below take no space where the format has zero clusters', () => {
    const content = pattern(BASE);
    content.fill(0, 2048 * KIB, BASE);
    const { disk, file, below } = overlay(subject, content);
    expect(firstDifference(readAll(disk), onDisk(content))).toBe('none');
    // holes of the raw file are known, but a page that holds zeros is not
    expect(below.bytes.read).toBeLessThanOrEqual(BASE);
    below.reset();
    expect(firstDifference(readAll(disk), onDisk(content))).toBe('none');
    expect(below.calls.read).toBe(0);
    const isV2 = subject.options['compat'] === '0.10';
    // a cluster that is larger than a piece is not looked through
    const isLarge = subject.cluster > 1024 * KIB;
    expect(disk.allocatedBytes()).toBe(isV2 || isLarge ? BASE : 2048 * KIB);
    disk.close();
    expectSound(subject, file);
  });

  test('what is known to read as zeros is not read at all', () => {
    const sparse = new MemoryHostFile(new Uint8Array(0), '/base');
    sparse.truncate(BASE);
    const below = new CountingHostFile(sparse);
    const file = createMemoryImage(subject.format, SIZE, subject.options, '/base');
    const image = openImage(subject.format, file, { backing: openImage(raw, below) });
    const disk = new VirtualDisk(image, {
      copyOnRead: new CopyOnRead(image, createCopyOnReadState(), () => undefined),
    });
    below.reset();
    expect(readAll(disk).every((byte) => byte === 0)).toBe(true);
    // version 2 cannot say it, so there the read itself asks the backing file
    expect(below.calls.read > 0).toBe(subject.options['compat'] === '0.10');
    expect(disk.allocatedBytes()).toBe(0);
    disk.close();
    expectSound(subject, file);
  });

  test('with a full disk every read succeeds, and the copies stop with one warning', () => {
    let room = 3;
    const plan = (file: HostFile) =>
      new FaultyHostFile(file, (operation) =>
        operation !== 'read' && operation !== 'sync' && room-- <= 0 ? ERRNO.ENOSPC : null,
      );
    const { disk, logged } = overlay(subject, pattern(BASE), plan);
    for (let pass = 0; pass < 2; pass++) {
      expect(firstDifference(readAll(disk), onDisk(pattern(BASE)))).toBe('none');
    }
    expect(logged.filter((sentence) => sentence.includes('copy_on_read'))).toHaveLength(1);
    expect(logged.join()).toContain('copy_on_read stops until the next mount');
    expect(disk.status()).toMatchObject({ copyOnRead: 'stopped', failure: null });
    room = Number.POSITIVE_INFINITY;
    disk.write(Uint8Array.of(9), 0, 1, guestOffset(12_345));
    expect(read(disk, 12_345, 1)[0]).toBe(9);
    disk.close();
  });

  test('with an error at any host operation every read succeeds, and nothing wrong is left', () => {
    const size = Math.min(BASE, Math.max(4 * subject.cluster, 64 * KIB));
    for (let position = 0, hit = true; hit && position < 60; position++) {
      hit = false;
      let count = 0;
      const fail = (file: HostFile) =>
        new FaultyHostFile(file, (operation) => {
          if (operation === 'read' || count++ !== position) return null;
          hit = true;
          return ERRNO.EIO;
        });
      const { disk, file } = overlay(subject, pattern(BASE), fail);
      for (let at = 0; at < size; at += size / 4) {
        expect(firstDifference(read(disk, at, size / 4), pattern(BASE).subarray(at, at + size / 4))).toBe('none');
      }
      try {
        disk.close();
      } catch (error) {
        expect(error).toBeInstanceOf(ImgfuseError);
      }
      const again = open(subject, file, pattern(BASE));
      expect(firstDifference(read(again.disk, 0, size), pattern(BASE).subarray(0, size)), `position ${position}`).toBe(
        'none',
      );
      again.disk.close();
      const report = checkImage(subject.format, file, { repair: 'none', log: () => undefined });
      expect(report.corruptions + report.checkErrors, `position ${position}`).toBe(0);
    }
  });
});

test('a backing file that cannot be read fails that read, and the copies go on', () => {
  const subject = SUBJECTS[4]!;
  const file = createMemoryImage(qcow2, SIZE, {}, '/base');
  let isBroken = true;
  const base = new FaultyHostFile(new MemoryHostFile(pattern(BASE), '/base', true), (_operation, _count, offset) =>
    isBroken && offset >= 64 * KIB ? ERRNO.EIO : null,
  );
  const image = openImage(qcow2, file, { backing: openImage(raw, base, { readOnly: true }) });
  const disk = new VirtualDisk(image, { copyOnRead: new CopyOnRead(image, createCopyOnReadState(), () => undefined) });
  expect(() => read(disk, 64 * KIB, 10)).toThrow(/fails by plan/);
  read(disk, 0, 10);
  isBroken = false;
  read(disk, 64 * KIB, 10);
  expect(disk.status()).toMatchObject({ copyOnRead: 'on', share: { below: BASE - 2 * subject.cluster } });
  disk.close();
});

test('a flush after reads that copied nothing costs no fdatasync', () => {
  for (const subject of SUBJECTS) {
    let counting: CountingHostFile | null = null;
    const { disk } = overlay(subject, pattern(BASE), (file) => {
      counting = new CountingHostFile(file);
      return counting;
    });
    readAll(disk);
    disk.flush();
    counting!.reset();
    readAll(disk);
    disk.flush();
    expect((counting! as CountingHostFile).calls).toMatchObject({ write: 0, sync: 0 });
    disk.close();
  }
});

test('what lies behind a disk that was cut short below does not come back when it grows', () => {
  const subject = SUBJECTS[1]!;
  const { disk, file } = overlay(subject, pattern(BASE));
  disk.resize(100_352);
  read(disk, 65_536, 100);
  disk.resize(200_704);
  expect(read(disk, 100_352, 100_352).every((byte) => byte === 0)).toBe(true);
  disk.close();
  expectSound(subject, file);
});

describe('an image file', () => {
  let folder: string;
  beforeEach(() => {
    folder = makeTemporaryDirectory();
    writeFileSync(join(folder, 'base.raw'), pattern(BASE));
  });
  afterEach(() => removeTemporaryDirectory(folder));

  const path = () => join(folder, 'disk.img');
  function create(format: string, copyOnRead?: boolean): void {
    createDisk(path(), format, {
      options: new Map(),
      backing: 'base.raw',
      backingFormat: 'raw',
      ...(copyOnRead === undefined ? {} : { copyOnRead }),
    });
  }
  const allocatedAfterRead = (copyOnRead: boolean | 'stored') =>
    withDisk(path(), { readOnly: false, copyOnRead }, (disk) => {
      read(disk, 0, 1);
      return disk.allocatedBytes();
    });

  /** a block of a VHD counts as a whole, though its sectors come one by one */
  test.each([
    ['qed', 65_536],
    ['qcow2', 65_536],
    ['vpc', 2 * 1024 * 1024],
  ])('%s is opened with what is stored, unless something else is said', (format, copied) => {
    create(format, true);
    expect(allocatedAfterRead(false)).toBe(0);
    expect(withDisk(path(), { readOnly: true, copyOnRead: 'stored' }, (disk) => disk.status().copyOnRead)).toBe(null);
    expect(allocatedAfterRead('stored')).toBe(copied);
  });

  test.each([
    ['qed', 65_536],
    ['qcow2', 65_536],
    ['vpc', 2 * 1024 * 1024],
  ])('%s is opened without it where nothing is stored, or off', (format, copied) => {
    create(format);
    expect(allocatedAfterRead('stored')).toBe(0);
    expect(allocatedAfterRead(true)).toBe(copied);
    removeTemporaryDirectory(path());
    create(format, false);
    expect(allocatedAfterRead('stored')).toBe(0);
  });

  test('is not opened read-only with it', () => {
    create('qcow2');
    expect(() => openDisk(path(), { readOnly: true, copyOnRead: true })).toThrow(
      /is opened read-only, and copy_on_read writes to it/,
    );
  });

  test('without a backing file says that there is nothing to do', () => {
    createDisk(path(), 'qcow2', { size: BASE, options: new Map() });
    const logged: string[] = [];
    openDisk(path(), { readOnly: false, copyOnRead: true, log: (sentence) => logged.push(sentence) }).close();
    expect(logged.join()).toContain('no backing file');
  });

  test('is not created where the setting cannot be stored', (context) => {
    requireOrSkip(context, canMountAsRoot(), 'root');
    const place = join(folder, 'plain');
    mkdirSync(place);
    // a file system without extended attributes of users
    execFileSync('mount', ['-t', 'ramfs', 'ramfs', place]);
    try {
      const options = { size: BASE, options: new Map<string, string>(), copyOnRead: true };
      expect(() => createDisk(join(place, 'x.qcow2'), 'qcow2', options)).toThrow(
        /cannot be stored with .*-o copy_on_read/,
      );
      createDisk(join(place, 'x.qcow2'), 'qcow2', { size: BASE, options: new Map() });
      openDisk(join(place, 'x.qcow2'), { readOnly: false, copyOnRead: 'stored' }).close();
    } finally {
      execFileSync('umount', [place]);
    }
  });
});

test('two threads that read one cluster copy it once', () => {
  const below = new CountingHostFile(new MemoryHostFile(pattern(BASE), '/base', true));
  const backing: WritableImage = openImage(raw, below, { readOnly: true });
  const file = createMemoryImage(qed, SIZE, {}, '/base');
  const first = openImage(qed, file, { backing, slots: 2 });
  const second = qed.attach(file, first.share(), { slot: 1, backing, extents: [], log: () => undefined });
  below.reset();
  first.copyUp(guestOffset(0), 10);
  second.copyUp(guestOffset(100), 10);
  const byte = new Uint8Array(1);
  second.read(byte, 0, 1, guestOffset(7));
  expect(byte[0]).toBe(pattern(8)[7]);
  expect(below.bytes.read).toBe(65_536);
  expect(file.read(byte, 0, 1, hostOffset(0))).toBe(1);
  first.close();
});
