// qcow2 images that would take for ever: tables that refer to themselves or to one place a million times, files of petabytes.

import { expect, test } from 'vitest';
import { hostOffset } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../../src/host/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';

const CLUSTER = 65536;

function image(size = 1024 * 1024 * 1024 * 1024): MemoryHostFile {
  return createMemoryImage(qcow2, size, {});
}

function read64(file: MemoryHostFile, offset: number): number {
  const bytes = Buffer.alloc(8);
  file.read(bytes, 0, 8, hostOffset(offset));
  return Number(bytes.readBigUInt64BE());
}

function write64(file: MemoryHostFile, offset: number, value: number, flags = 0n): void {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value) | flags);
  file.write(bytes, 0, 8, hostOffset(offset));
}

/** Runs `action` and says how long it took. */
function timed(action: () => void): number {
  const start = performance.now();
  action();
  return performance.now() - start;
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
  const l1 = read64(file, 40);
  const table = file.size();
  file.truncate(table + CLUSTER);
  for (let index = 0; index < 2048; index++) write64(file, l1 + index * 8, table, 1n << 63n);
  expectRefused(file);
});

test('a refcount table whose entries all refer to one block is refused, and that block is walked once', () => {
  const file = image();
  const table = read64(file, 48);
  const block = read64(file, table);
  for (let index = 0; index < CLUSTER / 8; index++) write64(file, table + index * 8, block);
  expectRefused(file);
});

test('an L1 entry that refers to its own table is refused', () => {
  const file = image();
  const l1 = read64(file, 40);
  write64(file, l1, l1, 1n << 63n);
  expectRefused(file);
});

test('a small image in a sparse file of 4 PiB opens both ways within two seconds', () => {
  const file = image();
  file.truncate(4 * 2 ** 50);
  expect(timed(() => openImage(qcow2, file.clone(true), { readOnly: true }).close())).toBeLessThan(2000);
  expect(timed(() => openImage(qcow2, file).close())).toBeLessThan(2000);
});

test('a refcount table of blocks that are holes of the file is looked through without a look at each of their counters', () => {
  const file = image();
  const table = read64(file, 48);
  const first = Math.ceil(file.size() / CLUSTER);
  const blocks = CLUSTER / 8 - 1;
  for (let index = 1; index <= blocks; index++) write64(file, table + index * 8, (first + index) * CLUSTER);
  file.truncate((first + blocks + 1) * CLUSTER);
  const took = timed(() => {
    expect(qcow2.check(file, { repair: 'none', log: () => undefined }).corruptions).toBeGreaterThanOrEqual(blocks);
  });
  expect(took).toBeLessThan(5000);
});
