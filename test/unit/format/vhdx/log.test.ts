// The log of a VHDX, read with a file that is not touched. The judge in test/support replays it by itself, on the whole file.

import { describe, expect, test } from 'vitest';
import { hostOffset } from '../../../../src/bytes/offsets.ts';
import { readLayout } from '../../../../src/format/vhdx/header/layout.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { firstDifference } from '../../../support/image-files.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { seededRandom } from '../../../support/random.ts';
import { LOG_GUID, type LogChange, type LogEntrySpec, logEntry, MIB, vhdxImage } from '../../../support/vhdx-bytes.ts';
import { replayedVhdx } from '../../../support/vhdx-judge.ts';

const BLOCKS = [
  { state: 6, data: new Uint8Array(MIB).fill(1) },
  { state: 6, data: new Uint8Array(MIB).fill(2) },
];
const LENGTH = 6 * MIB;
const BLOCK_0 = 4 * MIB;

interface Written {
  readonly at: number;
  readonly entry: Buffer;
}

function entry(at: number, spec: Partial<LogEntrySpec> & Pick<LogEntrySpec, 'sequence'>): Written {
  return { at, entry: logEntry({ tail: at, changes: [], flushed: LENGTH, last: LENGTH, ...spec }) };
}

function imageOf(log: readonly Written[]): Buffer {
  return vhdxImage({ blocks: BLOCKS, logGuid: LOG_GUID, log }).image;
}

function sector(byte: number): Buffer {
  return Buffer.alloc(4096, byte);
}

/** The file as the engine sees it, all of it; and as single sectors, runs and pieces of sectors. */
function viewOf(image: Buffer): Buffer {
  const file = new MemoryHostFile(image, '/disk', true);
  const { view } = readLayout(file);
  const bytes = Buffer.alloc(view.size() + 10, 0xee);
  expect(view.read(bytes, 0, bytes.length, hostOffset(0))).toBe(view.size());
  const random = seededRandom(view.size() + image[MIB + 4]!);
  for (let i = 0; i < 60; i++) {
    const start = Math.floor(random() * view.size());
    const length = Math.floor(random() * random() * 20_000);
    const piece = Buffer.alloc(length + 2, 0xdd);
    const got = view.read(piece, 1, length, hostOffset(start));
    expect(got).toBe(Math.min(length, view.size() - start));
    expect([piece[0], ...piece.subarray(got + 1)].every((byte) => byte === 0xdd)).toBe(true);
    expect(firstDifference(piece.subarray(1, got + 1), bytes.subarray(start, start + got))).toBe('none');
  }
  expect(firstDifference(file.bytes(), image)).toBe('none');
  return bytes.subarray(0, view.size());
}

function entriesIn(image: Buffer): number {
  return readLayout(new MemoryHostFile(image)).replay?.entries ?? 0;
}

function expectLikeJudge(log: readonly Written[]): Buffer {
  const image = imageOf(log);
  const view = viewOf(image);
  expect(firstDifference(view, replayedVhdx(image))).toBe('none');
  return view;
}

