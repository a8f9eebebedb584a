// The zstd decoder: what the zstd program writes at every level comes back, and so does nothing else. Damage that a decoder
// can see has a vector of its own; where it cannot be told from data, the zstd program is asked what it reads.

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { DamagedData } from '../../../src/codec/damaged-data.ts';
import { decodeHere, decompressZstd, nativeDecoder } from '../../../src/codec/zstd/index.ts';
import { xxh64Low } from '../../../src/codec/zstd/xxh64.ts';
import { CONTENTS } from '../../support/compressible.ts';
import { seededRandom } from '../../support/random.ts';
import { hasCommand, requireOrSkip } from '../../support/requirements.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../../support/temporary.ts';
import {
  type Bits,
  type Block,
  backwardStream,
  codedLiterals,
  compressed,
  FSE,
  forwardFields,
  NO_SEQUENCES,
  PREDEFINED,
  REPEAT,
  RLE,
  raw,
  rawLiterals,
  rle,
  sequences,
  zstdFrame,
} from './zstd-frames.ts';

const SEED = Number(process.env['SEED'] ?? 1);

const decode = (source: Uint8Array, size: number): Uint8Array => decompressZstd(source, size, decodeHere);

/** What is wrong with `source`. @throws where nothing is, or where the error is a fault of the decoder */
function damageOf(source: Uint8Array, size = 4096): string {
  try {
    decode(source, size);
  } catch (error) {
    if (error instanceof DamagedData) return error.message;
    throw error;
  }
  throw new Error('it was decoded');
}

let folder: string;
beforeEach(() => {
  folder = makeTemporaryDirectory();
});
afterEach(() => removeTemporaryDirectory(folder));

/** From a file, so that the frame tells its size, as QEMU's do. */
function zstd(content: Uint8Array, ...options: readonly string[]): Uint8Array {
  const path = join(folder, 'content');
  writeFileSync(path, content);
  return execFileSync('zstd', ['-q', '-c', ...options, path], { maxBuffer: 64 * 1024 * 1024 });
}

describe('what the zstd program writes', () => {
  const levels = ['-1', '--fast=5', '-3', '-7', '-12', '-19', '--ultra -22'];

  test.for(
    levels.flatMap((level) => Object.keys(CONTENTS).map((kind) => [level, kind] as const)),
  )('at level %s of %s is read in clusters of every size', ([level, kind], context) => {
    requireOrSkip(context, hasCommand('zstd'), 'zstd');
    const random = seededRandom(SEED);
    const large = ['mixed', 'zeros', 'long matches'].includes(kind) && ['-1', '-12'].includes(level);
    for (const size of [512, 4096, 65536, ...(large ? [2 ** 21] : [])]) {
      const content = CONTENTS[kind]!(size, random);
      const check = size === 512 || size === 2 ** 21 ? '--check' : '--no-check';
      const source = zstd(content, ...level.split(' '), check);
      const read = decode(Buffer.concat([source, new Uint8Array(300).fill(0xa5)]), size);
      expect(Buffer.compare(read, content), `${size} bytes, seed ${SEED}`).toBe(0);
    }
  });

  test.for([
    [],
    ['--ultra', '-22'],
    ['--zstd=wlog=10'],
    ['-5', '--zstd=wlog=16,mml=3'],
    ['-9', '--long=23'],
    ['-3', '--long=27'],
  ])('with a window of its own, or as a stream without a size, is read: %s', (options, context) => {
    requireOrSkip(context, hasCommand('zstd'), 'zstd');
    const content = CONTENTS['mixed']!(300_000, seededRandom(SEED + 1));
    const stream = execFileSync('zstd', ['-q', '-c', ...options], { input: content });
    for (const decoder of [decodeHere, nativeDecoder]) {
      for (const source of [stream, zstd(content, ...options)]) {
        expect(Buffer.compare(decompressZstd(source, 300_000, decoder), content)).toBe(0);
      }
    }
  });

  test('is corrupt when it ends early, at any byte', (context) => {
    requireOrSkip(context, hasCommand('zstd'), 'zstd');
    for (const kind of ['text', 'few symbols', 'noise', 'zeros']) {
      const source = zstd(CONTENTS[kind]!(4096, seededRandom(SEED)), '--check');
      for (let kept = 0; kept < source.length; kept++) expect(damageOf(source.subarray(0, kept))).toMatch(/ends/);
    }
  });

  test('is corrupt when a byte differs and the frame has a checksum, or the byte has spare bits', (context) => {
    requireOrSkip(context, hasCommand('zstd'), 'zstd');
    const content = CONTENTS['text']!(4096, seededRandom(SEED));
    const source = zstd(content, '--check', '-19');
    let refused = 0;
    // the magic number and the header of the frame have tests of their own
    for (let at = 8; at < source.length; at++) {
      for (const bit of [1, 16, 128]) {
        const damaged = Uint8Array.from(source);
        damaged[at]! ^= bit;
        try {
          // a description of a table is filled up to whole bytes, with bits that nobody reads
          expect(Buffer.compare(decode(damaged, 4096), content)).toBe(0);
        } catch (error) {
          expect(error).toBeInstanceOf(DamagedData);
          refused++;
        }
      }
    }
    expect(refused).toBeGreaterThan(3 * (source.length - 8) - 20);
  });
});

