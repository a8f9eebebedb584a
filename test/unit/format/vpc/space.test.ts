// Where blocks lie and what becomes of their places: reuse after discards, footers that move, batmaps, resizes that are cut short.

import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { watchLockHolds } from '../../../support/lock-holds.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { batmapChecksum, MIXED_SECTORS, vhdFooter, vhdImage } from '../../../support/vhd-bytes.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const BLOCK = 64 * 1024;

function fill(value: number, length = BLOCK): Uint8Array {
  return new Uint8Array(length).fill(value);
}

function contentOf(file: MemoryHostFile): Buffer {
  const disk = openImage(vpc, file.clone(true), { readOnly: true });
  const bytes = Buffer.alloc(disk.virtualSize());
  disk.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

test('a discarded block is used again after two flushes, and not before (R5)', () => {
  const file = createMemoryImage(vpc, 32 * BLOCK, { block_size: '64k' });
  const disk = openImage(vpc, file);
  for (let block = 0; block < 4; block++) disk.write(fill(block + 1), 0, BLOCK, guestOffset(block * BLOCK));
  disk.flush();
  const placeOf = (block: number) => disk.map(guestOffset(block * BLOCK), 512).hostOffset;
  const freed = placeOf(1);
  disk.discard(guestOffset(BLOCK), BLOCK);
  disk.write(fill(9), 0, BLOCK, guestOffset(10 * BLOCK));
  expect(placeOf(10)).not.toBe(freed);
  disk.flush();
  disk.write(fill(9), 0, 512, guestOffset(11 * BLOCK));
  expect(placeOf(11)).not.toBe(freed);
  disk.flush();
  disk.write(fill(9), 0, 512, guestOffset(12 * BLOCK));
  expect(placeOf(12)).toBe(freed);
  const rest = Buffer.alloc(BLOCK - 512, 1);
  disk.read(rest, 0, rest.length, guestOffset(12 * BLOCK + 512));
  expect(rest.equals(Buffer.alloc(BLOCK - 512))).toBe(true);
  disk.close();
});

test('what another process has freed between blocks is used again, and a closed file does not grow', () => {
  const file = createMemoryImage(vpc, 32 * BLOCK, { block_size: '64k' });
  const first = openImage(vpc, file);
  for (let block = 0; block < 8; block++) first.write(fill(block + 1), 0, BLOCK, guestOffset(block * BLOCK));
  first.discard(guestOffset(2 * BLOCK), 3 * BLOCK);
  first.close();
  const length = file.size();
  const second = openImage(vpc, file);
  second.flush();
  second.makeClean();
  for (let n = 0; n < 3; n++) {
    second.write(fill(50 + n), 0, 512, guestOffset(0));
    second.flush();
  }
  for (let block = 20; block < 23; block++) second.write(fill(block), 0, BLOCK, guestOffset(block * BLOCK));
  second.close();
  expect(file.size()).toBe(length);
  expect(checkImage(vpc, file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
});

test('the footer follows the last block at once, where QEMU puts its next one', () => {
  const file = createMemoryImage(vpc, 32 * BLOCK, { block_size: '64k' });
  const disk = openImage(vpc, file);
  disk.write(fill(7), 0, BLOCK, guestOffset(0));
  const host = disk.map(guestOffset(0), BLOCK).hostOffset!;
  disk.close();
  expect(host % 4096).toBe(0);
  expect(file.size()).toBe(host + BLOCK + 512);
});

test('a killed process leaves a tail that check counts and cuts off, and so does the next open', () => {
  const made = createMemoryImage(vpc, 32 * BLOCK, { block_size: '64k' });
  const killed = made.clone();
  openImage(vpc, killed).write(fill(7), 0, BLOCK, guestOffset(0));
  const wanted = Buffer.alloc(32 * BLOCK).fill(7, 0, BLOCK);
  expect(killed.size()).toBeGreaterThan(60 * 1024 * 1024);
  for (const mend of [
    (file: MemoryHostFile) => openImage(vpc, file).close(),
    (file: MemoryHostFile) => void checkImage(vpc, file, { repair: 'leaks', log: () => undefined }),
  ]) {
    const file = killed.clone();
    expect(checkImage(vpc, file, { repair: 'none', log: () => undefined }).leaks).toBeGreaterThan(900);
    mend(file);
    expect(checkImage(vpc, file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(file.size()).toBeLessThan(2 * BLOCK);
    expect(contentOf(file).equals(wanted)).toBe(true);
  }
});

test.each([0x00010001, 0x00010002])('a batmap (version %i) is true after writes and discards', (version) => {
  const blocks = Math.ceil(MIXED_SECTORS.length / 8);
  const full = Array.from({ length: blocks }, (_, block) =>
    Array.from({ length: 8 }, (__, i) => MIXED_SECTORS[block * 8 + i] ?? null).every((byte) => byte !== null),
  );
  const spec = { sectors: MIXED_SECTORS, creator: 'tap\0', batmap: full, batmapVersion: version };
  const { image, content } = vhdImage(spec);
  const file = new MemoryHostFile(image);
  const disk = openImage(vpc, file);
  disk.write(fill(9, 4096), 0, 4096, guestOffset(1 * 4096));
  disk.discard(guestOffset(4 * 4096), 4096);
  content.fill(9, 4096, 8192).fill(0, 4 * 4096, 5 * 4096);
  disk.close();
  expect(contentOf(file).equals(content)).toBe(true);
  const header = Buffer.alloc(512);
  const bits = Buffer.alloc(512);
  file.read(header, 0, 512, hostOffset(2048));
  file.read(bits, 0, 512, hostOffset(2560));
  expect(header.toString('latin1', 0, 8)).toBe('tdbatmap');
  expect(header.readUInt32BE(24)).toBe(batmapChecksum(bits, version));
  const isSet = (block: number): boolean => (bits[block >> 3]! & (0x80 >> (block & 7))) !== 0;
  // a bit that is set is true
  const bitmaps = (block: number): number => {
    const table = Buffer.alloc(4);
    file.read(table, 0, 4, hostOffset(1536 + block * 4));
    if (table.readUInt32BE(0) === 0xffffffff) return -1;
    file.read(table, 0, 1, hostOffset(table.readUInt32BE(0) * 512));
    return table[0]!;
  };
  for (let block = 0; block < blocks; block++) if (isSet(block)) expect(bitmaps(block)).toBe(0xff);
  expect([isSet(1), bitmaps(1), isSet(4), bitmaps(4)]).toEqual([true, 0xff, false, -1]);
});

test('a bit of a batmap is durable before its block loses the entry, and nobody waits for the lock meanwhile (R1)', () => {
  const sectors = MIXED_SECTORS.map(() => 1);
  const batmap = sectors.map(() => true);
  const log: RecordedOperation[] = [];
  const inner = new RecordingHostFile(new MemoryHostFile(vhdImage({ sectors, creator: 'tap\0', batmap }).image), log);
  const holds = watchLockHolds(inner);
  const disk = openImage(vpc, holds.file);
  log.length = 0;
  holds.reset();
  disk.discard(guestOffset(4096), 2 * 4096);
  const order = log.map(({ offset, operation }) => (operation === 'write' ? offset : operation));
  expect(order).toEqual([2560, 2048 + 24, 'sync', 1536 + 4]);
  expect(holds.syncs).toBe(0);
  disk.close();
});

/** A fixed disk of `sectors`, and one byte for each of them. */
function fixedImage(sectors: number): Buffer {
  return vhdImage({ type: 2, sectors: Array.from({ length: sectors }, (_, i) => i + 1) }).image;
}

function marked(text: string, place: number, sectors: number): Buffer {
  return vhdFooter({
    type: 2,
    size: sectors * 512,
    editFooter: (footer) => {
      footer.write(text, 480, 'latin1');
      footer.writeBigUInt64BE(BigInt(place), 488);
    },
  });
}

test('a fixed disk that was grown halfway loses the footer in its data, and keeps the new size', () => {
  const old = fixedImage(10);
  const file = new MemoryHostFile(Buffer.concat([old, Buffer.alloc(4 * 512), marked('growfrom', 10 * 512, 15)]));
  const said: string[] = [];
  openImage(vpc, file, { log: (text) => said.push(text) }).close();
  expect(said.join()).toMatch(/a resize was cut short, and is finished: the disk has 7680 bytes/);
  const content = contentOf(file);
  expect(content.length).toBe(15 * 512);
  expect(content.subarray(0, 10 * 512)).toEqual(old.subarray(0, 10 * 512));
  expect(content.subarray(10 * 512)).toEqual(Buffer.alloc(5 * 512));
  expect(vpc.inspect(file).dirty).toBe(false);
});

test('a fixed disk that was shrunk halfway is as small as it was to be', () => {
  const old = fixedImage(10);
  const file = new MemoryHostFile(Buffer.concat([old.subarray(0, 5120), marked('shrinkto', 4 * 512, 10)]));
  expect(contentOf(file)).toEqual(old.subarray(0, 4 * 512));
  expect(checkImage(vpc, file, { repair: 'all', log: () => undefined })).toMatchObject({ corruptionsFixed: 1 });
  expect(file.size()).toBe(4 * 512 + 512);
  expect(contentOf(file)).toEqual(old.subarray(0, 4 * 512));
});

test('a fixed disk whose file is longer already, and has no footer at its end, is found by its old one', () => {
  const old = fixedImage(10);
  const file = new MemoryHostFile(old);
  file.truncate(1024 * 1024);
  expect(contentOf(file)).toEqual(old.subarray(0, 5120));
  openImage(vpc, file).close();
  expect(Buffer.from(file.bytes())).toEqual(old);
});

test('data behind such a footer is not cut off: it is no footer of the disk then', () => {
  const file = new MemoryHostFile(Buffer.concat([fixedImage(10), Buffer.alloc(512, 1), Buffer.alloc(5120)]));
  expect(() => openImage(vpc, file)).toThrow(/it has no footer/);
});
