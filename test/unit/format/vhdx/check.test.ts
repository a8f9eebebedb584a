// Check and repair of a VHDX: each finding, what a repair mends and what it leaves alone, and that whatever fails on the way of a
// repair leaves an image that reads the same.

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../../../src/disk/virtual-disk.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import type { CheckReport, RepairMode } from '../../../../src/format/check-report.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import type { HostFile } from '../../../../src/host/host-file.ts';
import { firstDifference, readAll } from '../../../support/image-files.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import {
  LOG_GUID,
  MIB,
  mixedVhdx,
  unreplayedVhdx,
  type VhdxBlock,
  type VhdxSpec,
  vhdxImage,
} from '../../../support/vhdx-bytes.ts';
import { replayedVhdx, vhdxContent } from '../../../support/vhdx-judge.ts';
import { FaultyHostFile, RecordingHostFile } from '../../../support/wrapping-files.ts';

const data = new Uint8Array(MIB).fill(7);
const PARENT = Buffer.alloc(3 * MIB, 9);
const CHILD: VhdxSpec = {
  blocks: [{ state: 7, data, isHere: (sector) => sector < 9 }, { state: 6, data }, { state: 0 }],
  locator: { parent_linkage: '{00112233-4455-6677-8899-aabbccddeeff}', relative_path: 'a' },
};

interface Looked {
  readonly report: CheckReport;
  readonly told: string[];
}

function check(file: HostFile, repair: RepairMode = 'none'): Looked {
  const told: string[] = [];
  return { report: checkImage(vhdx, file, { repair, log: (sentence) => told.push(sentence) }), told };
}

/** Changes nothing. */
function checkBytes(image: Buffer): Looked {
  const recording = new RecordingHostFile(new MemoryHostFile(image, '/disk', true));
  const looked = check(recording);
  expect(recording.log).toEqual([]);
  return looked;
}

function contentOf(file: HostFile): Buffer {
  const backing = openImage(raw, new MemoryHostFile(PARENT, '/base', true), { readOnly: true });
  return readAll(new VirtualDisk(openImage(vhdx, file, { readOnly: true, backing })));
}

test.each<[string, VhdxSpec, Partial<CheckReport>]>([
  ['a disk of all kinds of blocks', {}, { totalClusters: 6, allocatedClusters: 2, fragmentedClusters: 1 }],
  ['a child', CHILD, { totalClusters: 3, allocatedClusters: 2, fragmentedClusters: 0 }],
  ['an empty disk', { blocks: [], size: 0 }, { totalClusters: 0 }],
])('%s is sound', (_, spec, wanted) => {
  const { image } = spec.blocks === undefined ? mixedVhdx(spec) : vhdxImage(spec);
  const { report, told } = checkBytes(image);
  expect(told).toEqual([]);
  expect(report).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0, imageEndOffset: image.length, ...wanted });
});

test('the last block may end with the disk, and nothing before it may', () => {
  const blocks: VhdxBlock[] = [
    { state: 6, data },
    { state: 6, data },
  ];
  const { image } = vhdxImage({ blocks, size: MIB + 8192 });
  expect(checkBytes(image.subarray(0, image.length - MIB + 8192)).report.corruptions).toBe(0);
  expect(checkBytes(image.subarray(0, image.length - MIB + 8191)).report.corruptions).toBe(1);
});

