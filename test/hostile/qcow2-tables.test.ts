// qcow2 images that would take for ever: tables that refer to themselves or to one place a million times, files of petabytes.
// And entries that lead nowhere (R10): what they refer to is never read.

import { expect, test } from 'vitest';
import { guestOffset, hostOffset, roundUp } from '../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../src/errors/index.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { COPIED, get64, placesOf, put32, put64, putCounter16 } from '../support/qcow2-bytes.ts';
import { CountingHostFile } from '../support/wrapping-files.ts';

const CLUSTER = 65536;

function image(size = 1024 * 1024 * 1024 * 1024): MemoryHostFile {
  return createMemoryImage(qcow2, size, {});
}

/** Runs `action` and says how many milliseconds of CPU time it took: other tests run at the same time. */
function timed(action: () => void): number {
  const start = process.cpuUsage();
  action();
  const { user, system } = process.cpuUsage(start);
  return (user + system) / 1000;
}

function expectRefused(file: MemoryHostFile): void {
  const before = Buffer.from(
    file
      .clone()
      .bytes()
      .subarray(0, 16 * CLUSTER),
  );
  const took = timed(() => expect(() => openImage(qcow2, file)).toThrow(/corruptions and is not opened for writing/));
  expect(took).toBeLessThan(2000);
  expect(
    Buffer.compare(
      before,
      Buffer.from(
        file
          .clone()
          .bytes()
          .subarray(0, 16 * CLUSTER),
      ),
    ),
  ).toBe(0);
}

test('an L1 table whose entries all refer to one L2 table is refused, and that table is walked once', () => {
  const file = image();
  const { l1 } = placesOf(file);
  const table = file.size();
  file.truncate(table + CLUSTER);
  for (let index = 0; index < 2048; index++) put64(file, l1 + index * 8, COPIED | BigInt(table));
  expectRefused(file);
});

test('a refcount table whose entries all refer to one block is refused, and that block is walked once', () => {
  const file = image();
  const { refcountTable, refcountBlock } = placesOf(file);
  for (let index = 0; index < CLUSTER / 8; index++) put64(file, refcountTable + index * 8, refcountBlock);
  expectRefused(file);
});

test('an L1 entry that refers to its own table is refused', () => {
  const file = image();
  const { l1 } = placesOf(file);
  put64(file, l1, COPIED | BigInt(l1));
  expectRefused(file);
});

test('a small image in a sparse file of 4 PiB opens both ways within two seconds of CPU time', () => {
  const file = image();
  file.truncate(4 * 2 ** 50);
  expect(timed(() => openImage(qcow2, file.clone(true), { readOnly: true }).close())).toBeLessThan(2000);
  expect(timed(() => openImage(qcow2, file).close())).toBeLessThan(2000);
});

test('a refcount table of blocks that are holes of the file is looked through without a look at each of their counters', () => {
  const file = image();
  const { refcountTable } = placesOf(file);
  const first = Math.ceil(file.size() / CLUSTER);
  const blocks = CLUSTER / 8 - 1;
  for (let index = 1; index <= blocks; index++) put64(file, refcountTable + index * 8, (first + index) * CLUSTER);
  file.truncate((first + blocks + 1) * CLUSTER);
  const took = timed(() => {
    expect(qcow2.check(file, { repair: 'none', log: () => undefined }).corruptions).toBeGreaterThanOrEqual(blocks);
  });
  expect(took).toBeLessThan(5000);
});

