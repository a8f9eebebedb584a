// Damaged L1 and L2 tables: a read-only open reads what is whole and names what is not, a read-write open refuses or (when
// the image was not closed clean) repairs, and check reports, repairs in one pass and finds nothing the second time.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { guestOffset } from '../../src/bytes/offsets.ts';
import { checkDisk } from '../../src/disk/index.ts';
import { checkExitCode } from '../../src/format/check-report.ts';
import { fingerprints, readAll, withDisk } from '../support/image-files.ts';
import {
  CLUSTER,
  FILE_BYTES,
  FIRST_DATA,
  L1,
  L2,
  NEED_CHECK,
  type QedSpec,
  SECOND_DATA,
  u64At,
  writeQed,
} from '../support/qed-bytes.ts';
import { makeTemporaryDirectory, removeTemporaryDirectory } from '../support/temporary.ts';

let folder: string;
let image: string;

beforeAll(() => {
  folder = makeTemporaryDirectory();
  image = join(folder, 'disk.qed');
});
afterAll(() => removeTemporaryDirectory(folder));

interface Damage {
  readonly name: string;
  readonly spec: QedSpec;
  /** where the bad entry is, and what it says */
  readonly at: number;
  readonly value: string;
  /** guest offset whose read fails; absent: a reader cannot see the damage */
  readonly readFails?: number;
}

const dropped: readonly Damage[] = [
  {
    name: 'an L1 entry that is not aligned',
    spec: { entries: { [L1]: 8200n } },
    at: L1,
    value: '0x2008',
    readFails: 0,
  },
  {
    name: 'an L1 entry behind the file',
    spec: { entries: { [L1]: 0x100000n } },
    at: L1,
    value: '0x100000',
    readFails: 0,
  },
  {
    name: 'an L1 entry just behind the file',
    spec: { entries: { [L1]: BigInt(FILE_BYTES) } },
    at: L1,
    value: '0x5000',
    readFails: 0,
  },
  {
    name: 'an L1 entry near 2^64',
    spec: { entries: { [L1]: (1n << 64n) - 4096n } },
    at: L1,
    value: '0xfffffffffffff000',
    readFails: 0,
  },
  {
    name: 'an L1 entry at 2^56',
    spec: { entries: { [L1]: 1n << 56n } },
    at: L1,
    value: '0x100000000000000',
    readFails: 0,
  },
  { name: 'an L1 entry that is 1', spec: { entries: { [L1]: 1n } }, at: L1, value: '0x1', readFails: 0 },
  {
    name: 'an L1 entry that names the L1 table',
    spec: { entries: { [L1]: BigInt(L1) } },
    at: L1,
    value: '0x1000',
    readFails: 0,
  },
  {
    name: 'an L1 entry that names the header area',
    spec: { fields: { headerSize: 2n, l1TableOffset: 8192n }, empty: true, entries: { 8192: 4096n } },
    at: 8192,
    value: '0x1000',
    readFails: 0,
  },
  {
    name: 'an L1 entry behind the end of the disk',
    spec: { entries: { [L1 + 8 * 511]: 0x999000n } },
    at: L1 + 8 * 511,
    value: '0x999000',
  },
  {
    name: 'an L2 entry that is not aligned',
    spec: { entries: { [L2]: 12290n } },
    at: L2,
    value: '0x3002',
    readFails: 0,
  },
  {
    name: 'an L2 entry that is 2',
    spec: { entries: { [L2 + 80]: 2n } },
    at: L2 + 80,
    value: '0x2',
    readFails: 10 * CLUSTER,
  },
  {
    name: 'an L2 entry behind the file',
    spec: { entries: { [L2 + 8]: 1n << 40n } },
    at: L2 + 8,
    value: '0x10000000000',
    readFails: CLUSTER,
  },
  {
    name: 'an L2 entry just behind the file',
    spec: { entries: { [L2]: BigInt(FILE_BYTES) } },
    at: L2,
    value: '0x5000',
    readFails: 0,
  },
  {
    name: 'an L2 entry near 2^64',
    spec: { entries: { [L2]: (1n << 64n) - 4096n } },
    at: L2,
    value: '0xfffffffffffff000',
    readFails: 0,
  },
  {
    name: 'an L2 entry of all ones',
    spec: { entries: { [L2]: (1n << 64n) - 1n } },
    at: L2,
    value: '0xffffffffffffffff',
    readFails: 0,
  },
];

