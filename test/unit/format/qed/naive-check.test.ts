// The walk marks runs of entries at once. Here a check with a set of offsets, one entry after the other, must find the same in
// random tables with faults of all kinds, and a repair must leave nothing that it finds.

import { expect, test } from 'vitest';
import { qed } from '../../../../src/format/qed/index.ts';
import type { MemoryHostFile } from '../../../support/memory-file.ts';
import { seededRandom } from '../../../support/random.ts';
import { randomQed } from '../../../support/random-tables.ts';

const IMAGES = 150;

interface Found {
  allocated: number;
  fragmented: number;
  corruptions: number;
  leaks: number;
  imageEnd: number;
}

function naiveCheck(file: MemoryHostFile): Found {
  const bytes = Buffer.from(file.bytes());
  const clusterSize = BigInt(bytes.readUInt32LE(4));
  const tableBytes = BigInt(bytes.readUInt32LE(8)) * clusterSize;
  const headerEnd = BigInt(bytes.readUInt32LE(12)) * clusterSize;
  const l1 = bytes.readBigUInt64LE(40);
  const fileEnd = ((BigInt(bytes.length) + clusterSize - 1n) / clusterSize) * clusterSize;
  const used = new Set<bigint>();
  const found: Found = { allocated: 0, fragmented: 0, corruptions: 0, leaks: 0, imageEnd: 0 };
  const covered = (offset: bigint, length: bigint): bigint[] => {
    const clusters: bigint[] = [];
    for (let at = offset; at < offset + length; at += clusterSize) clusters.push(at);
    return clusters;
  };
  const mark = (offset: bigint, length: bigint): void => {
    for (const cluster of covered(offset, length)) used.add(cluster);
    found.imageEnd = Math.max(found.imageEnd, Number(offset + length));
  };
  const isPlace = (offset: bigint, length: bigint): boolean =>
    offset > 0n && offset % clusterSize === 0n && offset + length <= fileEnd;
  const isFree = (offset: bigint, length: bigint): boolean => !covered(offset, length).some((each) => used.has(each));
  const entries = (table: bigint): bigint[] =>
    Array.from({ length: Number(tableBytes / 8n) }, (_, index) => {
      const at = Number(table) + index * 8;
      return at + 8 <= bytes.length ? bytes.readBigUInt64LE(at) : 0n;
    });
  mark(0n, headerEnd);
  mark(l1, tableBytes);
  const tables: bigint[] = [];
  for (const table of entries(l1).filter((entry) => entry !== 0n)) {
    const isOutside = table >= l1 + tableBytes || table + tableBytes <= l1;
    if (isPlace(table, tableBytes) && table >= headerEnd && isOutside && isFree(table, tableBytes)) {
      mark(table, tableBytes);
      tables.push(table);
    } else found.corruptions++;
  }
  let previous = 0n;
  for (const data of tables.flatMap(entries).filter((entry) => entry > 1n)) {
    if (!isPlace(data, clusterSize) || !isFree(data, clusterSize)) {
      found.corruptions++;
      continue;
    }
    mark(data, clusterSize);
    found.allocated++;
    if (previous !== 0n && data !== previous + clusterSize) found.fragmented++;
    previous = data;
  }
  found.leaks = Number(fileEnd / clusterSize) - used.size;
  return found;
}

test('a check finds in random tables what a naive one finds, and a repair mends it', () => {
  let corruptions = 0;
  for (let index = 0; index < IMAGES; index++) {
    const seed = Math.floor(Math.random() * 2 ** 32);
    const file = randomQed(seededRandom(seed), [0, 1, 4, 20][index % 4]!);
    const naive = naiveCheck(file);
    const report = qed.check(file.clone(true), { repair: 'none', log: () => undefined });
    const found: Found = {
      allocated: report.allocatedClusters,
      fragmented: report.fragmentedClusters,
      corruptions: report.corruptions,
      leaks: report.leaks,
      imageEnd: report.imageEndOffset,
    };
    expect(found, `seed ${seed}`).toEqual(naive);
    corruptions += naive.corruptions;
    const repaired = file.clone();
    qed.check(repaired, { repair: 'all', log: () => undefined });
    expect(naiveCheck(repaired).corruptions, `seed ${seed}`).toBe(0);
  }
  expect(corruptions).toBeGreaterThan(IMAGES);
});
