// Parallels images of one file that are written: what an open changes and what it refuses, the order of the mark of an image in use,
// check and repair, and the format extension.

import { createHash } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { checkExitCode } from '../../../../src/format/check-report.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { type ParallelsSpec, parallelsImage } from '../../../support/piece-bytes.ts';
import { plainParallels, setsInUse } from '../../../support/plain-parallels.ts';
import { RecordingHostFile } from '../../../support/wrapping-files.ts';

const CLUSTER = 4096;

const fileOf = (spec: ParallelsSpec = {}): MemoryHostFile => new MemoryHostFile(parallelsImage(spec).image, '/disk');

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    if (error instanceof ImgfuseError) return `${error.kind}: ${error.message}`;
    throw error;
  }
  return 'none';
}

function contentOf(image: WritableImage): Buffer {
  const bytes = Buffer.alloc(image.virtualSize());
  image.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

function check(file: MemoryHostFile, repair: 'none' | 'leaks' | 'all' = 'none') {
  const findings: string[] = [];
  const report = plainParallels.check(file, { repair, log: (sentence) => findings.push(sentence) });
  return { ...report, exit: checkExitCode(report), findings };
}

function word(file: MemoryHostFile, at: number, value?: number): number {
  const bytes = Buffer.alloc(4);
  if (value !== undefined) {
    bytes.writeUInt32LE(value);
    file.write(bytes, 0, 4, hostOffset(at));
  }
  file.read(bytes, 0, 4, hostOffset(at));
  return bytes.readUInt32LE();
}

describe.each([
  ['the first', { magic: 'WithoutFreeSpace', clusterSectors: 63 }],
  ['the second', {}],
] as const)('an image of %s kind', (_, spec) => {
  test('reads as what it was made of, to read and to write, and a close without a change writes nothing', () => {
    const { content } = parallelsImage(spec);
    for (const readOnly of [true, false]) {
      const recording = new RecordingHostFile(fileOf(spec));
      const image = openImage(plainParallels, recording, { readOnly });
      expect(contentOf(image).equals(content)).toBe(true);
      image.flush();
      image.close();
      expect(recording.log.filter(({ operation }) => operation !== 'sync')).toEqual([]);
    }
  });

  test('is marked as in use, durably, before anything else, and as closed after everything else', () => {
    const recording = new RecordingHostFile(fileOf(spec));
    const image = openImage(plainParallels, recording);
    image.write(Buffer.alloc(512, 9), 0, 512, guestOffset(0));
    image.discard(guestOffset(0), 40 * CLUSTER);
    image.close();
    const changes = recording.log.filter(({ length, operation }) => operation === 'sync' || length > 0);
    const [first, second] = changes;
    expect(setsInUse(first!.offset, first!.data!)).toBe(true);
    expect(second!.operation).toBe('sync');
    const [flushed, closing, last] = changes.slice(-3);
    expect([flushed!.operation, closing!.operation, last!.operation]).toEqual(['sync', 'write', 'sync']);
    expect(Buffer.from(closing!.data!.subarray(44, 48)).toString()).toBe('v2.1');
  });

  test('grows beyond the room for its BAT: the clusters in its way move, and every byte stays', () => {
    const file = fileOf(spec);
    const image = openImage(plainParallels, file);
    const before = contentOf(image);
    image.resize(400 * 1024 * 1024);
    const after = contentOf(image).subarray(0, before.length);
    expect(after.equals(before)).toBe(true);
    image.write(Buffer.from('the end'), 0, 7, guestOffset(400 * 1024 * 1024 - 7));
    image.close();
    expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0, exit: 0 });
    const again = openImage(plainParallels, file, { readOnly: true });
    expect(contentOf(again).subarray(-7).toString()).toBe('the end');
    expect(contentOf(again).subarray(0, before.length).equals(before)).toBe(true);
  });
});

