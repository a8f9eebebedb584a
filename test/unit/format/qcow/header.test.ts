// The header of qcow version 1: what it says, and each limit with the value just outside.

import { expect, test } from 'vitest';
import { ImgfuseError } from '../../../../src/errors/index.ts';
import { readHeader } from '../../../../src/format/qcow/header.ts';
import { qcow } from '../../../../src/format/qcow/index.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { openImage } from '../../../support/memory-images.ts';
import { type QcowSpec, qcowImage } from '../../../support/qcow-bytes.ts';

function fileOf(spec: QcowSpec, cut?: number): MemoryHostFile {
  const image = qcowImage(spec);
  return new MemoryHostFile(image.subarray(0, cut ?? image.length), '/disk');
}

function refusalOf(file: MemoryHostFile): string {
  const sentences = [() => qcow.inspect(file), () => openImage(qcow, file, { readOnly: true })].map((look) => {
    let caught: unknown;
    try {
      look();
    } catch (error) {
      caught = error;
    }
    expect(caught).toBeInstanceOf(ImgfuseError);
    return `${(caught as ImgfuseError).kind}: ${(caught as ImgfuseError).message}`;
  });
  expect(sentences[0]).toBe(sentences[1]);
  return sentences[0]!;
}

test('says where everything is', () => {
  expect(readHeader(fileOf({ name: 'base' }))).toEqual({
    ...{ clusterBits: 9, l2Bits: 6, size: 4096, isEncrypted: false, l1TableOffset: 56 },
    ...{ backingName: 'base', backingOffset: 48 },
  });
});

test('is what info shows', () => {
  expect(qcow.inspect(fileOf({ name: 'base', crypt: 1 }))).toEqual({
    ...{ format: 'qcow', virtualSize: 4096, clusterSize: 512, dirty: false },
    ...{ backing: { name: 'base' }, specific: { encrypt: { format: 'aes' } } },
  });
});

test.each<[string, QcowSpec, string]>([
  ['another magic', { magic: 'QFI\xfa' }, 'corrupt: /disk: invalid qcow header at offset 0: this is not'],
  ['another version', { version: 2 }, 'offset 0: this is not a qcow image of version 1'],
  ['clusters too small', { clusterBits: 8 }, 'offset 32: cluster_bits is 8; it must be from 9 to 16'],
  ['clusters too large', { clusterBits: 17 }, 'offset 32: cluster_bits is 17'],
  ['tables too small', { l2Bits: 5 }, 'offset 33: l2_bits is 5; it must be from 6 to 13'],
  ['tables too large', { l2Bits: 14 }, 'offset 33: l2_bits is 14'],
  [
    'an L1 table beyond memory',
    { size: (2 ** 28 - 1) * 32768 + 1 },
    'offset 24: size is 0x7ffffff8001 bytes; its tables',
  ],
  ['a size without bounds', { size: 2n ** 64n - 1n }, 'offset 24: size is 0xffffffffffffffff bytes'],
  ['another encryption', { crypt: 2 }, 'unsupported: /disk: the qcow header at offset 36 has encryption 2'],
  ['an L1 table in the header', { l1Offset: 40 }, 'offset 40: l1_table_offset is 0x28'],
  ['an L1 table off its grid', { l1Offset: 52 }, 'offset 40: l1_table_offset is 0x34; a table of 8 bytes'],
  ['an L1 table behind the end', { l1Offset: 3072 }, 'offset 40: l1_table_offset is 0xc00'],
  ['an L1 table out of reach', { l1Offset: 2n ** 63n }, 'offset 40: l1_table_offset is 0x8000000000000000'],
  ['an L1 table longer than the file', { size: 600 * 32768 }, 'a table of 4800 bytes must begin'],
  ['a name of no bytes', { backingOffset: 48, backingSize: 0 }, 'offset 16: backing_file_size is 0'],
  ['a name too long', { backingOffset: 48, backingSize: 1024 }, 'offset 16: backing_file_size is 1024'],
  ['a name in the header', { backingOffset: 47, backingSize: 1 }, 'offset 8: backing_file_offset is 0x2f'],
  ['a name behind the end', { backingOffset: 3070, backingSize: 3 }, 'offset 8: backing_file_offset is 0xbfe'],
  ['a name with a NUL', { backingOffset: 48, backingSize: 3 }, 'offset 8: the name of the backing file contains a NUL'],
])('is refused for %s', (_, spec, sentence) => {
  expect(refusalOf(fileOf(spec))).toContain(sentence);
});

test('is refused in a file that ends within it', () => {
  expect(refusalOf(fileOf({}, 47))).toContain('the file has 47 bytes, but a qcow header has 48');
});

test.each<[string, QcowSpec]>([
  ['the largest clusters and tables', { clusterBits: 16, l2Bits: 13 }],
  ['the longest name', { backingOffset: 1024, backingSize: 1023 }],
  ['an L1 table up to the end of the file', { size: 378 * 32768 }],
  ['an empty disk', { size: 0 }],
  ['a disk that is not whole sectors long', { size: 1 }],
])('takes %s', (_, spec) => {
  expect(readHeader(fileOf(spec)).size % 512).toBe(0);
});
