// What a request does under the metadata lock, every other request of the image waits for. No fdatasync is among it, and no
// hold has more operations of the host file than a piece of links, whatever the change: each kind of change is made here once.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import type { WritableFormat, WritableImage } from '../../../../src/format/image-format.ts';
import { LINKS_PER_HOLD } from '../../../../src/format/mapped/link-pieces.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { raw } from '../../../../src/format/raw/index.ts';
import { vdi } from '../../../../src/format/vdi/index.ts';
import { vhdx } from '../../../../src/format/vhdx/index.ts';
import { vmdk } from '../../../../src/format/vmdk/index.ts';
import { vpc } from '../../../../src/format/vpc/index.ts';
import { type LockHolds, watchLockHolds } from '../../../support/lock-holds.ts';
import { MemoryHostFile } from '../../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../../support/memory-images.ts';
import { plainParallels } from '../../../support/plain-parallels.ts';

const MIB = 2 ** 20;
const GIB = 2 ** 30;
/** A store is a host write; what a change does around its links are a few more. */
const MOST_OPERATIONS = LINKS_PER_HOLD + 16;

interface Kind {
  readonly name: string;
  readonly format: WritableFormat;
  readonly options: Readonly<Record<string, string>>;
  readonly clusterSize: number;
  /** a byte of the backing file, which is as long as the disk; absent: none */
  readonly below?: number;
}

const KINDS: readonly Kind[] = [
  { name: 'qed', format: qed, options: { cluster_size: '4k', table_size: '1' }, clusterSize: 4096 },
  { name: 'qed over a backing file', format: qed, options: { cluster_size: '4k' }, clusterSize: 4096, below: 9 },
  { name: 'qcow2', format: qcow2, options: { cluster_size: '4k' }, clusterSize: 4096 },
  { name: 'qcow2 over a backing file', format: qcow2, options: { cluster_size: '4k' }, clusterSize: 4096, below: 9 },
  { name: 'vdi', format: vdi, options: { block_size: '4k' }, clusterSize: 4096 },
  { name: 'vdi over a backing file', format: vdi, options: { block_size: '4k' }, clusterSize: 4096, below: 9 },
  {
    name: 'qcow2 with lazy refcounts',
    ...{ format: qcow2, options: { cluster_size: '4k', lazy_refcounts: 'on' }, clusterSize: 4096 },
  },
  { name: 'parallels', format: plainParallels, options: { cluster_size: '4k' }, clusterSize: 4096 },
  { name: 'vpc', format: vpc, options: { block_size: '4k' }, clusterSize: 4096 },
  { name: 'vhdx', format: vhdx, options: { block_size: '1M' }, clusterSize: MIB },
  { name: 'vmdk', format: vmdk, options: { grain_size: '4k' }, clusterSize: 4096 },
  { name: 'vmdk over a backing file', format: vmdk, options: { grain_size: '4k' }, clusterSize: 4096, below: 9 },
  { name: 'vpc over a backing file', format: vpc, options: { block_size: '4k' }, clusterSize: 4096, below: 9 },
];

function opened({ format, options, below }: Kind, size: number) {
  const backing =
    below === undefined
      ? null
      : openImage(raw, new MemoryHostFile(new Uint8Array(size).fill(below), '/base', true), { readOnly: true });
  const file = createMemoryImage(format, size, options, backing === null ? undefined : '/base');
  const holds = watchLockHolds(file);
  const image = openImage(format, holds.file, { backing, tableCacheBytes: MIB });
  holds.reset();
  return { file, holds, image, backing };
}

function write(image: WritableImage, offset: number, length: number, value: number): void {
  image.write(new Uint8Array(length).fill(value), 0, length, guestOffset(offset));
}

function byteAt(image: WritableImage, offset: number): number {
  const bytes = new Uint8Array(1);
  image.read(bytes, 0, 1, guestOffset(offset));
  return bytes[0]!;
}

function expectShort(holds: LockHolds): void {
  expect(holds.operations).toBeGreaterThan(0);
  expect(holds.syncs).toBe(0);
  expect(holds.longest).toBeLessThanOrEqual(MOST_OPERATIONS);
  holds.reset();
}

function expectClean(format: WritableFormat, file: MemoryHostFile): void {
  const said: string[] = [];
  const report = checkImage(format, file, { repair: 'none', log: (sentence) => said.push(sentence) });
  expect([said, report.corruptions, report.leaks]).toEqual([[], 0, 0]);
}

