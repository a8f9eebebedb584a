// Footers and headers: which of them counts, the size of the disk by its creator, and every limit with the value just outside.

import { expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { geometryOf } from '../../../../src/format/vpc/header/footer.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, openImage } from '../../../support/memory-images.ts';
import { MIXED_SECTORS, signVhd, type VhdSpec, vhdFooter, vhdImage } from '../../../support/vhd-bytes.ts';

const SOME = [1, 2, null, 4, 5, 6, 7, 8, 9, 10];

function fileOf(image: Buffer, readOnly = false): MemoryHostFile {
  return new MemoryHostFile(image, '/disk.vhd', readOnly);
}

function read(image: Buffer): Buffer {
  const disk = openImage(vpc, fileOf(image, true), { readOnly: true });
  const bytes = Buffer.alloc(disk.virtualSize());
  disk.read(bytes, 0, bytes.length, guestOffset(0));
  return bytes;
}

function refusal(image: Buffer, readOnly = true): string {
  const before = Buffer.from(image);
  const file = fileOf(image, readOnly);
  try {
    openImage(vpc, file, { readOnly });
  } catch (error) {
    expect(Buffer.from(file.bytes())).toEqual(before);
    return (error as Error).message;
  }
  return 'opened';
}

test.each<[string, VhdSpec]>([
  ['a fixed disk', { type: 2 }],
  ['a fixed disk with an old footer', { type: 2, footerBytes: 511 }],
  ['blocks that are here in parts', {}],
  ['full bitmaps', { fullBitmaps: true }],
  ['gaps before blocks, and slack before the footer', { gapSectors: 3, slack: 3584 }],
  ['a table that is padded with zeros, and longer than needed', { tablePadding: 0, maxTableEntries: 100 }],
  ['blocks of a sector', { blockSize: 512 }],
  ['large blocks', { blockSize: 65_536 }],
])('%s reads as it was made', (_, spec) => {
  const { image, content } = vhdImage({ sectors: MIXED_SECTORS, ...spec });
  expect(read(image)).toEqual(content);
});

test.each([
  ['vpc ', [4, 4, 17], 4 * 4 * 17],
  ['qemu', [4, 4, 17], 4 * 4 * 17],
  ['vpc ', [65535, 16, 255], 300],
  ['win ', [4, 4, 17], 300],
  ['qem2', [4, 4, 17], 300],
  ['d2v\0', [4, 4, 17], 300],
  ['wa\0\0', [4, 4, 17], 300],
  ['tap\0', [4, 4, 17], 300],
] as const)('a disk made by "%s" with geometry %j has %i sectors', (creator, geometry, sectors) => {
  const { image } = vhdImage({ sectors: Array.from({ length: 300 }, () => 1), creator, geometry });
  expect(vpc.inspect(fileOf(image)).virtualSize).toBe(sectors * 512);
});

test('the geometry is that of the specification', () => {
  const said = (sectors: number) => Object.values(geometryOf(sectors));
  expect(said(2 ** 32)).toEqual([65535, 16, 255]);
  expect(said(65535 * 16 * 63)).toEqual([16191, 16, 255]);
  expect(said(65535 * 16 * 63 - 1)).toEqual([65534, 16, 63]);
  expect(said(17 * 4 * 1024 - 1)).toEqual([1023, 4, 17]);
  expect(said(100 * 2048)).toEqual([1003, 12, 17]);
  expect(said(2 ** 21)).toEqual([2080, 16, 63]);
});

test('whatever the first sector of a fixed disk says, its footer counts', () => {
  const { image, content } = vhdImage({ type: 2, sectors: SOME.map((value) => value ?? 0) });
  vhdFooter({ type: 4, sectors: SOME }).copy(image);
  vhdFooter({ type: 4, sectors: SOME }).copy(content);
  expect(read(image)).toEqual(content);
});

test('a check finds that a fixed disk is longer than its file, as a repair does', () => {
  const { image } = vhdImage({ type: 2, sectors: SOME.map((value) => value ?? 0) });
  const cut = image.subarray(512);
  const options = { repair: 'none', log: () => undefined } as const;
  expect(checkImage(vpc, fileOf(cut, true), options)).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
  expect(() => checkImage(vpc, fileOf(cut), { ...options, repair: 'all' })).toThrow(/has 4608 before it; it was cut/);
  expect(checkImage(vpc, fileOf(image, true), options)).toMatchObject({ corruptions: 0, checkErrors: 0 });
});

test('a fixed disk that has lost its footer is refused, whatever its first sector says', () => {
  const { image } = vhdImage({ type: 2, sectors: SOME.map((value) => value ?? 0) });
  vhdFooter({ type: 2, sectors: SOME }).copy(image);
  expect(refusal(image.subarray(0, image.length - 512))).toMatch(/it has no footer/);
});

test.each([
  0, 1,
])('of two footers of which one is damaged the other counts, and a read-write open mends it (%i)', (which) => {
  const { image, content } = vhdImage({ sectors: SOME });
  const at = which === 0 ? 0 : image.length - 512;
  image[at + 100] = 77;
  expect(read(image)).toEqual(content);
  const file = fileOf(image);
  const said: string[] = [];
  openImage(vpc, file, { log: (text) => said.push(text) }).close();
  expect(said.join()).toMatch(which === 0 ? /copy of the footer.*written again/ : /footer at the end.*written again/);
  image[at + 100] = 0;
  expect(Buffer.from(file.bytes())).toEqual(image);
});

test('a dynamic image that was cut before its footer gets a new one', () => {
  const { image, content } = vhdImage({ sectors: SOME });
  const file = fileOf(image.subarray(0, image.length - 512));
  openImage(vpc, file).close();
  expect(read(Buffer.from(file.bytes()))).toEqual(content);
  expect(checkImage(vpc, file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
});

test('footers that are right and not the same: the smaller disk is read, writing is refused until check -r all', () => {
  const { image, content } = vhdImage({ sectors: SOME });
  vhdFooter({ sectors: SOME, size: 4 * 512 }).copy(image);
  expect(read(image)).toEqual(content.subarray(0, 4 * 512));
  expect(refusal(image, false)).toMatch(/not the same.*check -r all/);
  const file = fileOf(image);
  const options = { repair: 'all' as const, log: () => undefined };
  expect(checkImage(vpc, file, options)).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
  expect(openImage(vpc, file).virtualSize()).toBe(4 * 512);
});

test.each([
  'footer',
  'header',
])('a wrong checksum of the %s is read with a warning, and mended by check -r all', (part) => {
  const { image, content } = vhdImage({ sectors: SOME });
  if (part === 'footer') for (const at of [0, image.length - 512]) image[at + 64]! ^= 1;
  else image[512 + 36]! ^= 1;
  const said: string[] = [];
  openImage(vpc, fileOf(image, true), { readOnly: true, log: (text) => said.push(text) });
  expect(said.join()).toMatch(/checksum/);
  expect(read(image)).toEqual(content);
  expect(refusal(image, false)).toMatch(/checksum.*not opened for writing/);
  const file = fileOf(image);
  expect(checkImage(vpc, file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 1 });
  expect(checkImage(vpc, file, { repair: 'all', log: () => undefined })).toMatchObject({ corruptionsFixed: 1 });
  openImage(vpc, file).close();
  expect(read(Buffer.from(file.bytes()))).toEqual(content);
});

test('an image that Xen has poisoned is refused', () => {
  const { image } = vhdImage({ sectors: SOME });
  image.write('v_poison', image.length - 512, 'latin1');
  expect(refusal(image)).toMatch(/nobody must use it/);
});

test.each<[string, VhdSpec, RegExp]>([
  ['a footer of version 2', { footerVersion: 0x20000 }, /version of its footer is 0x20000/],
  ['a header of version 2', { headerVersion: 0x20000 }, /version of its header is 0x20000/],
  ['an unknown type', { type: 5 }, /disk type 5/],
  ['a disk of half a sector', { size: 100 }, /whole sectors/],
  ['a disk of more than 2040 GiB', { size: 0xff000000 * 512 + 512, maxTableEntries: 1 }, /at most 2190433320960 bytes/],
  [
    'a size beyond what a number holds',
    { editFooter: (footer) => footer.writeBigUInt64BE(1n << 60n, 48) },
    /NaN bytes/,
  ],
  ['a table that is too short', { maxTableEntries: 1 }, /max_table_entries is 1, and a disk of 5120 bytes takes 2/],
  [
    'a table with too many entries',
    { editHeader: (header) => header.writeUInt32BE(2 ** 25 + 1, 28) },
    /at most 33554432/,
  ],
  [
    'a table beyond the file',
    { editHeader: (header) => header.writeBigUInt64BE(1n << 40n, 16) },
    /table_offset is 0x10000000000/,
  ],
  ['a table in the header', { editHeader: (header) => header.writeBigUInt64BE(1024n, 16) }, /table_offset is 0x400/],
  ['a table in the middle of a sector', { editHeader: (header) => header.writeBigUInt64BE(1540n, 16) }, /table_offset/],
  [
    'blocks that are no power of two',
    { editHeader: (header) => header.writeUInt32BE(12_288, 32) },
    /block_size is 12288/,
  ],
  ['blocks below a sector', { editHeader: (header) => header.writeUInt32BE(256, 32) }, /block_size is 256/],
  ['blocks above 256 MiB', { editHeader: (header) => header.writeUInt32BE(2 ** 29, 32) }, /block_size is 536870912/],
  ['no header', { editHeader: (header) => header.fill(0, 0, 8) }, /"cxsparse"/],
  [
    'a header beyond the file',
    { editFooter: (footer) => footer.writeBigUInt64BE(1n << 50n, 16) },
    /header is at 1125899906842624/,
  ],
  ['a header in the footer', { editFooter: (footer) => footer.writeBigUInt64BE(0n, 16) }, /header is at 0/],
  [
    'itself as its parent',
    { type: 4, parentUuid: '00112233-4455-6677-8899-aabbccddeeff', parentName: 'x' },
    /names itself/,
  ],
  ['no name for its parent', { type: 4 }, /names no parent/],
])('an image with %s is refused by name', (_, spec, why) => {
  const { image } = vhdImage({ sectors: SOME, ...spec });
  expect(refusal(image)).toMatch(why);
});

test.each<[string, (table: Buffer) => void, RegExp]>([
  ['in the footer', (table) => table.writeUInt32BE(0, 0), /sector 0, which is no place/],
  ['in the header', (table) => table.writeUInt32BE(2, 0), /metadata lies there/],
  ['in the table', (table) => table.writeUInt32BE(3, 0), /metadata lies there/],
  ['beyond the file', (table) => table.writeUInt32BE(0xfffffffe, 0), /the file ends at/],
  ['over the footer at the end', (table) => table.writeUInt32BE(table.readUInt32BE(0) + 1, 0), /the file ends at/],
])('a block %s is an error of the read that meets it, and refused for writing', (_, edit, why) => {
  const { image } = vhdImage({ sectors: SOME, editTable: edit });
  const disk = openImage(vpc, fileOf(image, true), { readOnly: true });
  if (!/file ends/.test(why.source)) {
    expect(() => disk.read(new Uint8Array(512), 0, 512, guestOffset(0))).toThrow(
      /BAT entry 0 .*guest offset 0x0.*imgfuse check/,
    );
  }
  expect(refusal(image, false)).toMatch(why);
  const file = fileOf(image);
  const report = checkImage(vpc, file, { repair: 'all', log: () => undefined });
  // its data may be somewhere: nothing is made zeros in silence
  expect(report).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
  expect(Buffer.from(file.bytes())).toEqual(image);
});

test('blocks that overlap are refused, and check -r all gives the second one a copy', () => {
  const sectors = Array.from({ length: 16 }, (_, i) => i + 1);
  const { image } = vhdImage({ sectors, editTable: (table) => table.copy(table, 4, 0, 4) });
  expect(refusal(image, false)).toMatch(/1 error, 1 of them blocks that overlap/);
  const before = read(image);
  const file = fileOf(image);
  expect(checkImage(vpc, file, { repair: 'all', log: () => undefined })).toMatchObject({ corruptionsFixed: 1 });
  const disk = openImage(vpc, file);
  disk.write(Buffer.alloc(512, 99), 0, 512, guestOffset(0));
  const after = Buffer.alloc(before.length);
  disk.read(after, 0, after.length, guestOffset(0));
  before.fill(99, 0, 512);
  expect(after).toEqual(before);
  disk.close();
  expect(checkImage(vpc, file, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0 });
});

test('bytes of the footer that nobody knows are kept', () => {
  const { image } = vhdImage({ sectors: SOME, editFooter: (footer) => footer.fill(0x5a, 90, 400) });
  const file = fileOf(image);
  const disk = openImage(vpc, file);
  disk.write(Buffer.alloc(512, 1), 0, 512, guestOffset(5 * 512));
  disk.resize(100 * 512);
  disk.close();
  for (const at of [0, file.size() - 512]) {
    const footer = Buffer.alloc(512);
    file.read(footer, 0, 512, hostOffset(at));
    expect(footer.subarray(90, 400)).toEqual(Buffer.alloc(310, 0x5a));
    expect(signVhd(Buffer.from(footer), 64)).toEqual(footer);
  }
});

test('a read-only open writes nothing, and neither does a read-write one that changes nothing', () => {
  const { image } = vhdImage({ sectors: MIXED_SECTORS, slack: 3584 });
  for (const readOnly of [true, false]) {
    const file = fileOf(image, readOnly);
    openImage(vpc, file, { readOnly }).close();
    expect(Buffer.from(file.bytes())).toEqual(image);
  }
});