const shared: readonly Damage[] = [
  {
    name: 'two L2 entries with one cluster',
    spec: { entries: { [L2 + 8]: BigInt(FIRST_DATA) } },
    at: L2 + 8,
    value: '0x3000',
  },
  {
    name: 'an L2 entry with a cluster of another table',
    spec: {
      entries: { [L1 + 8]: BigInt(SECOND_DATA), [L2 + 8]: 0n, [SECOND_DATA]: BigInt(FIRST_DATA) },
      bytes: { [SECOND_DATA + 8]: Buffer.alloc(CLUSTER - 8) },
      fields: { imageSize: 4n << 20n },
    },
    at: SECOND_DATA,
    value: '0x3000',
  },
  {
    name: 'an L2 entry that names the L1 table',
    spec: { entries: { [L2]: BigInt(L1) } },
    at: L2,
    value: '0x1000',
    readFails: 0,
  },
  { name: 'an L2 entry that names its own table', spec: { entries: { [L2]: BigInt(L2) } }, at: L2, value: '0x2000' },
  {
    name: 'two L1 entries with one table',
    spec: { entries: { [L1 + 8]: BigInt(L2) }, fields: { imageSize: 4n << 20n } },
    at: L1 + 8,
    value: '0x2000',
  },
];

function hexOf(offset: number): string {
  return `0x${offset.toString(16)}`;
}

function openForWriting(): unknown {
  try {
    withDisk(image, { readOnly: false }, () => undefined);
    return undefined;
  } catch (error) {
    return error;
  }
}

describe.each([...dropped, ...shared])('$name', ({ spec, at, value, readFails }) => {
  test('is not opened for writing: one sentence with file, offset and value, and nothing changes', () => {
    writeQed(image, spec);
    const before = fingerprints(folder);
    const { message } = openForWriting() as Error;
    expect(message).toContain(image);
    expect(message).toContain(`offset ${hexOf(at)}`);
    expect(message).toContain(`${value} `);
    expect(message).toContain('check -r all');
    expect(fingerprints(folder)).toEqual(before);
  });

  test('is opened read-only, where a read of it fails and others do not; nothing changes', () => {
    writeQed(image, { ...spec, fields: { imageSize: 4n << 20n, ...spec.fields } });
    const before = fingerprints(folder);
    withDisk(image, { readOnly: true }, (disk) => {
      const target = new Uint8Array(CLUSTER);
      if (readFails !== undefined) {
        let caught: Error | undefined;
        try {
          disk.read(target, 0, CLUSTER, guestOffset(readFails));
        } catch (error) {
          caught = error as Error;
        }
        expect(caught?.message).toContain(image);
        expect(caught?.message).toContain(`offset ${hexOf(at)}`);
        expect(caught?.message).toContain(value);
      }
      expect(disk.read(target, 0, CLUSTER, guestOffset(3 << 20))).toBe(CLUSTER);
    });
    expect(fingerprints(folder)).toEqual(before);
  });

  test('is reported by a check that changes nothing, with exit code 2', () => {
    writeQed(image, spec);
    const before = fingerprints(folder);
    const findings: string[] = [];
    const report = checkDisk(image, { repair: 'none', log: (finding) => findings.push(finding) });
    expect(report.corruptions).toBeGreaterThan(0);
    expect(checkExitCode(report)).toBe(2);
    expect(findings.join('\n')).toContain(`offset ${hexOf(at)}`);
    expect(findings.join('\n')).toContain(value);
    expect(fingerprints(folder)).toEqual(before);
  });

  test('is not touched by check -r leaks, which leaves corruption to -r all', () => {
    writeQed(image, spec);
    const before = readFileSync(image);
    const report = checkDisk(image, { repair: 'leaks', log: () => undefined });
    expect(checkExitCode(report)).toBe(2);
    expect(readFileSync(image).equals(before)).toBe(true);
  });

  test('is repaired by check -r all in one pass, with the old value reported, and the second check finds nothing', () => {
    writeQed(image, spec);
    const findings: string[] = [];
    const report = checkDisk(image, { repair: 'all', log: (finding) => findings.push(finding) });
    expect(checkExitCode(report)).toBe(0);
    expect(report.corruptionsFixed).toBe(report.corruptions);
    const repaired = findings.filter((finding) => finding.startsWith('Repaired'));
    expect(repaired).toHaveLength(report.corruptions);
    expect(repaired.join('\n')).toContain(`offset ${hexOf(at)}`);
    expect(repaired.join('\n')).toContain(value);
    const again: string[] = [];
    const second = checkDisk(image, { repair: 'none', log: (finding) => again.push(finding) });
    expect(again).toEqual([]);
    expect(checkExitCode(second)).toBe(0);
    expect(second.leaks).toBe(0);
    withDisk(image, { readOnly: false }, readAll);
  });
});

