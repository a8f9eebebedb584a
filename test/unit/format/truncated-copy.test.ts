// Copies of an image that end too early, wherever: what is there is read, what is missing of a table or of the last cluster
// reads as zeros, what an entry says is at a place beyond the file is an error, and nothing is written to a disk that has lost
// its L1 table before a repair has made it whole.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import type { ImgfuseError } from '../../../src/errors/index.ts';
import { checkExitCode } from '../../../src/format/check-report.ts';
import type { WritableFormat, WritableImage } from '../../../src/format/image-format.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../support/memory-images.ts';

const CLUSTER = 4096;
const ENTRIES = CLUSTER / 8;
/** Guest clusters with data: in the first, the second and the last L2 table of the disk. */
const WRITTEN = [0, 1, 5, ENTRIES, ENTRIES + 300, 8 * ENTRIES - 1];
const SIZE = 8 * ENTRIES * CLUSTER;

interface Case {
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
  readonly headerBytes: number;
  readonly l1Offset: (view: DataView) => number;
  readonly l1Bytes: number;
  readonly entryAt: (view: DataView, offset: number) => number;
}

const CASES: readonly Case[] = [
  {
    format: qed,
    options: { cluster_size: String(CLUSTER), table_size: '1' },
    headerBytes: 64,
    l1Offset: (view) => Number(view.getBigUint64(40, true)),
    l1Bytes: CLUSTER,
    entryAt: (view, offset) => Number(view.getBigUint64(offset, true)),
  },
  {
    format: qcow2,
    options: { cluster_size: String(CLUSTER) },
    headerBytes: 512,
    l1Offset: (view) => Number(view.getBigUint64(40)),
    l1Bytes: 8 * 8,
    entryAt: (view, offset) => Number(view.getBigUint64(offset) & 0x00fffffffffffe00n),
  },
];

function fill(cluster: number): Buffer {
  return Buffer.alloc(CLUSTER, (cluster % 250) + 1);
}

function made({ format, options }: Case, hasData: boolean): Uint8Array {
  const file = createMemoryImage(format, SIZE, options);
  const image = openImage(format, file);
  if (hasData) for (const cluster of WRITTEN) image.write(fill(cluster), 0, CLUSTER, guestOffset(cluster * CLUSTER));
  image.close();
  return file.bytes();
}

/** What a copy of the first `length` bytes must answer for a guest cluster; null: an error. */
function expected(kind: Case, bytes: Uint8Array, length: number, cluster: number): Buffer | null {
  const view = new DataView(bytes.buffer);
  const zeros = Buffer.alloc(CLUSTER);
  const end = Math.ceil(length / CLUSTER) * CLUSTER;
  const l1At = kind.l1Offset(view) + Math.floor(cluster / ENTRIES) * 8;
  const table = kind.entryAt(view, l1At);
  if (l1At >= length || table === 0) return zeros;
  if (table >= end) return null;
  const l2At = table + (cluster % ENTRIES) * 8;
  const host = kind.entryAt(view, l2At);
  if (l2At >= length || host === 0) return zeros;
  if (host >= end) return null;
  const content = Buffer.alloc(CLUSTER);
  content.set(bytes.subarray(host, Math.min(host + CLUSTER, length)));
  return content;
}

function readCluster(image: WritableImage, cluster: number): Buffer | null {
  const bytes = Buffer.alloc(CLUSTER, 0xee);
  try {
    image.read(bytes, 0, CLUSTER, guestOffset(cluster * CLUSTER));
  } catch (error) {
    expect((error as ImgfuseError).kind).toBe('corrupt');
    return null;
  }
  return bytes;
}

function lengthsOf(kind: Case, bytes: Uint8Array): number[] {
  const lengths: number[] = [];
  // a place inside each cluster, and its start
  for (let at = 0; at < bytes.length; at += CLUSTER) lengths.push(Math.max(at, kind.headerBytes), at + 1536);
  return lengths;
}

