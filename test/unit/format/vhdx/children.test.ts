// A differencing VHDX that is written to: what a write costs, in which order its block, its bits and its data come, and what of it a reader
// finds at any moment. The judge of test/support reads the files as well.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { DATA_WRITE_GUID, MIB, vhdxImage } from '../../../support/vhdx-bytes.ts';
import { replayedVhdx, vhdxContent } from '../../../support/vhdx-judge.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const SIZE = 6 * MIB;
const BELOW = 9;
const PARENT = Buffer.alloc(SIZE, BELOW);
const LOCATOR = { parent_linkage: `{${DATA_WRITE_GUID}}`, relative_path: '.\\base.vhdx' };
/** Where createVhdx() puts them: log, BAT, metadata, then blocks and bitmaps. */
const REGIONS = ['head', 'log', 'BAT', 'metadata'];

function parent(bytes: Uint8Array = PARENT): WritableImage {
  return openImage(raw, new MemoryHostFile(bytes, '/base', true), { readOnly: true });
}

function child(size = SIZE): MemoryHostFile {
  return createMemoryImage(vhdx, size, { block_size: '1M' }, '/base');
}

const open = (file: MemoryHostFile | RecordingHostFile, below = PARENT): WritableImage =>
  openImage(vhdx, file, { backing: parent(below) });

const write = (image: WritableImage, at: number, length: number, value: number): void =>
  image.write(Buffer.alloc(length, value), 0, length, guestOffset(at));

/** What a reader finds in the file as it is now: imgfuse, and the judge. */
function found(file: MemoryHostFile, below = PARENT): Buffer {
  const image = openImage(vhdx, file.clone(true), { readOnly: true, backing: parent(below) });
  const bytes = Buffer.alloc(image.virtualSize());
  image.read(bytes, 0, bytes.length, guestOffset(0));
  expect(Buffer.compare(vhdxContent(Buffer.from(file.bytes()), below), bytes)).toBe(0);
  return bytes;
}

function expectSound(file: MemoryHostFile): void {
  const report = checkImage(vhdx, file, { repair: 'none', log: () => undefined });
  expect(report).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
}

/** Entry of the BAT of a file without a log to replay, by its index. */
function entry(file: MemoryHostFile, index: number): { state: number; place: number } {
  const value = replayedVhdx(Buffer.from(file.bytes())).readBigUInt64LE(2 * MIB + 8 * index);
  return { state: Number(value & 7n), place: Number(value >> 20n) * MIB };
}

function names(log: readonly RecordedOperation[]): string[] {
  return log.map(({ offset, operation }) =>
    operation === 'write' ? (REGIONS[Math.floor(offset / MIB)] ?? 'data') : operation,
  );
}

/** The child with its log begun, and a block of its own in block 5. */
function started() {
  const log: RecordedOperation[] = [];
  const file = child();
  const image = open(new RecordingHostFile(file, log));
  write(image, 5 * MIB, 512, 1);
  image.flush();
  image.flush();
  log.length = 0;
  return { file, image, log };
}

