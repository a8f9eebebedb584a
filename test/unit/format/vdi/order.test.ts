// The order of the host operations of a VDI image: what is durable before what. The crash model shows what an order is worth; here
// is what other programs rely on and what it cannot know: uuidModify, and the count of blocks.

import { describe, expect, test } from 'vitest';
import { guestOffset, hostOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableImage } from '../../../../src/format/image-format.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { crashStates } from '../../../support/crash-states.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { seededRandom } from '../../../support/random.ts';
import { FIELD, FREE, KIB, vdiBytes } from '../../../support/vdi-bytes.ts';
import { type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const BLOCK = 4 * KIB;
const MAP = 512;
const OFF_DATA = 1024;

function recorded(run: (image: WritableImage) => void, entries: readonly number[] = [0, FREE, FREE, FREE]) {
  const file = new RecordingHostFile(new MemoryHostFile(vdiBytes({ entries }), '/disk.vdi'));
  const image = openImage(vdi, file);
  run(image);
  return { image, file, log: file.log };
}

/** What an operation is about. */
function nameOf({ operation, offset }: RecordedOperation): string {
  if (operation !== 'write') return operation;
  if (offset === FIELD.uuidModify) return 'uuidModify';
  if (offset === FIELD.allocated) return 'count';
  if (offset < MAP) return 'header';
  return offset < OFF_DATA ? 'entries' : 'data';
}

const write = (image: WritableImage, at: number, length = 512): void =>
  image.write(Buffer.alloc(length, 7), 0, length, guestOffset(at));

describe('uuidModify', () => {
  test('changes durably before the first write in place', () => {
    const { log } = recorded((image) => write(image, 0));
    expect(log.map(nameOf)).toEqual(['uuidModify', 'sync', 'data']);
  });

  test.each([
    ['a discard', (image: WritableImage) => image.discard(guestOffset(0), BLOCK)],
    ['zeros in a part of a block', (image: WritableImage) => image.writeZeroes(guestOffset(0), 512)],
    ['an allocating write', (image: WritableImage) => write(image, BLOCK)],
    ['space for a block', (image: WritableImage) => image.preallocate(guestOffset(BLOCK), BLOCK)],
    ['a larger size', (image: WritableImage) => image.resize(5 * BLOCK)],
    ['a smaller size', (image: WritableImage) => image.resize(BLOCK)],
  ])('changes durably before %s', (_, change) => {
    const { log } = recorded(change);
    expect(log.slice(0, 2).map(nameOf)).toEqual(['uuidModify', 'sync']);
  });

  test('changes once in a session of writing, and in the next one again', () => {
    const file = new MemoryHostFile(vdiBytes({ entries: [0, FREE] }), '/disk.vdi');
    const seen = ['20'.repeat(16)];
    for (let session = 0; session < 3; session++) {
      const recording = new RecordingHostFile(file);
      const image = openImage(vdi, recording);
      const before = image.details().specific['uuid-modify'];
      write(image, 0);
      write(image, BLOCK);
      expect(image.details().specific['uuid-modify']).not.toBe(before);
      image.flush();
      write(image, 0);
      image.close();
      expect(recording.log.filter((operation) => nameOf(operation) === 'uuidModify')).toHaveLength(1);
      seen.push(Buffer.from(file.bytes()).toString('hex', FIELD.uuidModify, FIELD.uuidModify + 16));
    }
    expect(new Set(seen).size).toBe(4);
  });

  test.each([
    ['that reads', (image: WritableImage) => image.read(Buffer.alloc(BLOCK), 0, BLOCK, guestOffset(0))],
    ['that discards what is free', (image: WritableImage) => image.discard(guestOffset(BLOCK), BLOCK)],
    ['that flushes', (image: WritableImage) => image.flush()],
  ])('stays in a session %s, which writes nothing at all', (_, action) => {
    const { image, log } = recorded(action);
    image.close();
    expect(log.filter(({ operation }) => operation !== 'sync')).toEqual([]);
  });
});

describe('the count of blocks', () => {
  test('is durable, with zeros behind it, before an entry leads to one of them', () => {
    const { log } = recorded((image) => write(image, BLOCK));
    expect(log.map(nameOf)).toEqual(['uuidModify', 'sync', 'truncate', 'count', 'sync', 'data', 'entries']);
  });

  /** cBlocksAllocated in the file. */
  function countIn(file: MemoryHostFile): number {
    const count = Buffer.alloc(4);
    file.read(count, 0, 4, hostOffset(FIELD.allocated));
    return count.readUInt32LE();
  }

  /** The counts that the header gets while blocks of 1 MiB get data one after the other. */
  function countsWhileFilling(file: MemoryHostFile, image: WritableImage, first: number, end: number): number[] {
    const counts = new Set<number>();
    for (let n = first; n < end; n++) {
      write(image, n * KIB * KIB);
      counts.add(countIn(file));
    }
    return [...counts];
  }

  test('goes ahead by 16 blocks of 1 MiB at a time in a small image, and never beyond cBlocks', () => {
    const file = createMemoryImage(vdi, 40 * KIB * KIB);
    const image = openImage(vdi, file);
    expect(countsWhileFilling(file, image, 0, 40)).toEqual([16, 32, 40]);
  });

  test('goes ahead by 1 GiB in a large image', () => {
    const file = createMemoryImage(vdi, 100 * 1024 * KIB * KIB);
    const recording = new RecordingHostFile(file);
    const image = openImage(vdi, recording);
    expect(countsWhileFilling(file, image, 0, 2500)).toEqual([1024, 2048, 3072]);
    // one is that of uuidModify
    expect(recording.log.filter(({ operation }) => operation === 'sync')).toHaveLength(1 + 3);
  });

  test('covers every entry, and loses nothing that was flushed, whenever the power goes', () => {
    const start = createMemoryImage(vdi, 256 * KIB * KIB);
    const recording = new RecordingHostFile(start.clone());
    const image = openImage(vdi, recording);
    const random = seededRandom(4);
    /** host operations at the end of a flush, and how many blocks have data then */
    const flushed: (readonly [operations: number, blocks: number])[] = [];
    const places = Array.from({ length: 60 }, (_, n) => ((n * 89) % 256) * KIB * KIB);
    for (const [n, at] of places.entries()) {
      write(image, at);
      if (random() < 0.2) {
        image.flush();
        flushed.push([recording.log.length, n + 1]);
      }
    }
    let states = 0;
    for (const { state, subset, moment } of crashStates(start, recording.log, random)) {
      if (random() < 0.98) continue;
      const where = `moment ${moment}, subset ${subset.toString()}`;
      const safe = flushed.filter(([operations]) => operations <= moment).at(-1)?.[1] ?? 0;
      const count = countIn(state);
      const found = openImage(vdi, state.clone());
      const byte = Buffer.alloc(1);
      for (const [n, at] of places.entries()) {
        found.read(byte, 0, 1, guestOffset(at));
        if (n < safe) expect(byte[0], where).toBe(7);
        else expect([0, 7], where).toContain(byte[0]);
      }
      // what other programs would give out next is no block that an entry leads to
      expect(count, where).toBeGreaterThanOrEqual(found.allocatedBytes() / (KIB * KIB));
      states++;
    }
    expect(states).toBeGreaterThan(50);
  });

  test('leaves seven in eight of the unused indices to other programs, which go on from it after a crash', () => {
    const file = createMemoryImage(vdi, 800 * KIB * KIB);
    const image = openImage(vdi, file);
    const counts = countsWhileFilling(file, image, 0, 700);
    expect(counts.slice(0, 4)).toEqual([100, 187, 263, 330]);
    for (const [n, count] of counts.entries()) {
      const before = counts[n - 1] ?? 0;
      expect(count - before).toBeLessThanOrEqual(Math.max(16, (800 - before) / 8));
    }
  });

  test('is exact after a close, and the file as long as its blocks: count, sync, cut, sync at the end', () => {
    const { image, log, file } = recorded((each) => write(each, BLOCK));
    image.flush();
    log.length = 0;
    image.close();
    expect(log.map(nameOf)).toEqual(['count', 'sync', 'truncate', 'sync']);
    expect(file.size()).toBe(OFF_DATA + 2 * BLOCK);
  });

  test('is given back by an image that is idle for 5 seconds, and by the end of the last writer', () => {
    for (const settle of [
      (image: WritableImage) => image.maintain(Number.MAX_SAFE_INTEGER),
      (image: WritableImage) => image.makeClean(),
    ]) {
      const { image, file } = recorded((each) => write(each, BLOCK));
      expect(file.size()).toBe(OFF_DATA + 4 * BLOCK);
      settle(image);
      expect(file.size()).toBe(OFF_DATA + 2 * BLOCK);
      write(image, 2 * BLOCK);
      image.close();
      expect(file.size()).toBe(OFF_DATA + 3 * BLOCK);
    }
  });
});

test('a freed block that is the only one left is used again after its two flushes, without a larger index', () => {
  const { image, file } = recorded(
    (each) => {
      each.discard(guestOffset(0), BLOCK);
      write(each, 0, BLOCK);
    },
    [0, 1],
  );
  image.close();
  expect(file.size()).toBe(OFF_DATA + 2 * BLOCK);
  const bytes = Buffer.alloc(BLOCK);
  openImage(vdi, file).read(bytes, 0, BLOCK, guestOffset(0));
  expect(bytes).toEqual(Buffer.alloc(BLOCK, 7));
});

test('a close moves the last blocks into gaps: copy, sync, entries, and the old place goes after that is durable', () => {
  const { image, log } = recorded((each) => each.discard(guestOffset(0), BLOCK), [0, 1, 2]);
  image.makeClean();
  log.length = 0;
  image.close();
  const names = log.map(nameOf);
  expect(names.slice(0, 3)).toEqual(['data', 'sync', 'entries']);
  expect(names.slice(-4)).toEqual(['count', 'sync', 'truncate', 'sync']);
  expect(names.slice(3, -4)).toEqual(['sync', 'punch-hole', 'sync']);
});

test('an open takes back what a killed process removed only after the removal is durable (R5)', () => {
  const killed = vdiBytes({ entries: [0, FREE], fileBlocks: 2, allocated: 2 });
  const file = new RecordingHostFile(new MemoryHostFile(killed, '/disk.vdi'));
  openImage(vdi, file);
  expect(file.log.map(nameOf)).toEqual(['sync', 'count', 'sync', 'truncate', 'sync']);
});
