// Compressed clusters: descriptors against naive BigInt formulas, both kinds of stream, and streams that lie.

import { constants, deflateRawSync } from 'node:zlib';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Decoder, decodeHere, nativeDecoder } from '../../../../src/codec/zstd/index.ts';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { decompress, parseCompressedDescriptor } from '../../../../src/format/qcow2/compressed.ts';
import { seededRandom } from '../../../support/random.ts';
import { type Block, raw, rle, SKIPPABLE, zstdFrame } from '../../codec/zstd-frames.ts';

const COMPRESSED = 1n << 62n;

function words(entry: bigint): [high: number, low: number] {
  return [Number(entry >> 32n), Number(entry & 0xffffffffn)];
}

/** Runs `act`, which must throw corrupt. @returns the sentence */
function corruptSentence(act: () => unknown): string {
  try {
    act();
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    expect((error as ImgfuseError).kind).toBe('corrupt');
    return (error as Error).message;
  }
  throw new Error('nothing was thrown');
}

describe('a compressed cluster descriptor', () => {
  test('is split as the specification says, for every cluster size', () => {
    const entry = fc.record({
      clusterBits: fc.integer({ min: 9, max: 21 }),
      offset: fc.bigInt({ min: 1n, max: 2n ** 53n - 2n ** 24n }),
      sectors: fc.nat(),
      copied: fc.boolean(),
    });
    fc.assert(
      fc.property(entry, ({ clusterBits, offset, sectors, copied }) => {
        const x = BigInt(62 - (clusterBits - 8));
        const place = offset % (1n << x) || 1n;
        const additional = BigInt(sectors) % (1n << BigInt(clusterBits - 8));
        const value = COMPRESSED | (additional << x) | place | (copied ? 1n << 63n : 0n);
        const parsed = parseCompressedDescriptor(...words(value), clusterBits);
        expect(BigInt(parsed.hostOffset)).toBe(place);
        expect(BigInt(parsed.length)).toBe((additional + 1n) * 512n - (place % 512n));
        expect(parsed.length).toBeLessThanOrEqual(2 * 2 ** clusterBits);
        expect((parsed.hostOffset + parsed.length) % 512).toBe(0);
      }),
      { numRuns: 3000 },
    );
  });

  test('may have the last safe host offset and not the next', () => {
    const last = 2n ** 53n - 1024n;
    expect(parseCompressedDescriptor(...words(COMPRESSED | last), 9).hostOffset).toBe(Number(last));
    for (const offset of [2n ** 53n - 512n, 2n ** 53n, 2n ** 55n, 2n ** 56n - 1n]) {
      const parse = () => parseCompressedDescriptor(...words(COMPRESSED | offset), 9);
      expect(corruptSentence(parse)).toContain('impossible host offset');
    }
  });

  test('is refused with a bit above 55 in its host offset', () => {
    // bits 56 to x - 1 exist up to 32 KiB clusters; x is 55 for 32 KiB
    for (const [clusterBits, bit] of [
      [9, 56n],
      [9, 60n],
      [13, 56n],
    ] as const) {
      const parse = () => parseCompressedDescriptor(...words(COMPRESSED | (1n << bit) | 512n), clusterBits);
      expect(corruptSentence(parse)).toContain(`0x${((1n << bit) | 512n).toString(16)};`);
    }
  });

  test('is refused at host offset 0, with the file and the place of the entry', () => {
    const parse = () => parseCompressedDescriptor(0x40000000, 0, 16, { path: '/disk.qcow2', offset: 262152 });
    expect(corruptSentence(parse)).toContain('/disk.qcow2: the L2 entry at offset 262152 is 0x4000000000000000');
  });

  test('with a cluster size that the header check refuses is a programmer error', () => {
    for (const bits of [8, 22, Number.NaN]) {
      expect(() => parseCompressedDescriptor(0x40000000, 512, bits)).toThrow(/assertion/);
    }
  });
});

