// LZFSE and LZVN: what the encoder of the tests writes comes back, instructions made by hand, and damage.

import { describe, expect, test } from 'vitest';
import { decompressLzfse } from '../../../src/codec/lzfse/index.ts';
import { damageOf, describeDecoder } from '../../support/decoder-tests.ts';
import { compressLzfse, compressLzvn, lzvnHeader } from '../../support/lzfse-encoder.ts';

function rawBlock(content: Uint8Array): Buffer {
  const header = Buffer.from('bvx-\0\0\0\0');
  header.writeUInt32LE(content.length, 4);
  return Buffer.concat([header, content]);
}

const END = Buffer.from('bvx$');
const withoutEnd = (stream: Buffer): Buffer => stream.subarray(0, -END.length);

describeDecoder('LZFSE', {
  decode: decompressLzfse,
  encoders: {
    'compressed tables': (content) => compressLzfse(content, 2),
    'uncompressed tables': (content) => compressLzfse(content, 1),
    'raw bytes': (content) => Buffer.concat([rawBlock(content), END]),
    LZVN: compressLzvn,
    'a block of each kind': (content) => {
      const [a, b, c] = [1, 2, 3].map((i) => Math.floor((content.length * i) / 4)) as [number, number, number];
      return Buffer.concat([
        withoutEnd(compressLzfse(content.subarray(0, a), 2)),
        rawBlock(content.subarray(a, b)),
        withoutEnd(compressLzvn(content.subarray(b, c))),
        compressLzfse(content.subarray(c), 1),
      ]);
    },
  },
  hasChecksum: false,
  head: [...Buffer.from('bvx2')],
  largest: 300_000,
});

/** A stream of one LZVN block. */
function lzvn(rawBytes: number, ...code: number[]): Buffer {
  return Buffer.concat([lzvnHeader(rawBytes, code.length), Buffer.from(code), END]);
}
const EOS = [6, 0, 0, 0, 0, 0, 0, 0];

describe('LZVN instructions', () => {
  test.each<[string, number[], number[]]>([
    ['small and large literals', [0xe2, 1, 2, 0xe0, 0, ...Array(16).fill(7)], [1, 2, ...Array(16).fill(7)]],
    ['a small distance with literals', [0xe1, 9, 0b10_001_000, 2, 4, 5], [9, 4, 5, 4, 5, 4, 5]],
    ['a medium distance', [0xe2, 1, 2, 0b101_01_000, 0b0000_1101, 0, 3], [1, 2, 3, 1, 2, 3, 1]],
    ['a large distance', [0xe2, 1, 2, 0b01_000_111, 3, 0, 3], [1, 2, 3, 1, 2, 3]],
    [
      'the last distance',
      [0xe2, 1, 2, 0x00, 2, 0b01_000_110, 5, 0xf1, 0xf0, 0],
      [1, 2, 1, 2, 1, 5, 1, 5, 1, 5, ...Array(8).fill([1, 5]).flat()],
    ],
    ['nothing', [0x0e, 0xe1, 3, 0x16], [3]],
  ])('copy %s', (_, code, output) => {
    expect([...decompressLzfse(lzvn(output.length, ...code, ...EOS), output.length)]).toEqual(output);
  });

  test('may go back over the blocks before', () => {
    const source = Buffer.concat([rawBlock(Buffer.from([1, 2, 3])), lzvn(4, 0x40, 3, 9, ...EOS)]);
    expect([...decompressLzfse(source, 7)]).toEqual([1, 2, 3, 9, 2, 3, 9]);
  });

  test.each<[number[], number, RegExp]>([
    [[0x1e], 1, /unknown LZVN instruction 0x1e/],
    [[0x70], 1, /unknown LZVN instruction 0x70/],
    [[0x7f], 1, /unknown LZVN instruction 0x7f/],
    [[0xd0], 1, /unknown LZVN instruction 0xd0/],
    [[0xdf], 1, /unknown LZVN instruction 0xdf/],
    [[0xf1, ...EOS], 1, /match before its start/],
    [[0xe1, 1, 0, 0, ...EOS], 4, /match before its start/],
    [[0xe1, 1, 0, 2, ...EOS], 4, /match before its start/],
    [[0xe1, 1, 0, 1, ...EOS], 3, /more bytes than its header says/],
    [[0xe1, 1, ...EOS], 2, /ends in a wrong place/],
    [[0xe1, 1, ...EOS, 0], 1, /ends in a wrong place/],
    [[0xe1, 1, ...EOS.slice(1)], 1, /ends|match|more/],
    [[0xe2, 1], 2, /ends inside an LZVN block/],
    [[0xe1, 1], 1, /ends inside an LZVN block/],
    [[], 0, /ends inside an LZVN block/],
  ])('%j for %i bytes are refused', (code, rawBytes, sentence) => {
    expect(damageOf(() => decompressLzfse(lzvn(rawBytes, ...code), rawBytes))).toMatch(sentence);
  });
});

