// qcow images of version 1 in both directions: what qemu-img makes and qemu-io writes reads here, and what is made and written here
// reads in QEMU. QEMU has no check of the format, so its reading is the judge, and our own check.

import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import {
  checkDisk,
  createDisk,
  inspectDisk,
  type OpenDiskOptions,
  openDisk,
  type VirtualDisk,
} from '../../src/disk/index.ts';
import { firstDifference, readAll, withDisk } from '../support/image-files.ts';
import { hasQemu, qemuImg, qemuIo, tryQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

/** Two L2 tables of clusters of 4 KiB, and a last cluster in part. */
const SIZE = 3 * 1024 * 1024 + 1536;
/** qemu-img 7.2 converts no compressed cluster in part. */
const COMPRESSED_SIZE = 3 * 1024 * 1024;
const PASSWORD = 'geheim';
const SECRET = ['--object', `secret,id=s,data=${PASSWORD}`] as const;

let folder: string;
let image: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img and qemu-io');
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qcow');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

interface Kind {
  readonly name: string;
  readonly isEncrypted?: boolean;
  readonly withBacking?: boolean;
}

const KINDS: readonly Kind[] = [
  { name: 'plain' },
  { name: 'encrypted', isEncrypted: true },
  { name: 'over a backing file', withBacking: true },
];

const PASSWORD_OPTION = { password: () => new TextEncoder().encode(PASSWORD) };

function options({ isEncrypted }: Kind, readOnly: boolean): OpenDiskOptions {
  return { readOnly, ...(isEncrypted === true ? PASSWORD_OPTION : {}) };
}

/** Makes what the kind needs beside the image. @returns what its disk reads as */
function base({ withBacking }: Kind): Buffer {
  const content = Buffer.alloc(SIZE);
  if (withBacking !== true) return content;
  const random = seededRandom(5);
  for (let at = 0; at < SIZE - 200_000; at += 5000) if (random() < 0.7) content.fill(1 + (at % 250), at, at + 3000);
  writeFileSync(join(folder, 'base.raw'), content.subarray(0, SIZE - 100_352));
  qemuImg('convert', '-f', 'raw', '-O', 'qcow2', join(folder, 'base.raw'), join(folder, 'base'));
  return content;
}

function nodeOf({ isEncrypted }: Kind): readonly string[] {
  const key = isEncrypted === true ? ',encrypt.key-secret=s' : '';
  return [...(isEncrypted === true ? SECRET : []), '--image-opts', `driver=qcow,file.filename=${image}${key}`];
}

function theirWrites(kind: Kind, ...commands: string[]): void {
  const list = commands.flatMap((command) => ['-c', command]);
  const { code, output } = tryQemu('qemu-io', ...nodeOf(kind), ...list);
  expect(`${code} ${/failed|error/i.exec(output)?.[0]}`, output).toBe('0 undefined');
}

function bytesOfQemu(kind: Kind): Buffer {
  const raw = join(folder, 'theirs.raw');
  qemuImg('convert', ...nodeOf(kind), '-O', 'raw', raw);
  return readFileSync(raw);
}

/** Both programs read exactly these bytes, and our check finds nothing wrong. */
function expectGood(kind: Kind, wanted: Buffer): void {
  expect(firstDifference(bytesOfQemu(kind), wanted), 'QEMU').toBe('none');
  withDisk(image, options(kind, true), (disk) => expect(firstDifference(readAll(disk), wanted)).toBe('none'));
  const findings: string[] = [];
  checkDisk(image, { repair: 'none', log: (finding) => findings.push(finding) });
  expect(findings).toEqual([]);
}

function makeOurs({ isEncrypted, withBacking }: Kind): void {
  createDisk(image, 'qcow', {
    size: SIZE,
    options: new Map(isEncrypted === true ? [['encrypt.format', 'aes']] : []),
    ...(withBacking === true ? { backing: 'base', backingFormat: 'qcow2' } : {}),
  });
}

function makeTheirs({ isEncrypted, withBacking }: Kind): void {
  const encryption = isEncrypted === true ? [...SECRET, '-o', 'encrypt.format=aes,encrypt.key-secret=s'] : [];
  const below = withBacking === true ? ['-b', 'base', '-F', 'qcow2'] : [];
  qemuImg('create', '-q', '-f', 'qcow', ...encryption, ...below, image, String(SIZE));
}

describe.each(KINDS)('an image that is $name', (kind) => {
  test('made by qemu-img is the one that is made here, byte for byte', () => {
    base(kind);
    makeTheirs(kind);
    const theirs = readFileSync(image);
    rmSync(image);
    makeOurs(kind);
    expect(firstDifference(readFileSync(image), theirs)).toBe('none');
  });

  test('written by QEMU is probed, inspected and read', () => {
    const wanted = base(kind);
    makeTheirs(kind);
    theirWrites(kind, 'write -P 0x21 100k 100k', 'write -P 0x22 512 512', 'write -P 0x23 3M 1536');
    wanted
      .fill(0x21, 100 * 1024, 200 * 1024)
      .fill(0x22, 512, 1024)
      .fill(0x23, 3 * 1024 * 1024);
    const { specific, ...facts } = inspectDisk(image);
    expect(facts).toMatchObject({ format: 'qcow', virtualSize: SIZE, dirty: false });
    expect(specific).toEqual(kind.isEncrypted === true ? { encrypt: { format: 'aes' } } : {});
    expectGood(kind, wanted);
  });

  test('takes writes, zeros and discards, and QEMU agrees after each of them', () => {
    const model = base(kind);
    makeOurs(kind);
    const fill = (disk: VirtualDisk, byte: number, at: number, length: number): void => {
      model.fill(byte, at, at + length);
      disk.write(Buffer.alloc(length, byte), 0, length, guestOffset(at));
    };
    const zero = (disk: VirtualDisk, at: number, length: number): void => {
      model.fill(0, at, at + length);
      disk.discard(guestOffset(at), length);
    };
    const changes: readonly ((disk: VirtualDisk) => void)[] = [
      (disk) => fill(disk, 0x31, 2_097_152 - 700, 2000),
      (disk) => zero(disk, 0, 300_000),
      (disk) => fill(disk, 0x32, 0, 1_000_000),
      (disk) => zero(disk, 500_001, 250_000),
      (disk) => disk.preallocate(600_000, 50_000),
      (disk) => fill(disk, 0x33, SIZE - 100, 100),
      (disk) => zero(disk, 0, SIZE),
    ];
    for (const change of changes) {
      withDisk(image, options(kind, false), change);
      expectGood(kind, model);
    }
  });

  test('is written by both in turn, and nothing is lost', () => {
    const model = base(kind);
    makeOurs(kind);
    const random = seededRandom(23);
    for (let turn = 0; turn < 12; turn++) {
      const at = Math.floor((random() * (SIZE - 200_000)) / 512) * 512;
      const length = 512 * (1 + Math.floor(random() * 300));
      model.fill(turn + 1, at, at + length);
      if (turn % 2 === 0) theirWrites(kind, `write -P ${turn + 1} ${at} ${length}`);
      else
        withDisk(image, options(kind, false), (disk) => {
          disk.write(Buffer.alloc(length, turn + 1), 0, length, guestOffset(at));
          const hole = Math.floor((random() * (SIZE - 100_000)) / 512) * 512;
          model.fill(0, hole, hole + 70_000);
          disk.discard(guestOffset(hole), 70_000);
        });
      expectGood(kind, model);
    }
  });

  test('has all that was flushed when its process is killed, and QEMU reads it', () => {
    const model = base(kind);
    makeOurs(kind);
    const disk = openDisk(image, { ...options(kind, false), locks: 'none' });
    disk.write(Buffer.alloc(9000, 9), 0, 9000, guestOffset(70_000));
    disk.flush();
    model.fill(9, 70_000, 79_000);
    disk.write(Buffer.alloc(9000, 10), 0, 9000, guestOffset(2_500_000));
    const left = readFileSync(image);
    disk.close();
    writeFileSync(image, left);
    expect(firstDifference(bytesOfQemu(kind), model)).toBe('none');
    withDisk(image, options(kind, false), (again) => expect(firstDifference(readAll(again), model)).toBe('none'));
    expectGood(kind, model);
  });
});

describe('compressed clusters', () => {
  const kind = KINDS[0]!;
  let wanted: Buffer;
  beforeEach(() => {
    wanted = Buffer.alloc(COMPRESSED_SIZE);
    const random = seededRandom(9);
    for (let at = 0; at < COMPRESSED_SIZE; at += 64)
      if (random() < 0.4) wanted.fill(Math.floor(random() * 256), at, at + 40);
    wanted.fill(0, 1_000_000, 1_400_000);
    writeFileSync(join(folder, 'source.raw'), wanted);
    // qemu-img 7.2 makes the whole image, and ends with 1 without a word
    tryQemu('qemu-img', 'convert', '-c', '-f', 'raw', '-O', 'qcow', join(folder, 'source.raw'), image);
  });

  test('are read, and counted by a check', () => {
    expectGood(kind, wanted);
    const { allocatedClusters, compressedClusters } = checkDisk(image, { repair: 'none', log: () => undefined });
    expect(compressedClusters).toBeGreaterThan(300);
    expect(allocatedClusters).toBeGreaterThanOrEqual(compressedClusters);
  });

  test('become plain ones when they are written to, and what they leave is used again', () => {
    const random = seededRandom(11);
    for (let round = 0; round < 4; round++) {
      withDisk(image, { readOnly: false }, (disk) => {
        for (let n = 0; n < 20; n++) {
          const at = Math.floor(random() * (COMPRESSED_SIZE - 9000));
          const length = 1 + Math.floor(random() * 9000);
          wanted.fill(n + 1, at, at + length);
          disk.write(Buffer.alloc(length, n + 1), 0, length, guestOffset(at));
        }
        wanted.fill(0, round * 400_000, round * 400_000 + 30_000);
        disk.discard(round * 400_000, 30_000);
      });
      // what lies below replaced data is a leak until the next open takes it
      checkDisk(image, { repair: 'leaks', log: () => undefined });
      expectGood(kind, wanted);
    }
    const size = readFileSync(image).length;
    withDisk(image, { readOnly: false }, (disk) => {
      wanted.fill(77);
      disk.write(Buffer.from(wanted), 0, COMPRESSED_SIZE, guestOffset(0));
    });
    checkDisk(image, { repair: 'leaks', log: () => undefined });
    expectGood(kind, wanted);
    expect(readFileSync(image).length).toBeLessThan(size + COMPRESSED_SIZE);
  });
});

test('an overlay on a raw disk says so in the way that QEMU reads, and is opened here', () => {
  const content = Buffer.alloc(100_000, 'below');
  writeFileSync(join(folder, 'base'), content.subarray(0, 99_840));
  createDisk(image, 'qcow', { options: new Map(), backing: 'base', backingFormat: 'raw' });
  withDisk(image, { readOnly: false }, (disk) => {
    expect(firstDifference(readAll(disk), content.subarray(0, 99_840))).toBe('none');
    disk.write(Buffer.alloc(10, 'x'), 0, 10, guestOffset(50_001));
  });
  content.fill('x', 50_001, 50_011);
  expect(firstDifference(bytesOfQemu(KINDS[0]!), content.subarray(0, 99_840))).toBe('none');
  qemuIo(image, 'qcow', 'write -P 1 0 512');
  withDisk(image, { readOnly: true }, (disk) => expect(readAll(disk).subarray(0, 512)).toEqual(Buffer.alloc(512, 1)));
});

test('a disk that is not whole sectors long keeps its last bytes', () => {
  qemuImg('create', '-q', '-f', 'qcow', image, '64k');
  const bytes = readFileSync(image);
  bytes.writeBigUInt64BE(65_000n, 24);
  writeFileSync(image, bytes);
  expect(inspectDisk(image).virtualSize).toBe(65_024);
});
