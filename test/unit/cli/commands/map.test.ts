// map joins what the disk layer tells in pieces, and keeps apart what is not the same.

import { describe, expect, test } from 'vitest';
import { mapDisk, mapJson, mapLines } from '../../../../src/cli/commands/map.ts';
import type { ChainExtent } from '../../../../src/disk/index.ts';

const CLUSTER = 65536;

type Piece = Pick<ChainExtent, 'status'> & Partial<Pick<ChainExtent, 'hostOffset' | 'depth' | 'isHole'>>;

/** A disk of one cluster a piece, which never tells more than one piece at a time. */
function diskOf(pieces: readonly Piece[]): Parameters<typeof mapDisk>[0] {
  return {
    *extents() {
      for (const [index, piece] of pieces.entries()) {
        const depth = piece.depth ?? 0;
        yield { start: index * CLUSTER, length: CLUSTER, depth, path: `image-${depth}`, ...piece };
      }
    },
  };
}

describe('neighbouring extents', () => {
  test('of data are one where their host offsets follow each other', () => {
    const disk = diskOf([0, 1, 2].map((index) => ({ status: 'data', hostOffset: (5 + index) * CLUSTER })));
    expect([...mapDisk(disk)]).toEqual([
      {
        ...{ start: 0, length: 3 * CLUSTER, depth: 0, present: true, zero: false, data: true },
        ...{ offset: 5 * CLUSTER, filename: 'image-0' },
      },
    ]);
    expect([...mapLines(mapDisk(disk))]).toHaveLength(2);
  });

  test('of data are two where the host offset jumps', () => {
    const disk = diskOf([5, 7].map((cluster) => ({ status: 'data', hostOffset: cluster * CLUSTER })));
    expect([...mapDisk(disk)].map(({ start, offset }) => [start, offset])).toEqual([
      [0, 5 * CLUSTER],
      [CLUSTER, 7 * CLUSTER],
    ]);
  });

  test.each(['zero', 'unallocated'] as const)('that are %s are one', (status) => {
    const disk = diskOf([{ status }, { status }, { status }, { status }]);
    expect([...mapDisk(disk)].map(({ length }) => length)).toEqual([4 * CLUSTER]);
  });

  test('of data without a host offset are one, and no offset is made up for them', () => {
    const disk = diskOf([{ status: 'data' }, { status: 'data' }, { status: 'data', hostOffset: 0 }]);
    expect([...mapDisk(disk)].map(({ length, offset }) => [length, offset])).toEqual([
      [2 * CLUSTER, undefined],
      [CLUSTER, 0],
    ]);
    expect([...mapLines(mapDisk(disk))][1]).toMatch(/^0 +0x20000 +- +image-0$/);
  });

  test('of another status are apart', () => {
    const disk = diskOf([{ status: 'zero' }, { status: 'unallocated' }, { status: 'data', hostOffset: CLUSTER }]);
    expect([...mapDisk(disk)].map(({ present, zero }) => [present, zero])).toEqual([
      [true, true],
      [false, true],
      [true, false],
    ]);
  });

  test('of another image of the chain are apart', () => {
    const disk = diskOf([
      { status: 'data', hostOffset: CLUSTER },
      { status: 'data', hostOffset: 2 * CLUSTER, depth: 1 },
    ]);
    expect([...mapDisk(disk)].map(({ depth, length }) => [depth, length])).toEqual([
      [0, CLUSTER],
      [1, CLUSTER],
    ]);
  });

  test('of data that is a hole of its file are zero, present, and apart from data that is none', () => {
    const places = [5, 6, 7].map((cluster) => ({ status: 'data', hostOffset: cluster * CLUSTER }) as const);
    const disk = diskOf([{ ...places[0]!, isHole: true }, { ...places[1]!, isHole: true }, places[2]!]);
    expect([...mapDisk(disk)]).toEqual([
      {
        ...{ start: 0, length: 2 * CLUSTER, depth: 0, present: true, zero: true, data: true },
        ...{ offset: 5 * CLUSTER, filename: 'image-0' },
      },
      {
        ...{ start: 2 * CLUSTER, length: CLUSTER, depth: 0, present: true, zero: false, data: true },
        ...{ offset: 7 * CLUSTER, filename: 'image-0' },
      },
    ]);
    // qemu-img map shows people no zeros
    expect([...mapLines(mapDisk(disk))]).toHaveLength(2);
  });
});

describe('a map of more extents than memory could hold', () => {
  function* endless(): Generator<ChainExtent, void> {
    for (let start = 0; ; start += CLUSTER)
      yield {
        ...{ start, length: CLUSTER, depth: 0, path: 'image' },
        status: 'data',
        hostOffset: 3 * start + 9 * CLUSTER,
      };
  }

  test.each([
    ['JSON', mapJson],
    ['text', mapLines],
  ])('is made in %s as it is read', (_, lines) => {
    let count = 0;
    for (const line of lines(mapDisk({ extents: endless }))) {
      expect(line.length).toBeLessThan(200);
      if (++count === 10_000) break;
    }
    expect(count).toBe(10_000);
  });

  test('is one list in JSON', () => {
    const disk = diskOf([{ status: 'zero' }, { status: 'unallocated' }]);
    expect(JSON.parse([...mapJson(mapDisk(disk))].join(''))).toEqual([...mapDisk(disk)]);
    expect([...mapJson(mapDisk(diskOf([])))].join('')).toBe('[]\n');
  });
});

test('entries join neighbours that continue each other, and only those', () => {
  const extents = [
    { start: 0, length: 10, status: 'data', depth: 0, hostOffset: 100, path: 'a' },
    { start: 10, length: 10, status: 'data', depth: 0, hostOffset: 110, path: 'a' },
    { start: 20, length: 10, status: 'data', depth: 0, hostOffset: 500, path: 'a' },
    { start: 30, length: 10, status: 'zero', depth: 0, path: 'a' },
    { start: 40, length: 10, status: 'unallocated', depth: 1, path: 'b' },
  ] as const;
  const disk = { extents: () => extents };
  const entries = [...mapDisk(disk as unknown as Parameters<typeof mapDisk>[0])];
  expect(
    entries.map(({ start, length, present, zero, data, offset }) => [start, length, present, zero, data, offset]),
  ).toEqual([
    [0, 20, true, false, true, 100],
    [20, 10, true, false, true, 500],
    [30, 10, true, true, false, undefined],
    [40, 10, false, true, false, undefined],
  ]);
  expect([...mapLines(entries)][1]).toMatch(/^0 +0x14 +0x64 +a$/);
});