describe('a block of LZFSE', () => {
  const content = Buffer.from('a block that says a block that says a block that says much, much, much');

  /** That block with one 32-bit word of its header changed. */
  const changed = (version: 1 | 2, at: number, change: (word: number) => number): Buffer => {
    const stream = compressLzfse(content, version);
    stream.writeUInt32LE(change(stream.readUInt32LE(at)) >>> 0, at);
    return stream;
  };

  test.each<[string, 1 | 2, number, (word: number) => number, RegExp]>([
    ['more raw bytes than the output', 1, 4, (word) => word + 1, /more than/],
    ['fewer raw bytes', 1, 4, (word) => word - 1, /more bytes than its header says/],
    ['no raw bytes', 1, 4, () => 0, /literals and .* matches in an LZFSE block of 0 bytes/],
    ['more literals than a block may have', 1, 12, () => 40_004, /has 40004 literals/],
    ['more literals than bytes', 1, 12, () => 76, /has 76 literals/],
    ['literals that are no multiple of four', 1, 12, (word) => word - 1, /literals/],
    ['fewer literals', 1, 12, (word) => word - 4, /too few literals|is too short|before/],
    ['more matches than a block may have', 1, 16, () => 10_001, /10001 matches/],
    ['more matches than bytes', 1, 16, () => 71, /71 matches/],
    ['fewer matches', 1, 16, (word) => word - 1, /fewer bytes than its header says/],
    ['eight unused bits', 1, 28, () => -8, /has 8 unused bits/],
    ['a negative number of unused bits', 1, 40, () => 1, /has -1 unused bits/],
    ['a state of literals that does not exist', 1, 32, (word) => (word & 0xffff0000) | 1024, /impossible states/],
    ['an L state that does not exist', 1, 44, (word) => (word & 0xffff0000) | 64, /impossible states/],
    ['frequencies of more than all states', 1, 50, (word) => word + 1, /do not add up/],
    ['a payload beyond the stream', 1, 20, () => 2 ** 31, /ends after 0 of 70 bytes/],
    ['a header beyond the stream', 2, 24, () => 2 ** 31, /ends inside the header/],
    ['a header of 31 bytes', 2, 24, () => 31, /ends inside the header/],
    ['a header that ends in its frequencies', 2, 24, (word) => word - 2, /ends inside the frequencies/],
    ['a header with bytes after its frequencies', 2, 24, (word) => word + 1, /bytes after the frequencies/],
    ['no frequencies', 2, 24, () => 32, /do not add up/],
  ])('with %s is refused', (_, version, at, change, sentence) => {
    expect(damageOf(() => decompressLzfse(changed(version, at, change), content.length))).toMatch(sentence);
  });

  test('of an unknown kind is refused', () => {
    expect(damageOf(() => decompressLzfse(Buffer.from('bvx3....'), 1))).toBe('has no LZFSE block where one is due');
  });
});

