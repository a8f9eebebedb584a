// The snapshot table: entries of every legal shape, every limit just inside and just outside, bounded reads.

import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { ImgfuseError } from '../../../../../src/errors/index.ts';
import {
  checkSnapshotL1,
  readSnapshotTable,
  type SnapshotTable,
} from '../../../../../src/format/qcow2/header/snapshot-table.ts';
import { MemoryHostFile } from '../../../../support/memory-file.ts';
import { CountingHostFile } from '../../../../support/wrapping-files.ts';
import { CLUSTER, pack, text } from './qcow2-header-bytes.ts';

interface Entry {
  readonly l1Offset?: bigint | number;
  readonly l1Size?: number;
  readonly vmState?: number;
  readonly extra?: Uint8Array;
  readonly extraSize?: number;
  readonly id?: string;
  readonly name?: string;
  readonly vmClock?: bigint;
}

function entry(spec: Entry = {}): Uint8Array {
  const extra = spec.extra ?? pack([8, spec.vmState ?? 0], [8, 12345]);
  const id = text(spec.id ?? '1');
  const name = text(spec.name ?? 'eins');
  return Buffer.concat([
    pack([8, spec.l1Offset ?? 2 * CLUSTER], [4, spec.l1Size ?? 1], [2, id.length], [2, name.length]),
    pack([4, 1700000000], [4, 5], [8, spec.vmClock ?? 77], [4, spec.vmState ?? 0], [4, spec.extraSize ?? extra.length]),
    extra,
    id,
    name,
  ]);
}

/** A file with the table in cluster 1, each entry aligned to 8 bytes. */
function fileWith(...entries: Uint8Array[]): MemoryHostFile {
  const padded = entries.map((bytes) => Buffer.concat([bytes, new Uint8Array((8 - (bytes.length % 8)) % 8)]));
  return new MemoryHostFile(Buffer.concat([new Uint8Array(CLUSTER), ...padded]), '/images/disk.qcow2');
}

function table(file: MemoryHostFile, count: number, offset = CLUSTER): SnapshotTable {
  return readSnapshotTable(file, { snapshotCount: count, snapshotsOffset: offset, clusterSize: CLUSTER, size: 999 });
}

