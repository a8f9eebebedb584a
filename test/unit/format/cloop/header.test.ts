// The cloop header and its table: what they say, and each limit with the value just outside.

import { deflateSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { readHeader } from '../../../../src/format/cloop/header.ts';
import { cloop } from '../../../../src/format/cloop/index.ts';
import { endsOf, isSigned } from '../../../../src/format/file-ends.ts';
import { type CloopSpec, cloopImage } from '../../../support/cloop-bytes.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { openImage } from '../../../support/memory-images.ts';
import { CountingHostFile } from '../../../support/wrapping-files.ts';

const CONTENT = Buffer.alloc(3 * 4096, 'content');
const TABLE_END = 136 + 4 * 8;

function fileOf(spec: CloopSpec, cut?: number): MemoryHostFile {
  const { image } = cloopImage({ content: CONTENT, ...spec });
  return new MemoryHostFile(image.subarray(0, cut ?? image.length), '/disk');
}

function refusalOf(action: () => unknown): string {
  let caught: unknown;
  try {
    action();
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
}

/** Reads the first bytes of block 1. */
function readBlock1(file: MemoryHostFile): Uint8Array {
  const target = new Uint8Array(100);
  openImage(cloop, file, { readOnly: true }).read(target, 0, 100, guestOffset(4096));
  return target;
}

test('the header says how many blocks of which size there are', () => {
  expect(readHeader(fileOf({}))).toEqual({ blockSize: 4096, blocks: 3, tableEnd: TABLE_END });
  expect(cloop.inspect(fileOf({ blockSize: 512 }))).toEqual({
    ...{ format: 'cloop', virtualSize: 12_288, clusterSize: 512, dirty: false, specific: {} },
  });
});

test('a disk may have no block', () => {
  const image = openImage(cloop, fileOf({ content: new Uint8Array(0) }), { readOnly: true });
  expect(image.virtualSize()).toBe(0);
});

test.each<[string, CloopSpec, string]>([
  ['no version', { text: '#!/bin/sh\n#V Format' }, 'text begins with "#!/bin/sh\\n#V Format'],
  ['blocks of no bytes', { blockSize: 0 }, 'at offset 128: block size is 0 bytes'],
  ['a block size of 513', { blockSize: 513 }, 'block size is 513 bytes; it must be a multiple of 512 up to 67108864'],
  ['a block size above 64 MiB', { blockSize: 67_109_376 }, 'block size is 67109376 bytes'],
  ['a table beyond the file', { blocks: 2 ** 32 - 1 }, 'at offset 132: the image has 4294967295 blocks, whose table'],
])('%s is refused', (_, spec, sentence) => {
  for (const look of [() => readHeader(fileOf(spec)), () => cloop.inspect(fileOf(spec))]) {
    expect(refusalOf(look)).toMatch(/^corrupt: \/disk: cloop header at offset /);
    expect(refusalOf(look)).toContain(sentence);
  }
});

test.each(['0.9', '1.0', '2.1', '3.0', '4.12'])('version %s is recognized, and refused by name', (version) => {
  const file = fileOf({ text: `#!/bin/sh\n#V${version} Format\n` });
  expect(isSigned(cloop, endsOf(file), 'head')).toBe(true);
  expect(refusalOf(() => readHeader(file))).toMatch(
    `unsupported: /disk is a cloop image of version ${version}, and imgfuse reads version 2.0;`,
  );
});

test('a table that ends with the file is read, and one byte less is refused', () => {
  expect(readHeader(fileOf({}, TABLE_END)).blocks).toBe(3);
  expect(refusalOf(() => readHeader(fileOf({}, TABLE_END - 1)))).toContain(
    'whose table would end at 0xa8; the file has',
  );
  expect(refusalOf(() => readHeader(fileOf({}, 135)))).toContain('the file has 135 bytes, but a cloop header has 136');
});

describe('a block', () => {
  test.each<[string, CloopSpec]>([
    ['begins inside the table', { entries: { 1: TABLE_END - 1 } }],
    ['has no bytes', { entries: { 1: 200, 2: 200 } }],
    ['ends before it begins', { entries: { 1: 200, 2: 199 } }],
    ['ends beyond the file', { entries: { 2: 100_000 } }],
    ['begins beyond all safe numbers', { entries: { 1: 2n ** 53n, 2: 2n ** 53n + 99n } }],
  ])('that %s is refused', (_, spec) => {
    expect(refusalOf(() => readBlock1(fileOf(spec)))).toMatch(
      /^corrupt: \/disk: cloop header at offset 144: block 1 goes from .*; it must lie between the table, which ends at 168, and/,
    );
  });

  test('may begin at the end of the table and end at the end of the file', () => {
    const file = fileOf({ content: CONTENT.subarray(0, 4096) });
    expect(openImage(cloop, file, { readOnly: true }).virtualSize()).toBe(4096);
    const target = new Uint8Array(100);
    openImage(cloop, file, { readOnly: true }).read(target, 0, 100, guestOffset(0));
    expect(Buffer.from(target)).toEqual(CONTENT.subarray(0, 100));
  });

  test('of more than twice its size is refused', () => {
    const stream = deflateSync(CONTENT.subarray(0, 4096));
    const padded = (length: number): Uint8Array => Buffer.concat([stream], length);
    expect(Buffer.from(readBlock1(fileOf({ stored: { 1: padded(8192) } })))).toEqual(CONTENT.subarray(0, 100));
    expect(refusalOf(() => readBlock1(fileOf({ stored: { 1: padded(8193) } })))).toContain(
      'block 1 has 8193 compressed bytes for 4096 bytes',
    );
  });

  test.each([
    ['shorter', deflateSync(CONTENT.subarray(0, 4095)), 'decompresses to 4095 bytes instead of 4096'],
    ['longer', deflateSync(CONTENT.subarray(0, 4097)), 'decompresses to more than 4096 bytes'],
    ['cut off', deflateSync(CONTENT.subarray(0, 4096)).subarray(0, -1), 'does not decompress: unexpected end of file'],
    ['no stream', Buffer.from('no stream'), 'does not decompress: incorrect header check'],
  ])('that is %s is refused', (_, stored, sentence) => {
    expect(refusalOf(() => readBlock1(fileOf({ stored: { 1: stored } })))).toMatch(
      `the compressed block at offset 0xc`, // after the table and block 0
    );
    expect(refusalOf(() => readBlock1(fileOf({ stored: { 1: stored } })))).toContain(sentence);
  });
});

test('small reads of one block decompress it once', () => {
  const file = new CountingHostFile(fileOf({}));
  const image = openImage(cloop, file, { readOnly: true });
  const before = file.calls.read;
  const target = new Uint8Array(64);
  for (let at = 0; at < 4096; at += 64) image.read(target, 0, 64, guestOffset(at));
  // its entry and its bytes
  expect(file.calls.read - before).toBe(2);
});

describe('check', () => {
  const check = (spec: CloopSpec): { readonly report: object; readonly told: readonly string[] } => {
    const told: string[] = [];
    const report = cloop.check!(fileOf(spec), { repair: 'none', log: (sentence) => told.push(sentence) });
    return { report, told };
  };

  test('of a sound image counts its blocks', () => {
    const { image } = cloopImage({ content: CONTENT });
    expect(check({})).toEqual({
      report: expect.objectContaining({
        corruptions: 0,
        checkErrors: 0,
        totalClusters: 3,
        imageEndOffset: image.length,
      }),
      told: [],
    });
  });

  test('tells every damaged block', () => {
    const { report, told } = check({ stored: { 0: Buffer.from('damage'), 2: Buffer.from('damage') } });
    expect(report).toMatchObject({ corruptions: 2, corruptionsFixed: 0 });
    expect(told).toHaveLength(2);
    for (const sentence of told) expect(sentence).toMatch(/^ERROR \/disk: the compressed block at offset /);
  });
});
