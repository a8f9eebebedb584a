// The order of the host operations of a VHDX that is written to, which the crash model cannot judge where other programs rely on it: the
// GUIDs of the headers, and a log that every parser can replay at any moment. And images that imgfuse does not make.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { distinctCrashStates } from '../../../support/crash-states.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { DATA_WRITE_GUID, LOG_GUID, MIB, mixedVhdx, unreplayedVhdx, vhdxImage } from '../../../support/vhdx-bytes.ts';
import { vhdxContent } from '../../../support/vhdx-judge.ts';
import { FaultyHostFile, type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const HEADERS = [0x10000, 0x20000];
const [FILE_GUID_AT, DATA_GUID_AT, LOG_GUID_AT] = [16, 32, 48];
const NO_GUID = '0'.repeat(32);

const write = (image: WritableImage, at: number, length = 512, value = 7): void =>
  image.write(Buffer.alloc(length, value), 0, length, guestOffset(at));

function currentHeader(bytes: Buffer): Buffer {
  const [one, other] = HEADERS.map((at) => bytes.subarray(at, at + 4096));
  return one!.readBigUInt64LE(8) > other!.readBigUInt64LE(8) ? one! : other!;
}

function guidsOf(file: MemoryHostFile): { file: string; data: string; log: string } {
  const header = currentHeader(Buffer.from(file.bytes()));
  const at = (offset: number): string => header.toString('hex', offset, offset + 16);
  return { file: at(FILE_GUID_AT), data: at(DATA_GUID_AT), log: at(LOG_GUID_AT) };
}

/** What an operation is about; images of vhdxImage() have the log at 1 MiB, the metadata at 2 and the BAT at 3. */
function nameOf({ operation, offset }: RecordedOperation): string {
  if (operation !== 'write') return operation;
  if (offset < MIB) return `header ${HEADERS.indexOf(offset)}`;
  return ['log', 'metadata', 'BAT'][Math.floor(offset / MIB) - 1] ?? 'data';
}

/** Two blocks with data, and two without. */
function recorded(run: (image: WritableImage) => void) {
  const blocks = [6, 6, 0, 2].map((state) => (state === 6 ? { state, data: Buffer.alloc(MIB, 9) } : { state }));
  const memory = new MemoryHostFile(vhdxImage({ blocks }).image);
  const file = new RecordingHostFile(memory);
  const image = openImage(vhdx, file);
  run(image);
  return { image, memory, names: file.log.map(nameOf) };
}

const ANNOUNCED = ['header 0', 'sync', 'header 1', 'sync'];
const LOGGING = ['allocate', 'log', 'sync', ...ANNOUNCED];

describe('the order', () => {
  test('of a write in place: both GUIDs are durable in both headers before it, and there is no log', () => {
    const { memory, names } = recorded((image) => write(image, 0));
    expect(names).toEqual([...ANNOUNCED, 'data']);
    expect(guidsOf(memory).log).toBe(NO_GUID);
  });

  test('of an allocating write: the log is named before the block, its entry follows the data, and the BAT the flush', () => {
    const { image, names } = recorded((opened) => {
      write(opened, 2 * MIB);
      opened.flush();
    });
    expect(names).toEqual([...ANNOUNCED, ...LOGGING, 'truncate', 'data', 'log', 'sync', 'BAT']);
    expect(image.details().dirty).toBe(true);
  });

  test('of a change beside the fdatasync of a flush: its sector stays out of its place until its own entry is durable', () => {
    const blocks = [0, 0].map((state) => ({ state }));
    const file = new RecordingHostFile(new MemoryHostFile(vhdxImage({ blocks }).image));
    const image = openImage(vhdx, file);
    write(image, 0);
    const sync = file.sync.bind(file);
    file.sync = () => {
      sync();
      file.sync = sync;
      write(image, MIB);
    };
    file.log.length = 0;
    image.flush();
    expect(file.log.map(nameOf)).toEqual(['sync', 'data', 'log']);
    image.flush();
    expect(file.log.slice(3).map(nameOf)).toEqual(['sync', 'BAT']);
  });

  test('of a discard: its entry is durable before the block is punched, and the place of the entry comes in between', () => {
    const { names } = recorded((image) => {
      image.discard(guestOffset(0), MIB);
      image.flush();
      image.flush();
    });
    expect(names).toEqual([...ANNOUNCED, ...LOGGING, 'log', 'sync', 'BAT', 'punch-hole', 'sync']);
  });

  test('of a close: places, a fdatasync, headers without a log, and then a shorter file', () => {
    const { image, memory } = recorded((opened) => write(opened, 2 * MIB));
    const recording = new RecordingHostFile(memory);
    expect(guidsOf(memory).log).not.toBe(NO_GUID);
    image.close();
    expect(guidsOf(memory).log).toBe(NO_GUID);
    expect(recording.log).toEqual([]);
    expect(memory.size()).toBe(7 * MIB);
  });

  test.each([
    ['a discard', (image: WritableImage) => image.discard(guestOffset(0), MIB)],
    ['zeros in a part of a block', (image: WritableImage) => image.writeZeroes(guestOffset(0), 512)],
    ['space for a block', (image: WritableImage) => image.preallocate(guestOffset(2 * MIB), MIB)],
    ['a larger size', (image: WritableImage) => image.resize(5 * MIB)],
    ['a smaller size', (image: WritableImage) => image.resize(MIB)],
  ])('of %s begins with the headers', (_, change) => {
    const { names } = recorded(change);
    const first = names.findIndex((name) => name !== 'sync');
    expect(names.slice(first, first + 4)).toEqual(ANNOUNCED);
  });
});

describe('FileWriteGuid and DataWriteGuid', () => {
  test('change once in a session of writing, and in the next one again; identity is the new one', () => {
    const file = new MemoryHostFile(mixedVhdx().image);
    const seen = new Set<string>();
    for (let session = 0; session < 3; session++) {
      const image = openImage(vhdx, file);
      const before = guidsOf(file);
      write(image, 0);
      const during = guidsOf(file);
      write(image, MIB);
      image.flush();
      image.makeClean();
      write(image, 2 * MIB);
      image.close();
      const after = guidsOf(file);
      expect([after.file, after.data]).toEqual([during.file, during.data]);
      expect([before.file === after.file, before.data === after.data]).toEqual([false, false]);
      expect(image.details().identity).toBe(vhdx.inspect(file).identity);
      seen.add(after.data);
    }
    expect(seen.size).toBe(3);
  });

  test('stay where nothing changes', () => {
    const bytes = mixedVhdx().image;
    const file = new MemoryHostFile(bytes);
    const image = openImage(vhdx, file);
    image.flush();
    image.makeClean();
    image.close();
    expect(Buffer.compare(file.bytes(), bytes)).toBe(0);
  });

  test('of a replay: the file is another one, and the data is what it was', () => {
    const file = new MemoryHostFile(unreplayedVhdx().image);
    const before = guidsOf(file);
    const said: string[] = [];
    openImage(vhdx, file, { log: (sentence) => said.push(sentence) }).close();
    expect(said).toEqual([expect.stringContaining('what its log holds was carried out')]);
    expect(guidsOf(file).log).toBe(NO_GUID);
    expect(guidsOf(file).file).not.toBe(before.file);
    expect(vhdx.inspect(file)).toMatchObject({ identity: DATA_WRITE_GUID, dirty: false });
  });
});

describe('the log', () => {
  test('gives the judge the whole disk after every change, through many rounds of its ring, in every session', () => {
    const random = seededRandom(5);
    const pick = (below: number): number => Math.floor(random() * below);
    const file = createMemoryImage(vhdx, 4 * MIB, { block_size: '1M' });
    const model = Buffer.alloc(4 * MIB);
    let image = openImage(vhdx, file);
    for (let turn = 1; turn <= 900; turn++) {
      const block = pick(4) * MIB;
      if (random() < 0.5) {
        model.fill(0, block, block + MIB);
        image.discard(guestOffset(block), MIB);
      } else {
        model.fill(turn & 255, block + 512, block + 1024);
        write(image, block + 512, 512, turn & 255);
      }
      if (pick(6) === 0) image.flush();
      if (pick(200) === 0) image.makeClean();
      if (pick(300) === 0) {
        image.close();
        image = openImage(vhdx, file);
      }
      if (turn % 60 > 0) continue;
      const bytes = Buffer.from(file.bytes());
      expect(Buffer.compare(vhdxContent(bytes), model), `turn ${turn}`).toBe(0);
    }
    image.close();
    expect(checkImage(vhdx, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  });

  test('holds so many sectors of the BAT as an entry takes, and then they come into their places', () => {
    // each sector of the BAT is of 512 blocks
    const disk = 200 * 512 * MIB;
    const file = createMemoryImage(vhdx, disk, { block_size: '1M' });
    const image = openImage(vhdx, file);
    for (let sector = 0; sector < 200; sector++) write(image, sector * 512 * MIB, 512, sector + 1);
    for (let sector = 0; sector < 200; sector++) {
      const bytes = new Uint8Array(1);
      image.read(bytes, 0, 1, guestOffset(sector * 512 * MIB));
      expect(bytes[0]).toBe(sector + 1);
    }
    // what a killed process leaves
    const killed = openImage(vhdx, file.clone());
    for (let sector = 0; sector < 200; sector++) {
      const bytes = new Uint8Array(1);
      killed.read(bytes, 0, 1, guestOffset(sector * 512 * MIB));
      expect(bytes[0]).toBe(sector + 1);
    }
    image.close();
    expect(checkImage(vhdx, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  });

  test('is used where the host cannot reserve its space', () => {
    const memory = new MemoryHostFile(mixedVhdx().image);
    const faulty = new FaultyHostFile(memory, (operation) => (operation === 'allocate' ? ERRNO.EOPNOTSUPP : null));
    const image = openImage(vhdx, faulty);
    write(image, MIB);
    image.close();
    expect(vhdx.inspect(memory).dirty).toBe(false);
  });
});

describe('a table without room for more entries', () => {
  const LARGE = 200_000 * MIB;
  const grown = (bytes: Uint8Array, run: (image: WritableImage) => void = () => undefined) => {
    const log: RecordedOperation[] = [];
    const start = new MemoryHostFile(bytes);
    const file = start.clone();
    const image = openImage(vhdx, new RecordingHostFile(file, log));
    run(image);
    image.resize(LARGE);
    return { file, image, log, start };
  };
  const regionsOf = (bytes: Uint8Array, copy: number): string =>
    Buffer.from(bytes).toString('hex', (192 + 64 * copy) * 1024, (193 + 64 * copy) * 1024);

  test('gets another place: the disk grows, keeps what it has, and the old place is used again', () => {
    const { file, image } = grown(mixedVhdx({ isReversed: false }).image, (opened) => write(opened, MIB + 512, 512, 8));
    const model = vhdxContent(mixedVhdx().image);
    model.fill(8, MIB + 512, MIB + 1024);
    write(image, LARGE - 512, 512, 9);
    image.flush();
    image.flush();
    image.flush();
    const before = file.size();
    // where the old table was there is room for a block
    write(image, 100_000 * MIB, 512, 10);
    expect(file.size()).toBe(before);
    const read = (opened: WritableImage, at: number, length: number): Buffer => {
      const target = Buffer.alloc(length);
      opened.read(target, 0, length, guestOffset(at));
      return target;
    };
    for (const opened of [image, openImage(vhdx, file.clone(true), { readOnly: true })]) {
      expect(Buffer.compare(read(opened, 0, model.length), model)).toBe(0);
      expect([LARGE - 512, 100_000 * MIB, 150_000 * MIB].map((at) => read(opened, at, 1)[0])).toEqual([9, 10, 0]);
    }
    image.close();
    expect(regionsOf(file.bytes(), 0)).toBe(regionsOf(file.bytes(), 1));
    expect(checkImage(vhdx, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  });

  test('is copied, durably, before the region tables name its new place', () => {
    const { log } = grown(mixedVhdx().image);
    const copied = log.findIndex(({ length, operation }) => operation === 'write' && length === MIB);
    const after = log.slice(copied).map(nameOf);
    expect(after.slice(0, 3)).toEqual(['data', 'sync', 'log']);
  });

  test('has the old place or the new one at any moment, and both say the same', () => {
    const random = seededRandom(11);
    const bytes = mixedVhdx().image;
    const model = vhdxContent(bytes);
    const { image, log, start } = grown(bytes);
    image.close();
    const sizes = new Set<number>();
    for (const { state } of distinctCrashStates(start, log, random)) {
      if (random() < 0.7) continue;
      const opened = openImage(vhdx, state.clone(true), { readOnly: true });
      sizes.add(opened.virtualSize());
      const target = Buffer.alloc(model.length);
      opened.read(target, 0, target.length, guestOffset(0));
      expect(Buffer.compare(target, model)).toBe(0);
      const again = openImage(vhdx, state);
      again.resize(LARGE);
      write(again, LARGE - 512);
      again.close();
      const { corruptions, checkErrors } = checkImage(vhdx, state, { repair: 'none', log: () => undefined });
      expect([corruptions, checkErrors]).toEqual([0, 0]);
    }
    expect([...sizes].sort((one, other) => one - other)).toEqual([model.length, LARGE]);
  });
});

describe('an image of another program', () => {
  test.each([
    ['sectors of 4096 bytes', mixedVhdx({ sectorBytes: 4096 })],
    ['blocks of 2 MiB', mixedVhdx({ blockBytes: 2 * MIB })],
    ['blocks in the reverse order, with a gap', mixedVhdx({ gapMib: 3 })],
    ['a longer log', mixedVhdx({ logBytes: 3 * MIB })],
    ['a log that is not replayed', unreplayedVhdx()],
    ['a log without a valid entry', mixedVhdx({ logGuid: LOG_GUID })],
    [
      'something behind its last block',
      { image: Buffer.concat([mixedVhdx().image, Buffer.alloc(5 * MIB + 77, 0x5a)]) },
    ],
  ])('with %s is written, discarded and grown', (_, { image: bytes }) => {
    const model = Buffer.from(vhdxContent(bytes));
    const file = new MemoryHostFile(bytes);
    const size = model.length + 9 * MIB;
    const wanted = Buffer.alloc(size);
    model.copy(wanted);
    const image = openImage(vhdx, file);
    for (const [at, length] of [
      [MIB - 700, 5000],
      [2 * MIB + 100, 3 * MIB],
      [5 * MIB, 512],
    ] as const) {
      write(image, at, length, 0x33);
      wanted.fill(0x33, at, at + length);
    }
    image.resize(size);
    write(image, size - 512, 512, 0x34);
    wanted.fill(0x34, size - 512);
    image.discard(guestOffset(0), 2 * MIB);
    wanted.fill(0, 0, 2 * MIB);
    image.flush();
    expect(Buffer.compare(vhdxContent(Buffer.from(file.bytes())), wanted)).toBe(0);
    image.close();
    expect(Buffer.compare(vhdxContent(Buffer.from(file.bytes())), wanted)).toBe(0);
    expect(checkImage(vhdx, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  });

  test('with places that are kept for unmapped blocks: what lies there does not show, and the places are used again', () => {
    const old = Buffer.alloc(MIB, 0xee);
    const file = new MemoryHostFile(vhdxImage({ blocks: [1, 3, 3, 6].map((state) => ({ state, data: old })) }).image);
    const image = openImage(vhdx, file);
    const before = file.size();
    for (const block of [0, 1, 2]) write(image, block * MIB + 5000);
    image.flush();
    image.flush();
    image.close();
    const wanted = Buffer.alloc(4 * MIB);
    for (const block of [0, 1, 2]) wanted.fill(7, block * MIB + 5000, block * MIB + 5512);
    wanted.fill(0xee, 3 * MIB);
    expect(Buffer.compare(vhdxContent(Buffer.from(file.bytes())), wanted)).toBe(0);
    const again = openImage(vhdx, file);
    again.resize(7 * MIB);
    write(again, 4 * MIB, 3 * MIB);
    again.flush();
    again.flush();
    again.close();
    expect(file.size()).toBeLessThanOrEqual(before + 6 * MIB);
    expect(checkImage(vhdx, file, { repair: 'none', log: () => undefined })).toMatchObject({
      corruptions: 0,
      leaks: 0,
    });
  });

  test('whose entries behind the end of the disk say something: they are forgotten when the disk grows over them', () => {
    const data = Buffer.alloc(MIB, 0xee);
    const { image: bytes, batAt } = vhdxImage({ blocks: [{ state: 6, data }, { state: 0 }], size: 2 * MIB });
    // one leads to the block of another one, one has a state that cannot be
    bytes.writeBigUInt64LE(bytes.readBigUInt64LE(batAt), batAt + 16);
    bytes.writeBigUInt64LE(7n, batAt + 24);
    const file = new MemoryHostFile(bytes);
    const image = openImage(vhdx, file);
    image.resize(5 * MIB);
    write(image, 2 * MIB, 512, 1);
    image.close();
    const wanted = Buffer.alloc(5 * MIB);
    wanted.fill(0xee, 0, MIB).fill(1, 2 * MIB, 2 * MIB + 512);
    expect(Buffer.compare(vhdxContent(Buffer.from(file.bytes())), wanted)).toBe(0);
  });

  test('without a log is only read, and no disk has 0 bytes', () => {
    const blocks = [{ state: 0 }];
    const { image: bytes, batAt } = vhdxImage({ blocks });
    const withoutLog = vhdxImage({ blocks, editHeader: (header) => void header.writeUInt32LE(0, 68) }).image;
    expect(() => openImage(vhdx, new MemoryHostFile(withoutLog))).toThrow(
      /has no log, without which no VHDX is written/,
    );
    expect(vhdx.inspect(new MemoryHostFile(withoutLog)).isOnlyRead).toBe(true);
    expect(batAt).toBe(3 * MIB);
    const image = openImage(vhdx, new MemoryHostFile(bytes));
    expect(() => image.resize(0)).toThrow(/cannot have 0 bytes/);
    expect(() => image.resize(65 * 2 ** 40)).toThrow(/a VHDX reaches/);
    expect(image.virtualSize()).toBe(MIB);
  });

  test('with two blocks in one place is not opened for writing, and not changed', () => {
    const data = Buffer.alloc(MIB, 1);
    const { image: bytes, batAt } = vhdxImage({ blocks: [{ state: 6, data }, { state: 0 }] });
    bytes.writeBigUInt64LE(bytes.readBigUInt64LE(batAt), batAt + 8);
    const file = new MemoryHostFile(bytes);
    expect(() => openImage(vhdx, file)).toThrow(/where another block lies, too; it is not opened for writing/);
    expect(Buffer.compare(file.bytes(), bytes)).toBe(0);
  });

  test('with an entry that keeps the place of another block leaves nothing behind the last one after a repair', () => {
    const data = Buffer.alloc(MIB, 1);
    const { image: bytes, batAt } = vhdxImage({
      blocks: [
        { state: 6, data },
        { state: 6, data },
      ],
    });
    // "undefined" may keep a place
    bytes.writeBigUInt64LE(bytes.readBigUInt64LE(batAt) - 5n, batAt + 8);
    const file = new MemoryHostFile(bytes);
    const check = (repair: 'all' | 'none') => checkImage(vhdx, file, { repair, log: () => undefined });
    expect(check('all')).toMatchObject({ corruptions: 1, corruptionsFixed: 1, leaks: 1, leaksFixed: 1 });
    expect(check('none')).toMatchObject({ corruptions: 0, leaks: 0 });
  });
});