test.each([
  { name: 'beyond the end of the file', lead: (end: number) => end },
  { name: 'to the last sector of the file', lead: (end: number) => end - 512 },
  { name: 'far beyond the end of the file', lead: () => 2 ** 45 },
  { name: 'into the middle of a cluster with data', lead: (_: number, data: number) => data + 512 },
])('an L2 entry that leads $name is refused and not followed', ({ lead }) => {
  const file = image(1024 * 1024);
  const whole = openImage(qcow2, file);
  whole.write(new Uint8Array(4 * CLUSTER).fill(0x55), 0, 4 * CLUSTER, guestOffset(0));
  whole.close();
  const { l2, data } = placesOf(file);
  const [before, damaged, after] = [1, 2, 3] as const;
  put64(file, l2 + damaged * 8, COPIED | BigInt(lead(file.size(), data)));
  const disk = openImage(qcow2, file.clone(true), { readOnly: true });
  const bytes = new Uint8Array(CLUSTER).fill(0xee);
  let caught: unknown;
  try {
    disk.read(bytes, 0, 512, guestOffset(damaged * CLUSTER));
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  expect(caught).toMatchObject({ kind: 'corrupt', context: { offset: l2 + damaged * 8 } });
  expect((caught as Error).message).toMatch(
    /L2 entry 2 at offset .* is not a cluster of this file \(guest offset 0x20000\)/,
  );
  expect(bytes.every((byte) => byte === 0xee)).toBe(true);
  for (const cluster of [before, after]) {
    disk.read(bytes, 0, CLUSTER, guestOffset(cluster * CLUSTER));
    expect(bytes.every((byte) => byte === 0x55)).toBe(true);
  }
});

test('counters of clusters behind the end of the file are neither leaks nor work', () => {
  const file = createMemoryImage(qcow2, 1 << 20, { cluster_size: '512', refcount_bits: '1' });
  const { refcountTable } = placesOf(file);
  const blocks = file.size();
  for (let index = 1; index < 64; index++) {
    const block = blocks + (index - 1) * 512;
    file.write(new Uint8Array(512).fill(0xff), 0, 512, hostOffset(block));
    put64(file, refcountTable + index * 8, block);
    // the block is counted
    const counter = new Uint8Array(1);
    const at = Number(get64(file, refcountTable)) + Math.floor(block / 512 / 8);
    file.read(counter, 0, 1, hostOffset(at));
    counter[0]! |= 1 << ((block / 512) % 8);
    file.write(counter, 0, 1, hostOffset(at));
  }
  const report = qcow2.check(file.clone(), { repair: 'none', log: () => undefined });
  expect(report).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  const opened = openImage(qcow2, file);
  opened.write(new Uint8Array(512).fill(1), 0, 512, guestOffset(0));
  opened.close();
  expect(file.size()).toBeLessThan(64 * 1024);
  expect(qcow2.check(file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
});

/** A table of so many snapshots, with their L1 tables of `entries` entries at `offsetOf`. */
function withSnapshots(
  file: MemoryHostFile,
  count: number,
  entries: number,
  offsetOf: (index: number) => number,
): void {
  const table = roundUp(file.size(), CLUSTER);
  const bytes = Buffer.alloc(count * 72);
  for (let index = 0; index < count; index++) {
    const at = index * 72;
    bytes.writeBigUInt64BE(BigInt(offsetOf(index)), at);
    bytes.writeUInt32BE(entries, at + 8);
    bytes.writeUInt16BE(5, at + 12);
    bytes.writeUInt32BE(24, at + 36);
    bytes.write(String(index).padStart(5), at + 64);
  }
  file.write(bytes, 0, bytes.length, hostOffset(table));
  put32(file, 60, count);
  put64(file, 64, table);
}

test('an L1 table that a thousand snapshots share is read once', () => {
  const file = image();
  const l1 = file.size();
  file.write(new Uint8Array(1 << 20), 0, 1 << 20, hostOffset(l1));
  withSnapshots(file, 1000, (1 << 20) / 8, () => l1);
  const counting = new CountingHostFile(file);
  const report = qcow2.check(counting, { repair: 'none', log: () => undefined });
  // nothing counts the tables; as many references are seen as there are snapshots
  expect(report.checkErrors).toBe(0);
  expect(report.corruptions).toBeGreaterThan(0);
  expect(counting.bytes.read).toBeLessThan(32 * 1024 * 1024);
});

test('L1 tables of snapshots that lie in each other are not followed', () => {
  const file = image();
  const l1 = file.size();
  file.write(new Uint8Array(1 << 20), 0, 1 << 20, hostOffset(l1));
  withSnapshots(file, 8, (1 << 20) / 8 / 2, (index) => l1 + index * CLUSTER);
  const findings: string[] = [];
  qcow2.check(file, { repair: 'none', log: (sentence) => findings.push(sentence) });
  expect(findings.filter((finding) => finding.includes('lies in that of another snapshot'))).toHaveLength(7);
  expectRefused(file);
});

/** Gives the image an L1 table of so many entries, which lead to what `tableOf` says of the first byte behind it. */
function withL1(file: MemoryHostFile, entries: number, tableOf: (behind: number, index: number) => number): void {
  const l1 = roundUp(file.size(), CLUSTER);
  const bytes = Buffer.alloc(roundUp(entries * 8, CLUSTER));
  for (let index = 0; index < entries; index++)
    bytes.writeBigUInt64BE(BigInt(tableOf(l1 + bytes.length, index)), index * 8);
  file.write(bytes, 0, bytes.length, hostOffset(l1));
  file.truncate(tableOf(l1 + bytes.length, entries - 1) + CLUSTER);
  put32(file, 36, entries);
  put64(file, 40, l1);
}

const MANY = 8192;

test('a read-only open reads an L2 table once however many L1 entries lead to it, and counts it as often', () => {
  const file = image();
  withL1(file, MANY, (behind) => behind);
  const table = file.size() - CLUSTER;
  for (const index of [0, 1, 8191]) put64(file, table + index * 8, COPIED | BigInt(table));
  const counting = new CountingHostFile(file);
  const opened = openImage(qcow2, counting, { readOnly: true });
  expect(counting.bytes.read).toBeLessThan(4 * 1024 * 1024);
  expect(opened.allocatedBytes()).toBe(3 * MANY * CLUSTER);
  opened.close();
});

test('a read-only open does not read L2 tables that are holes of the file, or no tables', () => {
  for (const step of [CLUSTER, 512]) {
    const file = image();
    withL1(file, MANY, (behind, index) => behind + index * step);
    const counting = new CountingHostFile(file);
    const opened = openImage(qcow2, counting, { readOnly: true });
    expect(counting.bytes.read).toBeLessThan(17 * 1024 * 1024);
    expect(opened.allocatedBytes()).toBeLessThanOrEqual(roundUp(file.allocatedBytes(), CLUSTER));
    opened.close();
  }
});

/** Tells nobody where its holes are, and has space for all of it. */
class FullHostFile extends CountingHostFile {
  override allocatedBytes(): number {
    return this.size();
  }
}

/** What a check says, and the bytes that it read. */
function checked(file: CountingHostFile): { readonly findings: readonly string[]; readonly bytes: number } {
  const findings: string[] = [];
  const report = qcow2.check(file, { repair: 'none', log: (sentence) => findings.push(sentence) });
  return { findings: [...findings, JSON.stringify(report)], bytes: file.bytes.read };
}

test('a check passes over L2 tables that are holes of the file, and finds what it finds where they are zeros', () => {
  const file = image();
  const count = 2048;
  withL1(file, count, (behind, index) => behind + (index + 1) * CLUSTER);
  const first = file.size() - count * CLUSTER;
  // tables with something in them, at the beginning, in the middle and at the end
  for (const index of [0, 1, 1000, count - 1]) put64(file, first + index * CLUSTER + 512, first - CLUSTER);
  const sparse = checked(new CountingHostFile(file));
  const full = checked(new FullHostFile(file));
  expect(sparse.findings).toEqual(full.findings);
  expect(sparse.findings.some((finding) => finding.includes('has refcount 0 and 4 references'))).toBe(true);
  expect(full.bytes).toBeGreaterThan(count * CLUSTER);
  expect(sparse.bytes).toBeLessThan(76 * 1024 * 1024);
});

test('a check passes over refcount blocks that are holes of the file, and finds what it finds where they are zeros', () => {
  const file = image();
  const { refcountTable } = placesOf(file);
  const first = roundUp(file.size(), CLUSTER);
  const blocks = 2048;
  for (let index = 1; index <= blocks; index++) put64(file, refcountTable + index * 8, first + index * CLUSTER);
  // each counts the clusters of 2 GiB
  file.truncate((blocks + 1) * 2 ** 31);
  putCounter16(file, 1, 5);
  file.write(new Uint8Array([0, 3]), 0, 2, hostOffset(first + 7 * CLUSTER));
  const sparse = checked(new CountingHostFile(file));
  const full = checked(new FullHostFile(file));
  expect(sparse.findings).toEqual(full.findings);
  expect(full.bytes).toBeGreaterThan(blocks * CLUSTER);
  expect(sparse.bytes).toBeLessThan(76 * 1024 * 1024);
});

test('a repair that finds holes leaves what it leaves where they are zeros', () => {
  const count = 1536;
  const file = image(count * 2 ** 29);
  withL1(file, count, (behind, index) => behind + (index + 1) * CLUSTER);
  const first = file.size() - count * CLUSTER;
  for (const index of [0, 100, count - 1]) put64(file, first + index * CLUSTER + 512, first - CLUSTER);
  const full = file.clone();
  const repaired = qcow2.check(file, { repair: 'all', log: () => undefined });
  expect(qcow2.check(new FullHostFile(full), { repair: 'all', log: () => undefined })).toEqual(repaired);
  expect(repaired.corruptionsFixed).toBe(repaired.corruptions);
  expect(Buffer.compare(file.bytes(), full.bytes())).toBe(0);
  expect(qcow2.check(file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
});