describe('a write over the parent', () => {
  test('links its block without bits, and its bits are logged by the flush, after the data is durable', () => {
    const { file, image, log } = started();
    write(image, MIB + 8192, 4096, 1);
    expect(names(log)).toEqual(['log', 'data']);
    expect(found(file)[MIB + 8192]).toBe(BELOW);
    expect(entry(file, 1).state).toBe(7);
    log.length = 0;
    image.flush();
    // the sectors of table and bitmap that the first fdatasync allows, then the entry with the bits
    expect(names(log).filter((name) => name === 'sync' || name === 'log')).toEqual(['sync', 'log', 'sync']);
    const after = found(file);
    expect([after[MIB + 8191], after[MIB + 8192], after[MIB + 12_287], after[MIB + 12_288]]).toEqual([
      BELOW,
      1,
      1,
      BELOW,
    ]);
    log.length = 0;
    write(image, MIB + 8192, 512, 2);
    image.flush();
    expect(names(log).filter((name) => name !== 'BAT' && name !== 'data')).toEqual(['sync']);
    image.close();
    expect(found(file)[MIB + 8192]).toBe(2);
    expectSound(file);
  });

  test('makes the bitmap of its chunk in the entry of the log that makes the block', () => {
    const file = child();
    const log: RecordedOperation[] = [];
    const image = open(new RecordingHostFile(file, log));
    write(image, 0, 512, 1);
    const logged = log.filter(({ offset, operation }) => operation === 'write' && Math.floor(offset / MIB) === 1);
    // an empty entry, and one with the sectors of block, bitmap and both entries
    expect(logged.map(({ length }) => length)).toEqual([8192, 8192 + 3 * 4096]);
    image.close();
    const ratio = 4096;
    expect(entry(file, ratio)).toMatchObject({ state: 6 });
    expectSound(file);
  });

  test('of parts of sectors brings the rest of a page from the parent', () => {
    const { file, image } = started();
    write(image, 2 * MIB + 1000, 100, 3);
    image.close();
    const wanted = Buffer.from(PARENT);
    wanted.fill(3, 2 * MIB + 1000, 2 * MIB + 1100).fill(1, 5 * MIB, 5 * MIB + 512);
    expect(Buffer.compare(found(file), wanted)).toBe(0);
    // over another parent only the page is this image's own
    const other = found(file, Buffer.alloc(SIZE, 77));
    expect([other[2 * MIB], other[2 * MIB + 1000], other[2 * MIB + 4095], other[2 * MIB + 4096]]).toEqual([
      BELOW,
      3,
      BELOW,
      77,
    ]);
  });

  test('that fills a block makes it fully present, and its bits do not count any more', () => {
    const { file, image } = started();
    for (let at = MIB; at < 2 * MIB; at += MIB / 4) write(image, at, MIB / 4, 4);
    image.flush();
    expect(entry(file, 1).state).toBe(6);
    image.close();
    expect(entry(file, 1).state).toBe(6);
    expect(
      found(file)
        .subarray(MIB, 2 * MIB)
        .every((byte) => byte === 4),
    ).toBe(true);
    expectSound(file);
  });

  test('where the parent reads as zeros takes a whole block, and no bitmap', () => {
    const file = child(8 * MIB);
    const image = open(file);
    write(image, 7 * MIB + 512, 512, 5);
    image.close();
    expect(entry(file, 7).state).toBe(6);
    expect(entry(file, 4096).state).toBe(0);
    expectSound(file);
  });
});

test('bits that come beside the fdatasync of a flush wait for the next one', () => {
  const file = child();
  const recording = new RecordingHostFile(file);
  const image = open(recording);
  write(image, 0, 4096, 1);
  const sync = recording.sync.bind(recording);
  recording.sync = () => {
    recording.sync = sync;
    write(image, 4096, 4096, 2);
    write(image, 3 * MIB, 4096, 3);
    sync();
  };
  image.flush();
  const during = found(file);
  expect([during[0], during[4096], during[3 * MIB]]).toEqual([1, BELOW, BELOW]);
  image.flush();
  const after = found(file);
  expect([after[0], after[4096], after[3 * MIB]]).toEqual([1, 2, 3]);
});

test('a block whose rest comes beside the fdatasync of a flush is fully present with the next one', () => {
  const file = child();
  const recording = new RecordingHostFile(file);
  const image = open(recording);
  write(image, 0, MIB / 2, 1);
  // the last sector is looked at first
  write(image, MIB - 4096, 4096, 1);
  const sync = recording.sync.bind(recording);
  recording.sync = () => {
    recording.sync = sync;
    write(image, MIB / 2, MIB / 2 - 4096, 2);
    sync();
  };
  image.flush();
  expect(entry(file, 0).state).toBe(7);
  expect(found(file)[MIB / 2]).toBe(BELOW);
  image.flush();
  expect(entry(file, 0).state).toBe(6);
  expect(found(file)[MIB / 2]).toBe(2);
});