/** Frames without checksums, each with up to three bytes changed. */
function mutants(count: number): { source: Uint8Array; size: number }[] {
  const random = seededRandom(SEED + 2);
  const sources = ['text', 'few symbols', 'all symbols', 'short periods', 'mixed'].flatMap((kind) =>
    ['-1', '-19'].flatMap((level) =>
      [1024, 4096, 65536].map((size) => ({ source: zstd(CONTENTS[kind]!(size, random), level, '--no-check'), size })),
    ),
  );
  return Array.from({ length: count }, () => {
    const { source, size } = sources[Math.floor(random() * sources.length)]!;
    const copy = Uint8Array.from(source);
    for (let changes = Math.floor(random() * 3); changes >= 0; changes--) {
      const reach = random() < 0.7 ? Math.min(90, copy.length) : copy.length;
      copy[Math.floor(random() * reach)] = random() * 256;
    }
    return { source: copy, size };
  });
}

describe('damaged frames', () => {
  test('give what the zstd program reads, or a sentence where it sees damage', (context) => {
    requireOrSkip(context, hasCommand('zstd'), 'zstd');
    const [frames, outputs] = [join(folder, 'frames'), join(folder, 'outputs')];
    mkdirSync(frames);
    mkdirSync(outputs);
    const damaged = mutants(600);
    damaged.forEach(({ source }, i) => {
      writeFileSync(join(frames, `${i}.zst`), source);
    });
    const paths = damaged.map((_, i) => join(frames, `${i}.zst`));
    // goes on behind a file that it cannot read; the window that it takes is limited as ours
    spawnSync('zstd', ['-d', '-q', '-f', '--memory=128MB', '--output-dir-flat', outputs, ...paths]);
    let read = 0;
    let refused = 0;
    damaged.forEach(({ source, size }, i) => {
      const path = join(outputs, String(i));
      const wanted = existsSync(path) ? readFileSync(path) : null;
      let actual: Uint8Array | null = null;
      try {
        actual = decode(source, size);
      } catch (error) {
        expect(error).toBeInstanceOf(DamagedData);
        // the program does not look whether Huffman streams end where they have to
        if (wanted?.length === size)
          expect((error as Error).message).toMatch(/does not end with its literals|end mark/);
        refused++;
        return;
      }
      if (actual.length !== size) return;
      read++;
      expect(wanted !== null && Buffer.compare(actual, wanted) === 0, `mutant ${i} of seed ${SEED}`).toBe(true);
    });
    expect(Math.min(read, refused)).toBeGreaterThan(20);
  });

  test('are read or refused in bounded time, whatever their bytes', () => {
    const header = [0x28, 0xb5, 0x2f, 0xfd, 0, 6 << 3];
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 300 }), fc.integer({ min: 0, max: 2 }), (bytes, type) => {
        const block = [1 | (type << 1) | ((bytes.length & 31) << 3), bytes.length >> 5, 0];
        try {
          decode(Uint8Array.from([...header, ...block, ...bytes]), 4096);
        } catch (error) {
          expect(error).toBeInstanceOf(DamagedData);
        }
      }),
      { numRuns: 3000 },
    );
  });

  test('that are nothing but tables are refused before they take long', () => {
    const block = compressed(codedLiterals(0, [...HUFFMAN_OF_TWO, 1]), NO_SEQUENCES);
    const source = zstdFrame(Array.from({ length: 100_000 }, (_, i) => (i < 99_999 ? { ...block } : rle(1, 1))));
    const started = performance.now();
    expect(damageOf(source, 2 ** 21)).toMatch(/split into more than \d+ zstd blocks with almost no data/);
    expect(performance.now() - started).toBeLessThan(2000);
  });
});

