// Single sectors of a child: what a write costs, when its bits are written, and what a flush beside other writes may say.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { MIXED_SECTORS, vhdImage } from '../../../support/vhd-bytes.ts';
import { FaultyHostFile, type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const MIB = 2 ** 20;
const BLOCK = 2 * MIB;
const SIZE = 16 * MIB;
const BELOW = 9;

function parent() {
  return openImage(raw, new MemoryHostFile(new Uint8Array(SIZE).fill(BELOW), '/base', true), { readOnly: true });
}

function child(options: Readonly<Record<string, string>> = {}): MemoryHostFile {
  return createMemoryImage(vpc, SIZE, options, '/base');
}

function write(image: WritableImage, offset: number, length: number, value: number): void {
  image.write(new Uint8Array(length).fill(value), 0, length, guestOffset(offset));
}

function bytesAt(image: WritableImage, offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  image.read(bytes, 0, length, guestOffset(offset));
  return bytes;
}

/** What a reader finds in the file as it is now. */
function found(file: MemoryHostFile, offset: number, length = 1): Uint8Array {
  return bytesAt(openImage(vpc, file.clone(true), { readOnly: true, backing: parent() }), offset, length);
}

function expectSound(file: MemoryHostFile): void {
  const { corruptions, leaks } = checkImage(vpc, file, { repair: 'none', log: () => undefined });
  expect({ corruptions, leaks }).toEqual({ corruptions: 0, leaks: 0 });
}

function lengths(log: readonly RecordedOperation[]): (number | string)[] {
  return log.map(({ length, operation }) => (operation === 'write' ? length : operation));
}

test('a write of 4 KiB into a block of 2 MiB writes 4 KiB of data, and its bits are written by the flush', () => {
  const log: RecordedOperation[] = [];
  const file = child();
  const image = openImage(vpc, new RecordingHostFile(file, log), { backing: parent() });
  write(image, 12 * MIB, 4096, 1);
  image.flush();
  log.length = 0;
  write(image, BLOCK, 4096, 1);
  // a bitmap without bits, the data, the entry
  expect(lengths(log)).toEqual([512, 4096, 4]);
  log.length = 0;
  write(image, BLOCK + 8192, 4096, 2);
  write(image, BLOCK + 4096, 512, 3);
  // the sectors of one byte of a bitmap come together
  expect(lengths(log)).toEqual([4096, 4096]);
  expect([BLOCK, BLOCK + 4096, BLOCK + 4608, BLOCK + 8192].map((at) => found(file, at)[0])).toEqual(
    Array(4).fill(BELOW),
  );
  log.length = 0;
  image.flush();
  // the data is durable before the one sector of the bitmap that has bits of it
  expect(lengths(log)).toEqual(['sync', 512, 'sync']);
  expect([BLOCK, BLOCK + 4096, BLOCK + 4608, BLOCK + 8192].map((at) => found(file, at)[0])).toEqual([1, 3, BELOW, 2]);
  log.length = 0;
  write(image, BLOCK, 4096, 4);
  image.flush();
  expect(lengths(log)).toEqual([4096, 'sync']);
  image.close();
  expectSound(file);
});

test('a write that covers no whole sector gets the rest of it from the parent', () => {
  const file = child({ block_size: '64k' });
  const image = openImage(vpc, file, { backing: parent() });
  write(image, 1000, 100, 1);
  write(image, 3 * 512 + 5, 2 * 512, 2);
  image.close();
  const wanted = new Uint8Array(8192)
    .fill(BELOW)
    .fill(1, 1000, 1100)
    .fill(2, 3 * 512 + 5, 5 * 512 + 5);
  expect(found(file, 0, 8192)).toEqual(wanted);
});

test('bits of a byte of a bitmap come together, and leave those alone that another program has set', () => {
  const sectors = Array.from({ length: 24 }, (_, sector) => (sector === 11 || sector === 14 ? 100 + sector : null));
  const file = new MemoryHostFile(vhdImage({ type: 4, sectors, blockSize: 16384, parentName: 'base' }).image);
  const image = openImage(vpc, file, { backing: parent() });
  write(image, 12 * 512 + 7, 20, 1);
  write(image, 18 * 512, 512, 2);
  image.close();
  const bytes = Buffer.from(file.bytes());
  const start = bytes.readUInt32BE(1536) * 512;
  expect([...bytes.subarray(start, start + 3)]).toEqual([0, 0b00011110, 0xff]);
  const wanted = Buffer.alloc(24 * 512, BELOW)
    .fill(111, 11 * 512, 12 * 512)
    .fill(114, 14 * 512, 15 * 512);
  wanted.fill(1, 12 * 512 + 7, 12 * 512 + 27).fill(2, 18 * 512, 19 * 512);
  expect(Buffer.compare(found(file, 0, 24 * 512), wanted)).toBe(0);
});

test('what is written while a flush makes older data durable waits for the next one', () => {
  const file = child({ block_size: '64k' });
  const acts: (() => void)[] = [];
  const hooked = new FaultyHostFile(file, (operation) => {
    if (operation === 'sync') acts.shift()?.();
    return null;
  });
  const image = openImage(vpc, hooked, { backing: parent() });
  write(image, 0, 512, 1);
  acts.push(() => write(image, 4096, 512, 2));
  image.flush();
  expect([0, 4096].map((at) => found(file, at)[0])).toEqual([1, BELOW]);
  expect([0, 4096].map((at) => bytesAt(image, at, 1)[0])).toEqual([1, 2]);
  image.flush();
  expect([0, 4096].map((at) => found(file, at)[0])).toEqual([1, 2]);
  image.close();
  expectSound(file);
});

test('a place that another block has left does not show the bits that this one had', () => {
  const file = child({ block_size: '64k' });
  const image = openImage(vpc, file, { backing: parent() });
  write(image, 0, 65536, 1);
  image.flush();
  expect(bytesAt(image, 0, 1)[0]).toBe(1);
  const place = image.map(guestOffset(0), 512).hostOffset;
  // bits that wait go with their block
  write(image, 131072, 512, 5);
  image.deallocate!(guestOffset(0), 65536);
  image.deallocate!(guestOffset(131072), 65536);
  write(image, 131072 + 512, 512, 6);
  for (let flush = 0; flush < 3; flush++) {
    write(image, MIB, 512, flush);
    image.flush();
  }
  for (const at of [65536, 4 * 65536]) write(image, at, 512, 2);
  expect([65536, 4 * 65536].map((at) => image.map(guestOffset(at), 512).hostOffset)).toContain(place);
  const places = [0, 65536, 66048, 4 * 65536 + 512, 131072, 131072 + 512];
  expect(places.map((at) => bytesAt(image, at, 1)[0])).toEqual([BELOW, 2, BELOW, BELOW, BELOW, 6]);
  image.close();
  expect(places.map((at) => found(file, at)[0])).toEqual([BELOW, 2, BELOW, BELOW, BELOW, 6]);
  expectSound(file);
});

describe('bits of many blocks, and of blocks with many sectors of bits', () => {
  test('find room by early writes, and are all there in the end', () => {
    const file = child({ block_size: '4k' });
    const image = openImage(vpc, file, { backing: parent(), tableCacheBytes: MIB });
    const blocks = SIZE / 4096;
    for (let n = 0; n < 6; n++) {
      for (let block = n % 2; block < blocks; block += 2) write(image, block * 4096 + n * 512, 512, 1 + n);
    }
    image.close();
    const content = found(file, 0, SIZE);
    for (let block = 0; block < blocks; block += 97) {
      const own = block % 2 === 0 ? [1, 9, 3, 9, 5, 9, 9, 9] : [9, 2, 9, 4, 9, 6, 9, 9];
      expect(own.map((_, sector) => content[block * 4096 + sector * 512])).toEqual(own);
    }
    expectSound(file);
  });

  test('zeros over a block that is here in parts, and a block that is filled sector by sector', () => {
    const file = child({ block_size: '8M' });
    const image = openImage(vpc, file, { backing: parent() });
    for (let at = 0; at < 8 * MIB; at += MIB) write(image, at, 300 * 1024, 1);
    image.flush();
    for (let at = 300 * 1024; at < 8 * MIB; at += MIB) write(image, at, MIB - 300 * 1024, 2);
    write(image, 8 * MIB + 5 * MIB, 512, 3);
    image.flush();
    expect(image.mapStatus(guestOffset(0), SIZE)).toEqual({ status: 'data', length: 8 * MIB });
    image.discard(guestOffset(8 * MIB), 8 * MIB);
    expect(found(file, 8 * MIB, 1)[0]).toBe(BELOW);
    expect(bytesAt(image, 8 * MIB, 8 * MIB).every((byte) => byte === 0)).toBe(true);
    image.close();
    expect(found(file, 8 * MIB, 8 * MIB).every((byte) => byte === 0)).toBe(true);
    expect([0, 299 * 1024, 300 * 1024, 8 * MIB - 1].map((at) => found(file, at)[0])).toEqual([1, 1, 2, 2]);
    expectSound(file);
  });

  test('copying up what a block lacks, of blocks that are larger than a piece', () => {
    const file = child({ block_size: '8M' });
    const image = openImage(vpc, file, { backing: parent() });
    write(image, 3 * MIB, 4096, 1);
    image.copyUp(guestOffset(5 * MIB), 512);
    expect(image.mapStatus(guestOffset(0), 8 * MIB)).toEqual({ status: 'data', length: 8 * MIB });
    image.close();
    expect([0, 3 * MIB, 3 * MIB + 4096, 8 * MIB - 1].map((at) => found(file, at)[0])).toEqual([BELOW, 1, BELOW, BELOW]);
    expectSound(file);
  });
});

test('without a parent nothing lies below clear bits but zeros, which programs that ignore bitmaps see', () => {
  const sectors = MIXED_SECTORS;
  const spec = { type: 4, sectors, uuid: '12345678-0000-1111-2222-cccccccccccc', parentName: 'base' };
  const file = new MemoryHostFile(vhdImage(spec).image);
  vpc.setBacking!(file, null);
  const bytes = Buffer.from(file.bytes());
  const table = Number(bytes.readBigUInt64BE(512 + 16));
  for (let block = 0; block * 8 < sectors.length; block++) {
    const start = bytes.readUInt32BE(table + block * 4) * 512;
    if (start === 0xffffffff * 512) continue;
    expect(bytes[start]).toBe(0xff);
    for (let sector = 0; sector < 8; sector++) {
      const at = start + 512 + sector * 512;
      const value = sectors[block * 8 + sector] ?? 0;
      expect(bytes.subarray(at, at + 512).every((byte) => byte === value)).toBe(true);
    }
  }
  expectSound(file);
});