describe.each(dropped)('$name in an image that was not closed clean', ({ spec, at, value }) => {
  const dirty: QedSpec = { ...spec, fields: { ...spec.fields, features: NEED_CHECK } };

  test('is repaired by a read-write open, which reports the old value, and then the image is clean', () => {
    writeQed(image, dirty);
    const log: string[] = [];
    withDisk(image, { readOnly: false, log: (sentence) => log.push(sentence) }, readAll);
    expect(log.join('\n')).toContain('not closed clean');
    const repaired = log.filter((sentence) => sentence.startsWith('Repaired'));
    expect(repaired).toHaveLength(1);
    expect(repaired[0]).toContain(`offset ${hexOf(at)}`);
    expect(repaired[0]).toContain(value);
    const findings: string[] = [];
    checkDisk(image, { repair: 'none', log: (finding) => findings.push(finding) });
    expect(findings).toEqual([]);
    expect(u64At(readFileSync(image), 16)).toBe(0n);
  });

  test('is left as it is by a read-only open, which says that the image is unclean', () => {
    writeQed(image, dirty);
    const before = fingerprints(folder);
    const log: string[] = [];
    withDisk(image, { readOnly: true, log: (sentence) => log.push(sentence) }, () => undefined);
    expect(log.join('\n')).toContain('not closed clean');
    expect(fingerprints(folder)).toEqual(before);
  });

  test('is left as it is when the backing file is missing, because that open fails', () => {
    writeQed(image, {
      ...dirty,
      backing: 'missing.raw',
      backingIsRaw: true,
      fields: { ...dirty.fields, features: 7n },
    });
    const before = fingerprints(folder);
    expect((openForWriting() as Error).message).toContain('missing.raw');
    expect(fingerprints(folder)).toEqual(before);
  });
});

describe.each(shared)('$name in an image that was not closed clean', ({ spec }) => {
  test('is refused by a read-write open, and nothing changes', () => {
    writeQed(image, { ...spec, fields: { ...spec.fields, features: NEED_CHECK } });
    const before = fingerprints(folder);
    expect((openForWriting() as Error).message).toContain('used twice');
    expect(fingerprints(folder)).toEqual(before);
  });
});

