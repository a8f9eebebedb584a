// deallocate(): whole clusters of an overlay read from the backing file again, parts of clusters and all others stay as they are, and
// what was given up is free for the next write.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../src/bytes/offsets.ts';
import type { WritableFormat, WritableImage } from '../../../src/format/image-format.ts';
import { qcow2 } from '../../../src/format/qcow2/index.ts';
import { qed } from '../../../src/format/qed/index.ts';
import { raw } from '../../../src/format/raw/index.ts';
import { vdi } from '../../../src/format/vdi/index.ts';
import { vmdk } from '../../../src/format/vmdk/index.ts';
import { MemoryHostFile } from '../../support/memory-file.ts';
import { checkImage, createMemoryImage, openImage } from '../../support/memory-images.ts';
import { seededRandom } from '../../support/random.ts';

/** Several tables of QED and of qcow2 with small clusters, the last cluster in part. */
const SIZE = 5 * 1024 * 1024 + 1536;
const BELOW = 3 * 1024 * 1024;

const KINDS: readonly [string, WritableFormat, Readonly<Record<string, string>>][] = [
  ['QED', qed, { cluster_size: '4k', table_size: '1' }],
  ['VDI', vdi, { block_size: '4k' }],
  ['VMDK', vmdk, { grain_size: '4k' }],
  ['VMDK with entries of zeros', vmdk, { grain_size: '4k', zeroed_grain: 'on' }],
  ['qcow2', qcow2, { cluster_size: '1k' }],
  ['qcow2 version 2', qcow2, { cluster_size: '4k', compat: '0.10' }],
  ['qcow2 with subclusters', qcow2, { cluster_size: '16k', extended_l2: 'on' }],
  ['qcow2 with a data file', qcow2, { cluster_size: '4k', data_file: '/data' }],
];

function contentOf(image: WritableImage): Buffer {
  const content = Buffer.alloc(SIZE);
  image.read(content, 0, SIZE, guestOffset(0));
  return content;
}

function firstDifference(one: Buffer, other: Buffer): number {
  return Buffer.compare(one, other) === 0 ? -1 : one.findIndex((byte, at) => byte !== other[at]);
}

describe.each(KINDS)('%s', (_, format, options) => {
  test('shows the backing file in whole clusters of the range, and nothing else changes', () => {
    const random = seededRandom(7);
    const baseFile = createMemoryImage(raw, BELOW);
    const below = Buffer.alloc(SIZE);
    for (let at = 0; at < BELOW; at++) below[at] = 1 + ((at >> 9) % 100);
    baseFile.write(below, 0, BELOW, 0 as never);
    const backing = openImage(raw, new MemoryHostFile(baseFile.bytes(), '/base', true), { readOnly: true });
    const dataFile = 'data_file' in options ? new MemoryHostFile(new Uint8Array(0), '/data') : undefined;
    const file = createMemoryImage(format, SIZE, options, '/base', dataFile === undefined ? {} : { dataFile });
    let image = openImage(format, file, { backing, dataFile });
    const model = Buffer.from(below);
    const place = (most: number): [number, number] => {
      const at = Math.floor((random() * SIZE) / 512) * 512;
      return [at, Math.min(SIZE - at, (1 + Math.floor(random() * most)) * 512)];
    };
    for (let n = 0; n < 120; n++) {
      const [at, length] = place(200);
      const bytes = Buffer.alloc(length, 101 + (n % 100));
      image.write(bytes, 0, length, guestOffset(at));
      bytes.copy(model, at);
      if (n % 3 === 0) {
        const [start, part] = place(300);
        image.discard(guestOffset(start), part);
        model.fill(0, start, start + part);
      }
      if (n % 4 === 0) {
        const [start, part] = n % 40 === 0 ? [0, SIZE] : place(2000);
        image.deallocate!(guestOffset(start), part);
        const first = Math.ceil(start / image.clusterSize) * image.clusterSize;
        const isEnd = start + part === SIZE;
        const end = isEnd ? SIZE : Math.floor((start + part) / image.clusterSize) * image.clusterSize;
        if (first < end) below.copy(model, first, first, end);
      }
      if (n % 10 === 0) expect(firstDifference(contentOf(image), model), `after ${n}`).toBe(-1);
      if (n % 25 === 0) {
        image.close();
        image = openImage(format, file, { backing, dataFile });
      }
    }
    expect(firstDifference(contentOf(image), model)).toBe(-1);
    image.deallocate!(guestOffset(0), SIZE);
    expect(image.allocatedBytes()).toBe(0);
    expect(firstDifference(contentOf(image), below)).toBe(-1);
    image.close();
    const { corruptions, leaks } = checkImage(format, file, { repair: 'none', log: () => undefined });
    expect({ corruptions, leaks }).toEqual({ corruptions: 0, leaks: 0 });
    // the space has been given back: nothing but tables is left, and holes
    expect(file.bytes().filter((byte) => byte !== 0).length).toBeLessThan(SIZE / 20);
    // and places in a data file are holes
    expect(dataFile?.bytes().every((byte) => byte === 0) ?? true).toBe(true);
    image = openImage(format, file, { backing, dataFile, readOnly: true });
    expect(firstDifference(contentOf(image), below)).toBe(-1);
  });
});

test('is refused for an image that is open read-only, and beyond its end', () => {
  const file = createMemoryImage(qed, 65536, { cluster_size: '4k', table_size: '1' });
  const image = openImage(qed, file);
  expect(() => image.deallocate!(guestOffset(65536), 4096)).toThrow();
  image.close();
  const readOnly = openImage(qed, new MemoryHostFile(file.bytes(), '/x', true), { readOnly: true });
  expect(() => readOnly.deallocate!(guestOffset(0), 4096)).toThrow(/read-only/);
});

test('is absent where there are no backing files', () => {
  expect('deallocate' in openImage(raw, createMemoryImage(raw, 4096))).toBe(false);
});
