// The walk counts runs of entries at once. Here a check that counts one entry after the other, in a map, must find the same in
// random tables with faults of all kinds: every counter, every flag, every figure.

import { expect, test } from 'vitest';
import { qcow2 } from '../../../../../src/format/qcow2/index.ts';
import { naiveCheck } from '../../../../support/naive-check.ts';
import { seededRandom } from '../../../../support/random.ts';
import { randomQcow2 } from '../../../../support/random-tables.ts';

const IMAGES = 80;
/** a check tells so many findings, and counts the others */
const TOLD = 900;

test('a check finds in random tables what a naive one finds', () => {
  const seeds = Array.from({ length: IMAGES }, () => Math.floor(Math.random() * 2 ** 32));
  let compared = 0;
  let told = 0;
  for (const [index, seed] of seeds.entries()) {
    const file = randomQcow2(seededRandom(seed), [0, 1, 3, 12][index % 4]!);
    const log: string[] = [];
    const report = qcow2.check(file.clone(true), { repair: 'none', log: (sentence) => log.push(sentence) });
    const naive = naiveCheck(file);
    const figures = {
      allocated: report.allocatedClusters,
      fragmented: report.fragmentedClusters,
      compressed: report.compressedClusters,
      imageEnd: report.imageEndOffset,
      leaks: report.leaks,
    };
    const { sentences, ...naiveFigures } = naive;
    expect(figures, `seed ${seed}`).toEqual(naiveFigures);
    if (log.length > TOLD) continue;
    const counted = log.filter((sentence) => /has refcount|has COPIED (set|clear), but/.test(sentence));
    const plain = counted.map((sentence) => sentence.replace(/, more than counters of \d+ bits can hold$/, ''));
    expect(plain.sort(), `seed ${seed}`).toEqual(sentences);
    compared++;
    told += plain.length;
  }
  expect(compared).toBeGreaterThan(IMAGES / 2);
  expect(told).toBeGreaterThan(IMAGES);
});
