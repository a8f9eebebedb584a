// xz: what the xz program writes with every option that shapes a stream comes back, and damage is told.

import { execFileSync } from 'node:child_process';
import { crc32 } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { decompressXz } from '../../../src/codec/xz/index.ts';
import { CONTENTS } from '../../support/compressible.ts';
import { damageOf, describeDecoder } from '../../support/decoder-tests.ts';
import { seededRandom } from '../../support/random.ts';
import { hasCommand, requireOrSkip } from '../../support/requirements.ts';

const xz = (content: Uint8Array, ...options: string[]): Buffer =>
  execFileSync('xz', ['-c', '-T1', ...options], { input: content, maxBuffer: 2 ** 28 });

describeDecoder('xz', {
  decode: decompressXz,
  program: 'xz',
  encoders: {
    'the default': (content) => xz(content),
    'level 0, CRC-32': (content) => xz(content, '-0', '--check=crc32'),
    'level 9e, SHA-256': (content) => xz(content, '-9e', '--check=sha256'),
    'blocks of 1000 bytes': (content) => xz(content, '--block-size=1000'),
    'other properties': (content) => xz(content, '--lzma2=dict=4096,lc=0,lp=4,pb=4'),
    'sizes in block headers': (content) => xz(content, '-T2', '--block-size=20000'),
  },
  hasChecksum: true,
  head: [...Buffer.from('fd377a585a000004e6d6b4460200210116000000742fe5a3', 'hex')],
  largest: 3_000_000,
});

test('without a check comes back', (context) => {
  requireOrSkip(context, hasCommand('xz'), 'xz');
  const content = CONTENTS['mixed']!(100_000, seededRandom(1));
  expect(Buffer.compare(decompressXz(xz(content, '--check=none'), content.length), content)).toBe(0);
});

describe('damage is told:', () => {
  const CONTENT = Buffer.from('some bytes that are compressed, bytes that are compressed');

  test.for<[string, (stream: Buffer) => void, RegExp]>([
    ['another magic', (s) => void s.writeUInt8(0, 0), /does not begin with an xz stream/],
    ['another checksum of the header', (s) => void s.writeUInt8(s[8]! ^ 1, 8), /checksum of its xz header/],
    ['an unknown check', (s) => fixed(s, 7, 2, 6, 8), /xz flags of 0, 2, which are unknown/],
    ['reserved flags of a block', (s) => fixed(s, 13, 4, 12, 20), /reserved flags/],
    ['two filters', (s) => fixed(s, 13, 1, 12, 20), /filter 0x21; only LZMA2 alone/],
    ['another filter', (s) => fixed(s, 14, 4, 12, 20), /filter 0x4; only LZMA2 alone/],
    ['a dictionary that is too large', (s) => fixed(s, 16, 41, 12, 20), /dictionary of the impossible size 41/],
    ['padding of a block header', (s) => fixed(s, 17, 1, 12, 20), /padding that is not zero/],
    ['an unknown chunk', (s) => void s.writeUInt8(3, 24), /chunk of the unknown kind 3/],
    ['a first chunk without a dictionary', (s) => void s.writeUInt8(0xc0, 24), /no dictionary in its first/],
    ['a first chunk without properties', (s) => void s.writeUInt8(0x02, 24), /no dictionary in its first/],
    ['impossible properties', (s) => void s.writeUInt8(225, 29), /properties of 225/],
    ['literal bits that are too many', (s) => void s.writeUInt8(5 + 9 * 4, 29), /properties of 41/],
    ['an index of another size', (s) => void s.writeUInt8(s.at(-18)! ^ 1, s.length - 18), /index/],
    [
      'another checksum of the index',
      (s) => void s.writeUInt8(s.at(-13)! ^ 1, s.length - 13),
      /checksum of its xz index/,
    ],
    [
      'another checksum of the footer',
      (s) => void s.writeUInt8(s.at(-12)! ^ 1, s.length - 12),
      /checksum of its xz footer/,
    ],
    ['another magic of the footer', (s) => void s.writeUInt8(0, s.length - 1), /footer that does not fit/],
  ])('%s', ([, change, sentence], context) => {
    requireOrSkip(context, hasCommand('xz'), 'xz');
    const stream = xz(CONTENT);
    change(stream);
    expect(damageOf(() => decompressXz(stream, CONTENT.length))).toMatch(sentence);
  });

  /** Changes a byte of a part whose checksum, behind its end, is made right again. */
  function fixed(stream: Buffer, at: number, value: number, start: number, end: number): void {
    stream[at] = value;
    stream.writeUInt32LE(crc32(stream.subarray(start, end)), end);
  }

  test('chunks that produce almost nothing are refused before they take long', () => {
    const head = Buffer.from('fd377a585a000004e6d6b4460200210116000000742fe5a3', 'hex');
    const chunk = Buffer.from([0x01, 0, 0, 65]);
    const source = Buffer.concat([head, ...Array.from({ length: 100_000 }, () => chunk)]);
    expect(damageOf(() => decompressXz(source, 4096))).toMatch(/split into more than \d+ blocks/);
  });
});
