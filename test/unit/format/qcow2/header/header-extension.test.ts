// Header extensions: bounded by cluster 0 and by the backing name, unknown ones kept, known ones checked field by field.

import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../../src/errors/index.ts';
import { FEATURE_NAME_BYTES, serializeFeatureNames } from '../../../../../src/format/qcow2/header/feature-name.ts';
import { type Qcow2Header, serializeHeader } from '../../../../../src/format/qcow2/header/header.ts';
import {
  MAX_EXTENSIONS,
  QCOW2_EXT_MAGIC_BACKING_FORMAT,
  QCOW2_EXT_MAGIC_BITMAPS,
  QCOW2_EXT_MAGIC_CRYPTO_HEADER,
  QCOW2_EXT_MAGIC_DATA_FILE,
  QCOW2_EXT_MAGIC_FEATURE_TABLE,
  QCOW2_MAX_BITMAP_DIRECTORY_SIZE,
  serializeCryptoHeaderPointer,
} from '../../../../../src/format/qcow2/header/header-extension.ts';
import { readHeader } from '../../../../../src/format/qcow2/header/read-header.ts';
import { CLUSTER, FILE_BYTES, type HeaderSpec, pack, text, writeQcow2 } from './qcow2-header-bytes.ts';

const START = 112;
const read = (spec: HeaderSpec): Qcow2Header => readHeader(writeQcow2(spec), { readOnly: false });
const EMPTY = new Uint8Array(0);

function refusal(spec: HeaderSpec): string {
  try {
    read(spec);
  } catch (error) {
    expect(error).toBeInstanceOf(ImgfuseError);
    return (error as ImgfuseError).message;
  }
  throw new Error('it was accepted');
}

const luks = (data: Uint8Array): HeaderSpec => ({
  fields: { cryptMethod: 2n },
  extensions: [[QCOW2_EXT_MAGIC_CRYPTO_HEADER, data]],
});
const bitmaps = (data: Uint8Array): HeaderSpec => ({
  fields: { autoclear: 1n },
  extensions: [[QCOW2_EXT_MAGIC_BITMAPS, data]],
});
const dataFile = (data: Uint8Array): HeaderSpec => ({
  fields: { incompatible: 4n },
  extensions: [[QCOW2_EXT_MAGIC_DATA_FILE, data]],
});
const format = (data: Uint8Array): HeaderSpec => ({ extensions: [[QCOW2_EXT_MAGIC_BACKING_FORMAT, data]] });
const directory = (count: number, size: bigint | number, offset: bigint | number, reserved = 0): Uint8Array =>
  pack([4, count], [4, reserved], [8, size], [8, offset]);