test('an image of the first kind has 2^32 - 1 sectors at most', () => {
  const image = openImage(plainParallels, fileOf({ magic: 'WithoutFreeSpace' }));
  expect(refusal(() => image.resize(2 ** 41))).toMatch(/^limit: \/disk cannot have 2199023255552 bytes/);
  image.close();
});

test('an old header that does not say where the clusters begin is believed by its first entry', () => {
  // QEMU before 8.2 puts the first cluster 512 times as far away as the BAT ends
  const { content, image } = parallelsImage({
    magic: 'WithoutFreeSpace',
    clusterSectors: 63,
    pieces: [1, 0, 3],
    sectors: 189,
  });
  const shift = 77;
  const moved = Buffer.concat([image.subarray(0, 512), Buffer.alloc(shift * 512), image.subarray(512)]);
  for (const at of [64, 72]) moved.writeUInt32LE(moved.readUInt32LE(at) + shift, at);
  const file = new MemoryHostFile(moved, '/disk');
  expect(check(file)).toMatchObject({ corruptions: 0 });
  const opened = openImage(plainParallels, file);
  expect(contentOf(opened).equals(content)).toBe(true);
  opened.write(Buffer.alloc(512, 7), 0, 512, guestOffset(63 * 512));
  opened.close();
  content.fill(7, 63 * 512, 64 * 512);
  expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0 });
  expect(contentOf(openImage(plainParallels, file, { readOnly: true })).equals(content)).toBe(true);
});

