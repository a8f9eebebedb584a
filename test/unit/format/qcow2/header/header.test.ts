// The qcow2 header: each checked field just inside and just outside, in QEMU's order; bytes -> header -> bytes is the
// identity; writers of single fields change nothing else.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { hostOffset } from '../../../../../src/bytes/offsets.ts';
import { ImgfuseError } from '../../../../../src/errors/index.ts';
import {
  autoclearWhenWritten,
  type FeatureWords,
  QCOW2_INCOMPAT_CORRUPT,
  QCOW2_INCOMPAT_DIRTY,
  type Qcow2Header,
  serializeHeader,
  withBits,
  withoutBits,
  writeAutoclearFeatures,
  writeIncompatibleFeatures,
  writeRefcountTableFields,
  writeSizeAndL1Fields,
} from '../../../../../src/format/qcow2/header/header.ts';
import type { ReadHeaderOptions } from '../../../../../src/format/qcow2/header/header-tables.ts';
import { readHeader } from '../../../../../src/format/qcow2/header/read-header.ts';
import type { HostFile } from '../../../../../src/host/host-file.ts';
import { CountingHostFile } from '../../../../support/wrapping-files.ts';
import { CLUSTER, FILE_BYTES, type HeaderSpec, pack, text, writeQcow2 } from './qcow2-header-bytes.ts';

function refusal(spec: HeaderSpec, options: ReadHeaderOptions = { readOnly: false }): ImgfuseError {
  const file = writeQcow2(spec);
  const before = file.bytes();
  let caught: unknown;
  try {
    readHeader(file, options);
  } catch (error) {
    caught = error;
  }
  expect(caught).toBeInstanceOf(ImgfuseError);
  expect(Buffer.compare(file.bytes(), before)).toBe(0);
  return caught as ImgfuseError;
}

const read = (spec: HeaderSpec, options: ReadHeaderOptions = { readOnly: false }): Qcow2Header =>
  readHeader(writeQcow2(spec), options);

const fields = (values: HeaderSpec['fields']): HeaderSpec => ({ fields: values! });
const MAX_SIZE = 2n ** 53n - 512n;
const v2 = (values: HeaderSpec['fields']): HeaderSpec => fields({ version: 2n, ...values });
/** A disk that needs the largest L1 table there may be, in a file that has room for it. */
const largeL1 = (l1Size: bigint): HeaderSpec => ({
  fields: { l1Size, l1TableOffset: 65536n },
  length: 34 * 1024 * 1024,
});