test('streams that are nothing but blocks are refused before they take long', () => {
  const blocks = Buffer.concat([...Array.from({ length: 100_000 }, () => rawBlock(Buffer.alloc(0))), END]);
  expect(damageOf(() => decompressLzfse(blocks, 4096))).toMatch(/is split into more than \d+ blocks for 4096 bytes/);
});

/** What Apple's own encoder (github.com/lzfse/lzfse) makes of these lines: LZVN for a few, LZFSE for many. */
const APPLE: readonly (readonly [lines: number, stream: string])[] = [
  [
    12,
    'YnZ4bqMAAABRAAAA7jAgbGluZXMgb2YgMAoxOA3OMQoy9s40CjP2yCc5CjT3yA42CjX25DI1Cjb6yF4zNgr3mF80OfaYYDY09phhODH2bjP04z' +
      'I0CgYAAAAAAAAAYnZ4JA==',
  ],
  [
    330,
    'YnZ4MtgRAAAcASAIADsBUDikMD/7IQIgowAAAD8EQAEfwANwpAAACIAAAOjJJ3AmhVsBIAACvATAMT8AT8A6vbkbJ3vv2z0CAAAAAABwAwDAFw' +
      'AAAAAAwBkAAADwBTwMT8Y38VT8DW/GU/FGfBMAAAAAAAAAAAAAwBgwYDAGMAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA' +
      'gLZwTrQjGPz7dbOFpAPKtVOndZEnCwE9nUB7OBUHWUhZnSksqHKSTchoh/vyQMb2pTUp/TMehE17+V2VzzmxNcu3jg4cAjeMn6dnEsDMTIk2p5' +
      'Fs67U2JnNnP59DEyIqLY9U6zXeSy7xkx6sfRPThd+JuryR1iGzyFnQ8VX4zzcAAAAAAAAAAAAAkAzL2LP0dTtgSrV1xXgV96G7I3iz7iImGQ+8' +
      '83P0LZvFXfkRhfHsxmGS3mBS4IAvztys65Lx2BrLMMLlzo01/GkNDhH7xoZE1/n2gx494VkeaLgviZmLqFd/Pj6Zf3yHwdCUz/bZnS4MJUn1Ju' +
      'qqHIXCUZm35zE19BOry8XZUnBtpC3k5QpHFTrizTYhxstjaoDzbGJ/lihpEo566s9jHtta0OnxJw0xmvQKjEtS2112uL0zodq6Y7yL2+pHgGej' +
      'Rdwy8O2TCmx20Ub5EYfx6cZlkie28LAtct3s65rxpChh4uQuzir+aQUOEfvGhkz3+feDH73h2R8ouC+JM0voUI4+nph/fCcdK745s9xd+Eqeik' +
      '3UVTkKhaMyb89jem6WAhd2S/G18bZ8mI5INARrp/GeaCmjRYSdNQqqy4RpRkUUomDUe+xLY7O73hnf5De37LxaTTRU1YeiXipEYDZSRCw4bk/c' +
      '4Bbd5cdjqITLNEgo4QFR5Ae74MVzSFqooMLISDnVCMpGnHfjNUH9YBV4OJLzoYHfiTKzRscyVk6m1UzpS6n+BpV6yk//ZuaqVoXCUc/78zQ4D0' +
      'txk7F/j5/BzlAR0ItJ0WvCgupRHIuADq/gcsDkxcpHKSzyUtnI1ny7J4addG+rnGj/SLOKE0Gw15t44k3QzOawwxIKSAZk6UPr9JdHzGnKy7xC' +
      'LyDwRxH0FvoHfY6gB2J2eCQ=',
  ],
];

test.each(APPLE)('what the encoder of Apple has made of %i lines is read', (lines, stream) => {
  const text = Array.from({ length: lines }, (_, i) => `${i % 7} lines of ${(i * i) % 97}\n`).join('');
  const decoded = decompressLzfse(Buffer.from(stream, 'base64'), text.length);
  expect(Buffer.from(decoded).toString()).toBe(text);
});
