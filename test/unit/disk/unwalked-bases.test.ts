// What an open reads of an image that it will only read from: the header, however many tables there are. A backing file is not
// walked, be it on a server or on this machine; its entries are checked when a read meets them.

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../src/bytes/offsets.ts';
import { createDisk, openDisk } from '../../../src/disk/index.ts';
import { formatByName } from '../../../src/disk/registry.ts';
import type { WritableFormat, WritableImage } from '../../../src/format/image-format.ts';
import type { MemoryHostFile } from '../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../support/memory-images.ts';
import { put64 } from '../../support/qcow2-bytes.ts';
import { RangeServer } from '../../support/range-server.ts';
import { CLUSTER, COVERED, contentOf, DATA_BYTE, tableHeavy } from '../../support/table-heavy.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';
import { CountingHostFile } from '../../support/wrapping-files.ts';

let folder: string;
let server: RangeServer | null;
beforeEach(() => {
  folder = makeTemporaryDirectory();
  server = null;
});
afterEach(async () => {
  await server?.close();
  removeTemporaryDirectory(folder);
});

/** Data at both ends of a disk of many tables; the file is sparse. */
function dataAtBothEnds(format: string, size: number): Uint8Array {
  const file = createMemoryImage(formatByName(format) as WritableFormat, size);
  const image = openImage(formatByName(format), file) as WritableImage;
  for (const at of [0, size - 512]) image.write(Buffer.alloc(512, DATA_BYTE), 0, 512, guestOffset(at));
  image.close();
  return file.bytes();
}

// log, headers, region and metadata tables of a VHDX are read before anything else
test.each([
  ['qcow', 6],
  ['vdi', 6],
  ['vmdk', 6],
  ['vpc', 6],
  ['vhdx', 16],
  ['parallels', 6],
])('a %s image of 64 GiB over HTTP costs an overlay %i requests at most', (format, most) => {
  const size = 64 * 1024 ** 3;
  server = new RangeServer(Buffer.from(dataAtBothEnds(format, size)));
  const url = `${server.origin}/base`;
  const image = join(folder, 'overlay.qcow2');
  createDisk(image, 'qcow2', { size, options: new Map(), backing: url, backingFormat: format });
  server.forget();
  const disk = openDisk(image, { readOnly: false, allowBacking: [server.origin] });
  expect(server.requests().length).toBeLessThanOrEqual(most);
  const bytes = new Uint8Array(512);
  disk.read(bytes, 0, 512, guestOffset(size - 512));
  disk.close();
  expect(bytes[0]).toBe(DATA_BYTE);
});

describe.each(['qed', 'qcow2'] as const)('a %s image', (format) => {
  test.each([4, 120])('with %i tables over HTTP costs an overlay a few requests', (tables) => {
    server = new RangeServer(contentOf(tableHeavy(format, tables)));
    const url = `${server.origin}/base`;
    const image = join(folder, 'overlay.qcow2');
    createDisk(image, 'qcow2', { size: tables * COVERED, options: new Map(), backing: url, backingFormat: format });
    server.forget();
    const disk = openDisk(image, { readOnly: false, allowBacking: [server.origin] });
    expect(server.requests().length).toBeLessThanOrEqual(3);
    const bytes = new Uint8Array(512);
    disk.read(bytes, 0, 512, guestOffset(tables * COVERED - 512));
    disk.close();
    expect(bytes[0]).toBe(DATA_BYTE);
    // header, L1 table, one L2 table, data
    expect(server.requests().length).toBeLessThanOrEqual(6);
  });

  test.each([4, 120])('with %i tables costs a few requests when it is opened over HTTP itself', (tables) => {
    server = new RangeServer(contentOf(tableHeavy(format, tables)));
    const disk = openDisk(`${server.origin}/base`, { readOnly: true });
    expect(disk.allocatedBytes()).toBeGreaterThan(0);
    disk.close();
    expect(server.requests().length).toBeLessThanOrEqual(3);
  });

  test('on this machine is not walked below an overlay', () => {
    const tables = 60;
    const counting = new CountingHostFile(tableHeavy(format, tables));
    const image = openImage(formatByName(format), counting, { readOnly: true, isLazy: true });
    expect(counting.bytes.read).toBeLessThan(4 * CLUSTER);
    counting.reset();
    const bytes = new Uint8Array(512);
    image.read(bytes, 0, 512, guestOffset(tables * COVERED - 512));
    expect(bytes[0]).toBe(DATA_BYTE);
    expect(counting.bytes.read).toBeLessThan(CLUSTER);
    // nobody has counted: what the host has for the file, so that nobody takes the disk for empty
    expect(image.allocatedBytes()).toBeGreaterThanOrEqual(CLUSTER);
    expect(image.allocatedBytes()).toBeLessThanOrEqual(counting.size());
    image.close();
  });

  test('that is read-only and at the top has its clusters counted', () => {
    const image = openImage(formatByName(format), tableHeavy(format, 3), { readOnly: true });
    expect(image.allocatedBytes()).toBe(CLUSTER);
    image.close();
  });

  test('that is read-only and at the top is not read through to count them if it has many tables', () => {
    const tables = 300;
    const counting = new CountingHostFile(tableHeavy(format, tables));
    const image = openImage(formatByName(format), counting, { readOnly: true });
    expect(counting.bytes.read).toBeLessThan(8 * CLUSTER);
    // what the host has for the file, and never none: tar and others skip a file without blocks
    expect(image.allocatedBytes()).toBeGreaterThanOrEqual(CLUSTER);
    expect(image.allocatedBytes()).toBeLessThanOrEqual(counting.size() + CLUSTER);
    image.close();
  });

  test('that is read-only, with many tables, and on a host that counts no blocks, is never taken for empty', () => {
    const file = tableHeavy(format, 300);
    file.allocatedBytes = () => 0;
    const image = openImage(formatByName(format), file, { readOnly: true });
    expect(image.allocatedBytes()).toBeGreaterThanOrEqual(CLUSTER);
    image.close();
  });
});

