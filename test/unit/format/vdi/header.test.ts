// The header of a VDI image: each field with the value just outside its limits, which is refused by name, and the odd ones that
// are read.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { uuidBytes, uuidText } from '../../../../src/format/guid.ts';
import { geometryOf, readHeader, virtualSizeOf } from '../../../../src/format/vdi/header.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { DISCARDED, FIELD, FREE, KIB, vdiBytes, vdiVersion0, withField } from '../../../support/vdi-bytes.ts';

const GOOD = vdiBytes({ entries: [0, FREE, 1, DISCARDED] });

function refusal(image: Uint8Array, open: (file: MemoryHostFile) => unknown = readHeader): string {
  try {
    open(new MemoryHostFile(image, '/disk.vdi'));
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    return `${(error as ImgfuseError).kind}: ${(error as ImgfuseError).message}`;
  }
  return 'none';
}

function withDiskSize(value: bigint): Buffer {
  const image = Buffer.from(GOOD);
  image.writeBigUInt64LE(value, FIELD.diskSize);
  return image;
}

describe('a field just outside its limits is refused by name', () => {
  test.each([
    ['signature', withField(GOOD, FIELD.signature, 0xbeda107e), /^corrupt: .*offset 64: the signature is 0xbeda107e/],
    ['version', withField(GOOD, FIELD.version, 0x00010002), /^unsupported: .*version 0x10002/],
    ['cbHeader', withField(GOOD, FIELD.headerBytes, 0x17f), /^corrupt: .*cbHeader is 383; it must be 384 or more/],
    ['cbHeader beyond the map', withField(GOOD, FIELD.headerBytes, 441), /^corrupt: .*offBlocks is 512;.* from 513 on/],
    ['type 0', withField(GOOD, FIELD.type, 0), /^corrupt: .*type is 0/],
    ['type undo', withField(GOOD, FIELD.type, 3), /^unsupported: .*type 3 \(undo\)/],
    ['type 5', withField(GOOD, FIELD.type, 5), /^corrupt: .*type is 5/],
    ['a type that has a parent', withField(GOOD, FIELD.type, 4), /^corrupt: .*uuidLinkage is null/],
    ['a link without that type', withField(GOOD, FIELD.uuidLinkage, 1), /^corrupt: .*uuidLinkage is 00000001-0000/],
    ['offBlocks in the header', withField(GOOD, FIELD.offBlocks, 468), /^corrupt: .*offBlocks is 468/],
    [
      'offBlocks, odd',
      withField(GOOD, FIELD.offBlocks, 514),
      /^corrupt: .*offBlocks is 514; it must be a multiple of 4/,
    ],
    ['offBlocks beyond the file', withField(GOOD, FIELD.offBlocks, 0xfffffff0), /^corrupt: .*offData is 1024/],
    ['offData', withField(GOOD, FIELD.offData, 527), /^corrupt: .*offData is 527/],
    ['cbBlock 256', withField(GOOD, FIELD.blockSize, 256), /^corrupt: .*cbBlock is 256/],
    ['cbBlock, odd', withField(GOOD, FIELD.blockSize, 4097), /^corrupt: .*cbBlock is 4097/],
    ['cbBlock 0', withField(GOOD, FIELD.blockSize, 0), /^corrupt: .*cbBlock is 0/],
    ['cbBlockExtra', withField(GOOD, FIELD.blockExtra, 513), /^corrupt: .*cbBlockExtra is 513/],
    ['cBlocks too few', withField(GOOD, FIELD.blocks, 3), /^corrupt: .*cbDisk is 0x4000/],
    ['cBlocks, all bits', withField(GOOD, FIELD.blocks, 0xffffffff), /^corrupt: .*cBlocks is 4294967295/],
    ['cBlocks beyond offData', withField(GOOD, FIELD.blocks, 129), /^corrupt: .*offData is 1024; the map of 516 bytes/],
    ['cbDisk', withDiskSize(16384n + 1n), /^corrupt: .*cbDisk is 0x4001/],
    ['cbDisk of 2^63', withDiskSize(2n ** 63n), /^corrupt: .*cbDisk is 0x8000000000000000/],
  ])('%s', (_, image, words) => {
    expect(refusal(image)).toMatch(words);
  });

  test('a map that ends beyond the file, which a truncated copy has', () => {
    const image = vdiBytes({ entries: [FREE, FREE] });
    expect(refusal(image.subarray(0, 519))).toMatch(
      /^corrupt: .*ends beyond the file of 519 bytes, which is truncated/,
    );
    expect(refusal(image.subarray(0, 520))).toBe('none');
    expect(refusal(image.subarray(0, 400))).toMatch(/^corrupt: .*a VDI header takes 456; the file is truncated/);
  });

  test('and so many blocks that their places are beyond 8 PiB of the file, without memory for them', () => {
    const huge = vdiBytes({ entries: [FREE], blockSize: 2 ** 31, diskSize: 512 });
    huge.writeUInt32LE(0x80000000, FIELD.blockExtra);
    const map = 4 * 2 ** 22;
    huge.writeUInt32LE(2 ** 22, FIELD.blocks);
    huge.writeUInt32LE(512 + map, FIELD.offData);
    const file = new MemoryHostFile(huge, '/disk.vdi');
    file.truncate(512 + map);
    expect(() => readHeader(file)).toThrow(/so many blocks reach beyond 8 PiB/);
  });
});

