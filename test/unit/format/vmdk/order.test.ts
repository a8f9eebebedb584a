// The order of the host operations of an extent: what is durable before what. The crash model shows what an order is worth; here is
// what other programs rely on and what it cannot know.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ERRNO } from '../../../../src/errors/index.ts';
import { cowd } from '../../../../src/format/vmdk/cowd/index.ts';
import type { ExtentKind, WritableExtent } from '../../../../src/format/vmdk/extent.ts';
import { sparse } from '../../../../src/format/vmdk/sparse/index.ts';
import { checkExtent, type ExtentOptions, isSame, openExtent, readAll } from '../../../support/extents.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import {
  COWD_FIELD,
  contentOf,
  cowdBytes,
  cowdData,
  entryAt,
  FIELD,
  NONE,
  placesOf,
  type SparseRecipe,
  sparseBytes,
} from '../../../support/vmdk-bytes.ts';
import { FaultyHostFile, type RecordedOperation, RecordingHostFile } from '../../../support/wrapping-files.ts';

const GRAIN = 4096;
const RECIPE: SparseRecipe = { entries: [0, NONE, NONE, NONE], capacity: 200 * 8 };
const PLACES = placesOf(RECIPE);

function recorded(
  run: (image: WritableExtent) => void,
  bytes = sparseBytes(RECIPE),
  kind: ExtentKind<WritableExtent> = sparse,
  options: ExtentOptions = {},
) {
  const file = new RecordingHostFile(new MemoryHostFile(bytes, '/disk.vmdk'));
  const image = openExtent(kind, file, options);
  run(image);
  return { image, file, log: file.log };
}

/** What an operation is about. */
function nameOf({ operation, offset, data }: RecordedOperation): string {
  if (operation !== 'write') return operation;
  const { gd, overhead, rgd } = PLACES;
  const sector = Math.floor(offset / 512);
  if (offset === FIELD.unclean) return data![0] === 1 ? 'unclean' : 'clean';
  if (offset < 512) return 'header';
  if (sector === rgd) return 'second directory';
  if (sector === gd) return 'first directory';
  if (sector > rgd && sector < gd) return 'second table';
  return sector > gd && sector < overhead ? 'first table' : 'data';
}

const write = (image: WritableExtent, at: number, length = 512): void =>
  image.write(Buffer.alloc(length, 7), 0, length, guestOffset(at));

describe('the mark', () => {
  test.each<readonly [string, (image: WritableExtent) => void]>([
    ['a write in place', (image) => write(image, 0)],
    ['an allocating write', (image) => write(image, GRAIN)],
    ['a discard', (image) => image.discard(guestOffset(0), GRAIN)],
    ['zeros in a part of a grain', (image) => image.writeZeroes(guestOffset(0), 512)],
    ['space for a grain', (image) => image.preallocate(guestOffset(GRAIN), GRAIN)],
    ['a larger size', (image) => image.resize(300 * GRAIN)],
    ['a smaller size', (image) => image.resize(GRAIN)],
    ['markUnclean()', (image) => image.markUnclean()],
  ])('is durable before %s, and set once', (_, change) => {
    const { log } = recorded((image) => {
      change(image);
      change(image);
    });
    expect(log.slice(0, 2).map(nameOf)).toEqual(['unclean', 'sync']);
    expect(log.map(nameOf).filter((name) => name === 'unclean')).toHaveLength(1);
  });

  test('is cleared last, behind everything durable', () => {
    const { image, log } = recorded((extent) => write(extent, GRAIN));
    image.close();
    expect(log.slice(-5).map(nameOf)).toEqual(['sync', 'truncate', 'sync', 'clean', 'sync']);
  });

  test('stays away in a session that changes nothing', () => {
    const { image, log } = recorded((extent) => {
      readAll(extent);
      extent.discard(guestOffset(GRAIN), GRAIN);
      extent.flush();
    });
    image.close();
    expect(log.filter(({ operation }) => operation !== 'sync')).toEqual([]);
  });

  test('stays where a flush has failed', () => {
    const memory = new MemoryHostFile(sparseBytes(RECIPE), '/disk.vmdk');
    let fails = false;
    const image = openExtent(
      sparse,
      new FaultyHostFile(memory, (operation) => (fails && operation === 'sync' ? ERRNO.EIO : null)),
    );
    write(image, GRAIN);
    fails = true;
    expect(() => image.close()).toThrow(/fails by plan/);
    expect(sparse.inspect(memory).isUnclean).toBe(true);
  });
});

