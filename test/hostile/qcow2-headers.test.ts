// Headers and tables that cannot be true, through the open of an image: each is refused with a sentence that names the field,
// without changing a byte and without taking the memory it asks for. What does not matter for reading does not keep anybody
// from reading.

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../src/bytes/offsets.ts';
import { qcow2 } from '../../src/format/qcow2/index.ts';
import type { MemoryHostFile } from '../support/memory-file.ts';
import { createMemoryImage, openImage } from '../support/memory-images.ts';
import { put32, put64 } from '../support/qcow2-bytes.ts';

const CLUSTER = 4096;

interface Case {
  readonly name: string;
  readonly damage: (file: MemoryHostFile) => void;
  /** of the refusal of a read-write open */
  readonly writing: RegExp;
  /** of the refusal of a read-only open; null where it reads */
  readonly reading: RegExp | null;
  /** what every byte of the first sector is to a reader */
  readonly byte?: number;
}

const both = (name: string, damage: Case['damage'], words: RegExp): Case => ({
  ...{ name, damage, writing: words, reading: words },
});
const writingOnly = (name: string, damage: Case['damage'], writing: RegExp, byte = 5): Case => ({
  ...{ name, damage, writing, reading: null, byte },
});
const field32 = (offset: number, value: number) => (file: MemoryHostFile) => put32(file, offset, value);
const field64 = (offset: number, value: number | bigint) => (file: MemoryHostFile) => put64(file, offset, value);

const CASES: readonly Case[] = [
  both('version 1', field32(4, 1), /version is 1/),
  both('version 2^32 - 1', field32(4, 0xffffffff), /version is 4294967295/),
  both('clusters of 256 bytes', field32(20, 8), /cluster_bits is 8/),
  both('clusters of 4 MiB', field32(20, 22), /cluster_bits is 22/),
  both('clusters of 2^63 bytes', field32(20, 63), /cluster_bits is 63/),
  both('a header of 2^32 - 8 bytes', field32(100, 0xfffffff8), /header_length is 4294967288/),
  both('a header of 2^31 - 1 bytes', field32(100, 0x7fffffff), /header_length is 2147483647/),
  both('a header that ends within its fields', field32(100, 88), /header_length is 88/),
  both('a backing name behind the first cluster', field64(8, 0x7fffffff), /backing_file_offset is 0x7fffffff/),
  both('a backing name of 2^32 - 1 bytes', withBacking(0xffffffff), /backing_file_size is 4294967295/),
  both('a backing name of 1024 bytes', withBacking(1024), /backing_file_size is 1024/),
  both(
    'an unknown header extension of 2^32 - 1 bytes',
    (file) => {
      put32(file, 112, 0x12345678);
      put32(file, 116, 0xffffffff);
    },
    /extension/,
  ),
  both(
    'an unknown header extension that just leaves the cluster',
    (file) => {
      put32(file, 112, 0x12345678);
      put32(file, 116, CLUSTER - 112 - 7);
    },
    /extension/,
  ),
  both('refcounts of 128 bits', field32(96, 7), /refcount_order is 7/),
  both('refcounts of 2^(2^32 - 1) bits', field32(96, 0xffffffff), /refcount_order is 4294967295/),
  both('an encryption nobody knows', field32(32, 3), /crypt_method is 3/),
  both('an incompatible feature nobody knows', field64(72, 2n ** 40n), /bit 40/),
  writingOnly('the corrupt bit', field64(72, 2), /the corrupt bit is set/),
  writingOnly('a refcount table that is not aligned', field64(48, CLUSTER + 8), /refcount_table_offset is 0x1008/),
  writingOnly('a refcount table at 2^63', field64(48, 2n ** 63n), /refcount_table_offset is 0x8000000000000000/),
  writingOnly('a refcount table of no clusters', field32(56, 0), /refcount_table_clusters is 0/),
  writingOnly('a refcount table of 2^32 - 1 clusters', field32(56, 0xffffffff), /4294967295 times 4096 bytes/),
  writingOnly('a refcount table above 8 MiB', field32(56, 2049), /2049 times 4096 bytes/),
  writingOnly('a refcount table behind the end of the file', field64(48, 2 ** 40), /end beyond the file/),
  both('an L1 table that is not aligned', field64(40, 3 * CLUSTER + 8), /l1_table_offset is 0x3008/),
  both('an L1 table at 2^64 - 4096', field64(40, 2n ** 64n - 4096n), /l1_table_offset is 0xfffffffffffff000/),
  writingOnly('an L1 table behind the end of the file', field64(40, 2 ** 40), /end beyond the file/, 0),
  both('an L1 table that is too short for the disk', field32(36, 1), /l1_size is 1 entries/),
  both('an L1 table above 32 MiB', field32(36, 4194305), /4194305 times 8 bytes/),
  both('an L1 table of 2^32 - 1 entries', field32(36, 0xffffffff), /4294967295 times 8 bytes/),
  both('a disk of 2^63 bytes', field64(24, 2n ** 63n), /size is 0x8000000000000000/),
  writingOnly('a snapshot table that is not aligned', snapshots(1, 4 * CLUSTER + 8), /snapshots_offset is 0x4008/),
  writingOnly('a snapshot table behind the end of the file', snapshots(1, 2 ** 40), /end beyond the file/),
  writingOnly('65537 snapshots', snapshots(65537, 4 * CLUSTER), /65537 times 40 bytes/),
  writingOnly(
    'a snapshot whose L1 table is not aligned',
    withSnapshot((file, at) => put64(file, at, 4096 + 8)),
    /l1_table_offset of snapshot/,
  ),
  writingOnly(
    'a snapshot whose L1 table has 2^32 - 1 entries',
    withSnapshot((file, at) => put32(file, at + 8, 0xffffffff)),
    /l1_size of snapshot/,
  ),
  writingOnly(
    'a snapshot whose L1 table lies behind the end of the file',
    withSnapshot((file, at) => {
      put64(file, at, 2 ** 40);
      put32(file, at + 8, 1);
    }),
    /l1_table_offset of snapshot/,
  ),
  writingOnly(
    'a snapshot with 2^32 - 1 bytes of extra data',
    withSnapshot((file, at) => put32(file, at + 36, 0xffffffff)),
    /extra_data_size of snapshot 1 is 4294967295/,
  ),
  writingOnly(
    'a snapshot whose name leaves the file',
    withSnapshot((file, at) => put32(file, at + 12, 0xffffffff)),
    /the file ends after/,
  ),
];