describe('is replayed', () => {
  test('with one entry of data and zeros', () => {
    const changes = [
      { offset: BLOCK_0 + 8192, data: Buffer.from(Array.from({ length: 4096 }, (_, i) => i % 251)) },
      { offset: BLOCK_0 + 65_536, zeros: 12_288 },
    ];
    const view = expectLikeJudge([entry(0, { sequence: 1n, changes })]);
    expect(view[BLOCK_0 + 8192 + 4095]).toBe(4095 % 251);
    expect(view[BLOCK_0 + 8191]).toBe(1);
    expect(view.subarray(BLOCK_0 + 65_536, BLOCK_0 + 65_536 + 12_288).every((byte) => byte === 0)).toBe(true);
    expect(view[BLOCK_0 + 65_536 + 12_288]).toBe(1);
  });

  test('as long as the log is the one of the open, and refuses what another program has written over it', () => {
    const changes = [{ offset: BLOCK_0 + 8192, data: sector(7) }];
    const image = imageOf([entry(0, { sequence: 1n, changes })]);
    const file = new MemoryHostFile(image);
    const { view } = readLayout(file);
    const bytes = Buffer.alloc(4096);
    view.read(bytes, 0, 4096, hostOffset(BLOCK_0 + 8192));
    expect(bytes.equals(sector(7))).toBe(true);
    const later = imageOf([entry(0, { sequence: 9n, changes: [{ offset: BLOCK_0 + 16_384, data: sector(8) }] })]);
    file.write(later.subarray(MIB, 2 * MIB), 0, MIB, hostOffset(MIB));
    expect(() => view.read(bytes, 0, 4096, hostOffset(BLOCK_0 + 8192))).toThrow(/its log has changed at offset/);
    // what the log does not change is read as ever
    expect(view.read(bytes, 0, 4096, hostOffset(BLOCK_0))).toBe(4096);
    expect(bytes.equals(sector(1))).toBe(true);
  });

  test('with more descriptors than one sector holds, and as many as it just holds', () => {
    for (const count of [125, 126, 127, 200]) {
      const changes = Array.from({ length: count }, (_, i) => ({ offset: BLOCK_0 + i * 4096, data: sector(i + 3) }));
      const view = expectLikeJudge([entry(40_960, { sequence: 1n, changes })]);
      expect(view[BLOCK_0 + (count - 1) * 4096]).toBe((count + 2) & 0xff);
    }
  });

  test('from the tail of its last entry on, and no further back', () => {
    const change = (byte: number, block: number): LogChange[] => [
      { offset: BLOCK_0 + block * 4096, data: sector(byte) },
    ];
    const image = imageOf([
      entry(0, { sequence: 5n, changes: change(50, 0) }),
      entry(8192, { sequence: 6n, changes: change(60, 1) }),
      entry(16_384, { sequence: 7n, tail: 8192, changes: change(70, 2) }),
    ]);
    expect(entriesIn(image)).toBe(2);
    const view = viewOf(image);
    expect([0, 1, 2].map((block) => view[BLOCK_0 + block * 4096])).toEqual([1, 60, 70]);
    expect(firstDifference(view, replayedVhdx(image))).toBe('none');
  });

  test('across the end of the ring: an entry that wraps, and entries that go on at its start', () => {
    const changes = Array.from({ length: 6 }, (_, i) => ({ offset: BLOCK_0 + i * 4096, data: sector(i + 9) }));
    const at = MIB - 3 * 4096;
    const view = expectLikeJudge([
      // what stood there a turn of the ring before
      entry(16_384, { sequence: 3n, changes: [{ offset: BLOCK_0 + 409_600, data: sector(99) }] }),
      entry(at, { sequence: 10n, changes }),
      entry(4 * 4096, { sequence: 11n, tail: at, changes: [{ offset: BLOCK_0 + 40_960, data: sector(77) }] }),
    ]);
    expect([0, 5, 10, 100].map((block) => view[BLOCK_0 + block * 4096])).toEqual([9, 14, 77, 1]);
  });

  test('with sequence numbers beyond 2^53, that count over from one word to the next', () => {
    const from = 2n ** 60n - 1n;
    const view = expectLikeJudge([
      entry(0, { sequence: from, changes: [{ offset: BLOCK_0, data: sector(5) }] }),
      entry(8192, { sequence: from + 1n, tail: 0, changes: [{ offset: BLOCK_0, data: sector(6) }] }),
    ]);
    expect(view[BLOCK_0]).toBe(6);
    const high = 2n ** 32n - 1n;
    expect(entriesIn(imageOf([entry(0, { sequence: high }), entry(4096, { sequence: high + 1n, tail: 0 })]))).toBe(2);
  });

  test('into a longer file', () => {
    const last = LENGTH + 3 * MIB + 4096;
    const changes = [
      { offset: LENGTH + MIB, data: sector(5) },
      { offset: LENGTH - 4096, zeros: 8192 },
    ];
    const view = expectLikeJudge([entry(0, { sequence: 1n, last, changes })]);
    expect(view.length).toBe(last);
    expect(view[LENGTH + MIB + 4095]).toBe(5);
  });

  test('so that of changes of one place the last counts', () => {
    const at = BLOCK_0 + 40_960;
    const view = expectLikeJudge([
      entry(0, {
        sequence: 1n,
        changes: [
          { offset: at, data: sector(5) },
          { offset: at + 4096, data: sector(6) },
          { offset: at - 8192, zeros: 3 * 4096 },
          { offset: at + 8192, zeros: 8192 },
          { offset: at + 8192, data: sector(7) },
          { offset: at + 12_288, data: sector(8) },
          { offset: at + 12_288, data: sector(9) },
        ],
      }),
    ]);
    expect([-2, -1, 0, 1, 2, 3, 4].map((i) => view[at + i * 4096])).toEqual([0, 0, 0, 6, 7, 9, 1]);
  });
});

