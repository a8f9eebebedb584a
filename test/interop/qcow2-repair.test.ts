// Repair of qcow2 images whose refcount structures are lost, misplaced or wrong: the disk and its snapshots read the same
// afterwards, the check finds nothing any more and qemu-img agrees; a power cut inside the repair leaves an image that the
// next repair brings there as well.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import type { CheckReport, RepairMode } from '../../src/format/check-report.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import { distinctCrashStates } from '../support/crash-states.ts';
import { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { COPIED, get64, type Places, placesOf, put32, put64, putCounter16 } from '../support/qcow2-bytes.ts';
import { hasQemu, qemuCheck, qemuImg, tryQemu } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { RecordingHostFile } from '../support/wrapping-files.ts';

let folder: string;
let path: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img');
  folder = makeTemporaryDirectory();
  path = join(folder, 'disk.qcow2');
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** A disk of 40 clusters with data in every second one. */
function makeImage(options: Readonly<Record<string, string>>): MemoryHostFile {
  const clusterSize = Number(options['cluster_size'] ?? 4096);
  const file = createMemoryImage(qcow2, 40 * clusterSize, { cluster_size: '4096', ...options });
  const image = openImage(qcow2, file);
  for (let cluster = 0; cluster < 40; cluster += 2) {
    image.write(new Uint8Array(512).fill(1 + cluster), 0, 512, guestOffset(cluster * clusterSize));
  }
  image.close();
  return file;
}

function contentOf(file: MemoryHostFile): Buffer {
  const image = openImage(qcow2, file.clone(true), { readOnly: true });
  const bytes = Buffer.alloc(image.virtualSize());
  image.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

function check(file: MemoryHostFile, repair: RepairMode = 'none'): CheckReport {
  return qcow2.check(file, { repair, log: () => undefined });
}

/** What is left wrong. */
const left = ({ corruptions, corruptionsFixed, leaks, leaksFixed, checkErrors }: CheckReport) => ({
  corruptions: corruptions - corruptionsFixed,
  leaks: leaks - leaksFixed,
  checkErrors,
});
const NOTHING = { corruptions: 0, leaks: 0, checkErrors: 0 };

function judgeWithQemu(file: MemoryHostFile): void {
  writeFileSync(path, file.bytes());
  qemuCheck(path, 'qcow2');
}

function repairAndJudge(file: MemoryHostFile, content: Buffer): void {
  const damaged = check(file);
  expect(damaged.corruptions).toBeGreaterThan(0);
  expect(() => openImage(qcow2, file)).toThrow();
  expect(left(check(file, 'all'))).toEqual(NOTHING);
  expect(left(check(file))).toEqual(NOTHING);
  expect(contentOf(file).equals(content)).toBe(true);
  judgeWithQemu(file);
  // what is written next goes where nothing else is
  const image = openImage(qcow2, file);
  image.write(new Uint8Array(512).fill(200), 0, 512, guestOffset(image.clusterSize));
  image.close();
  content.fill(200, image.clusterSize, image.clusterSize + 512);
  expect(contentOf(file).equals(content)).toBe(true);
  judgeWithQemu(file);
}

type Damage = (file: MemoryHostFile, places: Places) => void;
const DAMAGES: Readonly<Record<string, Damage>> = {
  'a refcount table of no clusters': (file) => put32(file, 56, 0),
  'a refcount table at 0': (file) => put64(file, 48, 0),
  'a refcount table that is not aligned': (file, { refcountTable }) => put64(file, 48, refcountTable + 8),
  'a refcount table behind the end of the file': (file) => put64(file, 48, 2 ** 40),
  'a refcount table near 2^64': (file, { clusterSize }) => put64(file, 48, 2n ** 64n - BigInt(clusterSize)),
  'a refcount table of 2^32 - 1 clusters': (file) => put32(file, 56, 0xffffffff),
  'a refcount table in the cluster of an L2 table': (file, { l2 }) => put64(file, 48, l2),
  'a refcount table in a data cluster': (file, { data }) => put64(file, 48, data),
  'a refcount table with all entries 0': (file, { refcountTable }) => put64(file, refcountTable, 0),
  'a refcount block that is not aligned': (file, { refcountTable, refcountBlock }) =>
    put64(file, refcountTable, refcountBlock + 512 - 256),
  'a reserved bit in the refcount table': (file, { refcountTable, refcountBlock }) =>
    put64(file, refcountTable, BigInt(refcountBlock) | 1n),
  'a refcount block behind the end of the file': (file, { refcountTable }) => put64(file, refcountTable, 2 ** 40),
  'a refcount block beyond 2^56': (file, { refcountTable, refcountBlock }) =>
    put64(file, refcountTable, BigInt(refcountBlock) | (1n << 60n)),
  'a refcount block in the cluster of the L1 table': (file, { refcountTable, l1 }) => put64(file, refcountTable, l1),
  'a refcount block in a data cluster': (file, { refcountTable, data }) => put64(file, refcountTable, data),
  'a refcount table that is its own block': (file, { refcountTable }) => put64(file, refcountTable, refcountTable),
  'two refcount blocks that are one': (file, { refcountTable, refcountBlock }) =>
    put64(file, refcountTable + 8, refcountBlock),
  'a refcount block of zeros': (file, { refcountBlock, clusterSize }) =>
    file.punchHole(hostOffset(refcountBlock), clusterSize),
  'a refcount block of ones': (file, { refcountBlock, clusterSize }) =>
    file.write(new Uint8Array(clusterSize).fill(0xff), 0, clusterSize, hostOffset(refcountBlock)),
};

describe('check -r all on version 3 with clusters of 4 KiB mends', () => {
  test.each(Object.entries(DAMAGES))('%s', (name, damage) => {
    const file = makeImage({});
    const content = contentOf(file);
    damage(file, placesOf(file));
    if (name !== 'a refcount block of ones') repairAndJudge(file, content);
    else {
      expect(left(check(file, 'all'))).toEqual(NOTHING);
      expect(contentOf(file).equals(content)).toBe(true);
      judgeWithQemu(file);
    }
  });
});

describe('the refcount structures are rebuilt', () => {
  test.each([512, 4096, 65536, 2097152])('in clusters of %d bytes with counters of every width', (clusterSize) => {
    for (const bits of [1, 2, 4, 8, 16, 32, 64]) {
      const file = makeImage({ cluster_size: String(clusterSize), refcount_bits: String(bits) });
      const content = contentOf(file);
      put64(file, placesOf(file).refcountTable, 2 ** 41);
      repairAndJudge(file, content);
    }
  });

  test('in a version 2 image', () => {
    const file = makeImage({ compat: '0.10' });
    const content = contentOf(file);
    put64(file, 48, 0);
    repairAndJudge(file, content);
  });

  test.each([1, 16, 64])('over more blocks than one, %d bits wide, in clusters of 512 bytes', (bits) => {
    const file = createMemoryImage(qcow2, 4 * 1024 * 1024, { cluster_size: '512', refcount_bits: String(bits) });
    const image = openImage(qcow2, file);
    const data = new Uint8Array(3 * 1024 * 1024).map((_, i) => 1 + ((i >> 9) % 255));
    image.write(data, 0, data.length, guestOffset(100 * 512));
    image.close();
    const content = contentOf(file);
    const { refcountTable } = placesOf(file);
    put64(file, refcountTable, get64(file, refcountTable) + 512n);
    repairAndJudge(file, content);
  });
});

describe('with internal snapshots', () => {
  function withSnapshot(): { file: MemoryHostFile; content: Buffer } {
    writeFileSync(path, makeImage({}).bytes());
    qemuImg('snapshot', '-c', 'first', path);
    const file = new MemoryHostFile(readFileSync(path), path);
    const image = openImage(qcow2, file);
    image.write(new Uint8Array(4096).fill(77), 0, 4096, guestOffset(0));
    image.close();
    return { file, content: contentOf(file) };
  }

  function snapshotBytes(file: MemoryHostFile): Buffer {
    writeFileSync(path, file.bytes());
    qemuImg(
      'convert',
      '-U',
      '-l',
      'snapshot.name=first',
      '-f',
      'qcow2',
      '-O',
      'raw',
      path,
      join(folder, 'snapshot.raw'),
    );
    return readFileSync(join(folder, 'snapshot.raw'));
  }

  test('rebuilt counters count shared clusters, and the snapshot keeps its bytes when the disk is written', () => {
    const { file, content } = withSnapshot();
    const before = snapshotBytes(file);
    put64(file, placesOf(file).refcountTable, 0);
    repairAndJudge(file, content);
    const image = openImage(qcow2, file);
    for (let at = 0; at < content.length; at += 4096)
      image.write(new Uint8Array(4096).fill(9), 0, 4096, guestOffset(at));
    image.close();
    judgeWithQemu(file);
    expect(snapshotBytes(file).equals(before)).toBe(true);
  });

  test.each([
    ['a snapshot table behind the end of the file', (file: MemoryHostFile) => put64(file, 64, 2 ** 40)],
    ['a snapshot table that is not aligned', (file: MemoryHostFile) => put64(file, 64, get64(file, 64) + 8n)],
    ['70000 snapshots', (file: MemoryHostFile) => put32(file, 60, 70000)],
    [
      'a snapshot whose L1 table is not aligned',
      (file: MemoryHostFile) => put64(file, Number(get64(file, 64)), get64(file, Number(get64(file, 64))) + 8n),
    ],
    [
      'a snapshot whose L1 table has 2^32 - 1 entries',
      (file: MemoryHostFile) => put32(file, Number(get64(file, 64)) + 8, 0xffffffff),
    ],
  ] as const)('%s: what the snapshot may use is never freed', (_, damage) => {
    const { file, content } = withSnapshot();
    const places = placesOf(file);
    const block = Buffer.alloc(4096);
    file.read(block, 0, 4096, hostOffset(places.refcountBlock));
    damage(file);
    const found = check(file);
    expect(found.corruptions).toBeGreaterThan(0);
    expect(found.leaks).toBeGreaterThan(0);
    expect(left(check(file, 'leaks')).leaks).toBe(found.leaks);
    expect(left(check(file, 'all')).corruptions).toBeGreaterThan(0);
    const after = Buffer.alloc(4096);
    file.read(after, 0, 4096, hostOffset(places.refcountBlock));
    for (let at = 0; at < 4096; at += 2)
      expect(after.readUInt16BE(at) >= Math.min(1, block.readUInt16BE(at))).toBe(true);
    expect(contentOf(placesUnchanged(file)).equals(content)).toBe(true);
  });
});

/** The disk without its snapshots: what a read-only open refuses of the table is not the point here. */
function placesUnchanged(file: MemoryHostFile): MemoryHostFile {
  const copy = file.clone();
  put32(copy, 60, 0);
  put64(copy, 64, 0);
  return copy;
}

describe('a repair that cannot be whole says so and keeps what can be read', () => {
  test('an L2 entry behind the end of the file stays, and its neighbours are written as before', () => {
    const file = makeImage({});
    const { l2 } = placesOf(file);
    put64(file, l2, COPIED | BigInt(2 ** 30));
    const report = check(file, 'all');
    expect(left(report)).toEqual({ corruptions: 1, leaks: 1, checkErrors: 0 });
    expect(get64(file, l2)).toBe(COPIED | BigInt(2 ** 30));
    writeFileSync(path, file.bytes());
    expect(tryQemu('qemu-img', 'check', path).code).toBe(2);
  });

  test('lost counters are not rebuilt over the place that such an entry means', () => {
    const file = makeImage({});
    const { l2, refcountTable } = placesOf(file);
    put64(file, l2, COPIED | BigInt(Math.ceil(file.size() / 4096) * 4096));
    put64(file, refcountTable, 0);
    const before = file.bytes();
    const sentences: string[] = [];
    const report = qcow2.check(file, { repair: 'all', log: (sentence) => sentences.push(sentence) });
    expect(left(report).corruptions).toBeGreaterThan(0);
    expect(sentences.join('\n')).toContain('cannot be rebuilt: an entry refers to');
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });

  test('three guest clusters in one host cluster with 1-bit counters', () => {
    const file = makeImage({ refcount_bits: '1' });
    const { l2 } = placesOf(file);
    put64(file, l2 + 16, get64(file, l2));
    expect(left(check(file, 'all')).corruptions).toBeGreaterThan(0);
    expect(() => openImage(qcow2, file)).toThrow(/corruptions and is not opened for writing/);
  });

  test('the same where nothing counts them any more: the repair says what is left', () => {
    const file = makeImage({ refcount_bits: '1' });
    const { l2 } = placesOf(file);
    put64(file, l2 + 16, get64(file, l2));
    put64(file, 48, 2 ** 40);
    const report = check(file, 'all');
    expect(left(report)).toEqual({ ...NOTHING, corruptions: 1 });
    expect(left(check(file))).toEqual({ ...NOTHING, corruptions: 1 });
    expect(() => openImage(qcow2, file)).toThrow(/corruptions and is not opened for writing/);
  });

  test('leaks are not given back with damaged refcount structures', () => {
    const file = makeImage({});
    const { refcountTable, refcountBlock } = placesOf(file);
    putCounter16(file, 60, 1);
    file.truncate(61 * placesOf(file).clusterSize);
    put64(file, refcountTable + 8, refcountBlock);
    const before = file.bytes();
    expect(left(check(file, 'leaks')).leaks).toBeGreaterThan(0);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });
});

describe('a repair that changes little', () => {
  test('two guest clusters in one host cluster are counted twice and part at the next write', () => {
    const file = makeImage({});
    const { l2 } = placesOf(file);
    put64(file, l2 + 16, get64(file, l2));
    const content = contentOf(file);
    expect(() => openImage(qcow2, file)).toThrow(/corruptions and is not opened for writing/);
    expect(left(check(file, 'all'))).toEqual(NOTHING);
    judgeWithQemu(file);
    const image = openImage(qcow2, file);
    image.write(new Uint8Array(4096).fill(99), 0, 4096, guestOffset(2 * 4096));
    image.close();
    content.fill(99, 2 * 4096, 3 * 4096);
    expect(contentOf(file).equals(content)).toBe(true);
    // the cluster that is left alone has COPIED clear: qemu-img calls that an error, and it keeps nobody from writing
    expect(left(check(file))).toEqual({ ...NOTHING, corruptions: 1 });
    openImage(qcow2, file).close();
    expect(left(check(file, 'all'))).toEqual(NOTHING);
    judgeWithQemu(file);
  });

  test('a zero entry that keeps an impossible place loses the place and stays zero', () => {
    const file = makeImage({});
    const { l2 } = placesOf(file);
    put64(file, l2, BigInt(512) | 1n);
    const content = contentOf(file);
    expect(content.subarray(0, 4096).every((byte) => byte === 0)).toBe(true);
    repairAndJudge(file, content);
    // the cluster that the entry lost was a leak and is in use for something else by now, or free
    expect(get64(file, l2)).toBe(1n);
  });

  test('what an L1 entry takes for a table stays as it is where it is data of the guest', () => {
    for (const byte of [0x03, 0x01, 0x7f]) {
      const file = makeImage({});
      let image = openImage(qcow2, file);
      image.write(new Uint8Array(4096).fill(byte), 0, 4096, guestOffset(0));
      image.close();
      const { l1, l2, data } = placesOf(file);
      // another range of the disk, beyond what the table maps, has the data of guest cluster 0 for its table
      image = openImage(qcow2, file);
      image.resize(1024 * 4096);
      image.close();
      const places = placesOf(file);
      expect(places).toMatchObject({ l2, data });
      put64(file, places.l1 + 8, COPIED | BigInt(data));
      expect(l1).toBeGreaterThan(0);
      check(file, 'all');
      const reader = openImage(qcow2, file.clone(true), { readOnly: true });
      const bytes = Buffer.alloc(4096);
      reader.read(bytes, 0, 4096, guestOffset(0));
      expect(bytes.every((each) => each === byte)).toBe(true);
    }
  });

  test('a leak that hid a COPIED flag is lowered and the flag set, with -r leaks as well', () => {
    for (const repair of ['leaks', 'all'] as const) {
      const file = makeImage({});
      const { l2, data } = placesOf(file);
      putCounter16(file, data / 4096, 2);
      put64(file, l2, data);
      expect(left(check(file))).toEqual({ corruptions: 0, leaks: 1, checkErrors: 0 });
      expect(left(check(file, repair))).toEqual(NOTHING);
      expect(get64(file, l2)).toBe(COPIED | BigInt(data));
      judgeWithQemu(file);
    }
  });

  test('a counter above 65535 references of 64 bits is right as it is', () => {
    const file = createMemoryImage(qcow2, 1024 * 1024, { cluster_size: '2M', refcount_bits: '64' });
    expect(left(check(file))).toEqual(NOTHING);
    // one compressed cluster of one sector, which 70000 entries share
    const image = openImage(qcow2, file);
    image.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(0));
    image.close();
    const { l2, data, refcountBlock, clusterSize } = placesOf(file);
    for (let entry = 1; entry <= 70000; entry++) put64(file, l2 + entry * 8, COPIED_COMPRESSED(data));
    put64(file, refcountBlock + (data / clusterSize) * 8, 70001);
    put64(file, l2, data);
    expect(left(check(file))).toEqual(NOTHING);
    put64(file, refcountBlock + (data / clusterSize) * 8, 70002);
    expect(left(check(file))).toEqual({ corruptions: 0, leaks: 1, checkErrors: 0 });
    check(file, 'leaks');
    expect(get64(file, refcountBlock + (data / clusterSize) * 8)).toBe(70001n);
  });
});

const COPIED_COMPRESSED = (data: number): bigint => (1n << 62n) | BigInt(data);

describe('marks', () => {
  test('the dirty and the corrupt bit go when nothing is left, and stay otherwise', () => {
    const file = makeImage({});
    put32(file, 76, 3);
    expect(left(check(file, 'leaks'))).toEqual(NOTHING);
    expect(get64(file, 72)).toBe(3n);
    expect(left(check(file, 'all'))).toEqual(NOTHING);
    expect(get64(file, 72)).toBe(0n);
    const { l2 } = placesOf(file);
    put32(file, 76, 3);
    put64(file, l2, COPIED | BigInt(2 ** 30));
    check(file, 'all');
    expect(get64(file, 72)).toBe(3n);
  });

  test('a dirty image whose refcount blocks are lost is rebuilt by a read-write open', () => {
    const file = makeImage({});
    const content = contentOf(file);
    const { refcountTable } = placesOf(file);
    put64(file, refcountTable, 2 ** 40);
    put32(file, 76, 1);
    const image = openImage(qcow2, file);
    image.write(new Uint8Array(512).fill(250), 0, 512, guestOffset(4096));
    image.close();
    content.fill(250, 4096, 4096 + 512);
    expect(get64(file, 72)).toBe(0n);
    expect(contentOf(file).equals(content)).toBe(true);
    judgeWithQemu(file);
  });

  test('a dirty image in which an L2 table is data as well is refused, and not a byte of it changes', () => {
    const file = makeImage({});
    const { l2 } = placesOf(file);
    put64(file, l2 + 16, COPIED | BigInt(l2));
    put32(file, 76, 1);
    const before = file.bytes();
    expect(() => openImage(qcow2, file)).toThrow(/corruptions and is not opened for writing/);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });

  test('a dirty image that cannot be repaired is refused, and not a byte of it changes', () => {
    const file = makeImage({});
    const { l2, refcountBlock } = placesOf(file);
    put64(file, l2, COPIED | BigInt(2 ** 30));
    file.punchHole(hostOffset(refcountBlock), 4096);
    put32(file, 76, 1);
    const before = file.bytes();
    expect(() => openImage(qcow2, file)).toThrow(/corruptions and is not opened for writing/);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });
});

describe('a power cut inside a repair', () => {
  const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
  test.each([
    ['lost blocks', DAMAGES['a refcount table with all entries 0']!],
    ['a block in a data cluster', DAMAGES['a refcount block in a data cluster']!],
    ['a lost table', DAMAGES['a refcount table behind the end of the file']!],
    [
      'wrong counters and flags',
      (file: MemoryHostFile, { l2 }: Places) => {
        put64(file, l2 + 16, get64(file, l2));
        putCounter16(file, 12, 0);
        putCounter16(file, 60, 3);
      },
    ],
  ] as const)(`leaves an image that reads the same and that the next repair mends: %s (seed ${seed})`, (_, damage) => {
    const start = makeImage({});
    damage(start, placesOf(start));
    put32(start, 76, 1);
    const content = contentOf(start);
    const recorded = new RecordingHostFile(start.clone());
    qcow2.check(recorded, { repair: 'all', log: () => undefined });
    let states = 0;
    for (const { state, moment, subset } of distinctCrashStates(start, recorded.log, seededRandom(seed))) {
      states++;
      const where = `moment ${moment} of ${recorded.log.length}, ${subset}`;
      expect(contentOf(state).equals(content), where).toBe(true);
      expect(left(check(state, 'all')), where).toEqual(NOTHING);
      expect(left(check(state)), where).toEqual(NOTHING);
      expect(contentOf(state).equals(content), where).toBe(true);
    }
    expect(states).toBeGreaterThan(5);
  });
});