test.each([
  ['vdi', {}, CLUSTER],
  ['vpc', {}, CLUSTER],
  ['vmdk', { grain_size: '1M' }, CLUSTER],
  // two headers and two region tables of 64 KiB
  ['vhdx', {}, 4 * CLUSTER],
  ['parallels', {}, CLUSTER],
])('a %s image of 1 TiB, whose table is of MiBs, is not walked below an overlay', (format, options, most) => {
  const size = 2 ** 40;
  const file = createMemoryImage(formatByName(format) as WritableFormat, size, options);
  const writer = openImage(formatByName(format) as WritableFormat, file);
  writer.write(new Uint8Array(512).fill(DATA_BYTE), 0, 512, guestOffset(size - 512));
  writer.close();
  const counting = new CountingHostFile(file);
  const image = openImage(formatByName(format), counting, { readOnly: true, isLazy: true });
  const bytes = new Uint8Array(512);
  image.read(bytes, 0, 512, guestOffset(size - 512));
  expect(bytes[0]).toBe(DATA_BYTE);
  expect(counting.bytes.read).toBeLessThan(most);
  image.close();
});

describe('an entry of a backing file that nobody has walked', () => {
  /** @param value for the first L2 entry of the image */
  function readWith(
    format: 'qed' | 'qcow2',
    change: (file: MemoryHostFile, l1: number, l2: number) => void,
  ): () => void {
    const file = tableHeavy(format, 1);
    const bytes = contentOf(file);
    const l1 = format === 'qed' ? CLUSTER : Number(bytes.readBigUInt64BE(40));
    change(file, l1, file.size() - 2 * CLUSTER);
    const image = openImage(formatByName(format), file, { readOnly: true, isLazy: true });
    return () => image.read(new Uint8Array(512), 0, 512, guestOffset(0));
  }

  const little = (value: number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    return bytes;
  };

  test.each([
    ['no multiple of a cluster', () => 3 * CLUSTER + 512],
    ['beyond the end of the file', () => 1000 * CLUSTER],
    ['in the header', () => 0x100],
    ['in the L1 table', (l1: number) => l1],
    ['in its own table', (_: number, l2: number) => l2],
  ])('is refused by the read that meets it when its place is %s', (_, place) => {
    const qed = readWith('qed', (file, l1, l2) => file.write(little(place(l1, l2)), 0, 8, hostOffset(l2)));
    expect(qed).toThrow(/L2 entry 0 .* not a cluster of this file/);
    if (place(CLUSTER, 2 * CLUSTER) % 512 !== 0 || place(CLUSTER, 0) === 0x100) return;
    const qcow2 = readWith('qcow2', (file, l1, l2) => put64(file, l2, place(l1, l2)));
    expect(qcow2).toThrow(/L2 entry 0 .* not a cluster of this file/);
  });

  test('is refused when it leads to the refcount table, or to an L2 table in it', () => {
    const table = 1 * CLUSTER;
    const data = readWith('qcow2', (file, _, l2) => put64(file, l2, table));
    expect(data).toThrow(/L2 entry 0 .* not a cluster of this file/);
    const l2 = readWith('qcow2', (file, l1) => put64(file, l1, table));
    expect(l2).toThrow(/L1 entry 0 .* not a cluster of this file/);
    const l1 = readWith('qcow2', (file, at) => put64(file, at, at));
    expect(l1).toThrow(/L1 entry 0 .* not a cluster of this file/);
  });
});

test('a local backing file with many tables is opened as fast as one with few', () => {
  const tables = 120;
  writeFileSync(join(folder, 'base.qed'), contentOf(tableHeavy('qed', tables)));
  const image = join(folder, 'overlay.qcow2');
  createDisk(image, 'qcow2', { size: tables * COVERED, options: new Map(), backing: 'base.qed', backingFormat: 'qed' });
  const disk = openDisk(image, { readOnly: false });
  const bytes = new Uint8Array(1);
  disk.read(bytes, 0, 1, guestOffset(tables * COVERED - 1));
  disk.close();
  expect(bytes[0]).toBe(DATA_BYTE);
});