describe('the list of extensions', () => {
  test('ends with type 0, at the backing name, or at the end of the cluster', () => {
    const rest = CLUSTER - START - 8;
    expect(read({ extensions: [[0x1234, new Uint8Array(rest)]] }).extensions).toHaveLength(1);
    expect(
      read({
        extensions: [
          [0x1234, text('abc')],
          [0, EMPTY],
          [0x5678, EMPTY],
        ],
      }).extensions,
    ).toHaveLength(1);
    const before = { fields: { backingOffset: BigInt(START + 16) }, backing: 'base' };
    expect(read({ ...before, extensions: [[0x1234, text('abcdefgh')]] }).extensions).toHaveLength(1);
  });

  test('may not reach beyond the end of the cluster by one byte', () => {
    const rest = CLUSTER - START - 8;
    const message = refusal({ bytes: { [START]: pack([4, 0x1234], [4, rest + 1]) } });
    expect(message).toContain(`at offset ${START + 4}: header extension 0x1234 has ${rest + 1} bytes`);
    expect(refusal({ bytes: { [START]: pack([4, 0x1234], [4, 0xffffffff]) } })).toContain('has 4294967295 bytes');
  });

  test('may not reach into the backing name by one byte', () => {
    const spec = { fields: { backingOffset: BigInt(START + 16) }, bytes: { [START]: pack([4, 0x1234], [4, 9]) } };
    expect(refusal({ ...spec, backing: 'base' })).toContain('of which only 8 fit before the area ends at 128');
  });

  test('may not begin where there is no room for type and length', () => {
    const spec = { fields: { backingOffset: BigInt(START + 23) }, backing: 'base' };
    expect(refusal({ ...spec, extensions: [[0x1234, text('abcdefgh')]] })).toContain('begins 7 bytes before');
  });

  test('may have a type several times, and of a known one the last counts', () => {
    expect(
      read({
        extensions: [
          [QCOW2_EXT_MAGIC_BACKING_FORMAT, text('raw')],
          [QCOW2_EXT_MAGIC_BACKING_FORMAT, text('qed')],
        ],
      }).backingFormat,
    ).toBe('qed');
    expect(
      read({
        extensions: [
          [7, text('a')],
          [7, text('b')],
        ],
      }).extensions,
    ).toHaveLength(2);
  });

  test('is bounded in number, so that empty extensions cost no memory', () => {
    const many = (count: number): HeaderSpec => ({
      extensions: Array.from({ length: count }, () => [9, EMPTY] as const),
    });
    expect(read(many(MAX_EXTENSIONS)).extensions).toHaveLength(MAX_EXTENSIONS);
    expect(refusal(many(MAX_EXTENSIONS + 1))).toContain('more than 4096');
  });

  test('survives a rewrite with another backing name, whatever is in it', () => {
    const names = serializeFeatureNames();
    const extensions = [
      [0x1234, text('unknown')],
      [QCOW2_EXT_MAGIC_FEATURE_TABLE, names],
      [QCOW2_EXT_MAGIC_BITMAPS, directory(1, 64, 4 * CLUSTER)],
      [0x1234, EMPTY],
    ] as const;
    const header = read({ fields: { autoclear: 1n }, extensions });
    const changed = {
      ...header,
      backingName: 'other.qcow2',
      extensions: [...header.extensions, { type: QCOW2_EXT_MAGIC_BACKING_FORMAT, data: text('qcow2'), offset: 0 }],
    };
    const file = writeQcow2();
    file.write(serializeHeader(changed), 0, CLUSTER, 0 as never);
    const again = readHeader(file, { readOnly: false });
    expect(again).toMatchObject({ backingName: 'other.qcow2', backingFormat: 'qcow2', bitmaps: header.bitmaps });
    expect(again.extensions.map(({ type, data }) => [type, [...data]])).toEqual([
      ...extensions.map(([type, data]) => [type, [...data]]),
      [QCOW2_EXT_MAGIC_BACKING_FORMAT, [...text('qcow2')]],
    ]);
  });
});

describe('names', () => {
  test('of the backing format have at most 15 bytes', () => {
    expect(read(format(text('f'.repeat(15)))).backingFormat).toBe('f'.repeat(15));
    expect(refusal(format(text('f'.repeat(16))))).toContain('the backing format name has 16 bytes');
    expect(read(format(EMPTY)).backingFormat).toBeNull();
  });

  test('of the data file count only when the image has one', () => {
    expect(read(dataFile(text('disk.data'))).dataFileName).toBe('disk.data');
    const unused = read({ extensions: [[QCOW2_EXT_MAGIC_DATA_FILE, text('/etc/passwd')]] });
    expect(unused).toMatchObject({ dataFileName: null, hasExternalData: false });
    expect(unused.extensions).toHaveLength(1);
  });

  test('are any bytes without NUL, a byte-order mark included', () => {
    expect(refusal(dataFile(text('a\0b')))).toContain('the data file name contains a NUL byte');
    expect(read(dataFile(Uint8Array.of(0xc3))).dataFileName).toBe('\udcc3');
    expect(read(dataFile(text('\ufeffdisk'))).dataFileName).toBe('\ufeffdisk');
    expect(read(format(text('\ufeffraw'))).backingFormat).toBe('\ufeffraw');
    expect(refusal(format(text('raw\0')))).toContain('the backing format name contains a NUL byte');
    expect(read(dataFile(text('Größe €.raw'))).dataFileName).toBe('Größe €.raw');
  });

  test('of features are 48 bytes each, and QEMU agrees on the first', () => {
    const names = serializeFeatureNames();
    expect(names.length % FEATURE_NAME_BYTES).toBe(0);
    expect(new TextDecoder().decode(names.subarray(2, 11))).toBe('dirty bit');
  });
});