describe.each(CASES)('a truncated copy of a $format.name image', (kind) => {
  const { format } = kind;

  test('is shown and read as far as it goes, and not changed, whatever its length', () => {
    const whole = made(kind, true);
    for (const length of lengthsOf(kind, whole)) {
      const file = new MemoryHostFile(whole.slice(0, length), '/copy', true);
      expect(format.inspect(file).virtualSize).toBe(SIZE);
      const image = openImage(format, file, { readOnly: true });
      for (const cluster of [...WRITTEN, 2, ENTRIES + 1, 3 * ENTRIES]) {
        const found = readCluster(image, cluster);
        const wanted = expected(kind, whole, length, cluster);
        expect(found === null ? null : found.equals(wanted ?? fill(0)), `${length} bytes, cluster ${cluster}`).toBe(
          wanted === null ? null : true,
        );
      }
      image.close();
      const report = checkImage(format, file, { repair: 'none', log: () => undefined });
      const isLost = [...WRITTEN].some((cluster) => !expected(kind, whole, length, cluster)?.equals(fill(cluster)));
      if (isLost && length % CLUSTER === 0) expect(checkExitCode(report), `${length} bytes`).not.toBe(0);
      expect(Buffer.compare(file.bytes(), whole.subarray(0, length))).toBe(0);
    }
  });

  test('that ends before or inside its L1 table is written to only after a repair', () => {
    const whole = made(kind, true);
    const l1 = kind.l1Offset(new DataView(whole.buffer));
    for (const length of lengthsOf(kind, whole).filter((bytes) => bytes < l1 + kind.l1Bytes)) {
      const file = new MemoryHostFile(whole.slice(0, length));
      const said: string[] = [];
      openImage(format, new MemoryHostFile(whole.slice(0, length), '/copy', true), {
        readOnly: true,
        log: (sentence) => said.push(sentence),
      }).close();
      expect(said.join('\n')).toContain('is truncated');
      expect(() => openImage(format, file)).toThrow(/truncated.*imgfuse check -r all/);
      expect(Buffer.compare(file.bytes(), whole.subarray(0, length))).toBe(0);
    }
  });

  test('that has lost nothing but zeros is whole after a repair', () => {
    const empty = made(kind, false);
    const l1 = kind.l1Offset(new DataView(empty.buffer));
    const lengths = lengthsOf(kind, empty).filter((bytes) => bytes < l1 + kind.l1Bytes);
    expect(lengths.length).toBeGreaterThan(3);
    for (const length of lengths) {
      const file = new MemoryHostFile(empty.slice(0, length));
      const said: string[] = [];
      const report = checkImage(format, file, { repair: 'all', log: (sentence) => said.push(sentence) });
      expect([length, report.corruptions - report.corruptionsFixed, report.checkErrors]).toEqual([length, 0, 0]);
      expect(said.join('\n')).toContain('Repaired');
      const image = openImage(format, file);
      image.write(fill(7), 0, CLUSTER, guestOffset(7 * CLUSTER));
      image.close();
      const after = checkImage(format, file, { repair: 'leaks', log: () => undefined });
      expect([length, after.corruptions]).toEqual([length, 0]);
      const again = openImage(format, file, { readOnly: true });
      expect(readCluster(again, 7)).toEqual(fill(7));
      expect(readCluster(again, 6)).toEqual(Buffer.alloc(CLUSTER));
    }
  });
});

test.each(CASES)('a $format.name image whose L1 table is said to be far beyond the end is not repaired', ({
  format,
  ...kind
}) => {
  const bytes = made({ format, ...kind }, true);
  for (const offset of [2n ** 29n, 2n ** 40n, 2n ** 52n]) {
    const view = new DataView(bytes.buffer);
    view.setBigUint64(40, offset, format === qed);
    const file = new MemoryHostFile(bytes.slice());
    const started = performance.now();
    expect(() => checkImage(format, file, { repair: 'all', log: () => undefined })).toThrow(
      /far beyond the end of the file/,
    );
    expect(performance.now() - started).toBeLessThan(1000);
    expect(Buffer.compare(file.bytes(), bytes)).toBe(0);
  }
});

test('a copy that has lost its snapshot table is shown without it, and says so', () => {
  const bytes = Buffer.from(createMemoryImage(qcow2, 2 ** 20).bytes());
  bytes.writeUInt32BE(1, 60);
  bytes.writeBigUInt64BE(BigInt(Math.ceil(bytes.length / 65536) * 65536 + 65536), 64);
  const file = new MemoryHostFile(bytes, '/copy', true);
  const said: string[] = [];
  const details = qcow2.inspect(file, (sentence) => said.push(sentence));
  expect(details.virtualSize).toBe(2 ** 20);
  expect(details.snapshots).toBe(undefined);
  expect(said.join('\n')).toContain('the file is truncated');
  openImage(qcow2, file, { readOnly: true }).close();
});
