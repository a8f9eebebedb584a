// bzip2: what the bzip2 program writes at every level comes back, and damage is told.

import { execFileSync } from 'node:child_process';
import { describe, expect, test } from 'vitest';
import { decompressBzip2 } from '../../../src/codec/bzip2.ts';
import { damageOf, describeDecoder } from '../../support/decoder-tests.ts';
import { hasCommand, requireOrSkip } from '../../support/requirements.ts';

const bzip2 = (content: Uint8Array, level = 9): Buffer =>
  execFileSync('bzip2', ['-c', `-${level}`], { input: content, maxBuffer: 2 ** 28 });

describeDecoder('bzip2', {
  decode: decompressBzip2,
  program: 'bzip2',
  encoders: { 'level 9': (content) => bzip2(content), 'level 1': (content) => bzip2(content, 1) },
  hasChecksum: true,
  head: [...Buffer.from('BZh91AY&SY')],
  largest: 1_900_000,
});

test('runs of every length come back, over the ends of blocks as well', (context) => {
  requireOrSkip(context, hasCommand('bzip2'), 'bzip2');
  const runs = Array.from({ length: 600 }, (_, i) => Buffer.alloc(i, i));
  const content = Buffer.concat([...runs, Buffer.alloc(300_000, 1), ...runs]);
  expect(Buffer.compare(decompressBzip2(bzip2(content, 1), content.length), content)).toBe(0);
});

describe('damage is told:', () => {
  // the fields of the first block come after 4 bytes of header, 6 of magic and 4 of checksum
  const damaged = (at: number, change: (byte: number) => number): Buffer => {
    const stream = bzip2(Buffer.from('some bytes that are compressed'));
    stream[at] = change(stream[at]!);
    return stream;
  };

  test.for<[string, number, (byte: number) => number, RegExp]>([
    ['another magic', 0, () => 0x43, /does not begin with a bzip2 stream/],
    ['another version', 2, () => 0x30, /does not begin with a bzip2 stream/],
    ['level 0', 3, () => 0x30, /does not begin with a bzip2 stream/],
    ['a level above 9', 3, () => 0x3a, /does not begin with a bzip2 stream/],
    ['no block', 4, () => 0, /has no bzip2 block where one is due/],
    ['another checksum', 10, (byte) => byte ^ 1, /checksum of its bzip2 block/],
    ['a randomized block', 14, (byte) => byte | 0x80, /randomized/],
    ['a start beyond the block', 15, () => 0xff, /begins outside of itself/],
  ])('%s', ([, at, change, sentence], context) => {
    requireOrSkip(context, hasCommand('bzip2'), 'bzip2');
    expect(damageOf(() => decompressBzip2(damaged(at, change), 30))).toMatch(sentence);
  });

  test('another checksum of the stream', (context) => {
    requireOrSkip(context, hasCommand('bzip2'), 'bzip2');
    const stream = bzip2(Buffer.alloc(0));
    stream[10]! ^= 1;
    expect(damageOf(() => decompressBzip2(stream, 0))).toMatch(/checksum of its bzip2 stream/);
  });
});