describe('a finding, which a repair leaves alone, is', () => {
  const entry = (index: number, value: bigint, spec: VhdxSpec = {}): VhdxSpec => ({
    blocks: [{ state: 6, data }, { state: 6, data }, { state: 0 }],
    ...spec,
    editBat: (bat) => void bat.writeBigUInt64LE(value, index * 8),
  });
  const mib = (count: number): bigint => BigInt(count) << 20n;
  test.each<[string, VhdxSpec, string]>([
    [
      'an unknown state',
      entry(2, 4n),
      'BAT entry 2 at offset 0x300010 (guest offset 0x200000) is 0x4, which has the state 4',
    ],
    ['a part without a parent', entry(2, 7n), 'which has the state 7, and the image has no parent'],
    ['a reserved bit', entry(2, 0x80000n), 'which has reserved bits that are set'],
    ['a place in the first MiB', entry(2, 6n), 'which is no place in this file of 6291456 bytes'],
    ['a place behind the file', entry(2, mib(6) | 6n), 'which is no place in this file'],
    ['a place in the log', entry(2, mib(1) | 6n), 'where something else lies, too'],
    ['a place in the metadata', entry(2, mib(2) | 6n), 'where something else lies, too'],
    ['a place in the table', entry(2, mib(3) | 6n), 'where something else lies, too'],
    [
      'a part without a bitmap',
      entry(4096, 0n, CHILD),
      '(a bitmap) is 0x0, which has no bitmap, and blocks before it are partially',
    ],
    ['a bitmap of an unknown state', entry(4096, 2n, CHILD), 'which has the state 2, and is the entry of a bitmap'],
  ])('%s', (_, spec, sentence) => {
    const { image } = vhdxImage(spec);
    const { report, told } = checkBytes(image);
    expect(told[0]).toContain(sentence);
    expect(told).toHaveLength(1);
    expect(report).toMatchObject({ corruptions: 1, corruptionsFixed: 0, checkErrors: 0 });
    const file = new MemoryHostFile(image);
    expect(check(file, 'all').report).toMatchObject({ corruptions: 1, corruptionsFixed: 0 });
    expect(firstDifference(file.bytes(), image)).toBe('none');
  });
});

test('a table that the file cuts is not checked to its end', () => {
  const { image, batAt } = vhdxImage({ blocks: [{ state: 0 }] });
  expect(checkBytes(image.subarray(0, batAt)).report.checkErrors).toBe(1);
});

/** Images that a repair mends. */
const DAMAGED: Readonly<Record<string, () => Buffer>> = {
  'a log to replay': () => unreplayedVhdx().image,
  'a log to replay beside a torn header': () => {
    const { image } = unreplayedVhdx();
    return image.fill(1, 0x20100, 0x20110);
  },
  'a log without a valid entry': () => mixedVhdx({ logGuid: LOG_GUID }).image,
  'a torn header': () => mixedVhdx().image.fill(1, 0x10100, 0x10110),
  'a torn region table': () => mixedVhdx().image.fill(1, 0x30100, 0x30110),
  'another region table': () => mixedVhdx({ editTable: (table, copy) => void table.writeUInt8(copy, 60_000) }).image,
  'blocks in one place': () => {
    const blocks: VhdxBlock[] = [1, 2, 3, 4, 5].map((byte) => ({
      state: 6,
      data: new Uint8Array(2 * MIB).fill(byte, MIB),
    }));
    const { batAt, image } = vhdxImage({ blocks, blockBytes: 2 * MIB });
    // the second lies where the first does, the third half there, and the fourth keeps that place
    image.copy(image, batAt + 8, batAt, batAt + 8);
    image.writeBigUInt64LE(BigInt(5 * MIB) | 6n, batAt + 16);
    image.writeBigUInt64LE(BigInt(4 * MIB) | 3n, batAt + 24);
    return image;
  },
  'a bitmap where a block lies': () => {
    const { batAt, blocksAt, image } = vhdxImage(CHILD);
    image.writeBigUInt64LE(BigInt(blocksAt[1]!) | 6n, batAt + 8 * 4096);
    return image;
  },
  'space behind its last block': () => Buffer.concat([mixedVhdx().image, Buffer.alloc(3 * MIB + 5)]),
};

