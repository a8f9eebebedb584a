// Tables of qcow images that are damaged or odd: what is read, what is not opened for writing, and what a repair makes of it.

import { deflateRawSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { qcow } from '../../../../src/format/qcow/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, openImage } from '../../../support/memory-images.ts';
import { CLUSTER, compressedEntry, type QcowSpec, qcowImage, TABLE } from '../../../support/qcow-bytes.ts';

const fileOf = (spec: QcowSpec): MemoryHostFile => new MemoryHostFile(qcowImage(spec), '/disk');
const firstByte = (image: WritableImage, cluster: number): number => {
  const bytes = new Uint8Array(1);
  image.read(bytes, 0, 1, guestOffset(cluster * CLUSTER));
  return bytes[0]!;
};

function check(file: MemoryHostFile, repair: 'none' | 'all') {
  const findings: string[] = [];
  const report = checkImage(qcow, file, { repair, log: (finding) => findings.push(finding) });
  return { findings, report };
}

function refusal(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return (error as Error).message;
  }
  return 'nothing';
}

describe.each<[string, QcowSpec, string]>([
  ['behind the end', { l2: [6 * CLUSTER] }, '0xc00 is no place of this file'],
  ['that is no sector', { l2: [2 * CLUSTER + 8] }, '0x408 is no place of this file'],
  ['into the header', { l2: [8] }, '0x8 is no place of this file'],
  ['into its own table', { l2: [TABLE] }, '0x200 is no place of this file'],
  ['above the safe integers', { l2: [2n ** 54n] }, '0x40000000000000 is no place of this file'],
  ['to compressed data behind the end', { l2: [compressedEntry(6 * CLUSTER - 9, 10)] }, 'is no place of this file'],
  ['to compressed data of no bytes', { l2: [compressedEntry(2 * CLUSTER, 0)] }, 'is no place of this file'],
])('an entry that leads %s', (_, spec, what) => {
  test('is an error of the read that meets it, and of nothing else', () => {
    const image = openImage(qcow, fileOf({ ...spec, l2: [...spec.l2!, 3 * CLUSTER] }), { readOnly: true });
    expect(refusal(() => firstByte(image, 0))).toContain('L2 entry 0 at offset 0x200 is 0x');
    expect(firstByte(image, 1)).toBe(3);
    expect(firstByte(image, 2)).toBe(0);
  });

  test('is not written to before a repair has made it 0', () => {
    const file = fileOf(spec);
    const before = file.bytes();
    expect(refusal(() => openImage(qcow, file))).toMatch(/its tables have 1 error, the first: L2 entry 0.*-o ro/);
    expect(check(file, 'none').findings[0]).toContain(what);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
    const { findings, report } = check(file, 'all');
    expect(findings[0]).toMatch(/^Repaired L2 entry 0.*; it is 0 now$/);
    expect([report.corruptions, report.corruptionsFixed]).toEqual([1, 1]);
    expect(check(file, 'none').findings).toEqual([]);
    expect(firstByte(openImage(qcow, file), 0)).toBe(0);
  });
});

test.each([6n * 512n, 40n, 2n ** 60n, 516n])('an L1 entry of %i is an error, and 0 after a repair', (l1) => {
  const file = fileOf({ l1 });
  const image = openImage(qcow, file, { readOnly: true });
  expect(refusal(() => firstByte(image, 0))).toContain('L1 entry 0 at offset 0x30');
  expect(check(file, 'all').findings[0]).toContain('is no place for an L2 table in this file; it is 0 now');
  expect(check(file, 'none').findings).toEqual([]);
});