const outside: readonly (readonly [name: string, spec: HeaderSpec, offset: number, words: string])[] = [
  ['magic', fields({ magic: 0x514649fan }), 0, 'magic is 0x514649fa'],
  ['version 1', fields({ version: 1n }), 4, 'version is 1;'],
  ['version 4', fields({ version: 4n }), 4, 'version is 4;'],
  ['cluster_bits 8', fields({ clusterBits: 8n }), 20, 'cluster_bits is 8;'],
  ['cluster_bits 22', fields({ clusterBits: 22n }), 20, 'cluster_bits is 22;'],
  ['cluster_bits of all ones', fields({ clusterBits: 0xffffffffn }), 20, 'cluster_bits is 4294967295;'],
  ['header_length 96', fields({ headerLength: 96n }), 100, 'header_length is 96;'],
  ['header_length 103', fields({ headerLength: 103n }), 100, 'header_length is 103;'],
  ['a header above the cluster', fields({ headerLength: 65537n }), 100, 'header_length is 65537;'],
  ['a backing name in the fields', fields({ backingOffset: 103n }), 8, 'backing_file_offset is 0x67;'],
  ['a backing name in the fields of version 2', v2({ backingOffset: 71n }), 8, 'backing_file_offset is 0x47;'],
  ['a backing name behind the cluster', fields({ backingOffset: 65537n }), 8, 'backing_file_offset is 0x10001;'],
  [
    'a backing name near 2^64',
    fields({ backingOffset: 2n ** 64n - 1n }),
    8,
    'backing_file_offset is 0xffffffffffffffff',
  ],
  ['zstd without its bit', fields({ compressionType: 1n }), 104, 'compression_type is 1 (zstd)'],
  ['the compression bit with zlib', fields({ incompatible: 8n }), 104, 'compression_type is 0 (zlib)'],
  ['an unknown compression type', fields({ incompatible: 8n, compressionType: 2n }), 104, 'compression_type is 2;'],
  ['the first unknown incompatible bit', fields({ incompatible: 32n }), 72, 'imgfuse does not know: bit 5;'],
  ['the last incompatible bit', fields({ incompatible: 2n ** 63n }), 72, 'imgfuse does not know: bit 63;'],
  ['the corrupt bit for writing', fields({ incompatible: 2n }), 72, 'the corrupt bit is set'],
  ['subclusters of 256 bytes', fields({ incompatible: 16n, clusterBits: 13n }), 20, 'subclusters of 256;'],
  ['refcount_order 7', fields({ refcountOrder: 7n }), 96, 'refcount_order is 7;'],
  ['crypt_method 3', fields({ cryptMethod: 3n }), 32, 'crypt_method is 3;'],
  ['no refcount table', fields({ refcountTableClusters: 0n }), 56, 'refcount_table_clusters is 0'],
  ['a refcount table above 8 MiB', fields({ refcountTableClusters: 129n }), 48, '129 times 65536 bytes'],
  [
    'a refcount table that is not aligned',
    fields({ refcountTableOffset: 65544n }),
    48,
    'refcount_table_offset is 0x10008;',
  ],
  ['a refcount table at 0', fields({ refcountTableOffset: 0n }), 48, 'refcount_table_offset is 0x0;'],
  [
    'a refcount table at 2^53',
    fields({ refcountTableOffset: 2n ** 53n }),
    48,
    'refcount_table_offset is 0x20000000000000',
  ],
  ['a refcount table behind the file', fields({ refcountTableOffset: BigInt(FILE_BYTES) }), 48, 'is truncated'],
  ['65537 snapshots', fields({ snapshotCount: 65537n, snapshotsOffset: 65536n }), 64, '65537 times 40 bytes'],
  ['a snapshot table that is not aligned', fields({ snapshotsOffset: 8n }), 64, 'snapshots_offset is 0x8;'],
  ['a snapshot table at 0', fields({ snapshotCount: 1n }), 64, 'snapshots_offset is 0x0;'],
  [
    'a snapshot table behind the file',
    fields({ snapshotCount: 1n, snapshotsOffset: BigInt(FILE_BYTES) }),
    64,
    'truncated',
  ],
  ['an L1 table above 32 MiB', largeL1(4194305n), 40, '4194305 times 8 bytes'],
  ['an L1 table that is not aligned', fields({ l1TableOffset: 3n * 65536n + 8n }), 40, 'l1_table_offset is 0x30008;'],
  ['an L1 table at 0', fields({ l1TableOffset: 0n }), 40, 'l1_table_offset is 0x0;'],
  ['an L1 table near 2^64', fields({ l1TableOffset: 2n ** 64n - 65536n }), 40, 'l1_table_offset is 0xffffffffffff0000'],
  ['an L1 table that ends behind the file', fields({ l1Size: 8193n, l1TableOffset: 4n * 65536n }), 40, 'truncated'],
  ['a disk above 8 PiB - 512', fields({ size: MAX_SIZE + 1n }), 24, 'size is 0x1ffffffffffe01;'],
  ['a disk of 2^64 - 1 bytes', fields({ size: 2n ** 64n - 1n }), 24, 'size is 0xffffffffffffffff;'],
  ['a disk that the L1 table does not map', fields({ size: 512n * 1024n * 1024n + 1n }), 36, 'needs 2'],
  ['the raw data file bit alone', fields({ autoclear: 2n }), 88, 'no external data file'],
  ['LUKS without its header', fields({ cryptMethod: 2n }), 32, 'no encryption header'],
  ['a backing name of 1024 bytes', { backing: 'b'.repeat(1024) }, 16, 'backing_file_size is 1024;'],
  ['a backing name across the cluster', fields({ backingOffset: 65530n, backingSize: 7n }), 16, 'it must be at most 6'],
  ['a NUL in the backing name', { backing: 'a\0b' }, 2048, 'NUL byte'],
  ['backing and raw data file', { backing: 'b', fields: { incompatible: 4n, autoclear: 2n } }, 8, 'exclude each other'],
  ['a version 2 disk without tables', v2({ refcountTableClusters: 0n }), 56, 'refcount_table_clusters is 0'],
];