describe.each(KINDS)('$name syncs without the metadata lock, and holds it for few operations', (kind) => {
  const { clusterSize, format } = kind;

  test('in allocating writes, their flush, and the clear of the dirty bit beside writes in place', () => {
    const { file, holds, image } = opened(kind, 4096 * clusterSize);
    for (let cluster = 0; cluster < 1000; cluster++) write(image, 2 * cluster * clusterSize, 512, 1);
    expectShort(holds);
    image.flush();
    expectShort(holds);
    write(image, 0, 512, 2);
    image.makeClean();
    expectShort(holds);
    expect(byteAt(image, 0)).toBe(2);
    image.close();
    expectClean(format, file);
  });

  test('in a discard, the flushes that free its clusters, and the writes that use them again', () => {
    const { file, holds, image } = opened(kind, 16 * MIB);
    write(image, 0, 16 * MIB, 1);
    image.flush();
    holds.reset();
    image.discard(guestOffset(0), 15 * MIB);
    expectShort(holds);
    image.flush();
    image.flush();
    image.makeClean();
    expectShort(holds);
    write(image, 0, 4 * MIB, 3);
    image.flush();
    expectShort(holds);
    expect([byteAt(image, 0), byteAt(image, 5 * MIB), byteAt(image, 15 * MIB)]).toEqual([3, 0, 1]);
    image.close();
    expectClean(format, file);
  });

  // the line of a VMDK extent is written under the lock of the descriptor, which no request needs
  if (format === vmdk) return;
  test('in a shrink and in growing again', () => {
    const { file, holds, image } = opened(kind, 16 * MIB);
    write(image, 0, 16 * MIB, 1);
    image.flush();
    holds.reset();
    image.resize(MIB + 512);
    expectShort(holds);
    image.resize(64 * MIB);
    expectShort(holds);
    expect([byteAt(image, MIB), byteAt(image, MIB + 512), byteAt(image, 63 * MIB)]).toEqual([1, 0, 0]);
    write(image, 60 * MIB, 512, 4);
    image.flush();
    expectShort(holds);
    expect([byteAt(image, MIB), byteAt(image, 60 * MIB)]).toEqual([1, 4]);
    image.close();
    expectClean(format, file);
  });
});

describe('qcow2 syncs without the metadata lock', () => {
  /** Each block counts 64 clusters of 512 bytes, and the refcount table of a new image has 64 entries. */
  const SMALL = { format: qcow2, options: { cluster_size: '512', refcount_bits: '64' }, clusterSize: 512, name: '' };

  function refcountTable(file: MemoryHostFile): { readonly clusters: number; readonly blocks: number } {
    const header = file.bytes();
    const view = new DataView(header.buffer, header.byteOffset, header.byteLength);
    const clusters = view.getUint32(56);
    const start = Number(view.getBigUint64(48));
    const entries = Array.from({ length: clusters * 64 }, (_, i) => view.getBigUint64(start + i * 8));
    return { clusters, blocks: entries.filter((entry) => entry !== 0n).length };
  }

  test('where clusters need new refcount blocks, which the file shows at the next flush', () => {
    const { file, holds, image } = opened(SMALL, 16 * MIB);
    const before = refcountTable(file);
    write(image, 0, 512 * 1024, 1);
    expectShort(holds);
    expect(refcountTable(file)).toEqual(before);
    image.flush();
    expectShort(holds);
    expect(refcountTable(file).blocks).toBeGreaterThan(before.blocks + 10);
    image.close();
    expectClean(qcow2, file);
  });

  test('where blocks need a larger refcount table, again and again', () => {
    const { file, holds, image } = opened(SMALL, 16 * MIB);
    for (let at = 0; at < 8 * MIB; at += 64 * 1024) write(image, at, 64 * 1024, 1);
    expectShort(holds);
    image.flush();
    expectShort(holds);
    expect(refcountTable(file).clusters).toBeGreaterThan(2);
    image.flush();
    image.close();
    expectClean(qcow2, file);
    const again = openImage(qcow2, file);
    expect([byteAt(again, 0), byteAt(again, 8 * MIB - 1), byteAt(again, 8 * MIB)]).toEqual([1, 1, 0]);
  });

  test('where the L1 table of a disk that grows to 16 TiB moves', () => {
    const { file, holds, image } = opened({ ...SMALL, options: {}, clusterSize: 65536 }, GIB);
    write(image, 0, 65536, 1);
    image.flush();
    holds.reset();
    image.resize(16 * 1024 * GIB);
    expectShort(holds);
    expect(byteAt(image, 0)).toBe(1);
    write(image, 16 * 1024 * GIB - 65536, 65536, 2);
    image.flush();
    image.close();
    expectClean(qcow2, file);
    const again = openImage(qcow2, file);
    expect([byteAt(again, 0), byteAt(again, 16 * 1024 * GIB - 1)]).toEqual([1, 2]);
  });
});