describe('an allocating write', () => {
  test('makes the file longer, durably, before an entry leads there; then data, first table, second table', () => {
    const { log } = recorded((image) => write(image, GRAIN));
    expect(log.map(nameOf)).toEqual(['unclean', 'sync', 'truncate', 'sync', 'data', 'first table', 'second table']);
    const next = recorded((image) => {
      write(image, GRAIN);
      write(image, 3 * GRAIN);
    });
    expect(next.log.slice(7).map(nameOf)).toEqual(['data', 'first table', 'second table']);
  });

  test('over a parent writes no entry before its data is durable (R6)', () => {
    const backing = openExtent(sparse, new MemoryHostFile(sparseBytes({ entries: [0, 1, 2, 3] }), '/base', true), {
      readOnly: true,
    });
    const { image, log } = recorded((extent) => write(extent, GRAIN), sparseBytes(RECIPE), sparse, { backing });
    expect(log.slice(4).map(nameOf)).toEqual(['data']);
    image.flush();
    expect(log.slice(4).map(nameOf)).toEqual(['data', 'sync', 'first table', 'second table', 'sync']);
  });

  test('makes a table that is missing of zeros that are durable, and links it before its entries', () => {
    const { log } = recorded((image) => write(image, 130 * GRAIN), sparseBytes({ ...RECIPE, lazy: [1] }));
    const names = log.map(nameOf);
    expect(names.slice(0, 4)).toEqual(['unclean', 'sync', 'truncate', 'sync']);
    expect(names.slice(4, 6)).toEqual(['first directory', 'second directory']);
  });

  test('takes zeros for granted only in what it has added itself: what lay behind the last grain is cut off first', () => {
    const bytes = Buffer.concat([sparseBytes(RECIPE), Buffer.alloc(3 * GRAIN, 0xee)]);
    const { file, image, log } = recorded((extent) => write(extent, GRAIN), bytes);
    expect(log.map(nameOf).slice(2, 6)).toEqual(['sync', 'truncate', 'truncate', 'sync']);
    const wanted = contentOf(RECIPE);
    wanted.fill(7, GRAIN, GRAIN + 512);
    expect(isSame(readAll(image), wanted)).toBe(true);
    image.close();
    expect(file.size()).toBe(sparseBytes(RECIPE).length + GRAIN);
  });
});

test('a grain is used again only after its removal and its hole are durable (R5)', () => {
  const { image, log } = recorded(
    (extent) => extent.discard(guestOffset(0), GRAIN),
    sparseBytes({ ...RECIPE, entries: [0, 1] }),
  );
  write(image, 2 * GRAIN);
  image.flush();
  image.flush();
  expect(log.map(nameOf).slice(2)).toEqual([
    ...['first table', 'second table'],
    ...['truncate', 'sync', 'data', 'first table', 'second table'],
    ...['sync', 'punch-hole', 'sync'],
  ]);
  const before = log.length;
  write(image, 3 * GRAIN);
  const data = log.slice(before).find((operation) => nameOf(operation) === 'data')!;
  expect(data.offset).toBe(PLACES.data * 512);
});

test('a second table that a full host has kept back catches up before the extent is clean', () => {
  const memory = new MemoryHostFile(sparseBytes(RECIPE), '/disk.vmdk');
  let isFull = true;
  const second = entryAt(RECIPE, 0, 'second');
  const plan = (operation: string, _count: number, offset: number) =>
    isFull && operation === 'write' && offset >= second && offset < second + 512 ? ERRNO.ENOSPC : null;
  const image = openExtent(sparse, new FaultyHostFile(memory, plan));
  write(image, GRAIN);
  expect(image.failure()).toBeNull();
  expect(() => image.close()).toThrow(/fails by plan/);
  expect(sparse.inspect(memory).isUnclean).toBe(true);
  expect(checkExtent(sparse, memory.clone())).toMatchObject({ corruptions: 1 });
  isFull = false;
  image.close();
  expect(sparse.inspect(memory).isUnclean).toBe(false);
  expect(checkExtent(sparse, memory)).toMatchObject({ corruptions: 0, leaks: 0 });
});

describe('freeSector of a COWD extent', () => {
  const recipe = { entries: [0, 1], capacity: 5000 };
  const free = (bytes: Uint8Array) => Buffer.from(bytes).readUInt32LE(COWD_FIELD.free);

  test('is beyond a grain, durably, before an entry leads to it', () => {
    const { log } = recorded((image) => write(image, 512), cowdBytes({ entries: [0, NONE], capacity: 5000 }), cowd);
    const at = log.findIndex(({ operation, offset }) => operation === 'write' && offset === COWD_FIELD.free);
    const entry = log.findIndex(
      ({ operation, offset }) => operation === 'write' && offset >= 5 * 512 && offset < 37 * 512,
    );
    expect(log.slice(at, entry).map(({ operation }) => operation)).toContain('sync');
    expect(Buffer.from(log[at]!.data!).readUInt32LE(0)).toBeGreaterThan(cowdData(recipe) + 2);
  });

  test('is the end of the file after a clean close', () => {
    const { file, image } = recorded((extent) => write(extent, 4200 * 512), cowdBytes(recipe), cowd);
    image.close();
    const bytes = new Uint8Array(file.size());
    file.read(bytes, 0, bytes.length, 0 as never);
    expect(free(bytes)).toBe(file.size() / 512);
    // a table of 32 sectors, and the grain
    expect(file.size() / 512).toBe(cowdData(recipe) + 2 + 32 + 1);
  });
});

test('a close cuts no sector of the metadata off', () => {
  for (const capacity of [8, 5000]) {
    const { file, image } = recorded((extent) => extent.markUnclean(), cowdBytes({ entries: [], capacity }), cowd);
    image.close();
    expect(file.size()).toBe(5 * 512);
  }
});