/** Text-like bytes: repetitive near by and, unless `reach` is small, far away. */
function compressible(length: number, seed: number, reach: number): Uint8Array {
  const random = seededRandom(seed);
  const bytes = new Uint8Array(length);
  for (let i = 0; i < length; ) {
    const run = 1 + Math.floor(random() * 40);
    const back = Math.floor(random() * reach);
    for (let j = 0; j < run && i < length; j++, i++)
      bytes[i] = back < i && run > 8 ? bytes[i - back - 1]! : random() * 256;
  }
  return bytes;
}

function withGarbage(stream: Uint8Array, length: number): Uint8Array {
  const garbage = Uint8Array.from({ length }, (_, i) => (i * 37 + 11) % 256);
  return Buffer.concat([stream, garbage]);
}

describe('a deflated cluster', () => {
  test.each([512, 4096, 65536, 2 ** 21])('of %i bytes inflates, whatever stands behind it', (size) => {
    for (const windowBits of [9, 12, 15]) {
      const cluster = compressible(size, size, 32768);
      const stream = deflateRawSync(cluster, { windowBits });
      for (const garbage of [0, 1, 511, 5000]) {
        const inflated = decompress('zlib', withGarbage(stream, garbage), size);
        expect(Buffer.compare(inflated, cluster), `${windowBits} bits, ${garbage} bytes behind`).toBe(0);
      }
    }
  });

  test('that inflates without end gives its first cluster and takes no more memory than that', () => {
    const bomb = deflateRawSync(Buffer.alloc(256 * 1024 * 1024, 7));
    const before = process.memoryUsage().arrayBuffers;
    const cluster = decompress('zlib', bomb, 65536);
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(1024 * 1024);
    expect(Buffer.compare(cluster, Buffer.alloc(65536, 7))).toBe(0);
  });

  test.each([
    ['of one byte more than a cluster', 0, 'none'],
    ['of twice a cluster', 65535, 'none'],
    ['without an end', 0, 'cut'],
    ['with damage behind the cluster', 0, 'damage'],
  ] as const)('%s is read up to the end of the cluster, by whatever blocks', (_name, more, behind) => {
    for (const strategy of [constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY]) {
      for (const level of [0, 1, 9]) {
        const cluster = compressible(65536, level + 10, 32768);
        const content = Buffer.concat([cluster, compressible(more + 1, 3, 100)]);
        const whole = deflateRawSync(content, { level, strategy });
        const cut = deflateRawSync(cluster, { level, strategy, finishFlush: constants.Z_SYNC_FLUSH });
        const tail = behind === 'damage' ? Buffer.alloc(100, 0xff) : Buffer.alloc(0);
        const stream = behind === 'none' ? whole : Buffer.concat([cut, tail]);
        expect(Buffer.compare(decompress('zlib', stream, 65536), cluster), `${strategy} ${level}`).toBe(0);
      }
    }
  });

  test('without an end is read as the library reads one with an end, for any content', () => {
    fc.assert(
      fc.property(fc.nat(), fc.constantFrom(1, 6, 9), fc.integer({ min: 9, max: 15 }), (seed, level, windowBits) => {
        const cluster = compressible(4096, seed, 4096);
        const stream = deflateRawSync(Buffer.concat([cluster, cluster]), { level, windowBits });
        expect(Buffer.compare(decompress('zlib', stream, 4096), cluster)).toBe(0);
      }),
      { numRuns: 200 },
    );
  });

  test.each([
    [4095, 'decompresses to 4095 bytes instead of 4096'],
    [0, 'decompresses to 0 bytes instead of 4096'],
  ])('of %i bytes is corrupt where a cluster has 4096', (length, reason) => {
    const stream = deflateRawSync(new Uint8Array(length).fill(7));
    const decompressed = () => decompress('zlib', stream, 4096, { path: '/d.qcow2', offset: 70000 });
    expect(corruptSentence(decompressed)).toContain(
      `/d.qcow2: the compressed cluster at offset 70000 (zlib) ${reason}`,
    );
  });

  test('that ends before the cluster is full is corrupt', () => {
    const stream = deflateRawSync(compressible(4096, 1, 4096));
    for (const kept of [0, 1, 10, stream.length - 8]) {
      const sentence = corruptSentence(() => decompress('zlib', stream.subarray(0, kept), 4096));
      expect(sentence).toMatch(/\(zlib\) ends after \d+ of 4096 bytes/);
    }
  });

  test('with damage anywhere gives a cluster or a sentence', () => {
    const stream = deflateRawSync(compressible(4096, 2, 4096));
    fc.assert(
      fc.property(damage(stream.length), (changes) => isClusterOrCorrupt('zlib', damagedCopy(stream, changes))),
    );
  });
});

