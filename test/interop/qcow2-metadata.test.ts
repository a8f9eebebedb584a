// What a write does to tables, counters, header and file, and what it leaves alone. Situations of QEMU's tests 026, 103, 107,
// 130, 137, 176, 244, 287 and 313.

import { execFileSync } from 'node:child_process';
import { copyFileSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { openDisk } from '../../src/disk/index.ts';
import { ERRNO, ImgfuseError } from '../../src/errors/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { firstDifference, withDisk } from '../support/image-files.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { openImage } from '../support/memory-images.ts';
import { Qcow2Session } from '../support/qcow2-session.ts';
import { hasQemu, qemuCheck, qemuImg, tryQemu } from '../support/qemu.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { FaultyHostFile } from '../support/wrapping-files.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

describe('an error at any host operation of a write leaves leaks at most (026)', () => {
  const situations = {
    'a first write': { options: 'cluster_size=1k', size: 64 * MIB, at: 0, length: 128 * KIB },
    'a write in tables that are there': {
      options: 'cluster_size=1k',
      size: 64 * MIB,
      commands: ['write -P 9 0 200k'],
      at: 100 * KIB,
      length: 64 * KIB + 100,
    },
    'a refcount table that grows': {
      options: 'cluster_size=512,refcount_bits=64',
      size: 64 * MIB,
      // one cluster of the table counts 2 MiB
      commands: ['write -P 9 0 1900k'],
      at: 1900 * KIB + 700,
      length: 150 * KIB,
    },
    'a write over shared clusters': {
      options: 'cluster_size=1k',
      size: 64 * MIB,
      commands: ['write -P 9 0 100k'],
      prepare: (path: string) => qemuImg('snapshot', '-c', 'first', path),
      at: 30_000,
      length: 50_000,
    },
    'a write over compressed clusters': {
      options: 'cluster_size=4k',
      size: 64 * MIB,
      commands: ['write -c -P 9 0 4k', 'write -c -P 8 4k 4k', 'write -c -P 7 8k 4k'],
      at: 1000,
      length: 9000,
    },
  } as const;

  test.each(
    Object.keys(situations).flatMap((name) =>
      (['EIO', 'ENOSPC'] as const).flatMap((errno) =>
        (['once', 'always'] as const).map((how) => [name, errno, how] as const),
      ),
    ),
  )('%s, %s %s', (name, errno, how) => {
    const { at, length, ...options } = situations[name as keyof typeof situations];
    const session = new Qcow2Session(folder, options);
    let judged = 0;
    for (let position = 0; ; position++) {
      const file = session.file.clone();
      let changes = 0;
      let hit = false;
      const faulty = new FaultyHostFile(file, (operation) => {
        if (operation === 'read') return null;
        const number = changes++;
        if (number < position || (how === 'once' && number > position)) return null;
        hit = true;
        return ERRNO[errno];
      });
      const image = session.open(faulty);
      // a write of this length may end after a part of it, and the close is a part of the story
      for (const act of [
        () => image.write(new Uint8Array(length).fill(5), 0, length, guestOffset(at)),
        () => image.flush(),
        () => image.close(),
      ]) {
        try {
          act();
        } catch (error) {
          if (!(error instanceof ImgfuseError)) throw error;
        }
      }
      if (!hit) break;
      const report = qcow2.check(file, { repair: 'none', log: () => undefined });
      expect(report.corruptions, `position ${position}`).toBe(0);
      // QEMU agrees; a process for each of hundreds of positions would take minutes
      if (position < 3 || position % 16 === 0) {
        writeFileSync(session.path, file.bytes());
        const { code, output } = tryQemu('qemu-img', 'check', '-q', '-f', 'qcow2', session.path);
        expect([0, 3], `position ${position}: ${output}`).toContain(code);
        judged++;
      }
    }
    expect(judged).toBeGreaterThan(2);
  });
});

describe('the smallest cache of tables (103, 137)', () => {
  test.each([
    ['4 KiB, 16 L2 tables', 'cluster_size=512', 512 * KIB],
    ['one table of 64 KiB', 'cluster_size=64k', 3 * 512 * MIB],
    ['one table of 2 MiB', 'cluster_size=2M', 40 * MIB],
    ['extended entries', 'cluster_size=16k,extended_l2=on', 64 * MIB],
  ] as const)('reads and writes in turn, in tables that push each other out: %s', (_name, options, size) => {
    const step = Math.floor(size / 9 / 512) * 512;
    const commands = Array.from({ length: 9 }, (_, n) => `write -P ${n + 1} ${n * step} 4k`);
    const small = (bytes: number) => {
      const session = { folder, path: join(folder, 'disk.qcow2') };
      qemuImg('create', '-q', '-f', 'qcow2', '-o', options, session.path, String(size));
      const io = (list: readonly string[]) =>
        execFileSync('qemu-io', ['-f', 'qcow2', ...list.flatMap((each) => ['-c', each]), session.path], {
          encoding: 'utf8',
        });
      io(commands);
      const file = new MemoryHostFile(readFileSync(session.path), session.path);
      const image = openImage(qcow2, file, { tableCacheBytes: bytes });
      const byte = new Uint8Array(4 * KIB);
      for (let round = 0; round < 3; round++) {
        for (let n = 0; n < 9; n++) {
          const there = ((n * 4 + round) % 9) * step;
          image.read(byte, 0, byte.length, guestOffset(there));
          const wanted = round === 0 ? there / step + 1 : null;
          if (wanted !== null) expect(byte.every((value) => value === wanted)).toBe(true);
          image.write(byte.fill(0x30 + n), 0, byte.length, guestOffset(n * step + 8 * KIB + round * 4 * KIB));
        }
      }
      image.close();
      writeFileSync(session.path, file.bytes());
      qemuCheck(session.path, 'qcow2');
      const output = io(
        Array.from({ length: 9 }, (_, n) =>
          [0, 1, 2].map((round) => `read -P ${0x30 + n} ${n * step + 8 * KIB + round * 4 * KIB} 4k`),
        ).flat(),
      );
      expect(output).not.toMatch(/failed|error/i);
    };
    // below the least, a few slices, and all there is
    for (const bytes of [1, 8192, 64 * MIB]) small(bytes);
  });
});

test('an update of the L1 table writes entries and nothing behind them (107)', () => {
  const session = new Qcow2Session(folder, { size: 64 * KIB });
  session.write(0, 64 * KIB, 0x66);
  session.finish();
  const bytes = session.file.bytes();
  const l1 = Number(Buffer.from(bytes).readBigUInt64BE(40));
  // one entry, then zeros to the end of its cluster
  expect(bytes.subarray(l1, l1 + 8).some((byte) => byte !== 0)).toBe(true);
  expect(bytes.subarray(l1 + 8, l1 + 64 * KIB).every((byte) => byte === 0)).toBe(true);
});

test('the names of backing file and format stay as they are, whatever path the image is opened by (130)', () => {
  const base = join(folder, 'base.raw');
  const image = join(folder, 'disk.qcow2');
  writeFileSync(base, Buffer.alloc(MIB, 3));
  execFileSync('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', './base.raw', '-F', 'raw', 'disk.qcow2'], {
    cwd: folder,
  });
  qemuImg('bitmap', '--add', image, 'bits');
  const header = (): Buffer => readFileSync(image).subarray(104, 64 * KIB);
  const before = header();
  // the dirty bit comes and goes, the bitmap's bit goes: the header is written
  withDisk(image, { readOnly: false, lazyRefcounts: true }, (disk) =>
    disk.write(Buffer.alloc(5000, 1), 0, 5000, guestOffset(70_000)),
  );
  expect(firstDifference(header(), before)).toBe('none');
  const info = JSON.parse(qemuImg('info', '--output=json', image)) as Record<string, string>;
  expect(info['backing-filename']).toBe('./base.raw');
  expect(info['backing-filename-format']).toBe('raw');
});