describe('a header field just outside its range is refused with its offset and value', () => {
  test.each(outside)('%s', (_, spec, offset, words) => {
    const error = refusal(spec);
    expect(error.message).toContain('/images/disk.qcow2');
    expect(error.message).toContain(`at offset ${offset}: `);
    expect(error.message).toContain(words);
    expect(error.context).toMatchObject({ path: '/images/disk.qcow2', offset });
  });

  test.each([0, 3, 4, 20, 71])('a file of %d bytes', (length) => {
    expect(refusal({ length }).message).toContain('truncated');
  });

  test('a version 3 file that ends inside its header', () => {
    expect(refusal({ length: 111 }).message).toContain('truncated');
  });

  test('a backing name that the file does not hold', () => {
    expect(refusal({ backing: 'b'.repeat(100), length: 2100, fields: { l1Size: 0n, size: 0n } }).message).toMatch(
      /truncated/,
    );
  });
});

const inside: readonly (readonly [name: string, spec: HeaderSpec, seen: Partial<Qcow2Header>])[] = [
  ['clusters of 512 bytes', fields({ clusterBits: 9n, size: 32768n }), { clusterSize: 512 }],
  [
    'clusters of 2 MiB',
    { fields: { clusterBits: 21n, refcountTableOffset: 2097152n, l1TableOffset: 4194304n }, length: 6291456 },
    { clusterSize: 2097152 },
  ],
  ['a header of 104 bytes', fields({ headerLength: 104n }), { headerLength: 104, compressionType: 'zlib' }],
  ['a header as large as a cluster', fields({ headerLength: 65536n }), { headerLength: 65536 }],
  ['a header length that is no multiple of 8', fields({ headerLength: 109n }), { headerLength: 109 }],
  [
    'extensions behind a header length that is no multiple of 8',
    { fields: { headerLength: 109n }, extensions: [[0xe2792aca, Buffer.from('qed')]], backing: 'b' },
    { backingFormat: 'qed', backingName: 'b' },
  ],
  [
    'a backing name inside the header length',
    { fields: { headerLength: 128n, backingOffset: 105n }, backing: 'base' },
    { backingName: 'base', extensions: [] },
  ],
  ['an empty backing name at the end of the cluster', fields({ backingOffset: 65536n }), { backingName: null }],
  ['a backing name of 1023 bytes', { backing: 'b'.repeat(1023) }, { backingName: 'b'.repeat(1023) }],
  ['zstd with its bit', fields({ incompatible: 8n, compressionType: 1n }), { compressionType: 'zstd' }],
  ['the dirty bit', fields({ incompatible: 1n }), { isDirty: true }],
  ['subclusters of 512 bytes', fields({ incompatible: 16n, clusterBits: 14n }), { extendedL2: true }],
  ['64-bit refcounts', fields({ refcountOrder: 6n }), { refcountOrder: 6 }],
  ['1-bit refcounts', fields({ refcountOrder: 0n }), { refcountOrder: 0 }],
  ['AES', fields({ cryptMethod: 1n }), { cryptMethod: 1 }],
  [
    'a refcount table of 8 MiB',
    { fields: { refcountTableClusters: 128n }, length: 9 * 1024 * 1024 },
    { refcountTableClusters: 128 },
  ],
  [
    '65536 snapshots',
    { fields: { snapshotCount: 65536n, snapshotsOffset: 65536n }, length: 3 * 1024 * 1024 },
    { snapshotCount: 65536 },
  ],
  ['an L1 table of 32 MiB', largeL1(4194304n), { l1Size: 4194304 }],
  ['an L1 table at the very end', fields({ l1Size: 8192n, l1TableOffset: 4n * 65536n }), { l1Size: 8192 }],
  ['an empty disk without an L1 table', fields({ size: 0n, l1Size: 0n, l1TableOffset: 0n }), { size: 0 }],
  ['a disk that the L1 table just maps', fields({ size: 512n * 1024n * 1024n }), { size: 536870912 }],
  [
    'the largest disk',
    {
      fields: {
        clusterBits: 21n,
        size: MAX_SIZE,
        l1Size: 16384n,
        refcountTableOffset: 2097152n,
        l1TableOffset: 4194304n,
      },
      length: 6291456,
    },
    { size: Number(MAX_SIZE) },
  ],
  ['unknown compatible bits', fields({ compatible: 2n ** 63n + 2n }), { compatible: [2, 0x80000000] }],
  ['unknown autoclear bits', fields({ autoclear: 2n ** 63n + 4n }), { autoclear: [4, 0x80000000] }],
  ['lazy refcounts', fields({ compatible: 1n }), { lazyRefcounts: true }],
  [
    'a raw data file',
    fields({ incompatible: 4n, autoclear: 2n }),
    { hasExternalData: true, dataFileRaw: true, dataFileName: null },
  ],
  ['version 2', v2({}), { version: 2, headerLength: 72, refcountOrder: 4, incompatible: [0, 0] }],
];