describe('check', () => {
  const pieces = [1, 2, 3, 4];
  const sectors = 32;
  const bat = (...entries: number[]): MemoryHostFile => fileOf({ pieces, sectors, bat: entries });

  test('finds nothing in a new image, and leaks in one that is longer, or has a gap', () => {
    expect(check(createMemoryImage(plainParallels, 1_000_000))).toMatchObject({ exit: 0, findings: [] });
    const file = bat(4, 3, 0, 1);
    file.truncate(file.size() + 2 * CLUSTER);
    expect(check(file)).toMatchObject({ leaks: 3, corruptions: 0, exit: 3 });
    expect(check(file, 'leaks')).toMatchObject({ leaks: 3, leaksFixed: 3, exit: 0 });
    expect(check(file)).toMatchObject({ leaks: 0, exit: 0 });
    expect(file.size()).toBe(4 * CLUSTER);
    expect(contentOf(openImage(plainParallels, file, { readOnly: true }))[CLUSTER]).toBe(2);
  });

  test('takes entries away that lead nowhere, and says their values; a repair of leaks does not', () => {
    const file = bat(4, 99, 0xffffffff, 1);
    expect(check(file)).toMatchObject({ corruptions: 2, exit: 2 });
    expect(refusal(() => openImage(plainParallels, file))).toMatch(
      /^corrupt: \/disk: its BAT has 2 errors, the first: BAT entry 1/,
    );
    expect(check(file, 'leaks')).toMatchObject({ corruptions: 2, corruptionsFixed: 0, exit: 2 });
    const { exit, findings } = check(file, 'all');
    expect(exit).toBe(0);
    expect(findings.join('\n')).toMatch(/Repaired BAT entry 1 at offset 0x44 .*no cluster of this file is at 0x63000/);
    expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0 });
  });

  test('gives the second user of a cluster a copy, so that both keep their data', () => {
    const file = bat(4, 4, 2, 4);
    expect(check(file)).toMatchObject({ corruptions: 2, exit: 2 });
    expect(refusal(() => openImage(plainParallels, file))).toMatch(/2 of them clusters used twice/);
    expect(check(file, 'all')).toMatchObject({ corruptionsFixed: 2, exit: 0 });
    expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0, exit: 0 });
    const content = contentOf(openImage(plainParallels, file, { readOnly: true }));
    expect([0, 1, 2, 3].map((n) => content[n * CLUSTER])).toEqual([1, 1, 3, 1]);
  });

  test('puts a cluster that lies beside the grid into it', () => {
    const { image } = parallelsImage({ magic: 'WithoutFreeSpace', pieces: [1, 2], sectors: 16 });
    image.writeUInt32LE(1, 48);
    image.writeUInt32LE(image.readUInt32LE(64) - 1, 64);
    const file = new MemoryHostFile(image, '/disk');
    const before = contentOf(openImage(plainParallels, file.clone(true), { readOnly: true }));
    expect(check(file)).toMatchObject({ exit: 2 });
    expect(check(file, 'all')).toMatchObject({ exit: 0 });
    expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(contentOf(openImage(plainParallels, file, { readOnly: true })).equals(before)).toBe(true);
  });

  test('completes a last cluster that the end of the file cuts, and so does an open for writing', () => {
    const cut = (): MemoryHostFile =>
      new MemoryHostFile(parallelsImage({ pieces, sectors }).image.subarray(0, -1000), '/disk');
    expect(check(cut())).toMatchObject({ corruptions: 1, exit: 2 });
    const file = cut();
    expect(check(file, 'all')).toMatchObject({ corruptionsFixed: 1, exit: 0 });
    expect(check(file)).toMatchObject({ exit: 0 });
    const log: string[] = [];
    openImage(plainParallels, cut(), { log: (sentence) => log.push(sentence) }).close();
    expect(log.join()).toContain('is truncated: its last cluster ends beyond');
  });

  test('counts an image in use as a corruption, which a repair of all mends and an open for writing as well', () => {
    const file = fileOf({ inUse: 0x746f6e59 });
    expect(check(file)).toMatchObject({ corruptions: 1, exit: 2 });
    expect(check(file, 'leaks')).toMatchObject({ corruptionsFixed: 0, exit: 2 });
    expect(check(file.clone(), 'all')).toMatchObject({ corruptionsFixed: 1, exit: 0 });
    const log: string[] = [];
    openImage(plainParallels, file, { log: (sentence) => log.push(sentence) }).close();
    expect(log).toEqual([expect.stringMatching(/was not closed clean; checked: no errors/)]);
    expect(check(file)).toMatchObject({ exit: 0 });
  });

  test('an open of an image in use takes entries away that lead out of the file, and refuses clusters used twice', () => {
    const lost = fileOf({ pieces, sectors, bat: [4, 99, 2, 1], inUse: 0x746f6e59 });
    const log: string[] = [];
    const image = openImage(plainParallels, lost, { log: (sentence) => log.push(sentence) });
    expect(log.join()).toMatch(/repairing 1 error.*Repaired BAT entry 1/);
    expect(contentOf(image)[CLUSTER]).toBe(0);
    image.close();
    const twice = fileOf({ pieces, sectors, bat: [4, 4, 2, 1], inUse: 0x746f6e59 });
    expect(refusal(() => openImage(plainParallels, twice))).toContain('used twice');
  });
});

/** An image whose last two clusters are an extension, and a dirty bitmap of it. */
function withExtension(features: readonly { magic: bigint; flags: bigint; data?: Buffer }[]): MemoryHostFile {
  const { image } = parallelsImage({ pieces: [1, 2], sectors: 16 });
  const at = image.length;
  image.writeBigUInt64LE(BigInt(at / 512), 56);
  const cluster = Buffer.alloc(CLUSTER);
  cluster.writeBigUInt64LE(0xab234cef23dcea87n, 0);
  let place = 24;
  for (const { magic, flags, data = Buffer.alloc(0) } of features) {
    cluster.writeBigUInt64LE(magic, place);
    cluster.writeBigUInt64LE(flags, place + 8);
    cluster.writeUInt32LE(data.length, place + 16);
    data.copy(cluster, place + 24);
    place = Math.ceil((place + 24 + data.length) / 8) * 8;
  }
  createHash('md5').update(cluster.subarray(24)).digest().copy(cluster, 8);
  const bits = features.some(({ data }) => data !== undefined) ? [Buffer.alloc(CLUSTER, 0xff)] : [];
  return new MemoryHostFile(Buffer.concat([image, cluster, ...bits]), '/disk');
}