test('a flush logs the bits of more sectors of a bitmap than an entry takes', () => {
  // a sector of a bitmap has the bits of 16 blocks
  const [count, step] = [140, 16 * MIB];
  const below = {
    virtualSize: () => count * step,
    mapStatus: (_: number, length: number) => ({ status: 'data', length }),
  };
  const backing = {
    ...{ ...below, backing: null, details: () => ({}) },
    read: (target: Uint8Array, at: number, length: number) => void target.fill(BELOW, at, at + length),
  } as unknown as WritableImage;
  const file = createMemoryImage(vhdx, count * step, { block_size: '1M' }, '/base');
  const image = openImage(vhdx, file, { backing });
  for (let n = 0; n < count; n++) write(image, n * step, 512, n + 10);
  image.flush();
  for (const opened of [image, openImage(vhdx, file.clone(true), { readOnly: true, backing })]) {
    const bytes = new Uint8Array(4097);
    for (let n = 0; n < count; n++) {
      opened.read(bytes, 0, bytes.length, guestOffset(n * step));
      expect([bytes[0], bytes[512], bytes[4096]]).toEqual([n + 10, BELOW, BELOW]);
    }
  }
  image.close();
  expectSound(file);
});

describe('zeros over a parent', () => {
  test('of a whole block are the state "zero" and never "not present"', () => {
    const { file, image } = started();
    write(image, MIB, 512, 1);
    image.flush();
    image.discard(guestOffset(0), 3 * MIB);
    image.close();
    expect([0, 1, 2, 3].map((index) => entry(file, index))).toEqual([
      ...Array(3).fill({ state: 2, place: 0 }),
      { state: 0, place: 0 },
    ]);
    expect(
      found(file)
        .subarray(0, 3 * MIB)
        .some((byte) => byte !== 0),
    ).toBe(false);
    expectSound(file);
  });

  test('of a part of a block are sectors that are here', () => {
    const { file, image } = started();
    image.writeZeroes(guestOffset(MIB + 512), 70_000);
    image.close();
    const wanted = Buffer.from(PARENT);
    wanted.fill(0, MIB + 512, MIB + 70_512).fill(1, 5 * MIB, 5 * MIB + 512);
    expect(Buffer.compare(found(file), wanted)).toBe(0);
  });

  test('after them a block has no bits of its earlier life', () => {
    const { file, image } = started();
    write(image, MIB, 8192, 1);
    image.flush();
    image.deallocate!(guestOffset(MIB), MIB);
    write(image, MIB + 65_536, 512, 2);
    image.flush();
    const bytes = found(file);
    expect([bytes[MIB], bytes[MIB + 65_536]]).toEqual([BELOW, 2]);
    image.close();
    expect(found(file)[MIB]).toBe(BELOW);
  });
});

test('a child that is emptied has no block and no bitmap, and keeps its DataWriteGuid', () => {
  const file = child();
  const first = open(file);
  write(first, MIB, 8192, 1);
  first.discard(guestOffset(2 * MIB), MIB);
  first.close();
  const { identity } = vhdx.inspect(file);
  const before = file.size();
  const image = open(file);
  image.deallocate!(guestOffset(0), SIZE);
  image.close();
  expect(vhdx.inspect(file).identity).toBe(identity);
  expect(file.size()).toBeLessThan(before);
  expect([0, 1, 2, 4096].map((index) => entry(file, index).state)).toEqual([0, 0, 0, 0]);
  expect(Buffer.compare(found(file), PARENT)).toBe(0);
  expectSound(file);
});

test('a child stores the new DataWriteGuid of its parent through the log, and its own one stays', () => {
  const file = new MemoryHostFile(
    vhdxImage({ blocks: [{ state: 0 }], locator: { ...LOCATOR, parent_linkage2: LOCATOR.parent_linkage } }).image,
  );
  const image = openImage(vhdx, file, { backing: parent() });
  const guid = 'abcdef01-2345-4678-8abc-def012345678';
  image.adoptParent!(guid);
  // as a killed process leaves it
  const killed = vhdx.inspect(file.clone(true));
  expect(killed).toMatchObject({ identity: DATA_WRITE_GUID, dirty: true });
  expect(killed.backing!.identity!.values).toEqual([guid, guid]);
  image.close();
  expect(vhdx.inspect(file)).toMatchObject({ identity: DATA_WRITE_GUID, dirty: false });
  expect(vhdx.inspect(file).backing!.identity!.values).toEqual([guid, guid]);
});

