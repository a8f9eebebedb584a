// What the disk of a VHDX reads as: every state of a block, chunks, bitmaps, sectors of both sizes, parents, and places that cannot be.
// The judge in test/support reads each image by itself.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../../../src/disk/virtual-disk.ts';
import type { Image } from '../../../../src/format/image-format.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { firstDifference, readAll } from '../../../support/image-files.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { openImage } from '../../../support/memory-images.ts';
import {
  LOG_GUID,
  logEntry,
  MIB,
  putEntry,
  type VhdxBlock,
  type VhdxSpec,
  vhdxImage,
} from '../../../support/vhdx-bytes.ts';
import { vhdxContent } from '../../../support/vhdx-judge.ts';

const LINKAGE = { parent_linkage: '{00112233-4455-6677-8899-aabbccddeeff}', relative_path: '.\\base.vhdx' };

function patterned(length: number, seed: number): Buffer {
  return Buffer.from(Uint8Array.from({ length }, (_, i) => 1 + ((seed * 37 + i * 11 + (i >> 9)) % 250)));
}

function opened(image: Uint8Array, backing: Image | null = null): Image {
  return openImage(vhdx, new MemoryHostFile(image, '/disk', true), { readOnly: true, backing });
}

function contentOf(image: Image): Buffer {
  return readAll(new VirtualDisk(image));
}

/** One block of each state. */
const STATES: readonly VhdxBlock[] = [
  { state: 6, data: patterned(MIB, 1) },
  { state: 0 },
  { state: 1 },
  { state: 2 },
  { state: 3 },
  { state: 5 },
  // places that are kept for the block, whose bytes are not the guest's
  { state: 0, data: patterned(MIB, 2) },
  { state: 1, data: patterned(MIB, 3) },
  { state: 3, data: patterned(MIB, 4) },
  { state: 6, data: patterned(MIB, 5) },
];
const PARTIAL: readonly VhdxBlock[] = [
  ...STATES,
  { state: 7, data: patterned(MIB, 6), isHere: (sector) => sector % 3 === 1 },
  { state: 7, data: patterned(MIB, 7), isHere: (sector) => sector >= 8 && sector < 700 },
  { state: 7, data: patterned(MIB, 8), isHere: () => false },
  { state: 7, data: patterned(MIB, 9), isHere: () => true },
  // the bitmap of a fully present block says nothing
  { state: 6, data: patterned(MIB, 10), isHere: (sector) => sector % 2 === 0 },
];
const PARENT = vhdxImage({ blocks: PARTIAL.slice(0, 14).map((_, i) => ({ state: 6, data: patterned(MIB, 20 + i) })) });

test.each<[string, VhdxSpec]>([
  ['of every state', { blocks: STATES }],
  ['in the reverse order, with gaps', { blocks: STATES, isReversed: true, gapMib: 3 }],
  ['of 4 MiB', { blocks: STATES.slice(0, 4), blockBytes: 4 * MIB }],
  ['with sectors of 4096 bytes', { blocks: STATES, sectorBytes: 4096 }],
  ['on a fixed disk', { blocks: STATES.map(() => ({ state: 6, data: patterned(MIB, 1) })), flags: 1 }],
  ['the last one of which is not whole', { blocks: STATES, size: 10 * MIB - 512 * 1001 }],
])('blocks %s read as the judge reads them', (_, spec) => {
  const { image } = vhdxImage(spec);
  expect(firstDifference(contentOf(opened(image)), vhdxContent(image))).toBe('none');
});

describe('a child', () => {
  const parentContent = vhdxContent(PARENT.image);
  test.each<[string, VhdxSpec]>([
    ['with bitmaps', {}],
    ['with sectors of 4096 bytes', { sectorBytes: 4096 }],
    ['that is larger than its parent', { size: 15 * MIB }],
    ['that is smaller', { size: 12 * MIB + 512 }],
  ])('%s shows its parent where it has nothing', (_, spec) => {
    const { image } = vhdxImage({
      blocks: PARTIAL,
      locator: LINKAGE,
      ...(spec.sectorBytes ? {} : { size: 15 * MIB }),
      ...spec,
    });
    const disk = opened(image, opened(PARENT.image));
    expect(firstDifference(contentOf(disk), vhdxContent(image, parentContent))).toBe('none');
  });
  test('reads pieces of sectors across the borders of what it has', () => {
    const { image } = vhdxImage({ blocks: PARTIAL, locator: LINKAGE, sectorBytes: 4096 });
    const wanted = vhdxContent(image, parentContent);
    const disk = opened(image, opened(PARENT.image));
    for (let at = 10 * MIB - 1000; at < 11 * MIB; at += 7777) {
      const bytes = Buffer.alloc(5000);
      disk.read(bytes, 0, 5000, guestOffset(at));
      expect(firstDifference(bytes, wanted.subarray(at, at + 5000)), `${at}`).toBe('none');
    }
  });
  test('maps what it has, what is zero and what its parent has', () => {
    const { image, blocksAt } = vhdxImage({ blocks: PARTIAL, locator: LINKAGE });
    const disk = opened(image, opened(PARENT.image));
    const statuses: string[] = [];
    for (let at = 0; at < 10 * MIB; ) {
      const { length, status } = disk.mapStatus(guestOffset(at), 10 * MIB - at);
      statuses.push(`${status} ${length / MIB}`);
      at += length;
    }
    expect(statuses).toEqual(['data 1', 'unallocated 1', 'zero 4', 'unallocated 1', 'zero 2', 'data 1']);
    expect(disk.map(guestOffset(10 * MIB + 512), MIB)).toEqual({
      ...{ start: 10 * MIB + 512, length: 512, status: 'data', hostOffset: blocksAt[10]! + 512 },
    });
    expect(disk.map(guestOffset(10 * MIB + 1024), MIB)).toMatchObject({ length: 1024, status: 'unallocated' });
    expect(disk.allocatedBytes()).toBe(7 * MIB);
  });
});