describe('a header field just inside its range is accepted', () => {
  test.each(inside)('%s', (_, spec, seen) => {
    expect(read(spec)).toMatchObject(seen);
  });

  test('the corrupt bit when read-only, and for check', () => {
    expect(read(fields({ incompatible: 2n }), { readOnly: true }).isCorrupt).toBe(true);
    expect(read(fields({ incompatible: 2n }), { readOnly: false, check: true }).isCorrupt).toBe(true);
  });

  test('a backing file beside a raw data file when read-only', () => {
    const spec = { backing: 'b', fields: { incompatible: 4n, autoclear: 2n } };
    expect(read(spec, { readOnly: true }).backingName).toBe('b');
  });

  test('for check and for reading, what a repair rebuilds: no refcount table, one that is lost, unaligned or too large, a misplaced snapshot table', () => {
    const check = { readOnly: false, check: true };
    expect(read(fields({ refcountTableClusters: 0n }), check).refcountTableClusters).toBe(0);
    expect(read(fields({ refcountTableOffset: 2n ** 40n }), check).refcountTableOffset).toBe(2 ** 40);
    expect(read(fields({ snapshotCount: 70000n, snapshotsOffset: 7n }), check)).toMatchObject({ snapshotsOffset: 7 });
    const reading = { readOnly: true };
    expect(read(fields({ refcountTableOffset: 7n, snapshotsOffset: 7n }), reading).refcountTableOffset).toBe(7);
    expect(read(fields({ refcountTableOffset: 7n }), check).refcountTableOffset).toBe(7);
    expect(read(fields({ refcountTableClusters: 0xffffffffn }), check).refcountTableClusters).toBe(0xffffffff);
    expect(refusal(fields({ l1TableOffset: 7n }), check).message).toContain('l1_table_offset');
  });
});

describe('the order of the checks', () => {
  test('is that of QEMU: of several faults the first in its order is named', () => {
    const faults: readonly (readonly [field: HeaderSpec['fields'], offset: number])[] = [
      [{ magic: 1n }, 0],
      [{ version: 9n }, 4],
      [{ clusterBits: 1n }, 20],
      [{ headerLength: 8n }, 100],
      [{ backingOffset: 1n }, 8],
      [{ compressionType: 9n }, 104],
      [{ incompatible: 64n }, 72],
      [{ refcountOrder: 9n }, 96],
      [{ cryptMethod: 9n }, 32],
      [{ refcountTableOffset: 9n }, 48],
      [{ snapshotsOffset: 9n }, 64],
      [{ l1TableOffset: 9n }, 40],
      [{ size: 2n ** 62n }, 24],
      [{ autoclear: 2n }, 88],
    ];
    faults.forEach(([, offset], first) => {
      const all = Object.assign({}, ...faults.slice(first).map(([field]) => field)) as HeaderSpec['fields'];
      expect(refusal(fields(all)).context.offset).toBe(offset);
    });
  });
});