function bitmap(): Buffer {
  const data = Buffer.alloc(32 + 3 * 8);
  data.writeUInt32LE(3, 28);
  data.writeBigUInt64LE(1n, 32);
  data.writeBigUInt64LE(BigInt((4 * CLUSTER) / 512), 40);
  return data;
}

describe('a format extension', () => {
  const BITMAP = 0x20385fae252cb34an;

  test('belongs to the image for a check, is left by a reader, and is dropped by an open for writing', () => {
    const file = withExtension([{ magic: BITMAP, flags: 0n, data: bitmap() }]);
    expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0, exit: 0 });
    openImage(plainParallels, file.clone(true), { readOnly: true }).close();
    const log: string[] = [];
    const image = openImage(plainParallels, file, { log: (sentence) => log.push(sentence) });
    expect(log.join()).toContain('its format extension (dirty bitmaps) is dropped');
    expect([word(file, 56), word(file, 60)]).toEqual([0, 0]);
    image.close();
    expect(check(file)).toMatchObject({ corruptions: 0, leaks: 0, exit: 0 });
    expect(file.size()).toBe(3 * CLUSTER);
  });

  test.each([
    ['with a necessary feature', [{ magic: 77n, flags: 1n }]],
    ['with an unknown feature to keep', [{ magic: 77n, flags: 2n }]],
    ['with a bitmap that is necessary', [{ magic: BITMAP, flags: 1n, data: bitmap() }]],
  ] as const)('%s refuses the open for writing, and nothing changes', (_, features) => {
    const file = withExtension(features);
    const before = file.bytes();
    expect(refusal(() => openImage(plainParallels, file))).toMatch(
      /^unsupported: .*must be kept, so the image is not written/,
    );
    expect(check(file, 'all')).toMatchObject({ exit: 0 });
    word(file, 44, 0x746f6e59);
    expect(refusal(() => check(file, 'all'))).toMatch(/^unsupported/);
    word(file, 44, 0x312e3276);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });

  test('that is damaged refuses it as well: it may hold such a feature', () => {
    const good = (): MemoryHostFile => withExtension([{ magic: 77n, flags: 0n }]);
    openImage(plainParallels, good()).close();
    for (const [at, value] of [
      [3 * CLUSTER + 100, 1],
      [3 * CLUSTER, 5],
      [56, 1 << 20],
      [60, 1 << 30],
    ] as const) {
      const file = good();
      word(file, at, value);
      expect(
        refusal(() => openImage(plainParallels, file)),
        String(at),
      ).toMatch(/^unsupported: .*is damaged/);
      openImage(plainParallels, file.clone(true), { readOnly: true }).close();
    }
  });
});

test('the mark of an empty image goes, unless its BAT has clusters', () => {
  const empty = fileOf({ pieces: [0, 0], sectors: 16 });
  word(empty, 52, 1);
  openImage(plainParallels, empty).close();
  expect(word(empty, 52)).toBe(0);
  const full = fileOf();
  word(full, 52, 1);
  expect(refusal(() => openImage(plainParallels, full))).toMatch(/says that it is empty, and its BAT has/);
});

describe('create', () => {
  test.each([
    ['cluster_size', '0'],
    ['cluster_size', '1000'],
    ['cluster_size', '2G'],
    ['preallocation', 'off'],
  ])('refuses %s=%s', (key, value) => {
    expect(refusal(() => createMemoryImage(plainParallels, 4096, { [key]: value }))).toMatch(/^usage: /);
  });

  test('makes images of odd sizes and none whose BAT is too long', () => {
    for (const [size, cluster_size] of [
      [0, '1M'],
      [513, '512'],
      [5_000_000, '63k'],
    ] as const) {
      const file = createMemoryImage(plainParallels, size, { cluster_size });
      expect(plainParallels.inspect(file).virtualSize).toBe(Math.ceil(size / 512) * 512);
      openImage(plainParallels, file).close();
    }
    expect(refusal(() => createMemoryImage(plainParallels, 2 ** 36, { cluster_size: '512' }))).toContain(
      'use larger clusters',
    );
  });
});