/** A tree of two symbols, 0 and 1, with codes of one bit. */
const HUFFMAN_OF_TWO = [127 + 1, 0x10];
/** Symbol 3 alone in a table of 32 states: a count of 32 behind three zeros. */
const NOTHING_ELSE: readonly Bits[] = [
  [0, 4],
  [1, 5],
  [2, 2],
  [63, 6],
];

describe('blocks made by hand', () => {
  test('use repeated offsets, with and without literals', () => {
    // literals length, offset and match length by codes of their own: [3 literals, 3 bytes from 3 back], [0, 3 of the second]
    const first = compressed(
      rawLiterals(1, 2, 3, 4, 5),
      sequences(1, [RLE, RLE, RLE], [3], [2], [0], backwardStream([2, 2])),
    );
    // offset value 6 = 3 back: 1 2 3 1 2 3, then the two literals left
    expect([...decode(zstdFrame([first]), 8)]).toEqual([1, 2, 3, 1, 2, 3, 4, 5]);
    // value 1 without literals means the second offset of 1, 4, 8
    const second = compressed(rawLiterals(), sequences(1, [RLE, RLE, RLE], [0], [0], [0], backwardStream()));
    expect([...decode(zstdFrame([raw(1, 2, 3, 4), second]), 7)]).toEqual([1, 2, 3, 4, 1, 2, 3]);
    // value 3 with a literal means the third, 8, and it becomes the first
    const third = compressed(rawLiterals(9), sequences(1, [RLE, RLE, RLE], [1], [1], [0], backwardStream([1, 1])));
    const again = compressed(rawLiterals(7), sequences(1, [REPEAT, RLE, REPEAT], [0], backwardStream()));
    expect([...decode(zstdFrame([raw(1, 2, 3, 4, 5, 6, 7, 8), third, again]), 16)]).toEqual([
      1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 7, 6, 7, 8,
    ]);
  });

  test('use tables of the block before, and trees', () => {
    const stream = backwardStream([0, 1], [1, 1], [1, 1], [0, 1]);
    const tree = compressed(codedLiterals(4, [...HUFFMAN_OF_TWO, ...stream]), NO_SEQUENCES);
    const treeless = compressed(codedLiterals(4, stream, 0, true), NO_SEQUENCES);
    expect([...decode(zstdFrame([tree, treeless]), 8)]).toEqual([0, 1, 1, 0, 0, 1, 1, 0]);
    const fse = compressed(
      rawLiterals(1, 2, 3),
      sequences(1, [FSE, RLE, RLE], forwardFields(...NOTHING_ELSE), [2], [0], backwardStream([0, 5], [2, 2])),
    );
    const repeat = compressed(
      rawLiterals(4, 5, 6),
      sequences(1, [REPEAT, REPEAT, REPEAT], backwardStream([0, 5], [2, 2])),
    );
    expect([...decode(zstdFrame([fse, repeat]), 12)]).toEqual([1, 2, 3, 1, 2, 3, 4, 5, 6, 4, 5, 6]);
  });

  const section = (...bytes: number[]): Block => compressed(bytes);
  const lengths = (literal: number, offset: number, match: number, ...extra: Bits[]): Block =>
    compressed(
      rawLiterals(1, 2, 3),
      sequences(1, [RLE, RLE, RLE], [literal], [offset], [match], backwardStream(...extra)),
    );

  test.each<readonly [damage: string, block: Block | readonly Block[]]>([
    // literals
    ['ends inside a zstd block', section()],
    ['ends inside the literals of a zstd block', section(31 << 3, 1, 2)],
    ['ends inside the literals of a zstd block', section(1 | (5 << 3))],
    ['ends inside the literals of a zstd block', section(2, 0)],
    ['ends inside the literals of a zstd block', section(...forwardFields([2, 2], [0, 2], [1, 10], [5, 10]))],
    [
      'has a zstd block of 65537 literals, more than 65536',
      section(1 | 12 | ((65537 & 15) << 4), 65537 >> 4, 65537 >> 12, 9),
    ],
    ['repeats a zstd Huffman tree that was never given', compressed(codedLiterals(1, [1], 0, true), NO_SEQUENCES)],
    // Huffman trees
    ['ends inside a zstd Huffman tree', compressed(codedLiterals(1, []), NO_SEQUENCES)],
    ['ends inside a zstd Huffman tree', compressed(codedLiterals(1, [50, 1, 2]), NO_SEQUENCES)],
    ['ends inside a zstd Huffman tree', compressed(codedLiterals(1, [127 + 9, 1, 2]), NO_SEQUENCES)],
    ['has a zstd Huffman weight of 15', compressed(codedLiterals(1, [127 + 1, 0xf0, 1]), NO_SEQUENCES)],
    ['has a zstd Huffman tree that is not complete', compressed(codedLiterals(1, [127 + 1, 0, 1]), NO_SEQUENCES)],
    ['has a zstd Huffman tree that is not complete', compressed(codedLiterals(1, [127 + 1, 0x20, 1]), NO_SEQUENCES)],
    ['has a zstd Huffman tree that is not complete', compressed(codedLiterals(1, [127 + 2, 0x41, 1]), NO_SEQUENCES)],
    ['has a zstd Huffman tree that is not complete', compressed(codedLiterals(1, [127 + 1, 0xb0, 1]), NO_SEQUENCES)],
    [
      'has a zstd Huffman tree that is cut off',
      compressed(codedLiterals(1, [3, ...forwardFields([0, 4], [63, 6]), 1]), NO_SEQUENCES),
    ],
    [
      'has a zstd bit stream without its end mark',
      compressed(codedLiterals(1, [2, ...forwardFields([0, 4], [63, 6])]), NO_SEQUENCES),
    ],
    [
      'has a zstd Huffman tree of more than 256 symbols',
      compressed(
        codedLiterals(1, [4, ...forwardFields([0, 4], [63, 6]), ...backwardStream([0, 5], [0, 5])]),
        NO_SEQUENCES,
      ),
    ],
    ['has a zstd table of 2^7 states, more than 2^6', compressed(codedLiterals(1, [2, 2, 1]), NO_SEQUENCES)],
    // Huffman streams
    ['has a zstd bit stream without its end mark', compressed(codedLiterals(1, HUFFMAN_OF_TWO), NO_SEQUENCES)],
    ['has a zstd bit stream without its end mark', compressed(codedLiterals(1, [...HUFFMAN_OF_TWO, 0]), NO_SEQUENCES)],
    [
      'has a zstd stream that does not end with its literals',
      compressed(codedLiterals(2, [...HUFFMAN_OF_TWO, ...backwardStream([1, 1])]), NO_SEQUENCES),
    ],
    [
      'has a zstd stream that does not end with its literals',
      compressed(codedLiterals(1, [...HUFFMAN_OF_TWO, ...backwardStream([1, 2])]), NO_SEQUENCES),
    ],
    [
      'has four zstd streams for too few literals',
      compressed(codedLiterals(5, [...HUFFMAN_OF_TWO, 1, 0, 1, 0, 1, 0, 1, 1, 1, 1], 1), NO_SEQUENCES),
    ],
    [
      'has four zstd streams for too few literals',
      compressed(codedLiterals(8, [...HUFFMAN_OF_TWO, 1, 0], 1), NO_SEQUENCES),
    ],
    [
      'has zstd streams that end beyond their block',
      compressed(codedLiterals(8, [...HUFFMAN_OF_TWO, 1, 0, 1, 0, 255, 255, 1, 1, 1, 1], 1), NO_SEQUENCES),
    ],
    // sequences
    ['ends inside a zstd block', compressed(rawLiterals(1))],
    ['ends inside a zstd block', compressed(rawLiterals(1), [128])],
    ['ends inside a zstd block', compressed(rawLiterals(1), [255, 1])],
    ['has bytes after a zstd block without sequences', compressed(rawLiterals(1), NO_SEQUENCES, [0])],
    ['has a reserved bit set in a zstd block', compressed(rawLiterals(1), [1])],
    ['has a reserved bit set in a zstd block', compressed(rawLiterals(1), [1, 2, 1])],
    [
      'repeats a zstd table of literals lengths',
      compressed(rawLiterals(1), sequences(1, [REPEAT, RLE, RLE], [0], [0], [1])),
    ],
    ['repeats a zstd table of offsets', compressed(rawLiterals(1), sequences(1, [RLE, REPEAT, RLE], [0], [0], [1]))],
    [
      'repeats a zstd table of match lengths',
      compressed(rawLiterals(1), sequences(1, [RLE, RLE, REPEAT], [0], [0], [1])),
    ],
    ['has an impossible zstd code among its literals lengths', lengths(36, 0, 0)],
    ['has an impossible zstd code among its offsets', lengths(0, 32, 0)],
    ['has an impossible zstd code among its match lengths', lengths(0, 0, 53)],
    [
      'has an impossible zstd code among its literals lengths',
      compressed(rawLiterals(), sequences(1, [RLE, RLE, RLE])),
    ],
    ['has a zstd table of 2^10 states, more than 2^9', compressed(rawLiterals(), sequences(1, [FSE, RLE, RLE], [5]))],
    [
      'has a zstd table of 2^9 states, more than 2^8',
      compressed(rawLiterals(), sequences(1, [RLE, FSE, RLE], [0], [4])),
    ],
    [
      'has a zstd table that does not end',
      compressed(rawLiterals(), sequences(1, [FSE, RLE, RLE], [0x10, 0xfe], new Array<number>(20).fill(255))),
    ],
    ['has a zstd table that does not end', compressed(rawLiterals(), sequences(1, [FSE, RLE, RLE], [0x10, 0xfe]))],
    [
      'has a zstd bit stream without its end mark',
      compressed(rawLiterals(), sequences(1, [PREDEFINED, PREDEFINED, PREDEFINED])),
    ],
    [
      'has zstd sequences that are cut off',
      compressed(rawLiterals(), sequences(1, [PREDEFINED, PREDEFINED, PREDEFINED], [1])),
    ],
    ['has zstd sequences that are cut off', lengths(3, 2, 0, [1, 1])],
    ['has zstd sequences that do not end with their stream', lengths(3, 2, 0, [2, 2], [0, 1])],
    ['has fewer zstd literals than it uses', lengths(4, 2, 0, [2, 2])],
    ['has a zstd match before the start of the cluster', lengths(3, 3, 0, [0, 3])],
    ['has a zstd match before the start of the cluster', lengths(3, 25, 0, [0, 25])],
    ['has a zstd match before the start of the cluster', [raw(1, 2), lengths(0, 1, 0, [1, 1])]],
    ['decompresses to more than the block', lengths(3, 2, 52, [2, 2], [0, 16])],
    ['decompresses to more than the block', [rle(4094, 0), compressed(rawLiterals(1, 2, 3), NO_SEQUENCES)]],
    ['decompresses to more than a cluster', [rle(4096, 0), raw(1)]],
  ])('%s', (damage, block) => {
    // a block before, so that there is something to copy from, and one behind, so that a wrong end is not the end
    const blocks = 'type' in block ? [block, rle(1, 1)] : [...block, rle(1, 1)];
    expect(damageOf(zstdFrame(blocks))).toContain(damage);
  });

  test('are refused where the frame tells another size or another checksum', () => {
    const sized = (size: number) => zstdFrame([raw(1, 2, 3)], { flags: 0x20, fields: [size] });
    expect([...decode(sized(3), 3)]).toEqual([1, 2, 3]);
    expect(damageOf(sized(4), 4)).toContain('has 3 bytes in a zstd frame of 4');
    expect(damageOf(sized(4), 3)).toContain('decompresses to more than a cluster');
    expect(damageOf(sized(2), 3)).toContain('has a zstd block of 3 bytes, more than the 2 of its window');
    const summed = (low: number) =>
      Buffer.concat([
        zstdFrame([raw(97, 98, 99)], { flags: 4 }),
        Uint8Array.of(low, 0x09, 0x77, 0xad).map((_, i) => [low, 0x09, 0x77, 0xad][i]!),
      ]);
    expect([...decode(summed(0x99), 3)]).toEqual([97, 98, 99]);
    expect(damageOf(summed(0x98), 3)).toContain('does not have the checksum of its zstd frame');
  });
});