describe('a repair', () => {
  test('of a cluster that is used twice copies it, so that both users keep their data and part ways', () => {
    writeQed(image, { entries: { [L2 + 8]: BigInt(FIRST_DATA) } });
    checkDisk(image, { repair: 'all', log: () => undefined });
    withDisk(image, { readOnly: false }, (disk) => {
      const target = Buffer.alloc(2 * CLUSTER);
      disk.read(target, 0, target.length, guestOffset(0));
      expect(target.equals(Buffer.alloc(2 * CLUSTER, 0xaa))).toBe(true);
      disk.write(Buffer.alloc(CLUSTER, 0xcc), 0, CLUSTER, guestOffset(0));
      disk.read(target, 0, CLUSTER, guestOffset(CLUSTER));
      expect(target.subarray(0, CLUSTER).equals(Buffer.alloc(CLUSTER, 0xaa))).toBe(true);
    });
  });

  test('of a table that is used twice gives each user the data, in clusters of its own', () => {
    writeQed(image, { entries: { [L1 + 8]: BigInt(L2) }, fields: { imageSize: 4n << 20n } });
    checkDisk(image, { repair: 'all', log: () => undefined });
    withDisk(image, { readOnly: true }, (disk) => {
      for (const table of [0, 512 * CLUSTER]) {
        const target = Buffer.alloc(2 * CLUSTER);
        disk.read(target, 0, target.length, guestOffset(table));
        expect(target[0]).toBe(0xaa);
        expect(target[CLUSTER]).toBe(0xbb);
      }
    });
  });

  test('of an L1 entry that points to data of another table leaves that data alone', () => {
    writeQed(image, {
      entries: { [L1]: BigInt(FIRST_DATA), [L1 + 8]: BigInt(L2) },
      fields: { imageSize: 4n << 20n },
    });
    checkDisk(image, { repair: 'all', log: () => undefined });
    expect(checkDisk(image, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
    withDisk(image, { readOnly: true }, (disk) => {
      const target = Buffer.alloc(2 * CLUSTER);
      disk.read(target, 0, target.length, guestOffset(512 * CLUSTER));
      expect(target.subarray(0, CLUSTER).equals(Buffer.alloc(CLUSTER, 0xaa))).toBe(true);
      expect(target.subarray(CLUSTER).equals(Buffer.alloc(CLUSTER, 0xbb))).toBe(true);
    });
  });

  test('of an L1 entry that points to data and the table behind it leaves both alone', () => {
    const data = 4 * CLUSTER;
    const table = 5 * CLUSTER;
    writeQed(image, {
      empty: true,
      entries: { [L1]: BigInt(data), [L1 + 8]: BigInt(table), [table]: BigInt(data) },
      bytes: { [data]: Buffer.alloc(CLUSTER, 0xaa) },
      fields: { tableSize: 2n, imageSize: 8n << 20n },
      length: 7 * CLUSTER,
    });
    checkDisk(image, { repair: 'all', log: () => undefined });
    expect(checkDisk(image, { repair: 'none', log: () => undefined })).toMatchObject({ corruptions: 0, leaks: 0 });
    withDisk(image, { readOnly: true }, (disk) => {
      const target = Buffer.alloc(CLUSTER);
      disk.read(target, 0, CLUSTER, guestOffset(1024 * CLUSTER));
      expect(target.equals(Buffer.alloc(CLUSTER, 0xaa))).toBe(true);
    });
  });

  test('of leaks alone gives the clusters back, keeps every byte of the disk, and needs -r leaks only', () => {
    writeQed(image, { entries: { [L2]: 0n }, length: FILE_BYTES + 7 * CLUSTER });
    const before = withDisk(image, { readOnly: true }, readAll);
    const found = checkDisk(image, { repair: 'none', log: () => undefined });
    expect(found.leaks).toBe(8);
    expect(checkExitCode(found)).toBe(3);
    const report = checkDisk(image, { repair: 'leaks', log: () => undefined });
    expect(report.leaksFixed).toBe(8);
    expect(checkExitCode(report)).toBe(0);
    const second = checkDisk(image, { repair: 'none', log: () => undefined });
    expect([second.leaks, second.corruptions]).toEqual([0, 0]);
    expect(withDisk(image, { readOnly: true }, readAll).equals(before)).toBe(true);
  });

  test('of everything at once converges in one pass', () => {
    writeQed(image, {
      fields: { imageSize: 4n << 20n, features: NEED_CHECK },
      entries: {
        [L1 + 8]: BigInt(L2),
        [L1 + 16]: 7n,
        [L2 + 16]: BigInt(FIRST_DATA),
        [L2 + 24]: 1n << 60n,
        [L2 + 32]: BigInt(L1),
      },
      length: FILE_BYTES + 5 * CLUSTER,
    });
    const report = checkDisk(image, { repair: 'all', log: () => undefined });
    expect(checkExitCode(report)).toBe(0);
    const again: string[] = [];
    checkDisk(image, { repair: 'none', log: (finding) => again.push(finding) });
    expect(again).toEqual([]);
    expect(u64At(readFileSync(image), 16)).toBe(0n);
  });

  test.each([
    L2 + 100,
    FIRST_DATA + 1,
    SECOND_DATA + 4095,
  ])('of a file that was cut inside a cluster, at %i, converges too', (length) => {
    writeQed(image, { length });
    checkDisk(image, { repair: 'all', log: () => undefined });
    const again: string[] = [];
    const second = checkDisk(image, { repair: 'none', log: (finding) => again.push(finding) });
    expect(again).toEqual([]);
    expect(checkExitCode(second)).toBe(0);
    withDisk(image, { readOnly: false }, readAll);
  });
});