describe.each(Object.entries(DAMAGED))('an image with %s', (name, make) => {
  const image = make();
  const parent = name.includes('bitmap') ? PARENT : undefined;
  const content = vhdxContent(name.includes('table') ? mixedVhdx().image : image, parent);

  test('is as sound after a repair as it says, and reads as before', () => {
    const before = checkBytes(image);
    expect(before.report.leaks).toBe(name.includes('space') ? 3 : 0);
    expect(before.told.length).toBeGreaterThan(0);
    const file = new MemoryHostFile(image, '/disk');
    const { report } = check(file, 'all');
    expect(report.corruptionsFixed).toBe(before.report.corruptions);
    expect(report.leaksFixed).toBe(before.report.leaks);
    const after = checkBytes(Buffer.from(file.bytes()));
    expect(after.told).toEqual([]);
    expect(vhdx.inspect(file).dirty).toBe(false);
    expect(vhdx.inspect(file).identity).toBe(vhdx.inspect(new MemoryHostFile(image)).identity);
    expect(firstDifference(contentOf(file), content)).toBe('none');
    expect(firstDifference(vhdxContent(Buffer.from(file.bytes()), parent), content)).toBe('none');
    // nobody who has seen the file before takes it for the same
    expect(file.bytes().subarray(0x10010, 0x10020)).not.toEqual(new Uint8Array(image.subarray(0x10010, 0x10020)));
  });

  test('reads the same whichever step of a repair fails, and a second repair mends it', () => {
    for (let failing = 0, isDone = false; !isDone; failing++) {
      const file = new MemoryHostFile(image, '/disk');
      const faulty = new FaultyHostFile(file, (operation, count) => {
        if (operation === 'read' || count !== failing) return null;
        return { errno: ERRNO.EIO, transferred: operation === 'write' ? 20 : 0 };
      });
      try {
        check(faulty, 'all');
        isDone = faulty.operations <= failing;
      } catch (error) {
        expect((error as Error).message).toContain('fails by plan');
      }
      expect(firstDifference(contentOf(file), content), `operation ${failing}`).toBe('none');
      const { report } = check(file, 'all');
      expect(report.corruptions + report.leaks).toBe(report.corruptionsFixed + report.leaksFixed);
      expect(firstDifference(contentOf(file), content), `operation ${failing}`).toBe('none');
    }
  });
});

test('leaks alone can be cut off, but not of an image whose log holds something', () => {
  const tail = Buffer.alloc(2 * MIB);
  const clean = new MemoryHostFile(Buffer.concat([mixedVhdx().image, tail]));
  expect(check(clean, 'leaks').report).toMatchObject({ leaks: 2, leaksFixed: 2 });
  expect(clean.size()).toBe(mixedVhdx().image.length);
  const dirty = new MemoryHostFile(Buffer.concat([unreplayedVhdx().image, tail]));
  expect(check(dirty, 'leaks').report).toMatchObject({ leaks: 2, leaksFixed: 0 });
  expect(dirty.size()).toBe(unreplayedVhdx().image.length + tail.length);
});

test('a repair makes of the file what the judge makes of it, the headers and the log aside', () => {
  const { image, logAt } = unreplayedVhdx();
  const file = new MemoryHostFile(image);
  check(file, 'all');
  const [ours, wanted] = [Buffer.from(file.bytes()), Buffer.from(replayedVhdx(image))];
  for (const bytes of [ours, wanted]) bytes.fill(0, 0x10000, 0x21000);
  expect(firstDifference(ours, wanted)).toBe('none');
  expect(ours.subarray(logAt, logAt + MIB)).toEqual(image.subarray(logAt, logAt + MIB));
  expect(file.read(new Uint8Array(1), 0, 1, hostOffset(0))).toBe(1);
});

test('a block that gets a place of its own keeps its holes', () => {
  const file = createMemoryImage(vhdx, 8 * MIB, { block_size: '4M' });
  const image = openImage(vhdx, file);
  image.write(Buffer.alloc(4096, 7), 0, 4096, guestOffset(MIB));
  image.close();
  // the second block lies where the first one does
  const [batAt, entry] = [hostOffset(2 * MIB), new Uint8Array(8)];
  file.read(entry, 0, 8, batAt);
  file.write(entry, 0, 8, hostOffset(batAt + 8));
  const before = file.allocatedBytes();
  const report = checkImage(vhdx, file, { repair: 'all', log: () => undefined });
  expect(report).toMatchObject({ corruptions: 1, corruptionsFixed: 1 });
  expect(file.allocatedBytes() - before).toBe(4096);
  const bytes = readAll(new VirtualDisk(openImage(vhdx, file, { readOnly: true })));
  expect([bytes[MIB], bytes[5 * MIB], bytes[5 * MIB + 4096]]).toEqual([7, 7, 0]);
});