describe('the pointer to the encryption header', () => {
  const pointer = (offset: bigint | number, length: bigint | number): Uint8Array => pack([8, offset], [8, length]);

  test('is read as it was written, up to the end of the last cluster', () => {
    const cryptoHeader = { offset: 2 * CLUSTER, length: 3 * CLUSTER };
    expect(read(luks(serializeCryptoHeaderPointer(cryptoHeader))).cryptoHeader).toEqual(cryptoHeader);
  });

  test.each([
    ['that is not aligned', pointer(2 * CLUSTER + 8, 592), 'the encryption header is at 0x20008'],
    ['at 0', pointer(0, 592), 'the encryption header is at 0x0'],
    ['near 2^64', pointer(2n ** 64n - 65536n, 592), 'the encryption header is at 0xffffffffffff0000'],
    ['of no bytes', pointer(CLUSTER, 0), 'does not lie in the file'],
    ['that ends behind the file', pointer(CLUSTER, FILE_BYTES - CLUSTER + 1), 'does not lie in the file'],
    ['of 2^64 - 1 bytes', pointer(CLUSTER, 2n ** 64n - 1n), 'does not lie in the file'],
    ['of 15 bytes', new Uint8Array(15), 'has 15 bytes instead of 16'],
    ['of 17 bytes', new Uint8Array(17), 'has 17 bytes instead of 16'],
  ])('%s is refused', (_, data, words) => {
    expect(refusal(luks(data))).toContain(words);
  });

  test('is refused where the image is not encrypted with LUKS', () => {
    const extensions = [[QCOW2_EXT_MAGIC_CRYPTO_HEADER, pointer(CLUSTER, 592)]] as const;
    expect(refusal({ extensions })).toContain('crypt_method is 0');
    expect(refusal({ fields: { cryptMethod: 1n }, extensions })).toContain('crypt_method is 1');
  });
});

describe('the bitmaps extension', () => {
  test('is read at both ends of its ranges', () => {
    const max = QCOW2_MAX_BITMAP_DIRECTORY_SIZE;
    expect(read(bitmaps(directory(1, 0, CLUSTER))).bitmaps).toMatchObject({ count: 1, directorySize: 0 });
    expect(read(bitmaps(directory(65535, max, CLUSTER))).bitmaps).toEqual({
      count: 65535,
      directoryOffset: CLUSTER,
      directorySize: max,
    });
  });

  test.each([
    ['of 23 bytes', new Uint8Array(23), 'has 23 bytes instead of 24'],
    ['without bitmaps', directory(0, 64, CLUSTER), 'nb_bitmaps is 0'],
    ['with 65536 bitmaps', directory(65536, 64, CLUSTER), 'nb_bitmaps is 65536'],
    ['with something reserved', directory(1, 64, CLUSTER, 1), 'the reserved field of the bitmaps extension is 0x1'],
    ['not aligned', directory(1, 64, CLUSTER + 8), 'bitmap_directory_offset is 0x10008'],
    ['at 0', directory(1, 64, 0), 'bitmap_directory_offset is 0x0'],
    ['near 2^64', directory(1, 64, 2n ** 64n - 65536n), 'bitmap_directory_offset is 0xffffffffffff0000'],
    ['above 64 MiB', directory(1, QCOW2_MAX_BITMAP_DIRECTORY_SIZE + 1, CLUSTER), 'bitmap_directory_size is 0x3fffc01'],
    ['of 2^64 - 1 bytes', directory(1, 2n ** 64n - 1n, CLUSTER), 'bitmap_directory_size is 0xffffffffffffffff'],
  ])('%s is refused', (_, data, words) => {
    expect(refusal(bitmaps(data))).toContain(words);
  });

  test('is not looked at, but kept, when its autoclear bit is clear', () => {
    const header = read({ extensions: [[QCOW2_EXT_MAGIC_BITMAPS, new Uint8Array(5)]] });
    expect(header.bitmaps).toBeNull();
    expect(header.extensions).toHaveLength(1);
  });
});