describe('unknown incompatible features', () => {
  const entry = (kind: number, bit: number, name: string): Uint8Array => {
    const bytes = new Uint8Array(48);
    bytes.set([kind, bit, ...text(name)]);
    return bytes;
  };
  const table = (...entries: Uint8Array[]): HeaderSpec['extensions'] => [[0x6803f857, Buffer.concat(entries)]];

  test('are refused with the names that the image has for them', () => {
    const extensions = table(entry(1, 5, 'not this one'), entry(0, 5, 'warp drive'), entry(0, 63, 'x'.repeat(46)));
    const error = refusal({ fields: { incompatible: 2n ** 63n + 32n + 64n }, extensions: extensions! });
    expect(error.kind).toBe('unsupported');
    expect(error.message).toContain(`"warp drive" (bit 5), bit 6, "${'x'.repeat(46)}" (bit 63)`);
  });

  test('are refused with a name that cannot act on a terminal', () => {
    const error = refusal({ fields: { incompatible: 32n }, extensions: table(entry(0, 5, 'a\x1b[2Jb'))! });
    expect(error.message).toContain('"a?[2Jb" (bit 5)');
  });

  test('are refused without a name when the table is cut or the extensions are broken', () => {
    expect(
      refusal({ fields: { incompatible: 32n }, extensions: [[0x6803f857, entry(0, 5, 'cut').subarray(0, 47)]] })
        .message,
    ).toContain(': bit 5;');
    const broken = { fields: { incompatible: 32n }, bytes: { 112: pack([4, 1], [4, 0xffffffff]) } };
    expect(refusal(broken).message).toContain(': bit 5;');
  });
});

const words = fc.tuple(fc.nat(0xffffffff), fc.nat(0xffffffff)) as fc.Arbitrary<FeatureWords>;
const extension = fc.tuple(fc.integer({ min: 1, max: 0x0fffffff }), fc.uint8Array({ maxLength: 40 }));

describe('bytes -> header -> bytes', () => {
  test('is the identity, for unknown bits, unknown fields and unknown extensions too', () => {
    fc.assert(
      fc.property(
        fc.constantFrom(2n, 3n),
        fc.tuple(fc.bigInt(0n, 2n ** 64n - 1n), fc.bigInt(0n, 2n ** 64n - 1n), fc.integer({ min: 0, max: 5 })),
        fc.array(extension, { maxLength: 6 }),
        fc.uint8Array({ maxLength: 48 }),
        fc.option(fc.string({ minLength: 1, maxLength: 40, unit: 'grapheme-ascii' })),
        (version, [compatible, autoclear, more], extensions, unknown, backing) => {
          const headerLength = 112 + more * 8;
          const end = headerLength + extensions.reduce((sum, [, data]) => sum + 8 + Math.ceil(data.length / 8) * 8, 8);
          const backingOffset = version === 2n ? end - headerLength + 72 : end;
          const file = writeQcow2({
            fields: {
              version,
              compatible,
              autoclear: autoclear & ~3n,
              headerLength: BigInt(headerLength),
              incompatible: 9n,
              compressionType: 1n,
              ...(backing === null ? {} : { backingOffset: BigInt(backingOffset) }),
            },
            ...(version === 3n ? { bytes: { 105: unknown.subarray(0, headerLength - 105) } } : {}),
            extensions,
            ...(backing === null ? {} : { backing }),
          });
          const header = readHeader(file, { readOnly: false });
          expect(Buffer.compare(serializeHeader(header), file.bytes().subarray(0, CLUSTER))).toBe(0);
          expect(header.extensions.map(({ type, data }) => [type, [...data]])).toEqual(
            extensions.map(([type, data]) => [type, [...data]]),
          );
        },
      ),
    );
  });

  test('refuses a header that its cluster has no room for', () => {
    const header = read({ fields: { clusterBits: 9n, size: 32768n } });
    const room = 512 - 112 - 8;
    expect(serializeHeader({ ...header, backingName: 'b'.repeat(room) }).length).toBe(512);
    expect(() => serializeHeader({ ...header, backingName: 'b'.repeat(room + 1) })).toThrow(/takes 513 bytes/);
  });
});