describe('a cluster that is used twice', () => {
  test.each<[string, QcowSpec]>([
    ['by two entries', { l2: [2 * CLUSTER, 2 * CLUSTER] }],
    ['by an entry and compressed data', { l2: [2 * CLUSTER, compressedEntry(2 * CLUSTER + 100, 50)] }],
    ['by two entries off the grid', { l2: [2 * CLUSTER, 2 * CLUSTER + 512, 3 * CLUSTER] }],
  ])('%s is copied by a repair, and both read as before', (_, spec) => {
    const file = fileOf(spec);
    expect(refusal(() => openImage(qcow, file))).toMatch(/1 error, 1 of them clusters used twice/);
    const { report } = check(file, 'all');
    expect([report.corruptions, report.corruptionsFixed]).toEqual([1, 1]);
    expect(check(file, 'none').findings.filter((finding) => finding.startsWith('ERROR'))).toEqual([]);
    const image = openImage(qcow, file);
    expect(firstByte(image, 0)).toBe(2);
    image.write(new Uint8Array(CLUSTER).fill(99), 0, CLUSTER, guestOffset(0));
    if (_ === 'by two entries') expect(firstByte(image, 1)).toBe(2);
  });

  test('by data and by a table is kept as data: the table moves', () => {
    // two tables: cluster 2 is the second one, and the data of guest cluster 0
    const image = qcowImage({ l2: [2 * CLUSTER], size: 65 * CLUSTER, clusters: 4 });
    image.writeBigUInt64BE(BigInt(2 * CLUSTER), 56);
    image.writeBigUInt64BE(BigInt(3 * CLUSTER), 2 * CLUSTER);
    image.fill(0, 2 * CLUSTER + 8, 3 * CLUSTER);
    const before = image.subarray(2 * CLUSTER, 3 * CLUSTER);
    const file = new MemoryHostFile(image, '/disk');
    const { report } = check(file, 'all');
    expect([report.corruptions, report.corruptionsFixed]).toEqual([1, 1]);
    const opened = openImage(qcow, file);
    const bytes = Buffer.alloc(CLUSTER);
    opened.read(bytes, 0, CLUSTER, guestOffset(0));
    expect(bytes.equals(before)).toBe(true);
    expect(firstByte(opened, 64)).toBe(3);
  });
});

test('clusters that lie off the grid are read, and the image is not written to', () => {
  const image = qcowImage({ clusterBits: 10, l2: [2048 + 512], clusters: 8 });
  image.fill(0, 1024, 1024 + 512);
  image.copy(image, 1024, TABLE, TABLE + 8);
  image.fill(0, TABLE, TABLE + 8);
  image.writeBigUInt64BE(1024n, 48);
  const file = new MemoryHostFile(image, '/disk');
  expect(firstByte(openImage(qcow, file, { readOnly: true }), 0)).toBe(5);
  expect(refusal(() => openImage(qcow, file))).toMatch(/do not begin at a multiple of 1024 bytes.*-o overlay=FILE/);
  expect(check(file, 'none').report.corruptions).toBe(0);
});

describe('compressed data', () => {
  const stored = deflateRawSync(Buffer.alloc(CLUSTER, 'abc'), { windowBits: 12 });
  const withStored = (...more: Buffer[]): MemoryHostFile => {
    const at = 2 * CLUSTER + 3;
    const image = qcowImage({ l2: [compressedEntry(at, stored.length), compressedEntry(at + 60, stored.length)] });
    for (const [i, bytes] of [stored, stored, ...more].entries()) bytes.copy(image, at + i * 60);
    return new MemoryHostFile(image, '/disk');
  };

  test('may share a host cluster, and is written to in a new place', () => {
    const file = withStored();
    expect(check(file, 'none').report).toMatchObject({ corruptions: 0, compressedClusters: 2 });
    const image = openImage(qcow, file);
    image.write(new Uint8Array([1]), 0, 1, guestOffset(5));
    const bytes = Buffer.alloc(2 * CLUSTER);
    image.read(bytes, 0, bytes.length, guestOffset(0));
    const wanted = Buffer.concat([Buffer.alloc(CLUSTER, 'abc'), Buffer.alloc(CLUSTER, 'abc')]);
    wanted[5] = 1;
    expect(bytes.equals(wanted)).toBe(true);
    image.close();
    expect(check(file, 'none').report).toMatchObject({ corruptions: 0, compressedClusters: 1, allocatedClusters: 2 });
  });

  test('that is damaged is an error of its own cluster', () => {
    const file = withStored();
    file.write(new Uint8Array(10).fill(0xff), 0, 10, (2 * CLUSTER + 3) as never);
    const image = openImage(qcow, file, { readOnly: true });
    expect(refusal(() => firstByte(image, 0))).toMatch(
      /the compressed cluster at offset 1027 .*; restore it from a backup/,
    );
    expect(firstByte(image, 1)).toBe('abc'.charCodeAt(0));
  });
});

test('unused clusters that hold bytes are leaks, which a repair and every close make holes', () => {
  const file = fileOf({ l2: [3 * CLUSTER] });
  expect(check(file, 'none').report.leaks).toBe(3);
  const { report } = check(file, 'all');
  expect([report.leaks, report.leaksFixed]).toEqual([3, 3]);
  expect(check(file, 'none').report).toMatchObject({ leaks: 0, corruptions: 0 });
  expect(file.size()).toBe(4 * CLUSTER);
});
