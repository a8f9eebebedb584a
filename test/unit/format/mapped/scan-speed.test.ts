// Two terabytes of clusters are passed over in moments, whatever their tables say, in holds of the metadata lock that end.
// Processor time is measured, in units of a plain loop over as many entries: a machine or a neighbour that slows one slows both.

import { describe, expect, test } from 'vitest';
import { guestOffset } from '../../../../src/bytes/offsets.ts';
import { VirtualDisk } from '../../../../src/disk/index.ts';
import type { Image } from '../../../../src/format/image-format.ts';
import { MAX_LOOKS } from '../../../../src/format/mapped/runs/run-mapper.ts';
import { qcow2 } from '../../../../src/format/qcow2/index.ts';
import { qed } from '../../../../src/format/qed/index.ts';
import { type FillPage, qcow2Of, qedOf, TIB } from '../../../support/endless-tables.ts';
import { createMemoryImage, openImage } from '../../../support/memory-images.ts';

const SIZE = 2 * TIB;
const CLUSTER = 65_536;
const CLUSTERS = SIZE / CLUSTER;
/** A scan may cost this many plain loops over the entries of two terabytes. It costs 6 to 35; a call per cluster costs 150. */
const MOST_LOOPS = 80;

function secondsOf(work: () => void): number {
  const before = process.cpuUsage();
  work();
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

/** Processor time of the least that a scan can do: fetch every page of the tables and look at both words of each entry. */
function secondsOfPlainLoop(): number {
  const page = Buffer.alloc(4096);
  const view = new DataView(page.buffer, page.byteOffset, page.length);
  return secondsOf(() => {
    let seen = 0;
    for (let done = 0; done < CLUSTERS; done += 512) {
      none(view, done);
      for (let at = 0; at < 4096; at += 8) seen += view.getUint32(at, false) + view.getUint32(at + 4, false);
    }
    expect(seen).toBe(0);
  });
}

const open = (format: typeof qed, file: Parameters<typeof openImage>[1], backing: Image | null = null): Image =>
  openImage(format, file, { readOnly: true, isLazy: true, backing });

/** Little-endian pages in which each entry is what `entryAt` says, as its two words. */
function pages(isLittle: boolean, entryAt: (entry: number) => number): FillPage {
  return (page, first) => {
    for (let at = 0; at < page.byteLength; at += 8) {
      const value = entryAt(first + at / 8);
      page.setUint32(at + (isLittle ? 4 : 0), Math.floor(value / 2 ** 32), isLittle);
      page.setUint32(at + (isLittle ? 0 : 4), value % 2 ** 32, isLittle);
    }
  };
}

/** The bytes of one table page, made once: filling it costs more than scanning it. */
function once(fill: FillPage): FillPage {
  const page = Buffer.alloc(4096);
  fill(new DataView(page.buffer, page.byteOffset, page.length), 0);
  return (target) => Buffer.from(target.buffer, target.byteOffset, target.byteLength).set(page);
}

const zerosOfQed = once(pages(true, () => 1));
const zerosOfQcow2 = once(pages(false, () => 1));
const zerosOfExtended = once((page) => {
  for (let at = 0; at < page.byteLength; at += 16) page.setUint32(at + 8, 0xffffffff, false);
});
const none = once(() => undefined);

const ALL_ZERO: [string, () => Image][] = [
  ['QED zero clusters', () => open(qed, qedOf(SIZE, zerosOfQed))],
  ['qcow2 zero clusters', () => open(qcow2, qcow2Of(SIZE, zerosOfQcow2))],
  ['qcow2 zero clusters with extended L2 entries', () => open(qcow2, qcow2Of(SIZE, zerosOfExtended, 16))],
  [
    'nothing, over a chain of tables of nothing',
    () => {
      const bottom = open(qed, qedOf(SIZE, none));
      const middle = open(qcow2, createMemoryImage(qcow2, SIZE, {}, 'bottom.qed'), bottom);
      return open(qcow2, createMemoryImage(qcow2, SIZE, {}, 'middle.qcow2'), middle);
    },
  ],
  [
    'zero clusters between clusters of nothing, below an overlay with tables of nothing',
    () => {
      const bottom = open(qed, qedOf(SIZE / 8, once(pages(true, (entry) => entry % 2))));
      const file = qcow2Of(SIZE / 8, none);
      return open(qcow2, withBacking(file), bottom);
    },
  ],
];

/** Gives a qcow2 image a backing file: the name stands where the header cluster is free. */
function withBacking<File extends ReturnType<typeof qcow2Of>>(file: File): File {
  const name = Buffer.from('bottom.qed');
  const place = Buffer.alloc(12);
  place.writeBigUInt64BE(4096n);
  place.writeUInt32BE(name.length, 8);
  file.write(name, 0, name.length, 4096 as never);
  file.write(place, 0, 12, 8 as never);
  return file;
}

describe.each(ALL_ZERO)('%s', (_, make) => {
  test('are searched for data in moments', () => {
    const disk = new VirtualDisk(make());
    const seconds = secondsOf(() => expect(disk.seek(0, true)).toBe(disk.size()));
    expect(seconds).toBeLessThan(MOST_LOOPS * secondsOfPlainLoop());
  });
});

test.each(ALL_ZERO.slice(0, 4))('%s are mapped in moments', (_, make) => {
  const disk = new VirtualDisk(make());
  let length = 0;
  const seconds = secondsOf(() => {
    for (const extent of disk.extents()) length += extent.length;
  });
  expect(length).toBe(disk.size());
  expect(seconds).toBeLessThan(MOST_LOOPS * secondsOfPlainLoop());
});

test('an image above many extents is asked about each range once', () => {
  const clusters = 100_000;
  const bottom = open(qed, qedOf(clusters * CLUSTER, once(pages(true, (entry) => entry % 2))));
  const top = open(qcow2, withBacking(qcow2Of(clusters * CLUSTER, none)), bottom);
  let asked = 0;
  const map = top.map.bind(top);
  top.map = (offset, length) => {
    asked++;
    return map(offset, length);
  };
  let extents = 0;
  for (const { length } of new VirtualDisk(top).extents()) {
    expect(length).toBe(CLUSTER);
    extents++;
  }
  expect(extents).toBe(clusters);
  // one answer is cut after some reads of tables, so that others get the lock
  expect(asked).toBeLessThan(20);
});

describe('half a terabyte of data', () => {
  /** No two neighbours adjoin. */
  const scattered = (entry: number): number => (entry % 2 === 0 ? entry + 1 : entry - 1);

  test.each([
    ['in order', (entry: number) => entry],
    ['in another order', scattered],
  ])('%s is searched for a hole in moments', (_, order) => {
    const size = SIZE / 4;
    const [{ tablesEnd: ofQed }, { tablesEnd: ofQcow2 }] = [qedOf(size, none), qcow2Of(size, none)];
    const little = pages(true, (entry) => ofQed + order(entry) * CLUSTER);
    const big = pages(false, (entry) => ofQcow2 + order(entry) * CLUSTER);
    for (const image of [open(qed, qedOf(size, little)), open(qcow2, qcow2Of(size, big))]) {
      const disk = new VirtualDisk(image);
      const seconds = secondsOf(() => expect(disk.seek(0, false)).toBe(size));
      expect(seconds).toBeLessThan(MOST_LOOPS * secondsOfPlainLoop());
    }
  });
});

test('a hold of the lock looks at so many entries and no more', () => {
  const image = open(qed, qedOf(SIZE, zerosOfQed));
  expect(image.mapStatus(guestOffset(0), SIZE).length).toBeLessThanOrEqual((MAX_LOOKS + 1) * CLUSTER);
  expect(image.map(guestOffset(0), SIZE).length).toBeLessThanOrEqual((MAX_LOOKS + 1) * CLUSTER);
  expect(image.mapContent(guestOffset(0), SIZE).length).toBeLessThanOrEqual((MAX_LOOKS + 1) * CLUSTER);
});