test.each([
  [512, 4],
  [4096, 32],
])('the table is interleaved with bitmaps: sectors of %i bytes make chunks of %i GiB', (sectorBytes, chunkGib) => {
  // blocks of 256 MiB, and an entry for the first byte of each: 16 or 128 to a chunk
  const ratio = (chunkGib * 1024) / 256;
  const count = 2 * ratio + 3;
  const { image, batAt } = vhdxImage({ blockBytes: 256 * MIB, sectorBytes, size: count * 256 * MIB, gapMib: 1 });
  const file = new MemoryHostFile(image, '/disk');
  // data of a block is one byte, as far as this file goes
  const places = [0, ratio - 1, ratio, 2 * ratio - 1, 2 * ratio, count - 1];
  const end = image.length;
  for (const [i, block] of places.entries()) {
    const entry = Buffer.alloc(8);
    const at = end + i * 256 * MIB;
    entry.writeBigUInt64LE(BigInt(at) | 6n);
    file.write(entry, 0, 8, (batAt + (block + Math.floor(block / ratio)) * 8) as never);
    file.write(Uint8Array.of(i + 1), 0, 1, at as never);
  }
  const disk = openImage(vhdx, file, { readOnly: true });
  const byte = Buffer.alloc(1);
  for (const [i, block] of places.entries()) {
    disk.read(byte, 0, 1, guestOffset(block * 256 * MIB));
    expect(byte[0], `block ${block}`).toBe(i + 1);
  }
  const run = disk.mapStatus(guestOffset(256 * MIB), (count - 1) * 256 * MIB);
  expect(run).toEqual({ status: 'unallocated', length: (ratio - 2) * 256 * MIB });
  expect(disk.allocatedBytes()).toBe(places.length * 256 * MIB);
});

describe('an entry that cannot be is an error of the read that meets it, and of no other:', () => {
  const entryOf = (index: number, value: bigint): VhdxSpec => ({
    blocks: STATES,
    editBat: (bat) => void bat.writeBigUInt64LE(value, index * 8),
  });
  const child = { blocks: PARTIAL, locator: LINKAGE };
  const at = (mib: number): bigint => BigInt(mib * MIB);
  test.each<[string, number, VhdxSpec, string]>([
    ['an unknown state', 1, entryOf(1, 4n), 'which has the state 4, and the image has no parent'],
    ['a part without a parent', 1, entryOf(1, 7n), 'which has the state 7, and the image has no parent'],
    [
      'a place in the first MiB',
      0,
      entryOf(0, 6n),
      'BAT entry 0 at offset 0x300000 is 0x6, which is no place for a block',
    ],
    ['a place in the log', 0, entryOf(0, at(1) | 6n), 'which is no place for a block'],
    ['a place in the metadata', 0, entryOf(0, at(2) | 6n), 'which is no place for a block'],
    ['a place in the table', 0, entryOf(0, at(3) | 6n), 'which is no place for a block'],
    ['a place behind the file', 0, entryOf(0, at(9) | 6n), 'which is no place for a block'],
    ['a place without bounds', 0, entryOf(0, 2n ** 64n - 2n ** 20n + 6n), 'is 0xfffffffffff00006, which is no place'],
    [
      'no bitmap',
      10,
      { ...child, editBat: (bat) => void bat.writeBigUInt64LE(0n, 4096 * 8) },
      'which is no place for the bitmap of a partially present block (guest offset 0xa00000)',
    ],
    [
      'a bitmap of another state',
      10,
      { ...child, editBat: (bat) => void bat.writeBigUInt64LE(at(4) | 5n, 4096 * 8) },
      'which is no place for the bitmap',
    ],
    [
      'a bitmap in the log',
      10,
      { ...child, editBat: (bat) => void bat.writeBigUInt64LE(at(1) | 6n, 4096 * 8) },
      'which is no place for the bitmap',
    ],
  ])('%s', (_, block, spec, sentence) => {
    const disk = opened(vhdxImage(spec).image, spec.locator === undefined ? null : opened(PARENT.image));
    const byte = Buffer.alloc(1);
    expect(() => disk.read(byte, 0, 1, guestOffset(block * MIB))).toThrow(sentence);
    expect(() => disk.map(guestOffset(block * MIB), MIB)).toThrow(sentence);
    expect(disk.mapStatus(guestOffset(9 * MIB), MIB)).toEqual({ status: 'data', length: MIB });
    disk.read(byte, 0, 1, guestOffset(9 * MIB));
    expect(byte[0]).toBe(patterned(1, 5)[0]);
  });
});