test('an odd size is shown as QEMU shows it, in whole sectors, and never stored so', () => {
  const file = new MemoryHostFile(vdiBytes({ entries: [0, FREE], diskSize: 4097 }), '/disk.vdi');
  const image = openImage(vdi, file);
  expect(image.virtualSize()).toBe(4608);
  image.write(Buffer.alloc(512, 7), 0, 512, 4096 as never);
  image.close();
  expect(Buffer.from(file.bytes()).readBigUInt64LE(FIELD.diskSize)).toBe(4097n);
  expect(virtualSizeOf({ diskSize: 0 })).toBe(0);
});

test('a longer header keeps its bytes, and the text for the eye stays', () => {
  const long = vdiBytes({ entries: [FREE], headerBytes: 0x1b0 });
  long.fill(0xab, 472, 72 + 0x1b0);
  const file = new MemoryHostFile(long, '/disk.vdi');
  const image = openImage(vdi, file);
  image.write(Buffer.alloc(512, 7), 0, 512, 0 as never);
  image.close();
  const after = Buffer.from(file.bytes());
  expect(after.subarray(472, 72 + 0x1b0)).toEqual(Buffer.alloc(72 + 0x1b0 - 472, 0xab));
  expect(after.toString('latin1', 0, 29)).toBe('<<< a VDI image of a test >>>');
});

describe('what is only read', () => {
  test.each([
    ['version 0', vdiVersion0({ entries: [0, FREE] }), /is a VDI image of version 0, which imgfuse only reads/],
    ['unknown flags', withField(GOOD, FIELD.flags, 2), /has unknown flags \(0x2\)/],
  ])('%s: refused for writing, and read', (_, bytes, words) => {
    expect(refusal(bytes, (file) => openImage(vdi, file))).toMatch(words);
    const image = openImage(vdi, new MemoryHostFile(bytes, '/disk.vdi', true), { readOnly: true });
    const read = Buffer.alloc(8 * KIB);
    image.read(read, 0, read.length, 0 as never);
    expect(read).toEqual(Buffer.concat([Buffer.alloc(4 * KIB, 1), Buffer.alloc(4 * KIB)]));
  });

  test.each([
    ['version 0', vdiVersion0({ entries: [0, FREE] }), vdiVersion0({ entries: [0, 5] })],
    ['unknown flags', withField(GOOD, FIELD.flags, 2), withField(withField(GOOD, FIELD.flags, 2), 512, 7)],
  ])('%s: a repair of a sound image has nothing to do, and one of a damaged image is refused', (_, sound, damaged) => {
    const repair = (bytes: Uint8Array) =>
      checkImage(vdi, new MemoryHostFile(bytes, '/disk.vdi'), { repair: 'all', log: () => undefined });
    expect(repair(sound)).toMatchObject({ corruptions: 0, leaks: 0 });
    expect(() => repair(damaged)).toThrow(/which imgfuse only reads/);
  });

  test('the flag for static images is known', () => {
    expect(refusal(withField(GOOD, FIELD.flags, 1), (file) => openImage(vdi, file))).toBe('none');
  });
});

test('a UUID is stored with its first three groups turned round', () => {
  const text = '00112233-4455-6677-8899-aabbccddeeff';
  expect(Buffer.from(uuidBytes(text)).toString('hex')).toBe('33221100554477668899aabbccddeeff');
  expect(uuidText(uuidBytes(text))).toBe(text);
});

test('a new image has what it was asked for, and UUIDs of its own', () => {
  const file = createMemoryImage(vdi, 10 * 1024 * KIB + 1, { block_size: '64k', static: 'on' });
  const header = readHeader(file);
  expect(header).toMatchObject({ type: 2, blockSize: 65536, blockCount: 161, allocated: 161, blockExtra: 0 });
  expect(header.diskSize).toBe(10 * 1024 * KIB + 512);
  expect(file.size()).toBe(geometryOf(header).hostStartOf(161, header.dataOffset));
  const other = readHeader(createMemoryImage(vdi, 512));
  expect(new Set([header.uuidCreate, header.uuidModify, other.uuidCreate, other.uuidModify]).size).toBe(4);
});

test.each([
  [{ block_size: '2k' }, /block_size=2k is not valid/],
  [{ block_size: '512M' }, /block_size=512M is not valid/],
  [{ block_size: '96k' }, /block_size=96k is not valid/],
  [{ static: 'yes' }, /static=yes is not valid; use on or off/],
  [{ cluster_size: '1M' }, /vdi has no option 'cluster_size'/],
])('create refuses %j', (options, words) => {
  expect(() => createMemoryImage(vdi, 1024 * KIB, options)).toThrow(words);
});