test('emptying the active layer leaves snapshots and bitmaps, and says that the bitmaps are behind (176)', () => {
  const backing = new Uint8Array(MIB).fill(7);
  const session = new Qcow2Session(folder, {
    size: MIB,
    backing,
    commands: ['write -P 1 0 300k', 'write -P 2 600k 100k'],
    prepare: (path) => {
      qemuImg('snapshot', '-c', 'first', path);
      qemuImg('bitmap', '--add', path, 'bits');
    },
  });
  const kept = session.seenByQemu(MIB, 'first');
  const extensions = session.file.bytes().subarray(104, 64 * KIB);
  session.discard(0, MIB);
  session.expectContent();
  session.image.close();
  session.save();
  // QEMU counts nothing that a bitmap refers to which it does not believe any more
  expect(tryQemu('qemu-img', 'check', '-q', '-f', 'qcow2', session.path).code).toBe(3);
  expect(qcow2.check(session.file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0 });
  expect(firstDifference(session.seenByQemu(MIB), session.model)).toBe('none');
  expect(firstDifference(session.seenByQemu(MIB, 'first'), kept)).toBe('none');
  expect(firstDifference(session.file.bytes().subarray(104, 64 * KIB), extensions)).toBe('none');
  // the bit that says that the bitmaps are right
  expect(Buffer.from(session.file.bytes()).readBigUInt64BE(88) & 1n).toBe(0n);
});

