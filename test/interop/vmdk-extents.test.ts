// Extents that qemu-img has made read here as qemu-img reads them, and what is written here reads in qemu-img.

import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { cowd } from '../../src/format/vmdk/cowd/index.ts';
import type { Extent, ExtentKind } from '../../src/format/vmdk/extent.ts';
import { sesparse } from '../../src/format/vmdk/sesparse/index.ts';
import { sparse } from '../../src/format/vmdk/sparse/index.ts';
import { stream } from '../../src/format/vmdk/stream/index.ts';
import { StreamWriter } from '../../src/format/vmdk/stream/writer.ts';
import { PosixHostFile } from '../../src/host/posix-file.ts';
import { openExtent, readAll } from '../support/extents.ts';
import { firstDifference } from '../support/image-files.ts';
import { hasQemu, qemuCheck, qemuImg, qemuIo } from '../support/qemu.ts';
import { seededRandom } from '../support/random.ts';
import { requireOrSkip } from '../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';
import { cowdBytes, seSparseBytes } from '../support/vmdk-bytes.ts';

let folder: string;
beforeEach((context) => {
  requireOrSkip(context, hasQemu, 'qemu-img');
  folder = makeTemporaryDirectory();
});
afterEach(() => {
  if (folder !== undefined) removeTemporaryDirectory(folder);
});

/** Data of all lengths with zeros between. */
function diskOf(bytes: number): Buffer {
  const random = seededRandom(bytes);
  const disk = Buffer.alloc(bytes);
  for (let at = 0; at < disk.length; ) {
    const length = 512 * (1 + Math.floor(random() * (random() < 0.2 ? 2000 : 40)));
    const end = Math.min(disk.length, at + length);
    if (random() < 0.5) for (let i = at; i < end; i++) disk[i] = (i * 7 + at) >> (i % 5);
    at += length;
  }
  return disk;
}

function read(kind: ExtentKind, path: string): Buffer {
  const file = PosixHostFile.open(path, true);
  try {
    expect(kind.matches(readFileSync(path).subarray(0, 512))).toBe(true);
    const image: Extent = openExtent(kind, file, { readOnly: true });
    return readAll(image);
  } finally {
    file.close();
  }
}

test.each([
  ['monolithicSparse', sparse, 'monolithicSparse', 40 * 1024 * 1024],
  ['monolithicSparse of an odd size', sparse, 'monolithicSparse', 5 * 1024 * 1024 + 1536],
  ['monolithicSparse with zeroed grains', sparse, 'monolithicSparse,zeroed_grain=on', 3 * 1024 * 1024],
  ['streamOptimized', stream, 'streamOptimized', 40 * 1024 * 1024],
  ['streamOptimized of an odd size', stream, 'streamOptimized', 5 * 1024 * 1024 + 1536],
] as const)('an image that qemu-img has made as %s', (_, kind, subformat, bytes) => {
  const wanted = diskOf(bytes);
  const [raw, image] = [join(folder, 'disk.raw'), join(folder, 'disk.vmdk')];
  writeFileSync(raw, wanted);
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', `subformat=${subformat}`, raw, image);
  expect(firstDifference(read(kind, image), wanted)).toBe('none');
});

const DESCRIPTOR_BYTES = 20 * 512;

function descriptorOf(bytes: number, name: string): string {
  return [
    ...[
      '# Disk DescriptorFile',
      'version=1',
      'CID=12345678',
      'parentCID=ffffffff',
      'createType="monolithicSparse"',
      '',
    ],
    ...['# Extent description', `RW ${bytes / 512} SPARSE "${name}"`, '', '# The Disk Data Base', '#DDB', ''],
    ...['ddb.virtualHWVersion = "4"', 'ddb.adapterType = "ide"', ''],
  ].join('\n');
}