test('a copy that was cut is read as far as it goes, and a bitmap that is cut is no map of anything', () => {
  const { image, blocksAt } = vhdxImage({ blocks: STATES });
  const cut = image.subarray(0, blocksAt[9]! + 1000);
  const wanted = vhdxContent(image);
  wanted.fill(0, 9 * MIB + 1000);
  expect(firstDifference(contentOf(opened(cut)), wanted)).toBe('none');
  const child = vhdxImage({
    blocks: [{ state: 7, data: patterned(MIB, 1), isHere: () => true }],
    locator: LINKAGE,
    isReversed: true,
  });
  const moved = Buffer.from(child.image);
  // the bitmap comes first in the file: behind it there is only the block
  const disk = opened(moved.subarray(0, child.bitmapsAt[0]! + 100), opened(PARENT.image));
  expect(() => disk.read(Buffer.alloc(1), 0, 1, guestOffset(0))).toThrow(/no place for a block|ends beyond the file/);
});

test('a log that changes the table, a bitmap and a block is seen by every read, and the places of blocks are not shown', () => {
  const spec: VhdxSpec = { blocks: PARTIAL, locator: LINKAGE };
  const plain = vhdxImage(spec);
  const bat = Buffer.from(plain.image.subarray(plain.batAt, plain.batAt + 4096));
  bat.writeBigUInt64LE(0n, 0);
  bat.writeBigUInt64LE(2n, 9 * 8);
  const bits = Buffer.alloc(4096, 0x0f);
  const changes = [
    { offset: plain.batAt, data: bat },
    { offset: plain.bitmapsAt[0]!, data: bits },
    { offset: plain.blocksAt[14]! + 8192, data: patterned(4096, 99) },
    { offset: plain.blocksAt[14]! + 16_384, zeros: 8192 },
  ];
  const entry = logEntry({ sequence: 1n, tail: 0, flushed: 0, last: plain.image.length, changes });
  const { image } = vhdxImage({ ...spec, logGuid: LOG_GUID, log: [{ at: 0, entry }] });
  const sentences: string[] = [];
  const file = new MemoryHostFile(image, '/disk', true);
  const log = (sentence: string): void => void sentences.push(sentence);
  const disk = openImage(vhdx, file, { readOnly: true, backing: opened(PARENT.image), log, slots: 2 });
  const wanted = vhdxContent(image, vhdxContent(PARENT.image));
  expect(firstDifference(contentOf(disk), wanted)).toBe('none');
  expect(wanted.subarray(14 * MIB + 8192, 14 * MIB + 8200)).toEqual(patterned(8, 99));
  expect(disk.mapStatus(guestOffset(9 * MIB), 100)).toEqual({ status: 'zero', length: 100 });
  expect(disk.map(guestOffset(14 * MIB), 100)).toEqual({ start: 14 * MIB, length: 100, status: 'data' });
  expect(sentences).toEqual([
    '/disk was not closed; what its log holds (1 entry) is read as if it had been carried out',
  ]);
  // another thread sees the same
  const attach = { slot: 1, backing: opened(PARENT.image), extents: [], log };
  const attached = vhdx.attach(file, structuredClone(disk.share()), attach);
  expect(firstDifference(contentOf(attached), wanted)).toBe('none');
  expect(firstDifference(file.bytes(), image)).toBe('none');
});

test('a log that makes the file longer is all that a read-only open says of it', () => {
  const { blocksAt, image, logAt, batAt } = vhdxImage({
    blocks: [
      { state: 6, data: patterned(MIB, 1) },
      { state: 6, data: Buffer.alloc(MIB) },
    ],
    logGuid: LOG_GUID,
  });
  const wanted = Buffer.concat([patterned(MIB, 1), Buffer.alloc(MIB)]);
  const table = Buffer.from(image.subarray(batAt, batAt + 4096));
  const changes = [{ offset: batAt, data: table }];
  putEntry(
    image,
    logAt,
    MIB,
    0,
    logEntry({ sequence: 5n, flushed: blocksAt[1]!, last: image.length, tail: 0, changes }),
  );
  // the machine stopped between the log and the length
  const file = new MemoryHostFile(image.subarray(0, blocksAt[1]), '/disk', true);
  const said: string[] = [];
  const disk = openImage(vhdx, file, { readOnly: true, log: (sentence) => said.push(sentence) });
  expect(said).toEqual([expect.stringMatching(/log/)]);
  expect(firstDifference(contentOf(disk), wanted)).toBe('none');
});