describe('is not replayed', () => {
  const good = { offset: BLOCK_0, data: sector(9) };
  test.each<[string, (bytes: Buffer) => void]>([
    ['a wrong checksum', (bytes) => void bytes.writeUInt8(bytes[4]! ^ 1, 4)],
    ['a torn data sector', (bytes) => void bytes.writeUInt8(1, 8191 - 2000)],
  ])('an entry with %s', (_, damage) => {
    const { at, entry: bytes } = entry(0, { sequence: 1n, changes: [good] });
    damage(bytes);
    expect(entriesIn(imageOf([{ at, entry: bytes }]))).toBe(0);
  });
  test.each<[string, Partial<LogEntrySpec>]>([
    ['of another log', { guid: '11111111-2222-3333-4444-555555555555' }],
    ['with the number 0', { sequence: 0n }],
    ['whose tail is not in its sequence', { tail: 4096 }],
    ['whose tail is off the grid', { edit: (bytes) => void bytes.writeUInt32LE(100, 12) }],
    ['whose tail lies behind the ring', { tail: MIB }],
    ['without a length', { edit: (bytes) => void bytes.writeUInt32LE(0, 8) }],
    ['longer than the ring', { edit: (bytes) => void bytes.writeUInt32LE(MIB + 4096, 8) }],
    ['of odd length', { edit: (bytes) => void bytes.writeUInt32LE(8191, 8) }],
    ['with more descriptors than it has room for', { edit: (bytes) => void bytes.writeUInt32LE(400, 24) }],
    ['with descriptors without end', { edit: (bytes) => void bytes.writeUInt32LE(0xffffffff, 24) }],
    ['with a data sector too many', { edit: (bytes) => void bytes.write('zero', 64) }],
    ['with an unknown descriptor', { edit: (bytes) => void bytes.write('text', 64) }],
    ['whose descriptor has another number', { edit: (bytes) => void bytes.writeUInt8(2, 64 + 24) }],
    ['whose data sector has another number', { edit: (bytes) => void bytes.writeUInt8(2, 8192 - 4) }],
    ['whose data sector has another high word', { edit: (bytes) => void bytes.writeUInt8(2, 4096 + 4) }],
    ['whose data sector has another signature', { edit: (bytes) => void bytes.write('date', 4096) }],
  ])('an entry %s', (_, spec) => {
    const image = imageOf([entry(0, { sequence: 1n, changes: [good], ...spec })]);
    expect(entriesIn(image)).toBe(0);
    expect(firstDifference(viewOf(image), image)).toBe('none');
    if (!('edit' in spec)) expect(firstDifference(replayedVhdx(image), image)).toBe('none');
  });
  test('a log that no header names', () => {
    const { image } = vhdxImage({ blocks: BLOCKS, log: [entry(0, { sequence: 1n, changes: [good] })] });
    expect(entriesIn(image)).toBe(0);
  });
  test('an older sequence beside a newer one', () => {
    const view = expectLikeJudge([
      entry(65_536, { sequence: 20n, changes: [{ offset: BLOCK_0, data: sector(20) }] }),
      entry(0, { sequence: 9n, changes: [{ offset: BLOCK_0, data: sector(9) }] }),
      entry(131_072, { sequence: 15n, changes: [{ offset: BLOCK_0 + 4096, data: sector(15) }] }),
    ]);
    expect([0, 1].map((block) => view[BLOCK_0 + block * 4096])).toEqual([20, 1]);
  });
});

describe('is refused', () => {
  const refused = (spec: Partial<LogEntrySpec>): string => {
    const file = new MemoryHostFile(imageOf([entry(0, { sequence: 1n, ...spec })]), '/disk');
    try {
      vhdx.inspect(file);
    } catch (error) {
      return (error as Error).message;
    }
    return 'none';
  };
  test('if the file is shorter than it was', () => {
    expect(refused({ flushed: LENGTH + 1 })).toContain(
      'its log says that the file had 6291457 bytes, and it has 6291456; it was cut',
    );
    expect(refused({ flushed: 2n ** 64n - 1n })).toContain('it was cut');
  });
  test('if the file would be longer than any', () => {
    expect(refused({ last: 66n * 2n ** 40n + 1n })).toContain('which no image has');
    expect(refused({ last: 2n ** 63n })).toContain('which no image has');
  });
  test.each<[string, LogChange]>([
    ['the headers', { offset: 192 * 1024 - 4096, data: sector(1) }],
    ['the log itself', { offset: MIB + 40_960, data: sector(1) }],
    ['zeros into the log', { offset: MIB - 4096, zeros: 8192 }],
    ['half a sector', { offset: BLOCK_0 + 512, data: sector(1) }],
    ['half a sector of zeros', { offset: BLOCK_0, zeros: 512 }],
    ['what lies behind the file', { offset: LENGTH, data: sector(1) }],
    ['zeros behind the file', { offset: LENGTH - 4096, zeros: 8192 }],
    ['an offset without bounds', { offset: 2n ** 64n - 4096n, data: sector(1) }],
    ['zeros without bounds', { offset: BLOCK_0, zeros: 2n ** 64n - 4096n }],
  ])('if it wants to change %s', (_, change) => {
    expect(refused({ changes: [change] })).toContain('where no change may be');
  });
  test('but not at the ends of what may be changed', () => {
    const changes = [
      { offset: LENGTH - 4096, data: sector(1) },
      { offset: 320 * 1024, zeros: MIB - 320 * 1024 },
      { offset: 2 * MIB - 4096 + 4096 + 900 * 1024, zeros: 4096 },
    ];
    expect(refused({ changes })).toBe('none');
  });
});