test.each([
  ['', 10 * 1024 * 1024, false],
  [' of an odd size', 5 * 1024 * 1024 + 1536, false],
  [' with zeroed grains', 3 * 1024 * 1024, true],
  [' of several tables', 100 * 1024 * 1024, false],
] as const)('an extent%s that was made, written, grown and cut here reads in qemu-img', (_, bytes, zeroedGrain) => {
  const [raw, path] = [join(folder, 'disk.raw'), join(folder, 'disk.vmdk')];
  writeFileSync(path, '');
  const file = PosixHostFile.open(path, false);
  const options = {
    capacity: bytes,
    descriptor: descriptorOf(bytes, 'disk.vmdk'),
    descriptorBytes: DESCRIPTOR_BYTES,
    grainBytes: 65_536,
    zeroedGrain,
  };
  sparse.create(file, options);
  const judge = (wanted: Buffer): void => {
    qemuCheck(path, 'vmdk');
    qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path, raw);
    expect(firstDifference(readFileSync(raw), wanted)).toBe('none');
    expect(sparse.check(file, { repair: 'none', hasBacking: false, log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  };
  judge(Buffer.alloc(bytes));
  const wanted = diskOf(bytes);
  let image = openExtent(sparse, file);
  image.write(wanted, 0, bytes, guestOffset(0));
  image.discard(guestOffset(0), 1024 * 1024);
  wanted.fill(0, 0, 1024 * 1024);
  image.close();
  judge(wanted);
  for (const size of [bytes + 70 * 1024 * 1024, 2 * 1024 * 1024]) {
    image = openExtent(sparse, file);
    image.resize(size);
    image.write(Buffer.alloc(65536, 5), 0, 65536, guestOffset(size - 65536));
    image.close();
    const bigger = Buffer.alloc(size);
    wanted.copy(bigger);
    bigger.fill(5, size - 65536);
    judge(bigger);
    bigger.copy(wanted);
  }
  file.close();
});

test('what qemu-io writes into an extent that was grown here is there for the next open', () => {
  const path = join(folder, 'disk.vmdk');
  qemuImg('create', '-f', 'vmdk', path, '40M');
  const file = PosixHostFile.open(path, false);
  const image = openExtent(sparse, file);
  image.resize(200 * 1024 * 1024);
  image.close();
  qemuIo(path, 'vmdk', 'write -P 3 0 64k', 'write -P 4 150M 192k', 'write -P 5 199M 1M');
  qemuCheck(path, 'vmdk');
  const again = openExtent(sparse, file);
  const at = (offset: number) => {
    const bytes = Buffer.alloc(1);
    again.read(bytes, 0, 1, guestOffset(offset));
    return bytes[0];
  };
  const mib = 1024 * 1024;
  expect([at(0), at(65536), at(150 * mib), at(150 * mib + 196607), at(199 * mib), at(200 * mib - 1)]).toEqual([
    3, 0, 4, 4, 5, 5,
  ]);
  again.close();
  expect(sparse.check(file, { repair: 'none', hasBacking: false, log: () => undefined })).toMatchObject({
    corruptions: 0,
    leaks: 0,
  });
  file.close();
});

test.each([
  40 * 1024 * 1024,
  5 * 1024 * 1024 + 1536,
])('a streamed extent of %i bytes that was written here reads in qemu-img', (bytes) => {
  const [raw, path] = [join(folder, 'disk.raw'), join(folder, 'disk.vmdk')];
  writeFileSync(path, '');
  const file = PosixHostFile.open(path, false);
  const descriptor = descriptorOf(bytes, 'disk.vmdk').replace('monolithicSparse', 'streamOptimized');
  const writer = new StreamWriter(file, { capacity: bytes, descriptor, descriptorBytes: DESCRIPTOR_BYTES });
  const wanted = diskOf(bytes);
  const { grainBytes } = writer;
  for (let at = 0; at < bytes; at += grainBytes)
    writer.writeGrain(at / grainBytes, wanted.subarray(at, at + grainBytes));
  writer.finish();
  file.close();
  qemuCheck(path, 'vmdk');
  qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path, raw);
  expect(firstDifference(readFileSync(raw), wanted)).toBe('none');
  expect(firstDifference(read(stream, path), wanted)).toBe('none');
});

/** qemu-img reads extents of ESX through a descriptor only. */
function readByQemu(extent: Buffer, bytes: number, createType: string, type: string): Buffer {
  const [raw, path] = [join(folder, 'theirs.raw'), join(folder, 'esx.vmdk')];
  writeFileSync(join(folder, 'esx-delta.vmdk'), extent);
  const line = `RW ${bytes / 512} ${type} "esx-delta.vmdk"`;
  const words = [
    '# Disk DescriptorFile',
    'version=1',
    'CID=12345678',
    'parentCID=ffffffff',
    `createType="${createType}"`,
    line,
    '',
  ];
  writeFileSync(path, words.join('\n'));
  qemuImg('convert', '-f', 'vmdk', '-O', 'raw', path, raw);
  return readFileSync(raw);
}

test('a COWD extent that was written here reads in qemu-img', () => {
  const sectors = 3 * 4096 + 100;
  const path = join(folder, 'cowd.vmdk');
  writeFileSync(path, cowdBytes({ entries: [], capacity: sectors }));
  const file = PosixHostFile.open(path, false);
  const image = openExtent(cowd, file);
  const wanted = diskOf(sectors * 512);
  image.write(wanted, 0, wanted.length, guestOffset(0));
  image.discard(guestOffset(4096 * 512), 1024 * 512);
  wanted.fill(0, 4096 * 512, 5120 * 512);
  image.close();
  expect(cowd.check(file, { repair: 'none', hasBacking: false, log: () => undefined })).toMatchObject({
    corruptions: 0,
    leaks: 0,
  });
  file.close();
  const theirs = readByQemu(readFileSync(path), wanted.length, 'vmfsSparse', 'VMFSSPARSE');
  expect(firstDifference(theirs, wanted)).toBe('none');
  expect(firstDifference(read(cowd, path), wanted)).toBe('none');
});

test('an SESparse extent reads as it reads in qemu-img', () => {
  const entries = Array.from(
    { length: 5000 },
    (_, i) => (['none', 'zero', 'unmapped'] as const)[i % 7] ?? (i * 17) % 5000,
  );
  const extent = seSparseBytes(entries);
  const path = join(folder, 'sesparse.vmdk');
  writeFileSync(path, extent);
  const theirs = readByQemu(extent, entries.length * 4096, 'seSparse', 'SESPARSE');
  expect(firstDifference(read(sesparse, path), theirs)).toBe('none');
});

test('the extents of a split image that qemu-img has made', () => {
  const wanted = diskOf(3 * 1024 * 1024);
  const [raw, image] = [join(folder, 'disk.raw'), join(folder, 'disk.vmdk')];
  writeFileSync(raw, wanted);
  qemuImg('convert', '-f', 'raw', '-O', 'vmdk', '-o', 'subformat=twoGbMaxExtentSparse', raw, image);
  expect(firstDifference(read(sparse, join(folder, 'disk-s001.vmdk')), wanted)).toBe('none');
});