/** XXH64 as its description has it. */
function naiveXxh64(bytes: Uint8Array): bigint {
  const [p1, p2, p3, p4, p5] = [
    0x9e3779b185ebca87n,
    0xc2b2ae3d27d4eb4fn,
    0x165667b19e3779f9n,
    0x85ebca77c2b2ae63n,
    0x27d4eb2f165667c5n,
  ];
  const u64 = (x: bigint): bigint => BigInt.asUintN(64, x);
  const rotate = (x: bigint, n: bigint): bigint => u64((x << n) | (u64(x) >> (64n - n)));
  const round = (acc: bigint, input: bigint): bigint => u64(rotate(u64(acc + input * p2), 31n) * p1);
  const buffer = Buffer.from(bytes);
  let at = 0;
  let hash = p5;
  if (bytes.length >= 32) {
    let lanes = [u64(p1 + p2), p2, 0n, u64(-p1)];
    for (; at + 32 <= bytes.length; at += 32)
      lanes = lanes.map((lane, i) => round(lane, buffer.readBigUInt64LE(at + 8 * i)));
    hash = u64([1n, 7n, 12n, 18n].reduce((sum, turn, i) => sum + rotate(lanes[i]!, turn), 0n));
    for (const lane of lanes) hash = u64((hash ^ round(0n, lane)) * p1 + p4);
  }
  hash = u64(hash + BigInt(bytes.length));
  for (; at + 8 <= bytes.length; at += 8)
    hash = u64(rotate(hash ^ round(0n, buffer.readBigUInt64LE(at)), 27n) * p1 + p4);
  if (at + 4 <= bytes.length) {
    hash = u64(rotate(hash ^ u64(BigInt(buffer.readUInt32LE(at)) * p1), 23n) * p2 + p3);
    at += 4;
  }
  for (; at < bytes.length; at++) hash = u64(rotate(hash ^ u64(BigInt(bytes[at]!) * p5), 11n) * p1);
  hash = u64((hash ^ (hash >> 33n)) * p2);
  hash = u64((hash ^ (hash >> 29n)) * p3);
  return hash ^ (hash >> 32n);
}

describe('xxh64', () => {
  test('has the known hashes', () => {
    expect(naiveXxh64(new Uint8Array(0))).toBe(0xef46db3751d8e999n);
    expect(naiveXxh64(Buffer.from('abc'))).toBe(0x44bc2cf5ad770999n);
    expect(xxh64Low(new Uint8Array(0))).toBe(0x51d8e999);
    expect(xxh64Low(Buffer.from('abc'))).toBe(0xad770999);
  });

  test('agrees with its description on any bytes', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 200 }), (bytes) => {
        expect(xxh64Low(bytes)).toBe(Number(naiveXxh64(bytes) & 0xffffffffn));
      }),
      { numRuns: 300 },
    );
  });
});