describe('an external data file (244)', () => {
  const make = (options: string): string => {
    const image = join(folder, 'disk.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', `data_file=${join(folder, 'disk.data')},${options}`, image, '2M');
    return image;
  };

  test.each([
    'data_file_raw=off',
    'data_file_raw=on',
  ])('holds the guest data and the image none of it: %s', (options) => {
    const image = make(options);
    withDisk(image, { readOnly: false }, (disk) =>
      disk.write(Buffer.alloc(300_000, 0xda), 0, 300_000, guestOffset(100_000)),
    );
    qemuCheck(image, 'qcow2');
    expect(readFileSync(image).includes(Buffer.alloc(512, 0xda))).toBe(false);
    expect(readFileSync(join(folder, 'disk.data')).includes(Buffer.alloc(300_000, 0xda))).toBe(true);
    expect(tryQemu('qemu-io', '-f', 'qcow2', '-c', 'read -P 0xda 100000 300000', image).output).not.toContain('failed');
  });

  test('raw: what was discarded or zeroed is zeros in the file itself', () => {
    const image = make('data_file_raw=on');
    withDisk(image, { readOnly: false }, (disk) => {
      disk.write(Buffer.alloc(MIB, 1), 0, MIB, guestOffset(0));
      disk.discard(128 * KIB, 128 * KIB);
      disk.writeZeroes(512 * KIB + 100, 200 * KIB);
      disk.flush();
    });
    const wanted = Buffer.alloc(2 * MIB);
    wanted.fill(1, 0, MIB);
    wanted.fill(0, 128 * KIB, 256 * KIB);
    wanted.fill(0, 512 * KIB + 100, 712 * KIB + 100);
    expect(firstDifference(readFileSync(join(folder, 'disk.data')), wanted)).toBe('none');
    qemuCheck(image, 'qcow2');
  });

  test('that another image is written from is not: a copy of the header alone reads the same file', () => {
    const image = make('data_file_raw=off');
    withDisk(image, { readOnly: false }, (disk) => disk.write(Buffer.alloc(70_000, 4), 0, 70_000, guestOffset(0)));
    const copy = join(folder, 'copy.qcow2');
    copyFileSync(image, copy);
    withDisk(copy, { readOnly: true }, (disk) => {
      const bytes = Buffer.alloc(70_000);
      disk.read(bytes, 0, bytes.length, guestOffset(0));
      expect(bytes.every((byte) => byte === 4)).toBe(true);
    });
  });
});

describe('compression types (287)', () => {
  test('an image of zstd keeps its type and its bit when it is written and resized, and old clusters stay readable', () => {
    const session = new Qcow2Session(folder, {
      options: 'compression_type=zstd',
      size: MIB,
      commands: ['write -c -P 1 0 64k', 'write -c -P 2 64k 64k', 'write -c -P 3 128k 64k'],
    });
    session.write(70 * KIB, 10, 9);
    session.finish();
    const bytes = Buffer.from(session.file.bytes());
    expect([bytes.readBigUInt64BE(72) & 8n, bytes[104]]).toEqual([8n, 1]);
    withDisk(session.path, { readOnly: false }, (disk) => disk.resize(2 * MIB));
    const resized = readFileSync(session.path);
    expect([resized.readBigUInt64BE(72) & 8n, resized[104]]).toEqual([8n, 1]);
    session.qemuIo('read -P 1 0 64k', 'read -P 3 128k 64k', `read -P 9 ${70 * KIB} 10`, 'read -P 0 1M 1M');
  });

  test.each([
    ['zstd without its bit', 72, 8, 0],
    ['zlib with the bit of zstd', 104, 1, 1],
    ['a type that nobody knows', 104, 2, 2],
  ])('%s is refused, and not a byte changes', (_name, at, value, kind) => {
    const image = join(folder, 'disk.qcow2');
    qemuImg('create', '-q', '-f', 'qcow2', '-o', 'compression_type=zstd', image, '1M');
    const bytes = readFileSync(image);
    if (at === 72) bytes.writeBigUInt64BE(bytes.readBigUInt64BE(72) & ~BigInt(value), 72);
    else bytes[104] = kind === 1 ? 0 : 2;
    writeFileSync(image, bytes);
    for (const readOnly of [true, false]) {
      expect(() => openDisk(image, { readOnly })).toThrow(/compression_type|compression type/);
    }
    expect(Buffer.compare(readFileSync(image), bytes)).toBe(0);
    expect(tryQemu('qemu-img', 'check', '-f', 'qcow2', image).code).not.toBe(0);
  });
});

test('more refcount blocks than a cache holds are filled, emptied to zeros and given back without a leak (313)', () => {
  // counters of 64 bits in clusters of 4 KiB: a block counts 512 clusters, so five blocks
  const size = (4 * 510 + 1 - 3) * 4 * KIB;
  const session = new Qcow2Session(folder, {
    options: 'cluster_size=4k,refcount_bits=64',
    size,
    tableCacheBytes: 8192,
  });
  session.write(0, size, 1);
  session.image.flush();
  session.zero(0, size);
  session.finish();
  const zeroed = statSync(session.path).size;
  session.image = session.open();
  session.write(0, size, 2);
  session.finish();
  expect(zeroed).toBeLessThanOrEqual(statSync(session.path).size);
});