describe('a child of another program', () => {
  const data = Buffer.alloc(MIB, 5);
  const blocks = [
    { state: 0 },
    { state: 7, data, isHere: (sector: number) => sector % 3 === 0 },
    { state: 6, data },
    { state: 2 },
    { state: 1 },
    { state: 3, data },
  ];
  test.each([
    512, 4096,
  ])('with sectors of %i bytes is written at random, and the judge agrees at any moment', (sectorBytes) => {
    const random = seededRandom(sectorBytes);
    const pick = (below: number): number => Math.floor(random() * below);
    const file = new MemoryHostFile(vhdxImage({ blocks, locator: LOCATOR, sectorBytes }).image);
    let image = open(file);
    const model = found(file);
    for (let turn = 1; turn <= 80; turn++) {
      const at = pick(SIZE - 20_000);
      const length = 1 + pick(20_000);
      const kind = pick(10);
      if (kind < 6) {
        write(image, at, length, turn);
        model.fill(turn, at, at + length);
      } else if (kind < 8) {
        const block = pick(6) * MIB;
        image.discard(guestOffset(block), MIB);
        model.fill(0, block, block + MIB);
      } else if (kind < 9) {
        image.writeZeroes(guestOffset(at), length);
        model.fill(0, at, at + length);
      } else image.copyUp(guestOffset(at), length);
      if (turn % 10 > 0) continue;
      image.flush();
      expect(Buffer.compare(found(file), model), `turn ${turn}`).toBe(0);
      if (turn % 40 > 0) continue;
      image.close();
      expectSound(file);
      image = open(file);
    }
    image.close();
    expect(Buffer.compare(found(file), model)).toBe(0);
    expectSound(file);
  });
});

describe('the size of a child', () => {
  test('grows over what the parent has behind the old end: that does not show', () => {
    const file = child(3 * MIB - 1536);
    const image = open(file);
    write(image, 2 * MIB + 512, 512, 1);
    image.resize(2 * MIB + 4096);
    image.resize(SIZE + 3 * MIB);
    write(image, SIZE + MIB, 512, 2);
    image.close();
    const wanted = Buffer.alloc(SIZE + 3 * MIB);
    wanted
      .fill(BELOW, 0, 2 * MIB + 4096)
      .fill(1, 2 * MIB + 512, 2 * MIB + 1024)
      .fill(2, SIZE + MIB, SIZE + MIB + 512);
    expect(Buffer.compare(found(file), wanted)).toBe(0);
    expectSound(file);
  });
});

describe('a damaged child is not opened for writing, and not changed, if it has', () => {
  const data = Buffer.alloc(MIB, 5);
  const blocks = [
    { state: 7, data, isHere: () => true },
    { state: 6, data },
  ];
  const BITMAP = 4096;
  test.each<[string, number, (places: { block: number; end: number }) => number, RegExp]>([
    ['a bitmap where a block lies', BITMAP, ({ block }) => block + 6, /where another block lies, too/],
    ['a block where a bitmap lies', 1, ({ end }) => end - 3 * MIB + 6, /where another block lies, too/],
    ['no bitmap', BITMAP, () => 0, /has no bitmap, and blocks before it are partially present/],
    ['a bitmap behind the end of the file', BITMAP, ({ end }) => end + 6, /is no place in this file/],
    ['a bitmap in the log', BITMAP, () => MIB + 6, /where something else lies, too/],
    [
      'a bitmap of an unknown state',
      BITMAP,
      ({ block }) => block + 5,
      /which has the state 5, and is the entry of a bitmap/,
    ],
    ['bits and no place for their block', 0, () => 7, /is no place in this file/],
  ])('%s', (_, index, value, sentence) => {
    const { batAt, blocksAt, image } = vhdxImage({ blocks, locator: LOCATOR });
    image.writeBigUInt64LE(BigInt(value({ block: blocksAt[1]!, end: image.length })), batAt + 8 * index);
    const file = new MemoryHostFile(image);
    const said: string[] = [];
    const report = checkImage(vhdx, file, { repair: 'none', log: (text) => said.push(text) });
    expect(report.corruptions).toBeGreaterThan(0);
    expect(said.join('; ')).toMatch(sentence);
    expect(() => open(file)).toThrow(/it is not opened for writing/);
    expect(Buffer.compare(file.bytes(), image)).toBe(0);
  });
});