type Changes = readonly (readonly [at: number, value: number])[];

function damage(length: number): fc.Arbitrary<Changes> {
  return fc.array(fc.tuple(fc.nat({ max: length - 1 }), fc.nat({ max: 255 })), { minLength: 1, maxLength: 4 });
}

function damagedCopy(stream: Uint8Array, changes: Changes): Uint8Array {
  const copy = Uint8Array.from(stream);
  for (const [at, value] of changes) copy[at] = value;
  return copy;
}

function isClusterOrCorrupt(type: 'zlib' | 'zstd', source: Uint8Array, decoder?: Decoder): void {
  try {
    expect(decompress(type, source, 4096, {}, decoder)).toHaveLength(4096);
  } catch (error) {
    expect((error as ImgfuseError).kind).toBe('corrupt');
  }
}

/** The text that ZSTD_TEXT holds, compressed by zstd 1.5.4 at level 19. */
const TEXT = Buffer.from(
  Array.from({ length: 400 }, (_, i) => `line ${(i * 7919) % 1000} of a compressed cluster, ${(i * i) % 97}\n`).join(
    '',
  ),
).subarray(0, 4096);
const ZSTD_TEXT = Buffer.from(
  'KLUv/WAADx0NAGYiSBeQudABeEC/vBqx2H3RJGWSKckNWNcbgE0APQA9APNrwvlFNoqD5pLSmVMs7qBxiuwSop5aUvkYx7caSS3Dl6zZzch8PJNPQy3W' +
    'vgMMQ0ACQmGxkDgYBhCLBSIBwUBxMAgYCBSGYUAcFCQCVXS6a2jMR5JsQ/xOJZmaIW/WtKnVR3hydZjstVwi3zhszeO9XBEhYadGq14lGTTjjUtIY7jq' +
    '+2KHvntaYux8yJAbHiRlGU2ctvyRt96p2PL6V8YMsraO5SUhTVXHnSGJePWi11z04WcbnWsitgxWWRTWrU3HFvM0aCoXGqeOVpERklx1red9TWPSeKRI' +
    '3lcf41194sFuFekM3kWP3JHqmBe/Y1TvtBIqcl4pqbMJ+RMiGWsofoDdqCEcne9/B7CdAxEkeCL8iPD4PQPLwWFAmhCemKgoSLQZdAJuw9IVh4qJUE4G' +
    'kGirRnMEJ3RYZoFQgZXIiMMMEcsSjCEoYiCREQdyw+noJGxYE8ITOLCYJhAKCq6CgzgpbFGSmYDNEGYkoiRtE4EkQYQK85CwQHtwkhipAKkK',
  'base64',
);

const decoders: readonly (readonly [name: string, decoder: Decoder])[] = [
  ['the decoder of this Node', nativeDecoder],
  ['our own decoder', decodeHere],
];