describe('a writer of single fields', () => {
  /** The offsets at which an action changes bytes, as [first, end). */
  function changed(spec: HeaderSpec, action: (file: HostFile, header: Qcow2Header) => void): [number, number] {
    const file = writeQcow2(spec);
    const before = file.bytes();
    const header = readHeader(file, { readOnly: false });
    const counting = new CountingHostFile(file);
    action(counting, header);
    expect(counting.calls.write).toBe(1);
    const after = file.bytes();
    expect(after.length).toBe(before.length);
    const different = [...after.keys()].filter((at) => after[at] !== before[at]);
    return [different[0]!, different.at(-1)! + 1];
  }

  const full: FeatureWords = [0xffffffff, 0xffffffff];

  test('changes all of its bytes in one host write, and no others', () => {
    expect(changed({}, (file, header) => writeIncompatibleFeatures(file, header, full))).toEqual([72, 80]);
    expect(changed({}, (file, header) => writeAutoclearFeatures(file, header, full))).toEqual([88, 96]);

    const l1 = { size: 2 ** 53 - 1, cryptMethod: 0, l1Size: 0xffffffff, l1TableOffset: 2 ** 53 - 1 };
    expect(changed({}, (file) => writeSizeAndL1Fields(file, l1))).toEqual([25, 48]);
    const table = { refcountTableOffset: 2 ** 53 - 1, refcountTableClusters: 0xffffffff };
    expect(changed({}, (file) => writeRefcountTableFields(file, table))).toEqual([49, 60]);
  });

  test('is read back as it was written', () => {
    const file = writeQcow2({ length: 8 * CLUSTER });
    const header = readHeader(file, { readOnly: false });
    writeSizeAndL1Fields(file, { ...header, size: 2 ** 30, l1Size: 4, l1TableOffset: 5 * CLUSTER });
    writeRefcountTableFields(file, { refcountTableOffset: 6 * CLUSTER, refcountTableClusters: 2 });

    writeIncompatibleFeatures(file, header, withBits(header.incompatible, QCOW2_INCOMPAT_DIRTY));
    expect(readHeader(file, { readOnly: false })).toMatchObject({
      size: 2 ** 30,
      l1Size: 4,
      l1TableOffset: 5 * CLUSTER,
      refcountTableOffset: 6 * CLUSTER,
      refcountTableClusters: 2,
      isDirty: true,
    });
  });

  test('of feature bits never touches a version 2 image, which has other bytes there', () => {
    const file = writeQcow2(v2({}));
    const before = file.bytes();
    const header = readHeader(file, { readOnly: false });
    expect(() => writeIncompatibleFeatures(file, header, full)).toThrow(/version 2/);
    expect(() => writeAutoclearFeatures(file, header, full)).toThrow(/version 2/);

    expect(Buffer.compare(file.bytes(), before)).toBe(0);
  });
});

describe('feature bits', () => {
  test('are set and cleared without touching the others, against a BigInt formula', () => {
    const value = ([low, high]: FeatureWords): bigint => (BigInt(high) << 32n) | BigInt(low);
    fc.assert(
      fc.property(words, fc.nat(0xffffffff), (bits, mask) => {
        expect(value(withBits(bits, mask))).toBe(value(bits) | BigInt(mask));
        expect(value(withoutBits(bits, mask))).toBe(value(bits) & ~BigInt(mask) & (2n ** 64n - 1n));
        expect(value(autoclearWhenWritten(bits))).toBe(value(bits) & 2n);
      }),
    );
    expect(withoutBits([3, 0], QCOW2_INCOMPAT_CORRUPT)).toEqual([1, 0]);
  });
});

describe('damaged headers', () => {
  test('are read or refused with a sentence, never anything else', () => {
    const change = fc.tuple(fc.integer({ min: 4, max: 250 }), fc.constantFrom(0, 1, 2, 4, 8, 16, 32, 127, 128, 255));
    const spec: HeaderSpec = {
      backing: 'base',
      extensions: [
        [0xe2792aca, text('raw')],
        [0x23852875, pack([4, 1], [4, 0], [8, 32], [8, CLUSTER])],
        [0x6803f857, new Uint8Array(48)],
      ],
    };
    const original = writeQcow2(spec);
    fc.assert(
      fc.property(fc.array(change, { minLength: 1, maxLength: 4 }), fc.boolean(), (changes, check) => {
        const file = original.clone();
        for (const [offset, byte] of changes) file.write(Uint8Array.of(byte), 0, 1, hostOffset(offset));
        try {
          readHeader(file, { readOnly: false, check });
        } catch (error) {
          expect(error).toBeInstanceOf(ImgfuseError);
          expect((error as ImgfuseError).message).toMatch(/^\/images\/disk\.qcow2: .*at offset \d+: ./);
        }
      }),
      { numRuns: 3000 },
    );
  });
});