test('more ranges of zeros than memory is taken for are refused', () => {
  const changes = Array.from({ length: 65_537 }, () => ({ offset: 12 * MIB, zeros: 4096 }));
  const make = (list: readonly LogChange[]): MemoryHostFile => {
    const log = [{ at: 0, entry: logEntry({ sequence: 1n, tail: 0, flushed: 0, last: 16 * MIB, changes: list }) }];
    return new MemoryHostFile(vhdxImage({ blocks: BLOCKS, logBytes: 4 * MIB, logGuid: LOG_GUID, log }).image);
  };
  expect(() => vhdx.inspect(make(changes))).toThrow(/its log zeros more than 65536 ranges/);
  expect(vhdx.inspect(make(changes.slice(1)))).toMatchObject({ dirty: true });
});

test('logs of entries of every kind replay as the judge replays them', () => {
  const random = seededRandom(21);
  const pick = (below: number): number => Math.floor(random() * below);
  for (let run = 0; run < 40; run++) {
    const log: Written[] = [];
    let at = pick(256) * 4096;
    let sequence = BigInt(1 + pick(1000));
    let tails: number[] = [];
    for (let i = pick(12); i >= 0; i--) {
      const changes = Array.from({ length: pick(i % 4 === 0 ? 60 : 4) }, () => {
        const offset = BLOCK_0 + pick(40) * 4096;
        return pick(3) === 0 ? { offset, zeros: pick(8) * 4096 } : { offset, data: sector(pick(256)) };
      });
      tails.push(at);
      if (pick(4) === 0) tails = tails.slice(pick(tails.length));
      const written = entry(at, { sequence, changes, tail: pick(10) === 0 ? pick(256) * 4096 : tails[0]! });
      log.push(written);
      at = (at + written.entry.length) % MIB;
      sequence += pick(12) === 0 ? BigInt(2 + pick(5)) : 1n;
    }
    if (pick(4) === 0) log.at(pick(log.length))!.entry[4]! ^= 1;
    const image = imageOf(log);
    expect(firstDifference(viewOf(image), replayedVhdx(image)), `run ${run}`).toBe('none');
  }
});

test('a search for data and holes sees the changes of the log', () => {
  const { image } = vhdxImage({
    ...{ blocks: [{ state: 0 }], gapMib: 3, logGuid: LOG_GUID },
    log: [
      {
        at: 0,
        entry: logEntry({
          ...{ sequence: 1n, tail: 0, flushed: 0, last: 8 * MIB },
          changes: [
            { offset: 5 * MIB, data: sector(1) },
            { offset: 5 * MIB + 4096, data: sector(1) },
            { offset: 7.5 * MIB, data: sector(1) },
          ],
        }),
      },
    ],
  });
  const file = new MemoryHostFile(new Uint8Array(0), '/disk');
  for (let at = 0; at < image.length; at += 4096) {
    const page = image.subarray(at, at + 4096);
    if (page.some((byte) => byte !== 0)) file.write(page, 0, 4096, hostOffset(at));
  }
  file.truncate(image.length);
  const { view } = readLayout(file);
  const at = (offset: number) => hostOffset(offset);
  expect(view.size()).toBe(8 * MIB);
  expect(view.seekData(at(4 * MIB))).toBe(5 * MIB);
  expect(view.seekData(at(5 * MIB + 100))).toBe(5 * MIB + 100);
  expect(view.seekHole(at(5 * MIB + 100))).toBe(5 * MIB + 8192);
  expect(view.seekHole(at(4 * MIB))).toBe(4 * MIB);
  expect(view.seekData(at(5 * MIB + 8192))).toBe(7.5 * MIB);
  expect(view.seekHole(at(7.5 * MIB))).toBe(7.5 * MIB + 4096);
  expect(view.seekData(at(7.5 * MIB + 4096))).toBe(8 * MIB);
  expect(view.seekHole(at(7.9 * MIB))).toBe(at(7.9 * MIB));
});