describe('the snapshot table', () => {
  test('is empty without snapshots, wherever the header points', () => {
    expect(table(new MemoryHostFile(), 0, 7)).toEqual({ snapshots: [], length: 0 });
  });

  test('gives the fields as they stand there', () => {
    const found = table(fileWith(entry({ id: '7', name: 'zwei' })), 1);
    expect(found.length).toBe(40 + 16 + 1 + 4);
    expect(found.snapshots).toEqual([
      {
        id: '7',
        name: 'zwei',
        l1TableOffset: 2 * CLUSTER,
        l1Size: 1,
        vmStateSize: '0',
        diskSize: 12345,
        dateSeconds: 1700000000,
        dateNanoseconds: 5,
        vmClockSeconds: 0,
        vmClockNanoseconds: 77,
        icount: null,
        entryOffset: CLUSTER,
      },
    ]);
  });

  test('takes the 64-bit sizes from the extra data as far as it goes, and the disk size of the image otherwise', () => {
    const sizes = (extra: Uint8Array): readonly (number | string)[] => {
      const { vmStateSize, diskSize } = table(fileWith(entry({ vmState: 11, extra })), 1).snapshots[0]!;
      return [vmStateSize, diskSize];
    };
    expect(sizes(new Uint8Array(0))).toEqual(['11', 999]);
    expect(sizes(new Uint8Array(7))).toEqual(['11', 999]);
    expect(sizes(pack([8, 2n ** 40n]))).toEqual([String(2 ** 40), 999]);
    expect(sizes(pack([8, 22], [8, 33]))).toEqual(['22', 33]);
    expect(sizes(pack([8, 22], [8, 33], [8, 44], [8, 55]))).toEqual(['22', 33]);
    expect(sizes(pack([8, 2n ** 53n + 1n], [8, 33]))).toEqual(['9007199254740993', 33]);
  });

  test.each([
    [0n, 0, 0],
    [104n * 86400n * 10n ** 9n + 999_999_999n, 104 * 86400, 999_999_999],
    [2n ** 53n + 1n, 9007199, 254740993],
    [2n ** 64n - 1n, 18446744073, 709551615],
  ])('a VM clock of %d ns is %d s and %d ns', (vmClock, vmClockSeconds, vmClockNanoseconds) => {
    expect(table(fileWith(entry({ vmClock })), 1).snapshots[0]).toMatchObject({ vmClockSeconds, vmClockNanoseconds });
  });

  test.each([
    [0n, '0'],
    [2n ** 53n + 1n, '9007199254740993'],
    // its upper half all ones
    [0xffffffff_00000001n, '18446744069414584321'],
    [2n ** 64n - 2n, '18446744073709551614'],
    [2n ** 64n - 1n, null],
  ])('an icount of %d is %s', (value, icount) => {
    const extra = pack([8, 1], [8, 2], [8, value]);
    expect(table(fileWith(entry({ extra })), 1).snapshots[0]!.icount).toBe(icount);
  });

  test('names keep a byte-order mark and bytes that are not UTF-8', () => {
    const bytes = entry({ id: '\ufeff1', name: 'xyz' });
    bytes[bytes.indexOf(0x79, 40)] = 0xe9;
    expect(table(fileWith(bytes), 1).snapshots[0]).toMatchObject({ id: '\ufeff1', name: 'x\udce9z' });
  });

  test('reads what was written, whatever the lengths', () => {
    const one = fc.record({
      id: fc.string({ maxLength: 30 }),
      name: fc.string({ maxLength: 300, unit: 'grapheme' }),
      extra: fc.uint8Array({ maxLength: 40 }),
    });
    fc.assert(
      fc.property(fc.array(one, { maxLength: 8 }), (entries) => {
        const { snapshots } = table(fileWith(...entries.map(entry)), entries.length);
        expect(snapshots.map(({ id, name }) => ({ id, name }))).toEqual(entries.map(({ id, name }) => ({ id, name })));
      }),
    );
  });

  test.each([
    ['65537 snapshots', () => table(fileWith(), 65537), 'there are 65537 snapshots'],
    ['a table that is not aligned', () => table(fileWith(entry()), 1, CLUSTER + 8), 'multiple of the cluster size'],
    ['a table at 0', () => table(fileWith(entry()), 1, 0), 'multiple of the cluster size'],
    ['a table at NaN', () => table(fileWith(entry()), 1, Number.NaN), 'multiple of the cluster size'],
    ['a table behind the file', () => table(fileWith(), 1), 'the file ends after 0'],
    [
      'an entry that the file cuts',
      () => table(fileWith(entry({ name: 'x'.repeat(64) }).subarray(0, 56)), 1),
      'is truncated',
    ],
    ['one entry fewer than said', () => table(fileWith(entry()), 2), 'snapshot 2 takes 40 bytes'],
    [
      'extra data of 1025 bytes',
      () => table(fileWith(entry({ extra: new Uint8Array(1025) })), 1),
      'is 1025; at most 1024',
    ],
    ['extra data of 4 GiB', () => table(fileWith(entry({ extraSize: 0xffffffff })), 1), 'is 4294967295; at most 1024'],
  ])('with %s is refused', (_, action, words) => {
    expect(action).toThrow(ImgfuseError);
    expect(action).toThrow(words);
    expect(action).toThrow('/images/disk.qcow2: invalid qcow2 snapshot table at offset ');
  });

  test('may have extra data of 1024 bytes', () => {
    expect(table(fileWith(entry({ extra: new Uint8Array(1024) })), 1).snapshots).toHaveLength(1);
  });

  test('may have 64 MiB and not a byte more', () => {
    // 1024 entries of 64 KiB are 64 MiB: a name of 65535 bytes, and an id that fills the rest
    const fits = entry({ id: 'i'.repeat(65536 - 56 - 65471), name: 'n'.repeat(65471) });
    const over = entry({ id: 'i'.repeat(65536 - 56 - 65471 + 1), name: 'n'.repeat(65471) });
    const entries = Array.from({ length: 1023 }, () => fits);
    expect(table(fileWith(...entries, fits), 1024).length).toBe(64 * 1024 * 1024);
    expect(() => table(fileWith(...entries, over), 1024)).toThrow(/larger than 67108864 bytes at snapshot 1024/);
  });

  test('costs no reads beyond its end, however many snapshots are claimed', () => {
    const file = new CountingHostFile(fileWith(entry()));
    expect(() => table(file as unknown as MemoryHostFile, 65536)).toThrow(/truncated/);
    expect(file.calls.read).toBeLessThan(5);
  });
});

describe('the L1 table of a snapshot', () => {
  const check = (spec: Entry, fileBytes = 3 * CLUSTER): (() => void) => {
    const content = fileWith(entry(spec));
    content.truncate(fileBytes);
    const snapshot = table(content, 1).snapshots[0]!;
    return () => checkSnapshotL1(content, CLUSTER, snapshot);
  };

  test('may end where the file ends, and be empty', () => {
    expect(check({ l1Size: CLUSTER / 8 })).not.toThrow();
    expect(check({ l1Size: 0, l1Offset: 0 })).not.toThrow();
    expect(check({ l1Size: 4194304 }, 35 * 1024 * 1024)).not.toThrow();
  });

  test.each([
    ['behind the file', { l1Size: CLUSTER / 8 + 1 }, 'inside the file'],
    ['at 0', { l1Offset: 0 }, 'is 0; 1 entries'],
    ['not aligned', { l1Offset: CLUSTER + 8 }, 'is 65544; 1 entries'],
    ['near 2^64', { l1Offset: 2n ** 64n - 65536n }, 'is NaN; 1 entries'],
    ['above 32 MiB', { l1Size: 4194305, name: 'a\x1bb' }, 'l1_size of snapshot "a?b" is 4194305'],
  ])('%s is refused', (_, spec, words) => {
    expect(check(spec)).toThrow(words);
  });
});