describe.each(decoders)('a zstd cluster read by %s', (_name, decoder) => {
  const read = (source: Uint8Array, clusterSize = 4096) => decompress('zstd', source, clusterSize, {}, decoder);

  test('decompresses, whatever stands behind its frame', () => {
    for (const behind of [0, 1, 3, 4, 8, 511]) {
      expect(Buffer.compare(read(withGarbage(ZSTD_TEXT, behind)), TEXT)).toBe(0);
      expect(Buffer.compare(read(Buffer.concat([ZSTD_TEXT, new Uint8Array(behind)])), TEXT)).toBe(0);
    }
    // another frame behind it is garbage, too
    expect(Buffer.compare(read(Buffer.concat([ZSTD_TEXT, ZSTD_TEXT])), TEXT)).toBe(0);
  });

  test('may have several blocks and frames, and frames to skip', () => {
    const whole = zstdFrame([rle(4000, 65), raw(1, 2, 3), rle(93, 66)]);
    const expected = Buffer.concat([Buffer.alloc(4000, 65), Buffer.from([1, 2, 3]), Buffer.alloc(93, 66)]);
    expect(Buffer.compare(read(whole), expected)).toBe(0);
    const split = [SKIPPABLE, zstdFrame([rle(4000, 65)]), SKIPPABLE, zstdFrame([raw(1, 2, 3), rle(93, 66)]), [9, 9]];
    expect(Buffer.compare(read(Buffer.concat(split.map((part) => Uint8Array.from(part)))), expected)).toBe(0);
  });

  test('of 2 MiB has many blocks', () => {
    const frame = zstdFrame(
      Array.from({ length: 16 }, (_, i) => rle(131072, i)),
      { window: 11 << 3 },
    );
    const cluster = read(frame, 2 ** 21);
    for (let i = 0; i < 16; i++)
      expect(cluster.subarray(i * 131072, (i + 1) * 131072).every((b) => b === i)).toBe(true);
  });

  test.each<readonly [reason: string, source: Uint8Array]>([
    ['decompresses to 4095 bytes instead of 4096', zstdFrame([rle(4095, 1)])],
    ['decompresses to 0 bytes instead of 4096', Buffer.concat([SKIPPABLE])],
    ['decompresses to more than a cluster', zstdFrame([rle(4096, 1), rle(1, 1)])],
    ['decompresses to more than a cluster', zstdFrame(Array.from({ length: 9000 }, () => rle(65536, 1)))],
    ['does not begin with a zstd frame', new Uint8Array(512)],
    ['does not begin with a zstd frame', Buffer.concat([zstdFrame([rle(4095, 1)]), new Uint8Array(512)])],
    ['ends before a zstd frame begins', new Uint8Array(0)],
    ['ends before a zstd frame begins', ZSTD_TEXT.subarray(0, 7)],
    ['ends inside a zstd frame', ZSTD_TEXT.subarray(0, ZSTD_TEXT.length - 1)],
    ['ends inside a zstd frame', ZSTD_TEXT.subarray(0, 9)],
    ['ends inside a zstd frame', zstdFrame([rle(4096, 1)], { flags: 4 })],
    ['reserved bit', zstdFrame([rle(4096, 1)], { flags: 8 })],
    ['dictionary', zstdFrame([rle(4096, 1)], { flags: 1, fields: [5] })],
    ['reserved type', zstdFrame([{ type: 'reserved', size: 0, bytes: [] }])],
    ['block of 65537 bytes', zstdFrame([rle(65537, 1)])],
    ['window of 150994944 bytes', zstdFrame([rle(4096, 1)], { window: (17 << 3) | 1 })],
    ['window of 1099511627776 bytes', zstdFrame([rle(4096, 1)], { window: 30 << 3 })],
    ['window of 72057594037927940 bytes', zstdFrame([rle(4096, 1)], { flags: 0xe0, fields: [0, 0, 0, 0, 0, 0, 0, 1] })],
    ['more than 16 zstd frames', Buffer.concat(Array.from({ length: 17 }, () => SKIPPABLE))],
    ['ends beyond its sectors', Uint8Array.from([0x53, 0x2a, 0x4d, 0x18, 255, 255, 255, 255, 0])],
  ])('is corrupt: %s', (reason, source) => {
    expect(corruptSentence(() => read(source))).toContain(reason);
  });

  test('that would be decoded for minutes is corrupt within seconds', () => {
    // 98303 matches of 65539 bytes each that end far beyond the block, from tables of one symbol; and one block of many
    const block: Block = { type: 'compressed', size: 11, bytes: [8, 65, 255, 255, 255, 0x54, 0, 0, 52, 0, 1] };
    const started = performance.now();
    expect(corruptSentence(() => read(zstdFrame([block, rle(4096, 1)]), 65536))).toContain('(zstd)');
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test('with damage anywhere gives a cluster or a sentence', () => {
    fc.assert(
      fc.property(damage(ZSTD_TEXT.length), (changes) => {
        isClusterOrCorrupt('zstd', damagedCopy(ZSTD_TEXT, changes), decoder);
      }),
      { numRuns: 100 },
    );
  });
});