function withBacking(length: number): Case['damage'] {
  return (file) => {
    put64(file, 8, 1024);
    put32(file, 16, length);
  };
}

function snapshots(count: number, offset: number): Case['damage'] {
  return (file) => {
    put32(file, 60, count);
    put64(file, 64, offset);
  };
}

/** One snapshot of an empty disk at the end of the file, with something wrong in its entry. */
function withSnapshot(damage: (file: MemoryHostFile, entry: number) => void): Case['damage'] {
  return (file) => {
    const at = Math.ceil(file.size() / CLUSTER) * CLUSTER;
    file.truncate(at + CLUSTER);
    snapshots(1, at)(file);
    damage(file, at);
  };
}

function makeImage(): MemoryHostFile {
  const file = createMemoryImage(qcow2, 4 * 1024 * 1024, { cluster_size: String(CLUSTER) });
  // QEMU's feature names take the place of the first extension; an empty list of extensions ends there
  file.punchHole(hostOffset(112), CLUSTER - 112);
  const image = openImage(qcow2, file);
  image.write(new Uint8Array(512).fill(5), 0, 512, guestOffset(0));
  image.close();
  return file;
}

describe('an image with an impossible header or table', () => {
  test.each(CASES)('is not opened for writing: $name', ({ damage, writing }) => {
    const file = makeImage();
    damage(file);
    const before = file.bytes();
    expect(() => openImage(qcow2, file)).toThrow(writing);
    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });

  test.each(CASES)('is read only where its content can be found: $name', ({ damage, reading, byte }) => {
    const file = makeImage();
    damage(file);
    const open = () => openImage(qcow2, file.clone(true), { readOnly: true });
    if (reading !== null) {
      expect(open).toThrow(reading);
      return;
    }
    const bytes = Buffer.alloc(512);
    open().read(bytes, 0, 512, guestOffset(0));
    expect(new Set(bytes)).toEqual(new Set([byte]));
  });

  test('the image is sound without the damage', () => {
    openImage(qcow2, makeImage()).close();
  });
});
